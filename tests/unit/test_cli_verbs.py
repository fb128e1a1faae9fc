"""What the verbs that start nothing do: init, validate, schema, image, host, doctor."""

import hashlib
import json
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cli_runner import GOOD, Cli
from qcow2_writer import MIB, Qcow2
from test_state_models import cluster_state, node

from ai_how import __version__
from ai_how.host.checks import Check, Status
from ai_how.host.embedded import EmbeddedHost, EmbeddedStatus
from ai_how.images.manifest import DISK, KERNEL, PACKAGES, Image, Manifest
from ai_how.images.recipe import default_recipe
from ai_how.images.store import ImageStore
from ai_how.spec.reader import default_spec, read_spec
from ai_how.state.cluster_state import write_state
from ai_how.state.paths import ClusterPaths, ensure_private_directory


@pytest.fixture
def cli(tmp_path, monkeypatch, capsys) -> Cli:
    return Cli(tmp_path, monkeypatch, capsys)


def add_image(
    cli: Cli,
    name: str = "debian",
    year: int = 2026,
    *,
    kernel: bytes | None = None,
    packages: str | None = None,
) -> Image:
    """An image in the store; one with a list of packages is as if we had built it."""
    disk = Qcow2(virtual_bytes=MIB).render()
    store = ImageStore(cli.roots.images)
    store.paths.root.mkdir(parents=True, exist_ok=True)
    manifest = Manifest(
        digest=hashlib.sha256(name.encode()).hexdigest(),
        name=name,
        created_at=datetime(year, 1, 1, tzinfo=UTC),
        virtual_size_bytes=MIB,
        disk_sha256=hashlib.sha256(disk).hexdigest(),
        kernel_sha256=hashlib.sha256(kernel).hexdigest() if kernel else None,
        identity="nocloud",
        suite="trixie" if packages else None,
        slurm_version="24.11.5" if packages else None,
        kubernetes_version="1.34.2" if packages else None,
        packages_sha256=hashlib.sha256(packages.encode()).hexdigest() if packages else None,
    )
    with store.draft() as draft:
        (draft / DISK).write_bytes(disk)
        if packages:
            (draft / PACKAGES).write_text(packages)
        if kernel:
            (draft / KERNEL).write_bytes(kernel)
        return store.add(draft, manifest)


def remember(cli: Cli, name: str, image: Image) -> ClusterPaths:
    """A cluster whose one node has this image."""
    paths = cli.roots.cluster(name)
    ensure_private_directory(paths.root)
    one = node("compute-01", 11).model_copy(update={"image_digest": image.digest})
    write_state(paths, cluster_state().model_copy(update={"name": name, "nodes": (one,)}))
    return paths


def test_version_and_help_end_with_0(cli):
    assert cli("--version").out == f"ai-how {__version__}\n"
    for words in (["--help"], ["-h"], ["hpc", "--help"], ["validate", "--help"]):
        ended = cli(*words)
        assert (ended.code, ended.err) == (0, "")
        assert ended.out.startswith("Usage: ai-how")


@pytest.mark.parametrize("words", [[], ["hpc"], ["image"], ["host"], ["gpu"]], ids=" ".join)
def test_the_lists_of_verbs_are_whole_in_eighty_columns(cli, monkeypatch, words):
    monkeypatch.setenv("COLUMNS", "80")
    verbs = cli(*words, "--help").out.partition("Commands:")[2]
    assert verbs
    assert "..." not in verbs


def test_the_help_of_a_verb_names_no_types_of_python(cli):
    for words in ("init", "hpc start", "hpc ssh", "hpc exec", "hpc logs", "image import"):
        assert not re.search("<.*>", cli(*words.split(), "--help").out)


def test_init_into_a_directory_says_what_to_do(cli):
    (cli.home / "sub").mkdir()
    ended = cli("init", "sub", "--force")
    assert (ended.code, ended.err) == (
        2,
        "error: sub is a directory\nhint: ai-how init sub/cluster.yaml\n",
    )


def test_what_init_writes_is_valid_and_means_the_built_in_cluster(cli):
    assert cli("init").code == 0
    assert read_spec(cli.home / "cluster.yaml", {}).placed_in(None) == default_spec()
    ended = cli("validate", "--offline")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.splitlines() == [
        "cluster.yaml is valid",
        "hpc: 3 nodes, 3 vCPUs, 3072 MiB memory, 30 GiB disk at most",
    ]


def test_init_replaces_a_file_only_when_told(cli):
    path = cli.write("mine.yaml", "precious")
    ended = cli("init", "mine.yaml")
    assert ended.code == 2
    assert ended.err == "error: mine.yaml exists\nhint: ai-how init mine.yaml --force\n"
    assert path.read_text() == "precious"
    assert json.loads(cli("init", "mine.yaml", "--force", "--json").out) == {"written": "mine.yaml"}
    assert path.read_text() != "precious"


def test_init_says_where_it_cannot_write(cli):
    ended = cli("init", "nowhere/cluster.yaml")
    assert ended.code == 2
    assert ended.err == "error: cannot write nowhere/cluster.yaml: No such file or directory\n"


def test_schema_is_json_schema(cli):
    assert json.loads(cli("schema").out)["title"] == "ai-how cluster file"


def test_the_file_is_the_argument_then_the_option_then_the_environment(cli, monkeypatch):
    for name in ("argument", "option", "environment", "cluster"):
        cli.write(f"{name}.yaml", GOOD.replace("demo", name))

    def chosen(*words: str) -> str:
        return cli("validate", "--offline", *words).out.splitlines()[1].partition(":")[0]

    assert chosen() == "cluster"
    monkeypatch.setenv("AI_HOW_CONFIG", "environment.yaml")
    assert chosen() == "environment"
    assert chosen("--config", "option.yaml") == "option"
    assert chosen("-c", "option.yaml", "argument.yaml") == "argument"


def test_without_any_file_the_built_in_cluster_is_validated(cli):
    assert cli("validate", "--offline").out.startswith(
        "the built-in cluster is valid\nhpc: 3 nodes"
    )


def test_validate_shows_what_the_cluster_costs_beside_what_the_host_has(cli):
    cli.write("demo.yaml", GOOD)
    ended = cli("validate", "demo.yaml", "--connect", "test:///default")
    assert ended.code == 0, ended
    rows = {line[:18].strip(): line[18:].split() for line in ended.out.splitlines()}
    assert rows["vCPUs"][0] == "3"
    assert rows["memory"][:2] == ["3072", "MiB"]
    assert rows["disk, worst case"][:2] == ["30.0", "GiB"]
    assert "ai-how -c demo.yaml image build" in ended.out
    assert ended.out.endswith("this host can run the cluster\n")


def test_validate_ends_with_3_where_the_host_cannot(cli):
    cli.write("demo.yaml", GOOD.replace("memory_gb: 1", "memory_gb: 2000"))
    ended = cli("validate", "demo.yaml", "--connect", "test:///default")
    assert ended.code == 3
    assert "failure  memory" in ended.out
    assert ended.err == "error: this host cannot run the cluster\n"
    told = json.loads(cli("validate", "demo.yaml", "--connect", "test:///default", "--json").out)
    assert (told["is_valid"], told["is_possible"]) == (True, False)
    assert told["spec"]["clusters"]["hpc"]["name"] == "demo"
    assert told["estimate"]["needs"]["memory_mib"] == 3 * 2000 * 1024
    assert "failure" in [check["status"] for check in told["estimate"]["checks"]]


def test_a_subnet_of_another_cluster_is_a_failure(cli):
    paths = cli.roots.cluster("other")
    ensure_private_directory(paths.root)
    state = write_state(paths, cluster_state().model_copy(update={"name": "other"}))
    subnet = state.network.subnet
    cli.write("demo.yaml", GOOD.replace("demo", f"demo\n    network: {{subnet: {subnet}}}"))
    ended = cli("validate", "demo.yaml", "--connect", "test:///default")
    assert ended.code == 3
    assert f"{subnet} overlaps {subnet} of cluster other" in ended.out


def test_images_are_listed_with_who_uses_them_and_broken_ones_with_why(cli):
    assert cli("image", "list").out.startswith("no images yet")
    image, idle = add_image(cli), add_image(cli, "idle", 2025)
    remember(cli, "demo", image)
    (cli.roots.images / ("b" * 64)).mkdir()
    lines = cli("image", "list").out.splitlines()
    assert [line.split()[0] for line in lines] == ["NAME", "debian", "idle", "broken"]
    assert lines[1].split()[-1] == "demo"
    assert "manifest.json cannot be read" in lines[3]
    told = json.loads(cli("image", "list", "--json").out)
    assert {one["digest"]: one["used_by"] for one in told} == {
        image.digest: ["demo"],
        idle.digest: [],
        "b" * 64: [],
    }


def test_a_damaged_state_does_not_hide_the_images(cli):
    image = add_image(cli)
    remember(cli, "demo", image).state.write_text("{")
    ended = cli("image", "list")
    assert ended.code == 0
    assert image.digest[:12] in ended.out
    assert "warning: cluster demo: " in ended.err
    assert "is damaged: its images are not known" in ended.err


def test_an_image_in_use_is_not_removed(cli):
    image = add_image(cli)
    remember(cli, "demo", image)
    ended = cli("image", "rm", "debian")
    assert ended.code == 3
    assert f"image {image.digest[:12]} is used by demo" in ended.err
    assert image.disk.exists()


def test_no_image_is_removed_while_it_is_not_known_who_uses_it(cli):
    image = add_image(cli)
    remember(cli, "demo", image).state.write_text("{")
    ended = cli("image", "rm", "debian")
    assert ended.code == 3
    assert "is damaged" in ended.err
    assert image.disk.exists()


def test_an_idle_image_and_a_broken_one_are_removed(cli):
    image = add_image(cli)
    broken = cli.roots.images / ("b" * 64)
    broken.mkdir()
    assert cli("image", "rm", "debian").out == f"removed {image.digest[:12]}\n"
    assert cli("image", "rm", "b" * 12).out == f"removed {'b' * 12}\n"
    assert not image.directory.exists()
    assert not broken.exists()


def test_verify_finds_every_damage_and_goes_on(cli):
    good, bad = add_image(cli), add_image(cli, "bad")
    assert cli("image", "verify").code == 0
    bad.directory.chmod(0o755)
    bad.disk.chmod(0o644)
    with bad.disk.open("r+b") as disk:
        disk.seek(-1, 2)
        disk.write(b"\xa5")
    ended = cli("image", "verify")
    assert ended.code == 3
    assert f"ok       {good.digest[:12]}" in ended.out
    assert f"damaged  {bad.digest[:12]}" in ended.out
    assert "has changed" in ended.err
    assert cli("image", "verify", "debian").code == 0
    told = json.loads(cli("image", "verify", "--json").out)
    assert [one["damage"] is None for one in told] == [one["name"] == "debian" for one in told]


def test_an_imported_image_is_listed(cli):
    (cli.home / "foreign.qcow2").write_bytes(Qcow2(virtual_bytes=MIB).render())
    assert cli("image", "import", "foreign.qcow2").code == 0
    told = json.loads(cli("image", "list", "--json").out)
    assert [(one["name"], one["identity"]) for one in told] == [("foreign", "nocloud")]


def test_a_host_that_is_down_says_so_and_can_be_stopped_again(cli):
    for verb in ("status", "down"):
        ended = cli("host", verb)
        assert ended.code == 0
        assert ended.out.splitlines()[0] == "embedded host  down"
    assert json.loads(cli("host", "status", "--json").out)["is_up"] is False


class UpOnTestDriver(EmbeddedHost):
    """An embedded host whose libvirt is the test driver, which has one VM running."""

    uri = "test:///default"
    ended = False

    def status(self) -> EmbeddedStatus:
        return EmbeddedStatus(
            is_up=not self.ended,
            pid=1,
            uri=self.uri,
            has_kvm=False,
            uplink_trouble=None,
            persistent=(Path("/keep"),),
        )

    def down(self) -> None:
        self.ended = True


def test_a_host_with_vms_that_run_is_stopped_only_by_force(cli, monkeypatch):
    host = UpOnTestDriver(cli.roots.embedded)
    monkeypatch.setattr("ai_how.cli.host._embedded", lambda _roots: host)
    ended = cli("host", "down")
    assert ended.code == 3
    assert ended.err.splitlines()[:2] == ["error: a VM is running on the embedded host", "  test"]
    assert "ai-how host down --force" in ended.err
    assert not host.ended
    ended = cli("host", "down", "--force")
    assert ended.code == 0
    assert host.ended
    assert ended.out.splitlines()[-1] == "persists       /keep"


def test_doctor_shows_every_check_and_fails_when_one_does(cli, monkeypatch):
    def looked(*checks: Check) -> None:
        monkeypatch.setattr("ai_how.host.doctor.run_doctor", lambda _roots, kind, kernel: checks)

    looked(Check("memory", Status.OK, "plenty"))
    ended = cli("doctor")
    assert ended.code == 0
    assert ended.out.splitlines() == [
        "ok       memory  plenty",
        "warning  image   the default image is not built yet",
        "                 ai-how image build",
    ]
    looked(Check("tun", Status.FAILURE, "not there", "sudo modprobe tun"))
    ended = cli("doctor", "--json")
    assert ended.code == 3
    told = json.loads(ended.out)
    assert told["is_able"] is False
    assert told["checks"][0] == {
        "name": "tun",
        "status": "failure",
        "found": "not there",
        "advice": "sudo modprobe tun",
    }


def test_doctor_says_that_the_default_image_is_broken(cli, monkeypatch):
    monkeypatch.setattr("ai_how.host.doctor.run_doctor", lambda _roots, kind, kernel: ())
    (cli.roots.images / default_recipe().digest).mkdir(parents=True)
    ended = cli("doctor")
    assert ended.code == 3
    assert "is broken" in ended.out
    assert "ai-how image rm" in ended.out


def test_logs_go_to_a_private_file(cli):
    log = cli.home / "log"
    assert cli("--log-file", log, "image", "rm", "nope").code == 3
    assert "there is no image nope" in log.read_text()
    assert log.stat().st_mode & 0o777 == 0o600
