"""Every problem of a cluster file is found at once, with its place; nothing unsafe is loaded."""

import sys
import time
from pathlib import Path

import pytest

from ai_how import process
from ai_how.errors import SpecError
from ai_how.spec.problems import Severity
from ai_how.spec.reader import default_spec, read_spec, read_spec_text

DATA = Path(__file__).parent.parent / "data" / "spec"
MINIMAL = (DATA / "minimal.yaml").read_text()
ENVIRONMENT = {"PROJECT": "/home/me/project", "EMPTY": ""}


def lines(text: str, environment: dict[str, str] | None = None) -> list[str]:
    return [str(p) for p in read_spec_text(text, "demo.yaml", environment or {})[1]]


def test_a_file_of_the_existing_system_is_accepted_with_warnings_only() -> None:
    spec, problems = read_spec_text(
        (DATA / "existing-system.yaml").read_text(), "lab.yaml", ENVIRONMENT
    )
    assert spec is not None
    assert spec.clusters.hpc is not None
    assert spec.clusters.hpc.controller.virtio_fs_mounts[0].host_path == "/home/me/project"
    assert [str(problem) for problem in problems] == [
        (
            "lab.yaml:23: clusters.hpc.hardware.acceleration.cpu_topology: 1 x 4 x 1 is 4 vCPUs, "
            "not the cpu_cores of compute_nodes[0], compute_nodes[1]; the default is used there"
        ),
        (
            "lab.yaml:68: clusters.hpc.storage.beegfs.enabled: BeeGFS is not available; "
            "the shared /home is NFS instead"
        ),
        (
            "lab.yaml:92: clusters.cloud.kubernetes_config.cni: calico is not used: Pods are "
            "reached by routes between the nodes (CNI's bridge plugin), and a NetworkPolicy has no "
            "effect"
        ),
        (
            "lab.yaml:92: clusters.cloud.kubernetes_config.ingress: nginx is not installed: put "
            "its manifests into the bundle"
        ),
    ]
    assert {problem.severity for problem in problems} == {Severity.WARNING}


def test_a_file_with_every_field_is_accepted() -> None:
    spec, problems = read_spec_text((DATA / "every-field.yaml").read_text(), "all.yaml", {})
    assert spec is not None
    share = "clusters.hpc.controller.virtio_fs_mounts[0]"
    add_ons = ("cni", "ingress")
    said = [
        "global",
        *(f"{share}.{key}" for key in ("owner", "group", "mode")),
        *(f"clusters.cloud.kubernetes_config.{key}" for key in add_ons),
    ]
    assert [problem.path for problem in problems] == said
    hpc = spec.clusters.hpc
    assert hpc is not None
    assert hpc.controller.virtio_fs_mounts[0].mode == "0755"
    assert hpc.controller.virtio_fs_mounts[0].mount_options == "noatime,ro"
    assert hpc.slurm_config.default_name == "all-nodes"
    device = hpc.compute_nodes[0].pcie_passthrough
    assert device is not None
    assert device.devices[0].vendor_id == "10de"


def test_all_problems_are_reported_at_once_by_line(tmp_path: Path) -> None:
    file = tmp_path / "bad one.yaml"
    file.write_text("""\
version: "1.0"
metdata: {name: x}
clusters:
  hpc:
    name: Foo
    base_image_path: ${NOPE}/x
    network: {subnet: 10.1.0.0/24, bridge: averyveryverylongname}
    controller:
      cpu_cores: many
      memory_bg: 4
      disk_gb: 0
      ip_address: 10.1.0.1
    compute_nodes:
      - {cpu_cores: 2, memory_gb: 0.1, disk_gb: 10, ip: 10.1.1.4}
      - {cpu_cores: 2, memory_gb: 1, disk_gb: 10, zzz: 1}
      - nonsense
    slurm_config:
      partitions: [a, b]
      default_partition: z
""")
    with pytest.raises(SpecError) as caught:
        read_spec(file, {})
    assert caught.value.brief == f"13 problems in {file}"
    assert caught.value.hint == f"ai-how validate '{file}'"
    assert caught.value.exit_code == 2
    assert (caught.value.details or "").replace(str(file), "F").splitlines() == [
        "F:2: metdata: unknown key; did you mean `metadata`?",
        (
            "F:5: clusters.hpc.name: found 'Foo'; allowed: 1 to 40 characters of a-z, 0-9 and -, "
            "with a letter or digit at both ends"
        ),
        (
            "F:6: clusters.hpc.base_image_path: the environment variable NOPE is not set; "
            "set it, or write ${NOPE:-default}"
        ),
        (
            "F:7: clusters.hpc.network.bridge: found 'averyveryverylongname'; "
            "allowed: 1 to 15 letters, digits, `_`, `.` and `-`, with a letter first"
        ),
        "F:9: clusters.hpc.controller.cpu_cores: found 'many'; expected a whole number",
        "F:10: clusters.hpc.controller.memory_bg: unknown key; did you mean `memory_gb`?",
        "F:11: clusters.hpc.controller.disk_gb: found '0'; the minimum is 1",
        "F:12: clusters.hpc.controller.ip_address: 10.1.0.1 is the gateway of 10.1.0.0/24",
        "F:14: clusters.hpc.compute_nodes[0].ip: 10.1.1.4 is not in the subnet 10.1.0.0/24",
        "F:14: clusters.hpc.compute_nodes[0].memory_gb: found '0.1'; the minimum is 0.5",
        (
            "F:15: clusters.hpc.compute_nodes[1].zzz: unknown key; known here: auto_start, "
            "base_image_path, cpu_cores, disk_gb, gpu, hardware, ip, memory_gb, pcie_passthrough, "
            "vgpu, virtio_fs_mounts"
        ),
        "F:16: clusters.hpc.compute_nodes[2]: found 'nonsense'; expected a section of keys",
        "F:19: clusters.hpc.slurm_config.default_partition: found 'z'; the partitions are: a, b",
    ]


def test_one_problem_does_not_bring_others_that_only_follow_from_it() -> None:
    text = MINIMAL + "    slurm_config: {partitons: [gpu], default_partition: gpu}\n"
    assert lines(text) == [
        "demo.yaml:7: clusters.hpc.slurm_config.partitons: unknown key; did you mean `partitions`?"
    ]


def test_a_missing_section_is_named_where_it_should_be() -> None:
    assert lines("version: '1.0'\nclusters:\n  hpc:\n    name: a\n    controller:\n") == [
        "demo.yaml:3: clusters.hpc.compute_nodes: is required",
        "demo.yaml:5: clusters.hpc.controller: is required",
    ]
    assert lines("clusters: {}\n") == [
        "demo.yaml:1: clusters: at least one of `hpc` and `cloud` is required",
        "demo.yaml:1: version: is required",
    ]


def test_an_unknown_key_without_a_value_is_still_unknown() -> None:
    assert lines(MINIMAL + "    storrage:\n") == [
        "demo.yaml:7: clusters.hpc.storrage: unknown key; did you mean `storage`?"
    ]


def test_the_place_of_one_group_has_no_index() -> None:
    text = MINIMAL.replace("count: 2, cpu_cores: 1", "count: 2, cpu_cores: 0")
    assert lines(text) == [
        "demo.yaml:6: clusters.hpc.compute_nodes.cpu_cores: found '0'; the minimum is 1"
    ]


def test_variables_are_expanded_in_values_and_never_in_keys() -> None:
    environment = {"CORES": "3", "NAME": "lab", "EMPTY": ""}
    text = MINIMAL.replace("name: demo", "name: ${NAME}-${SUFFIX:-one}")
    text = text.replace("{cpu_cores: 1,", "{cpu_cores: '${CORES}',").replace(
        "disk_gb: 10}\n    c", "disk_gb: '${EMPTY:-12}'}\n    c"
    )
    spec, problems = read_spec_text(text, "demo.yaml", environment)
    assert problems == []
    assert spec is not None
    assert spec.clusters.hpc is not None
    assert spec.clusters.hpc.name == "lab-one"
    assert spec.clusters.hpc.controller.cpu_cores == 3
    assert spec.clusters.hpc.controller.disk_gb == 12
    assert lines(MINIMAL + "    ${NAME}: 1\n", environment)[0].startswith(
        "demo.yaml:7: clusters.hpc.'${NAME}': unknown key"
    )


def test_what_a_variable_holds_is_neither_expanded_again_nor_read_as_yaml() -> None:
    text = MINIMAL + '    base_image_path: "${A}$${B}"\n'
    spec, _ = read_spec_text(text, "demo.yaml", {"A": "x: [${C}]"})
    assert spec is not None
    assert spec.clusters.hpc is not None
    assert spec.clusters.hpc.base_image_path == "x: [${C}]${B}"


def test_a_variable_written_wrongly_is_a_problem() -> None:
    assert lines(MINIMAL + '    base_image_path: "${9x}"\n') == [
        (
            "demo.yaml:7: clusters.hpc.base_image_path: found '${9x}'; "
            "a variable is written ${NAME} or ${NAME:-default}"
        )
    ]


def test_merged_sections_keep_their_lines() -> None:
    text = """\
version: "1.0"
clusters:
  hpc:
    name: demo
    controller: &small {cpu_cores: 1, memory_gb: 1, disk_gb: 0}
    compute_nodes: [{<<: *small, cpu_cores: 2}, {<<: [*small], disk_gb: 10}]
"""
    assert lines(text) == [
        "demo.yaml:5: clusters.hpc.controller.disk_gb: found '0'; the minimum is 1"
    ]


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
)
REFUSED = {
    "alias bomb": (BOMB, "demo.yaml:5: more than 10000 values, with aliases expanded"),
    "merge bomb": (
        "a0: &a0 {x: 1}\n"
        + "".join(f"a{n}: &a{n} {{<<: [{f'*a{n - 1},' * 9}]}}\n" for n in range(1, 12)),
        "more than 10000 values",
    ),
    "alias to itself": ("a: &a [*a]\n", "demo.yaml:1: the alias 'a' has no anchor before it"),
    "deep flow": ("a: " + "[" * 5000, "demo.yaml:1: nested deeper than 32 levels"),
    "deep block": (
        "".join(f"{' ' * n}a:\n" for n in range(200)),
        "demo.yaml:33: nested deeper than 32 levels",
    ),
    "many values": ("- a\n" * 10001, "more than 10000 values"),
    "many lines": ("\n" * 30000, "demo.yaml:20001: the file has more than 20000 lines"),
    "long line": ("a: 1\nb: " + "!x" * 9000, "demo.yaml:2: the line is longer than 16384"),
    "huge": ("a: 1\n" * (1 << 18), "demo.yaml:1: the file is larger than 1048576 bytes"),
    "duplicate key": (
        "a: 1\nb: 2\na: 3\n",
        "demo.yaml:3: the key 'a' occurs twice; the first is in line 1",
    ),
    "python tag": (
        "a: 1\nb: !!python/object/apply:os.system ['touch canary']\n",
        "demo.yaml:2: the tag '!!python/object/apply:os.system' is not allowed",
    ),
    "own tag": ("!mine a: 1\n", "demo.yaml:1: the tag '!mine' is not allowed"),
    "two documents": ("a: 1\n---\nb: 1\n", "demo.yaml:2: a second document; only one is allowed"),
    "a list": ("# x\n- a\n", "demo.yaml:2: found a list; the file must be a mapping of keys"),
    "a word": ("hello\n", "demo.yaml:1: found 'hello'; the file must be a mapping of keys"),
    "empty": (
        "# nothing\n",
        "demo.yaml:1: the file is empty; `version` and `clusters` are required",
    ),
    "key that is a list": ("? [a]\n: 1\n", "demo.yaml:1: a key must be a plain word"),
    "broken": ("a: [1\nb: 2\n", "demo.yaml:2: not valid YAML: while parsing a flow sequence"),
    "a tab": ("a:\n\tb: 1\n", "demo.yaml:2: not valid YAML: a tab; indent with spaces"),
    "less indented": (
        "a:\n  b: 1\n c: 2\n",
        "demo.yaml:3: not valid YAML: the indentation does not match the lines above",
    ),
    "an item that is less indented": (
        "a:\n  - 1\n - 2\n",
        "demo.yaml:3: not valid YAML: the indentation does not match the lines above",
    ),
    "more indented": (
        "a:\n  b: 1\n   c: 2\n",
        "demo.yaml:3: not valid YAML: a `key:` is not allowed here; check the indentation, and the",
    ),
    "no colon": ("a\n  b: 1\n", "demo.yaml:2: not valid YAML: a `key:` is not allowed here"),
    "an open quote": ("a: 'x\nb: 1\n", "demo.yaml:3: not valid YAML: a quote is not closed"),
    "an open bracket": ("a: {b: 1\n", "demo.yaml:2: not valid YAML: a bracket is not closed"),
    "control character": ("a: 1\nb: \x07\n", "demo.yaml:2: a character that YAML does not allow"),
    "impossible escape": ('a: "\\U00110000"\n', "demo.yaml:1: not valid YAML"),
    "merge of a word": ("a: {<<: b}\n", "demo.yaml:1: `<<` takes a mapping, or a list of mappings"),
}


@pytest.mark.fault("S03", "bombs, tags, keys given twice")
@pytest.mark.parametrize("case", REFUSED)
def test_what_could_hurt_is_refused_with_its_line_before_it_costs_much(case: str) -> None:
    text, message = REFUSED[case]
    started = time.process_time()
    spec, problems = read_spec_text(text, "demo.yaml", {})
    assert time.process_time() - started < 20
    assert spec is None
    assert len(problems) == 1
    assert message in str(problems[0])


def test_a_file_that_is_not_text_is_refused_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_bytes(b"version: 1\nname: \xff\xfe\n")
    with pytest.raises(SpecError, match=r"x\.yaml:2: not UTF-8 text"):
        read_spec(file, {})


def test_a_file_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_bytes(b"\xef\xbb\xbf" + MINIMAL.encode())
    assert read_spec(file, {}).clusters.hpc is not None


@pytest.mark.parametrize(
    ("name", "reason"), [("absent", "No such file"), (".", "Is a directory"), ("a\0b", "null byte")]
)
def test_a_file_that_cannot_be_read_says_why(tmp_path: Path, name: str, reason: str) -> None:
    with pytest.raises(SpecError, match=reason) as caught:
        read_spec(tmp_path / name, {})
    assert (caught.value.hint or "").startswith("ai-how init")


def test_what_is_printed_of_a_file_holds_no_control_characters() -> None:
    text = MINIMAL.replace("demo", '"\\e]0;owned\\a"') + '    "\\e[2J": 1\n'
    shown = "".join(lines(text))
    assert shown.isprintable()
    assert "\\x1b]0;owned" in shown


def test_the_default_is_three_small_nodes() -> None:
    spec, problems = read_spec_text(MINIMAL.replace("demo", "hpc"), "demo.yaml", {})
    assert problems == []
    assert spec is not None
    assert spec.clusters == default_spec().clusters


def test_reading_a_spec_imports_nothing_heavy() -> None:
    code = (
        "import sys, ai_how.spec.reader\n"
        "print([m for m in ('rich', 'libvirt', 'jinja2', 'typer', 'asyncio') if m in sys.modules])"
    )
    assert process.run([sys.executable, "-c", code]).stdout.strip() == "[]"
