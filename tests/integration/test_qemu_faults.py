"""QEMU dies, hangs or is paused, and others change its VM, while real verbs run on the cluster.

The guests have an empty disk and no system: they hear no power button, which is half of it.
"""

import re
import shlex
import signal
import time
from contextlib import suppress
from pathlib import Path
from uuid import UUID

import pytest

from ai_how.errors import HostError
from ai_how.host.embedded import EmbeddedHost
from ai_how.hpc.manager import HpcManager
from ai_how.libvirt_client.vm_state import VmState
from ai_how.process import run
from ai_how.waiting import Deadline, wait_until
from daemons import daemon_of, kill_daemon, qemus_of, send, stopped, supervisor_of, without_daemon
from decoys import virsh
from ledger import Points
from tiny_cluster import Ended, TinyHome, opened

pytestmark = pytest.mark.libvirt

NODES = ("controller", "compute-01", "compute-02")
UNDONE = 4
# libvirt asks a QEMU to end and kills it ten seconds later, so one after the other is thrice that.
CUT_S = 10.0


def start(home: TinyHome, *words: str) -> Ended:
    ended = home.call("hpc", "start", *words)
    assert ended.code == 0, ended.said
    assert states(home) == dict.fromkeys(NODES, VmState.RUNNING)
    return ended


def destroy(home: TinyHome) -> Ended:
    ended = home.call("hpc", "destroy", "--force")
    assert ended.code == 0, ended.said
    assert states(home) == {}
    return ended


def states(home: TinyHome) -> dict[str, VmState]:
    with home.client() as client:
        named = {one.name.removeprefix("hpc-"): one.state for one in client.list_domains()}
    return {node: named[node] for node in NODES if node in named}


def uuid_of(home: TinyHome, node: str) -> UUID:
    with home.client() as client:
        return next(one.uuid for one in client.list_domains() if one.name == f"hpc-{node}")


def find_status(home: TinyHome, node: str, text: str) -> Ended | None:
    """What status says, once it says this of that node."""
    seen = home.call("hpc", "status")
    assert seen.code == 0, seen.said
    return seen if text in rows(seen)[node] else None


def rows(ended: Ended) -> dict[str, str]:
    """The line of each node in what `status` says."""
    lines = ended.out.splitlines()
    return {node: line for node in NODES for line in lines if line.startswith(f"{node} ")}


def order_of(ended: Ended, word: str) -> list[str]:
    """The records around such steps: `intent controller`, `done controller` and so on."""
    return [
        f"{moment.split()[1]} {key.partition('/hpc-')[2]}"
        for moment, key in ended.boundaries
        if key.startswith(f"{word}/") and moment.startswith("after")
    ]


@pytest.mark.fault("F31", "SIGKILL to a QEMU whose guest's agent is awaited")
def test_a_qemu_that_dies_while_its_guest_boots_ends_the_start_at_once(
    tiny_home: TinyHome,
) -> None:
    ended = tiny_home.begin("hpc", "start", agents=False)
    soon = Deadline.after(120)
    wait_until(lambda: states(tiny_home) == dict.fromkeys(NODES, VmState.RUNNING), soon, "boots")
    began = time.monotonic()
    send(signal.SIGKILL, qemus_of(tiny_home.host, "hpc")["compute-02"])
    after = ended()
    # The deadline of what it waited for is a quarter of an hour.
    assert time.monotonic() - began < 60
    assert after.code == UNDONE, after.said
    assert "hpc-compute-02 is shut off (crashed)" in after.err
    assert states(tiny_home) == {}


@pytest.mark.fault("F32", "SIGKILL to a QEMU while there is no libvirtd")
def test_a_qemu_that_died_while_libvirtd_was_away_is_seen_and_started_again(
    tiny_home: TinyHome,
) -> None:
    start(tiny_home)
    with without_daemon(tiny_home.host):
        send(signal.SIGKILL, qemus_of(tiny_home.host, "hpc")["compute-01"])
    # A libvirtd that is just back takes its guests for running until it has spoken to each.
    seen = wait_until(
        lambda: find_status(tiny_home, "compute-01", "shut off (crashed)"),
        Deadline.after(60),
        "the end of compute-01 to be known",
    )
    assert "running" in rows(seen)["compute-02"]
    start(tiny_home)
    destroy(tiny_home)


@pytest.mark.fault("F30", "the tmpfs over /run is filled, then SIGKILL to libvirtd")
def test_guests_that_a_full_run_directory_killed_are_told_and_started_again(
    own_host: EmbeddedHost,
) -> None:
    with opened(TinyHome(own_host.paths.root.parent)) as home:
        start(home)
        filler = Path(f"/proc/{supervisor_of(home.host)}/root/run/filler")
        with filler.open("wb") as file, suppress(OSError):
            while True:
                file.write(b"\0" * 2**16)
                file.flush()
        kill_daemon(home.host)
        full = home.call("hpc", "status", patience_s=5)
        # Each is ended when libvirtd, back, cannot note that it is there.
        wait_until(lambda: not qemus_of(home.host, "hpc"), Deadline.after(60), "their end")
        filler.unlink()
        daemon_of(home.host)
        seen = home.call("hpc", "status")
        assert seen.code == 0, seen.said
        assert all("shut off (daemon)" in row for row in rows(seen).values()), seen.said
        # Either libvirtd came up in spite of it, or the reason why it was not there is given.
        assert full.code == 0 or "no connection to libvirt" in full.err, full.said
        start(home)
        ended = home.call("hpc", "destroy", "--force")
        assert ended.code == 0, ended.said
        # Nothing is left on it, not even a reason to run.
        assert not home.host.status().is_up


@pytest.mark.fault("F33", "SIGSTOP to every QEMU, then destroy")
def test_guests_that_hang_are_destroyed_all_at_once(
    tiny_home: TinyHome, points: Points, figures: dict[str, int]
) -> None:
    start(tiny_home)
    pids = qemus_of(tiny_home.host, "hpc")
    assert set(pids) == set(NODES)
    send(signal.SIGSTOP, *pids.values())
    began = time.monotonic()
    ended = destroy(tiny_home)
    took_s = time.monotonic() - began
    figures["seconds to destroy 3 hung guests"] = round(took_s)
    assert took_s < 60
    # All are under way before the first is done.
    assert [one.split()[0] for one in order_of(ended, "undefine")[:3]] == ["intent"] * 3
    points(3)


@pytest.mark.fault("F33", "SIGSTOP to one QEMU, then status, stop and destroy")
def test_a_guest_that_hangs_holds_no_other_up(tiny_home: TinyHome, points: Points) -> None:
    start(tiny_home)
    with stopped(qemus_of(tiny_home.host, "hpc")["compute-01"]):
        began = time.monotonic()
        seen = tiny_home.call("hpc", "status")
        assert seen.code == 0, seen.said
        assert time.monotonic() - began < 60
        # Only its own figures are not to be had.
        assert "? of 512 MiB" in rows(seen)["compute-01"]
        assert re.search(r"of 512 MiB +\d+ MiB ", rows(seen)["compute-02"])  # QEMU's own
        ended = tiny_home.call("hpc", "stop", shutdown_s=4, agents=False)
        assert ended.code == 0, ended.said
        assert "hpc-compute-01 did not shut down in time and was powered off" in ended.err
        assert states(tiny_home) == dict.fromkeys(NODES, VmState.SHUT_OFF)
    start(tiny_home)
    with stopped(qemus_of(tiny_home.host, "hpc")["compute-01"]):
        ended = destroy(tiny_home)
    assert order_of(ended, "undefine")[-1] == "done compute-01"
    points(3)


@pytest.mark.fault("F34", "guests without a system, asked by ACPI")
def test_a_guest_that_ignores_the_power_button_is_cut_off_and_that_is_said(
    tiny_home: TinyHome, points: Points
) -> None:
    start(tiny_home)
    ended = tiny_home.call("hpc", "stop", shutdown_s=3, agents=False)
    assert ended.code == 0, ended.said
    for node in NODES:
        assert f"hpc-{node} did not shut down in time and was powered off" in ended.err
    seen = tiny_home.call("hpc", "status")
    assert all("shut off (destroyed)" in row for row in rows(seen).values())
    assert tiny_home.call("hpc", "stop").boundaries == ()
    destroy(tiny_home)
    points(len(NODES))


@pytest.mark.fault("F35", "virsh suspend, then stop, start and destroy")
def test_a_paused_guest_is_on_for_every_verb(tiny_home: TinyHome, points: Points) -> None:
    start(tiny_home)
    pids = qemus_of(tiny_home.host, "hpc")
    virsh(tiny_home.host, "suspend", "hpc-compute-01")
    start(tiny_home)
    assert qemus_of(tiny_home.host, "hpc") == pids
    virsh(tiny_home.host, "suspend", "hpc-compute-01")
    ended = tiny_home.call("hpc", "stop", "--wait", "--timeout", "5", shutdown_s=3)
    assert ended.code == 0, ended.said
    assert ("after done", "off/hpc-compute-01") in ended.boundaries
    assert states(tiny_home) == dict.fromkeys(NODES, VmState.SHUT_OFF)
    start(tiny_home)
    virsh(tiny_home.host, "suspend", "hpc-controller")
    destroy(tiny_home)
    points(3)


@pytest.mark.fault("H09", "destroy --backup of guests that run, hang or are paused")
def test_a_backup_is_made_of_guests_that_are_off_before_anything_is_removed(
    tiny_home: TinyHome, tmp_path: Path, points: Points
) -> None:
    words = ("hpc", "destroy", "--force", "--backup", str(tmp_path / "kept"))
    start(tiny_home)
    failed = tiny_home.call(*words, fail={"backup/hpc-compute-02": ["before", "OSError"]})
    assert failed.code == UNDONE, failed.said
    # What is there is the cluster, off, and no backup that would be in the way of the next.
    assert states(tiny_home) == dict.fromkeys(NODES, VmState.SHUT_OFF)
    assert list((tmp_path / "kept").iterdir()) == []
    start(tiny_home)
    virsh(tiny_home.host, "suspend", "hpc-controller")
    ended = tiny_home.call(*words, shutdown_s=4)
    assert ended.code == 0, ended.said
    assert "hpc-controller did not shut down in time and was powered off" in ended.err
    assert "the backup of hpc-controller may lack the writes" in ended.err
    assert "the backup of hpc-compute" not in ended.err
    done = [key.split("/")[0] for moment, key in ended.boundaries if moment == "after done"]
    assert done.index("backup") > max(place for place, word in enumerate(done) if word == "off")
    assert done.index("undefine") > max(p for p, word in enumerate(done) if word == "backup")
    assert len(list((tmp_path / "kept").iterdir())) == len(NODES)
    assert states(tiny_home) == {}
    points(3)


@pytest.mark.fault("H09", "virsh managedsave, then destroy --backup")
def test_a_suspended_node_is_not_backed_up_without_its_memory(
    tiny_home: TinyHome, tmp_path: Path
) -> None:
    start(tiny_home)
    virsh(tiny_home.host, "managedsave", "hpc-compute-01")
    refused = tiny_home.call("hpc", "destroy", "--force", "--backup", str(tmp_path / "kept"))
    assert refused.code == 3, refused.said
    assert "its disks are incomplete without the saved memory" in refused.err
    assert "suspended: compute-01" in refused.err
    assert "shut off (saved)" in rows(tiny_home.call("hpc", "status"))["compute-01"]
    start(tiny_home)
    ended = tiny_home.call("hpc", "destroy", "--force", "--backup", str(tmp_path / "kept"))
    assert ended.code == 0, ended.said
    assert len(list((tmp_path / "kept").iterdir())) == len(NODES)


@pytest.mark.fault("F36", "virsh managedsave, then start and destroy")
def test_a_managed_save_is_started_from_and_goes_with_its_vm(tiny_home: TinyHome) -> None:
    start(tiny_home)
    virsh(tiny_home.host, "managedsave", "hpc-compute-01")
    seen = tiny_home.call("hpc", "status")
    assert "shut off (saved)" in rows(seen)["compute-01"]
    start(tiny_home)
    virsh(tiny_home.host, "managedsave", "hpc-compute-01")
    # That nothing of it is left behind is for the look after every test.
    destroy(tiny_home)


@pytest.mark.fault("F36", "virsh snapshot-create-as: in the disk, and beside it")
def test_snapshots_go_by_force_only_and_a_file_beside_the_disk_never(
    tiny_home: TinyHome, points: Points
) -> None:
    host = tiny_home.host
    start(tiny_home)
    virsh(host, "snapshot-create-as", "hpc-compute-01", "mine")
    with pytest.raises(HostError) as caught:
        HpcManager(roots=tiny_home.roots, name="hpc").destroy()
    assert caught.value.brief == "hpc has 1 snapshot, which would be lost"
    assert caught.value.details == "mine of compute-01"
    assert states(tiny_home) == dict.fromkeys(NODES, VmState.RUNNING)
    virsh(host, "snapshot-create-as", "hpc-controller", "beside", "--disk-only")
    refused = tiny_home.call("hpc", "destroy", "--force")
    assert refused.code == 3, refused.said
    assert states(tiny_home) == dict.fromkeys(NODES, VmState.RUNNING)
    beside = tiny_home.roots.embedded_storage.cluster("hpc") / "controller.beside"
    [hint] = [line for line in refused.err.splitlines() if line.startswith("hint: ")]
    merge, _, remove = hint.removeprefix("hint: ").partition(" && ")
    assert merge.endswith(" blockcommit hpc-controller vda --active --shallow --pivot")
    assert shlex.split(remove) == ["rm", str(beside)]
    run(["sh", "-c", f"{merge} && {remove}"])
    destroy(tiny_home)
    points(3)


@pytest.mark.fault("F37", "virsh undefine of a VM that runs, then stop, start and destroy")
def test_a_vm_that_was_undefined_while_it_runs_is_ours_still(
    tiny_home: TinyHome, points: Points
) -> None:
    start(tiny_home)
    pids = qemus_of(tiny_home.host, "hpc")
    uuid = uuid_of(tiny_home, "compute-01")
    virsh(tiny_home.host, "undefine", "hpc-compute-01")
    start(tiny_home)
    assert qemus_of(tiny_home.host, "hpc") == pids
    with tiny_home.client() as client:
        assert client.get_domain(uuid).is_persistent
    virsh(tiny_home.host, "undefine", "hpc-compute-01")
    ended = tiny_home.call("hpc", "stop")
    assert ended.code == 0, ended.said
    assert set(states(tiny_home)) == {"controller", "compute-02"}
    start(tiny_home)
    virsh(tiny_home.host, "undefine", "hpc-compute-02")
    destroy(tiny_home)
    points(3)


def crash(home: TinyHome, node: str) -> None:
    """Let its guest say that it panicked, and wait until libvirt calls it crashed."""
    virsh(home.host, "qemu-monitor-command", f"hpc-{node}", "--hmp", "o /b 0x505 1")
    wait_until(
        lambda: states(home)[node] is VmState.CRASHED, Deadline.after(60), f"the crash of {node}"
    )


def test_a_guest_that_crashed_is_started_again_and_stopped_without_a_wait(
    tiny_home: TinyHome,
) -> None:
    start(tiny_home)
    uuid = uuid_of(tiny_home, "compute-01")
    stop = tiny_home.call("hpc", "stop")
    assert stop.code == 0, stop.said
    with tiny_home.client() as client:
        xml = client.domain_xml(uuid)
        client.define_domain(xml.replace("<on_crash>destroy<", "<on_crash>preserve<"))
    start(tiny_home)
    crash(tiny_home, "compute-01")
    assert "crashed (panicked)" in rows(tiny_home.call("hpc", "status"))["compute-01"]
    start(tiny_home)
    crash(tiny_home, "compute-01")
    # Two minutes are what a guest that may still hear us is given.
    began = time.monotonic()
    ended = tiny_home.call("hpc", "stop")
    assert ended.code == 0, ended.said
    assert time.monotonic() - began < 100
    assert states(tiny_home) == dict.fromkeys(NODES, VmState.SHUT_OFF)
    destroy(tiny_home)
