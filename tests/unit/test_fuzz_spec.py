"""Whatever a cluster file holds, and whatever anything is called: a spec, or an error of ours."""

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from cli_runner import Cli
from fuzzing import answer, bent, joined_names, names, soup, spoilt_text
from hypothesis import strategies as st

from ai_how.errors import AiHowError, SpecError
from ai_how.guest.ssh import ssh_argv
from ai_how.hpc.slurm_config import SlurmNode, render_slurm_conf
from ai_how.libvirt_client.xml import census, read_xml
from ai_how.spec.models import ClusterFile
from ai_how.spec.nodes import assign_addresses, nodes_of
from ai_how.spec.reader import read_spec, read_spec_text
from ai_how.spec.yaml_tree import plain, read_tree
from ai_how.state.paths import ClusterPaths, Roots, StoragePaths
from ai_how.vm_management.disks.manager import DiskManager
from ai_how.vm_management.networks.definition import render_network
from shapes import NETWORK

DATA = Path(__file__).parent.parent / "data" / "spec"
GOOD = [file.read_text() for file in sorted(DATA.glob("*.yaml"))]
TREES = [plain(read_tree(text)) for text in GOOD]
ENVIRONMENT = {"PROJECT": "/p", "DATASETS": "/d", "HOME": "/h", "A": "${A}"}
PIECES = [
    *("- ", "? ", ": ", "\n", "\n  ", "  ", "\t", "[", "]", "{", "}", ",", "&a ", "*a", "!!", "!"),
    *("|", ">", "'", '"', "%YAML 1.2\n", "---\n", "...\n", "<<: *a", "\\x41", "\\U00110000", "#"),
    *("${", "${A}", "${A:-b}", "$${", "null", "~", "true", "-1", "0", "1e999", ".nan", "0x1f", "@"),
    *("clusters:", "hpc:", "compute_nodes:", "count:", "version: '1.0'", "\x85", "\u2028"),
    *("\ufeff", "\r", "!!python/object/apply:os.system [id]", "!!binary ", "[" * 40, "{a: " * 40),
    *("&b [*a,*a,*a,*a]", "<<: [*a, *a]", "- " * 40, "a: " * 3, '"\\', "? - ? - ", "\x1b[2J"),
]
BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [{','.join([f'*{chr(97 + n)}'] * 9)}]\n" for n in range(9)
)


@pytest.fixture
def run(tmp_path, monkeypatch, capsys) -> Cli:
    return Cli(tmp_path / "home", monkeypatch, capsys)


def read_any(text: str) -> None:
    spec, problems = read_spec_text(text, "f", ENVIRONMENT)
    assert spec is not None or problems
    lines = text.count("\n") + text.count("\r") + text.count("\x85") + text.count("\u2028")
    for problem in problems:
        assert 1 <= problem.line <= lines + text.count("\u2029") + 1
        assert str(problem).isprintable()


@pytest.mark.fault("S03", "fuzzed texts of YAML's own pieces")
def test_any_text_is_read_or_refused(fuzz):
    fuzz(read_any, soup(PIECES) | st.text(), '"\\U00110000"', "\ud800", BOMB, "[" * 100_000)


@pytest.mark.fault("S03", "fuzzed changes to good cluster files")
def test_a_spoilt_file_is_read_or_refused(fuzz):
    texts = st.sampled_from(GOOD).flatmap(lambda good: spoilt_text(good, PIECES))
    fuzz(read_any, texts)


@pytest.mark.fault("S03", "fuzzed values in good cluster files")
def test_a_file_with_other_values_is_read_or_refused(fuzz):
    trees = st.sampled_from(TREES).flatmap(lambda tree: bent(tree, times=2))

    def check(tree: object) -> None:
        spec, problems = read_spec_text(json.dumps(tree), "f", ENVIRONMENT)
        assert spec is not None or problems
        if spec and spec.clusters.hpc:
            write_out(spec)

    fuzz(check, trees)


def write_out(spec: ClusterFile) -> None:
    """What a start makes of a spec before it asks the host for anything."""
    hpc = spec.clusters.hpc
    nodes = nodes_of(hpc)
    subnet = hpc.network.subnet or NETWORK.subnet
    if isinstance(addresses := answer(assign_addresses, subnet, nodes), AiHowError):
        return
    assert len(set(addresses.values())) == len(nodes)
    computes = [
        SlurmNode(one.name, addresses[one.name], 1, one.cpu_cores, 1, one.memory_mib)
        for one in nodes[1:]
    ]
    conf = render_slurm_conf(hpc.name, addresses["controller"], computes, hpc.slurm_config)
    settings = 21 + len(computes) + len(hpc.slurm_config.partitions)
    assert len(conf.splitlines()) == settings
    assert not set(conf) & set("#\\\0\r'\"")


@pytest.mark.fault("S03", "fuzzed bytes in a file")
def test_any_bytes_are_read_or_refused(fuzz):
    file = fuzz.scratch / "any.yaml"

    def check(data: bytes) -> None:
        file.write_bytes(data)
        assert isinstance(answer(read_spec, file, {}), ClusterFile | SpecError)

    texts = (soup(PIECES) | st.text()).map(lambda text: text.encode(errors="replace"))
    bytes_ = st.binary(max_size=200) | texts | st.builds(bytes.__add__, texts, st.binary())
    fuzz(check, bytes_, b"", b"\xff\xfe", b"\0" * (1 << 20), b"x" * (3 << 20), b"\xef\xbb\xbfa: b")


@pytest.mark.fault("S03", "fuzzed files through the whole of `validate`")
def test_validate_ends_with_an_answer(fuzz, run):
    file = fuzz.scratch / "any.yaml"

    def check(text: str) -> None:
        file.write_text(text, errors="replace")
        ended = run("validate", "--offline", file)
        assert ended.code in (0, 2)
        assert ended.err or ended.code == 0
        assert all(char.isprintable() or char == "\n" for char in ended.out + ended.err)

    texts = st.sampled_from(GOOD).flatmap(lambda good: spoilt_text(good, PIECES))
    run("validate", "--offline", file)  # loads what validate needs
    fuzz(check, soup(PIECES) | texts, GOOD[-1])


PLACES = [
    ("clusters", "hpc", "name"),
    ("clusters", "hpc", "network", "bridge"),
    ("clusters", "hpc", "access", "user"),
    ("clusters", "hpc", "slurm_config", "default_partition"),
    ("clusters", "hpc", "slurm_config", "partitions", 0, "name"),
    ("clusters", "hpc", "slurm_config", "partitions", 0, "nodes"),
    ("clusters", "hpc", "slurm_config", "max_job_time"),
    ("clusters", "hpc", "controller", "virtio_fs_mounts", 0, "tag"),
    ("clusters", "hpc", "controller", "virtio_fs_mounts", 0, "mount_point"),
]
SHARE = {"tag": "t", "host_path": "/p", "mount_point": "/mnt/p"}
NODE = {"cpu_cores": 1, "memory_gb": 1, "disk_gb": 10}
NAMED = {
    "version": "1.0",
    "clusters": {
        "hpc": {
            "name": "demo",
            "network": {"bridge": "br0"},
            "access": {"user": "me"},
            "slurm_config": {"partitions": [{"name": "p", "nodes": ["ALL"]}]},
            "controller": {**NODE, "virtio_fs_mounts": [SHARE]},
            "compute_nodes": {"count": 2, **NODE},
        }
    },
}
HARMLESS = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]*")


@pytest.mark.fault("S02", "fuzzed names in a cluster file")
@pytest.mark.fault("S29", "fuzzed names in a cluster file")
def test_a_name_in_a_file_is_harmless_or_refused(fuzz):
    def check(named: tuple[tuple[str | int, ...], str]) -> None:
        place, name = named
        tree = json.loads(json.dumps(NAMED))
        here = tree
        for part in place[:-1]:
            here = here.setdefault(part, {}) if isinstance(here, dict) else here[part]
        here[place[-1]] = name
        # As it is, without what `${` would stand for.
        spec, problems = read_spec_text(json.dumps(tree), "f", {})
        assert spec is not None or problems
        if spec is None:
            return
        if place[-1] == "mount_point":
            assert name.startswith("/")
            assert ".." not in name.split("/")
            assert shlex.quote(name) == name or "@" in name
        else:
            assert HARMLESS.fullmatch(name) or place[-1] == "nodes"
        write_out(spec)

    places = st.sampled_from(PLACES)
    fuzz(check, st.tuples(places, names | joined_names | st.from_regex(r"\A[!-~]{1,41}\Z")))


@pytest.mark.fault("S02", "fuzzed names of clusters and nodes")
@pytest.mark.fault("S12", "fuzzed names of nodes and hosts")
def test_a_name_leads_nowhere_but_below_its_root(fuzz):
    root = fuzz.scratch / "root"
    roots = Roots(root, root / "data", root / "cache")
    disks = DiskManager(StoragePaths(root))
    cluster = ClusterPaths(root / "demo")

    def check(pair: tuple[str, str]) -> None:
        name, node = pair
        found = answer(roots.cluster, name)
        if isinstance(found, ClusterPaths):
            assert found.root.parent == root
            assert HARMLESS.fullmatch(found.name)
        else:
            assert isinstance(found, SpecError)
        disk = answer(disks._disk, name, node)
        if isinstance(disk, Path):
            assert disk.resolve().parent.parent == root / "disks"
            assert not disk.name.startswith(".")
            assert disk.name != disks.storage.marker(name).name
        argv = ssh_argv(cluster, name, [node])
        assert argv[1:3] == ["-F", str(cluster.ssh_config)]
        assert argv[argv.index("--") :] == ["--", name, node]

    pair = st.tuples(names | joined_names, names | joined_names)
    fuzz(check, pair, ("demo", "compute-01"))


@pytest.mark.fault("S01", "fuzzed names of networks and bridges")
def test_a_name_in_a_network_changes_only_its_own_place(fuzz):
    plain_census = census(read_xml(render_network(NETWORK)))

    def check(name: str) -> None:
        xml = answer(lambda: render_network(replace(NETWORK, name=name)))
        if isinstance(xml, str):
            root = read_xml(xml)
            assert census(root) == plain_census
            assert root.findtext("name") == name

    fuzz(check, names | joined_names)
