"""A state directory that is moved to a larger disk, or reached by another spelling."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ai_how.process import run
from daemons import qemus_of
from leaks import private_host
from tiny_cluster import TinyHome, opened, state_of, steps

pytestmark = pytest.mark.libvirt
PATTERN = "-P 0x5a 512k 64k"


@pytest.fixture(scope="module")
def home() -> Iterator[TinyHome]:
    """A cluster that runs, with a word on the disk of its controller."""
    with private_host() as host, opened(TinyHome(host.paths.root.parent, nodes=1)) as home:
        assert home.call("hpc", "start").code == 0
        assert home.call("hpc", "stop").code == 0
        run(["qemu-io", "-f", "qcow2", "-c", f"write {PATTERN}", state_of(home).nodes[0].disk])
        assert home.call("hpc", "start").code == 0
        yield home


@pytest.fixture
def elsewhere() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="ah-else-"))
    yield directory
    shutil.rmtree(directory)


def has_its_data(home: TinyHome) -> bool:
    disk = state_of(home).nodes[0].disk
    told = run(["qemu-io", "-f", "qcow2", "-r", "-U", "-c", f"read {PATTERN}", disk])
    return "read 65536/65536" in told.stdout and "verification failed" not in told.stdout


def call_at(home: TinyHome, state: Path | str, *words: str) -> dict[str, object]:
    """A verb for the same cluster, by another spelling of its state directory."""
    argv = ["--state-dir", str(state), "-c", str(home.file("hpc")), "--json", *words]
    [ended] = home._begin([{"argv": argv}])[1]()
    assert ended.code == 0, ended.said
    return json.loads(ended.out)


@pytest.mark.fault("H07", "a running cluster by a link, a link above, a trailing slash")
def test_a_cluster_is_the_same_by_every_spelling(home: TinyHome, elsewhere: Path) -> None:
    (elsewhere / "link").symlink_to(home.state)
    (elsewhere / "above").symlink_to(home.state.parent)
    guests = qemus_of(home.host, "hpc")
    supervisor = home.host.find_supervisor()
    for spelling in (
        elsewhere / "link",
        elsewhere / "above" / home.state.name,
        f"{home.state}/",
        f"{elsewhere}/../{elsewhere.name}/link",
    ):
        seen = call_at(home, spelling, "hpc", "status")
        assert [(node["state"], node["problems"]) for node in seen["nodes"]] == [
            ("running", [])
        ] * 2
        assert call_at(home, spelling, "hpc", "start")["steps"] == []
        assert call_at(home, spelling, "host", "status")["pid"] == supervisor.pid
    assert qemus_of(home.host, "hpc") == guests


@pytest.mark.fault("H07", "moved, with a link in its old place and without, and back again")
def test_a_moved_cluster_keeps_its_disks(home: TinyHome, elsewhere: Path) -> None:
    assert home.call("hpc", "stop").code == 0
    assert home.call("host", "down").code == 0
    there, old = elsewhere / "ai-how", home.state
    run(["cp", "-a", old, there])
    copy = home.call("--state-dir", str(there), "hpc", "status")
    assert copy.code == 3, copy.said
    assert f"{there} is a copy of {old}, which still has the cluster" in copy.err
    shutil.rmtree(there)

    shutil.move(old, there)
    try:
        moved = replace(home, state=there, _zygotes=[], _busy={}, zygote_pids=set())
        for words in (("status",), ("start",), ("destroy", "--force")):
            refused = moved.call("hpc", *words)
            assert refused.code == 3, refused.said
            assert f"hpc was moved from {old} to {there}" in refused.err
        hint = next(line for line in refused.err.splitlines() if "hint: " in line)
        run(["sh", "-c", hint.partition("hint: ")[2]])
        assert old.readlink() == there
        assert "ready/hpc" in steps(moved)
        assert has_its_data(moved)
        assert home.host.find_supervisor() == moved.host.find_supervisor()
        assert call_at(moved, old, "hpc", "start")["steps"] == []
        seen = call_at(moved, old, "hpc", "status")
        assert {node["state"] for node in seen["nodes"]} == {"running"}
        assert moved.call("hpc", "destroy", "--force").code == 0
        assert not list(there.rglob("*.qcow2"))[len(list((there / ".tiny").rglob("*.qcow2"))) :]
        moved.host.down()
        moved.close()
    finally:
        old.unlink(missing_ok=True)
        shutil.move(there, old)
