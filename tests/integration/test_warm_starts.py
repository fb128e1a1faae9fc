"""Nodes that are restored from a saved machine, and clusters that are suspended: under every fault.

Libvirt, QEMU and the saved memory are real; the guests have no system. What a system makes of it is
in tests/cluster/test_warm.py.
"""

import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from hashlib import sha256
from pathlib import Path
from types import NoneType
from uuid import UUID

import pytest
from test_kill_everywhere import Pair, kill_everywhere, without_twins

from ai_how.errors import LibvirtError
from ai_how.host.embedded import EmbeddedHost
from ai_how.libvirt_client import domains
from ai_how.libvirt_client.facts import DomainInfo
from ai_how.libvirt_client.vm_state import VmState
from ai_how.state.cluster_state import read_state
from ai_how.state.files import replaced_atomically
from ai_how.state.paths import StoragePaths
from ai_how.vm_management.disks import base_images
from ai_how.vm_management.saved_machines.generic_vm import GENERIC_ID
from ai_how.vm_management.saved_machines.store import (
    MANIFEST,
    SavedMachine,
    SavedMachines,
    SavedManifest,
)
from ai_how.waiting import Deadline, wait_until
from daemons import daemon_of, kill_daemon, qemus_of, send, stopped
from invariants import Watched, check_told
from ledger import Points
from tiny_cluster import Ended, TinyHome, opened, state_of

pytestmark = pytest.mark.libvirt

WARM = ("image", "warm")
NODES = ("controller", "compute-01", "compute-02")
SIGKILLED = -9


@pytest.fixture(scope="module")
def tiny_home(host: EmbeddedHost) -> Iterator[TinyHome]:
    """Real verbs, and a saved machine for every node."""
    with opened(TinyHome(host.paths.root.parent, is_warm=True)) as home:
        check_told(home.call(*WARM), {0})
        yield home


@pytest.fixture(scope="module")
def learned(tiny_home: TinyHome) -> Watched:
    return Watched(tiny_home).learn().learn_suspending()


@pytest.fixture
def machine(watched: Watched) -> Iterator[SavedMachine]:
    """The saved machine, to be spoilt: there again afterwards."""
    storage = watched.home.roots.embedded_storage
    (machine,) = SavedMachines(storage).list()
    kept = watched.home.root / "kept"
    shutil.copytree(machine.directory, kept)
    yield machine
    watched.clear()
    shutil.rmtree(machine.directory, ignore_errors=True)
    shutil.copytree(kept, machine.directory)
    shutil.rmtree(kept)


def restored(watched: Watched) -> set[str]:
    """The nodes that go on from a memory, as libvirt says."""
    return {name for name, one in nodes_of(watched).items() if not one.was_booted}


def nodes_of(watched: Watched) -> dict[str, DomainInfo]:
    state = read_state(watched.home.paths(watched.name))
    assert state is not None
    with watched.home.client() as client:
        return {one.name: client.get_domain(one.uuid) for one in state.nodes}


def uuid_of(watched: Watched, node: str) -> UUID:
    return next(one.uuid for one in state_of(watched.home).nodes if one.name == node)


def test_every_new_node_is_restored_and_one_that_was_stopped_boots(watched: Watched) -> None:
    assert {key for _, key in watched.boundaries["start"] if "restore/" in key} == {
        f"restore/hpc-{node}" for node in NODES
    }
    watched.have("on")
    assert restored(watched) == set(NODES)
    watched.have("off")
    watched.have("on")
    assert restored(watched) == set()


def test_nothing_is_restored_where_that_is_not_wanted(watched: Watched) -> None:
    ended = watched.home.call("hpc", "start", "--no-warm")
    check_told(ended, {0})
    assert restored(watched) == set()
    assert not [key for _, key in ended.boundaries if "restore/" in key]


@pytest.mark.fault("W01", "SIGKILL at every record of the journal of a warm start")
def test_a_warm_start_killed_at_any_record_is_recovered(
    watched: Watched, points: Points, figures: dict[str, int], *, is_long: bool
) -> None:
    thens = ["destroy", "start", "stop", "status", "destroy"]

    def begin(pairs: list[Pair]) -> Ended:
        watched.have("absent")
        return watched.call("start", at_any=pairs, act="kill")

    pairs = without_twins(watched.boundaries["start"], is_long=is_long)
    if not is_long:  # the others are those of a cold start
        pairs = {pair for pair in pairs if pair[1].startswith(("restore/", "disk/"))}
    kill_everywhere(watched, pairs, begin, thens, points, figures)


@pytest.mark.fault("W01", "SIGKILL while a memory is copied, or libvirt restores it")
@pytest.mark.parametrize("moment", ["copying", "restoring"])
@pytest.mark.parametrize("then", ["start", "destroy", "status"])
def test_a_restore_that_is_killed_in_the_middle_is_recovered(
    watched: Watched, points: Points, moment: str, then: str
) -> None:
    watched.have("absent")
    ended = watched.call("start", kill_in=moment)
    assert ended.code == SIGKILLED, ended.said
    watched.check(ended, then)
    points(1)


def forge(machine: SavedMachine, change: Callable[[Path], None]) -> None:
    """Change a saved memory so that only libvirt and QEMU can tell."""
    machine.memory.chmod(0o600)
    change(machine.memory)
    digest = sha256(machine.memory.read_bytes()).hexdigest()
    rewrite(machine, memory_sha256=digest)
    storage = StoragePaths(machine.directory.parent.parent)
    storage.verified(machine.memory).unlink()
    base_images.check_unchanged(storage, machine.memory, digest)


def rewrite(machine: SavedMachine, **changed: object) -> None:
    manifest: SavedManifest = machine.manifest.model_copy(update=changed)
    with replaced_atomically(machine.directory / MANIFEST) as draft:
        draft.write_text(manifest.model_dump_json())


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip(at: int) -> Callable[[Path], None]:
    """Have another byte there; from the end where it is negative."""

    def change(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[at] ^= 0xFF
        path.chmod(0o600)
        path.write_bytes(data)

    return change


SPOILT: dict[str, tuple[Callable[[SavedMachine], object], str]] = {
    # That a digest sees each byte is shown by the unit tests.
    "a byte of its memory": (lambda one: flip(-4096)(one.memory), "damaged"),
    "a byte of its disk": (lambda one: flip(70000)(one.disk), "damaged"),
    "its disk is gone": (lambda one: one.disk.unlink(), "damaged"),
    "its memory is a directory": (
        lambda one: (one.memory.unlink(), one.memory.mkdir()),
        "damaged",
    ),
    "another QEMU": (lambda one: spoil_host(one, "QEMU 6.2.0, libvirt 9.0.0"), "is of QEMU 6.2.0"),
    "another CPU": (lambda one: spoil_host(one, "a CPU of another kind"), "is of a CPU of another"),
    "no manifest": (lambda one: (one.directory / MANIFEST).unlink(), ""),
    "a manifest that is none": (lambda one: (one.directory / MANIFEST).write_text("{"), ""),
    "a stream of another version": (lambda one: forge(one, flip(memory_at(one) + 7)), "boots cold"),
    "a stream that ends early": (lambda one: forge(one, cut), "boots cold"),
    "a stream of another machine": (lambda one: forge(one, rename_section), "boots cold"),
}


def spoil_host(machine: SavedMachine, host: str) -> None:
    """As if it had been saved elsewhere: it has another key there."""
    key = sha256(host.encode()).hexdigest()
    rewrite(machine, host=host, key=key)
    machine.directory.rename(machine.directory.with_name(key))


def memory_at(machine: SavedMachine) -> int:
    return machine.memory.read_bytes().index(b"QEVM")


def rename_section(path: Path) -> None:
    """Have a section of the stream be that of a device which the VM has not got."""
    path.write_bytes(path.read_bytes().replace(b"serial", b"seriol"))


@pytest.mark.fault("W02", "a saved machine that is damaged, or of another host")
@pytest.mark.parametrize("how", SPOILT)
def test_nodes_boot_cold_and_say_why_where_a_saved_machine_cannot_be_used(
    watched: Watched, machine: SavedMachine, points: Points, how: str
) -> None:
    spoil, said = SPOILT[how]
    spoil(machine)
    ended = watched.call("start", codes={0})
    assert restored(watched) == set(), ended.said
    assert said in ended.err, ended.said
    assert {one.state for one in nodes_of(watched).values()} == {VmState.RUNNING}
    check_told(watched.home.call("hpc", "destroy", "--force"), {0})
    leftovers = SavedMachines(watched.home.roots.embedded_storage)
    for one in leftovers.list():
        if one.manifest.key != machine.manifest.key:
            leftovers.remove(one)
    points(1)


@pytest.mark.fault("W02", "SIGKILL before the boot that follows a refused restore")
@pytest.mark.parametrize("then", ["start", "destroy", "status"])
def test_a_start_that_is_killed_between_a_refused_restore_and_the_boot_is_recovered(
    watched: Watched, machine: SavedMachine, points: Points, then: str
) -> None:
    forge(machine, cut)
    watched.have("absent")
    ended = watched.call("start", kill_in="undefined")
    assert ended.code == SIGKILLED, ended.said
    with watched.home.client() as client:
        there = {one.name for one in client.list_domains()}
    assert not {f"hpc-{node}" for node in NODES} <= there
    watched.check(ended, then)
    points(1)


@pytest.mark.fault("W03", "SIGKILL at every record of a suspend, and of going on")
@pytest.mark.parametrize("verb", ["suspend", "resume"])
def test_a_suspended_cluster_loses_nothing_when_it_is_killed_at_any_record(
    watched: Watched, points: Points, figures: dict[str, int], verb: str, *, is_long: bool
) -> None:
    thens = {"suspend": ["start", "suspend", "status"], "resume": ["start", "start", "status"]}
    was = {"suspend": "on", "resume": "suspended"}[verb]

    def begin(pairs: list[Pair]) -> Ended:
        watched.have(was)
        return watched.call({"resume": "start"}.get(verb, verb), at_any=pairs, act="kill")

    pairs = without_twins(watched.boundaries[verb], is_long=is_long)
    if not is_long:
        pairs = {pair for pair in pairs if pair[1].startswith((verb, "clock"))}
    watched.have("absent")
    kill_everywhere(watched, pairs, begin, thens[verb], points, figures)
    watched.have("suspended")
    watched.have("on")
    assert restored(watched) == set(NODES)


@pytest.mark.fault("W03", "a node that cannot go on")
def test_a_memory_that_cannot_go_on_is_kept_until_its_user_throws_it_away(
    watched: Watched, points: Points
) -> None:
    watched.have("suspended")
    save = watched.home.roots.embedded.lib / "qemu" / "save" / "hpc-compute-01.save"
    data = save.read_bytes()
    save.write_bytes(data[: len(data) // 2])
    ended = watched.call("start", codes={4, 5})
    assert "compute-01 cannot resume from its saved memory" in ended.err
    assert "hpc start --no-warm" in ended.err
    # The others, which went on before it failed, are suspended again.
    assert {path.name for path in save.parent.iterdir()} == {f"hpc-{node}.save" for node in NODES}
    save.write_bytes(data)
    watched.call("start", codes={0})
    assert restored(watched) == set(NODES)
    watched.settled("on")
    watched.have("suspended")
    # What is set once for all starts throws no memory away: only who types it does.
    start = partial(watched.home.call, "hpc", "start")
    check_told(start(environment={"AI_HOW_NO_WARM": "1"}), {0})
    assert restored(watched) == set(NODES)
    watched.settled("on")
    watched.have("suspended")
    check_told(start("--no-warm"), {0})
    assert restored(watched) == set()
    watched.settled("on")
    points(3)


@pytest.mark.fault("W03", "a suspended cluster is destroyed, or stopped")
def test_a_suspended_cluster_can_be_destroyed_and_its_memory_goes_too(watched: Watched) -> None:
    watched.have("suspended")
    watched.call("stop", codes={0})
    watched.settled("suspended")
    watched.have("absent")


@pytest.mark.fault("W03", "libvirtd dies when a memory goes on, before it removes that")
def test_a_memory_that_has_gone_on_is_not_gone_back_to(watched: Watched, points: Points) -> None:
    watched.have("suspended")
    save = watched.home.roots.embedded.lib / "qemu" / "save" / "hpc-compute-01.save"
    memory = save.read_bytes()
    watched.have("on")
    uuid = uuid_of(watched, "compute-01")
    save.write_bytes(memory)
    kill_daemon(watched.home.host)
    daemon_of(watched.home.host)
    with watched.home.client() as client:
        assert client.get_domain(uuid).state is VmState.RUNNING
        client.start_domain(uuid)
    assert not save.exists()
    watched.settled("on")
    watched.have("off")
    points(1)


@pytest.mark.fault("W03", "a suspend is carried on while libvirtd still saves for the one before")
def test_a_memory_that_is_being_saved_is_not_saved_again(watched: Watched, points: Points) -> None:
    host = watched.home.host
    with watched.home.client() as client, ThreadPoolExecutor(2) as crew:
        for _ in range(20):  # a save may end before it is held
            watched.have("on")
            uuid, qemu = uuid_of(watched, "compute-01"), qemus_of(host, "hpc")["compute-01"]
            saves = [crew.submit(client.managed_save, uuid, timeout_s=120)]
            wait_until(
                lambda uuid=uuid: client.get_domain(uuid).state is not VmState.RUNNING,
                Deadline.after(60),
                "the save",
                interval_s=0.001,
            )
            with suppress(ProcessLookupError), stopped(qemu):
                if client.get_domain(uuid).reason_text == "saving":
                    saves.append(crew.submit(client.managed_save, uuid, timeout_s=120))
                    time.sleep(1)
                    assert [save.done() for save in saves] == [False, False]
            for save in saves:
                save.result()
            assert client.get_domain(uuid).has_managed_save
            if len(saves) == 2:
                break
            watched.now = "suspended"
            watched.clear()
        else:
            pytest.fail("no save was met")
    watched.call("suspend", codes={0})
    watched.settled("suspended")
    points(1)


@pytest.mark.fault("W03", "a suspend of single nodes")
def test_single_nodes_are_not_suspended(watched: Watched) -> None:
    watched.have("on")
    ended = watched.home.call("hpc", "stop", "--suspend", "compute-01")
    check_told(ended, {2})
    assert "only a whole cluster" in ended.err
    watched.settled("on")


@pytest.mark.fault("F27", "SIGKILL to libvirtd while it restores, suspends or resumes")
@pytest.mark.parametrize(
    ("was", "verb", "at"),
    [
        ("absent", "start", ("after intent", "restore/hpc-compute-01")),
        ("on", "suspend", ("after intent", "suspend/hpc-compute-01")),
        ("suspended", "start", ("after intent", "resume/hpc-compute-01")),
    ],
)
def test_a_libvirtd_that_dies_with_a_memory_in_its_hands_is_outlived(
    watched: Watched, points: Points, was: str, verb: str, at: Pair
) -> None:
    watched.have(was)
    kill = [(daemon_of(watched.home.host), signal.SIGKILL)]
    ended = watched.call(verb, codes={0, 4, 5}, at_any=[at], act="signal", signals=kill)
    watched.check(ended, verb)
    points(1)


@pytest.mark.fault("F27", "the power of a VM is cut while libvirt restores it")
@pytest.mark.parametrize("hangs", [False, True])
def test_power_is_not_cut_in_the_middle_of_a_restore_unless_that_hangs(
    watched: Watched, points: Points, monkeypatch: pytest.MonkeyPatch, *, hangs: bool
) -> None:
    monkeypatch.setattr(domains, "STARTING_S", 5.0 if hangs else 60.0)
    host = watched.home.host
    daemon = daemon_of(host)
    with watched.home.client() as client, ThreadPoolExecutor(1) as crew:
        for _ in range(20):  # a restore may end before it is held
            watched.have("suspended")
            uuid = uuid_of(watched, "compute-01")
            start = crew.submit(client.start_domain, uuid)
            qemu = wait_until(
                lambda: qemus_of(host, "hpc").get("compute-01"),
                Deadline.after(60),
                "its QEMU",
                interval_s=0.005,
            )
            send(signal.SIGSTOP, qemu)
            if client.get_domain(uuid).reason_text == "starting up":
                break
            send(signal.SIGCONT, qemu)
            start.result()
            watched.now = "on"
            watched.clear()
        if not hangs:
            threading.Timer(2.0, send, (signal.SIGCONT, qemu)).start()
        assert not start.done()
        client.destroy_domain(uuid)
        assert client.get_domain(uuid).state is VmState.SHUT_OFF
        assert isinstance(start.exception(), LibvirtError if hangs else NoneType)
    # One that cut in at the wrong moment made libvirtd 9.0 crash.
    assert daemon_of(host) == daemon
    watched.clear()
    watched.settled("absent")
    points(1)


def nameless(home: TinyHome) -> set[str]:
    """The VMs that are booted to be saved."""
    with home.client() as client:
        return {one.name for one in client.list_domains() if one.mark and one.mark.id == GENERIC_ID}


@pytest.mark.fault("W04", "SIGKILL of the process that saves a machine")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_whoever_saves_a_machine_leaves_nothing_when_it_ends(
    watched: Watched, machine: SavedMachine, points: Points, number: signal.Signals
) -> None:
    home = watched.home
    SavedMachines(home.roots.embedded_storage).remove(machine)
    pids: list[int] = []
    ended = home.begin(*WARM, on_pid=pids.append, agents=False)
    wait_until(lambda: nameless(home), Deadline.after(60), "a VM to be saved")
    os.kill(pids[0], number)
    said = ended()
    assert said.code in {-number, 3, 130}, said.said
    wait_until(lambda: not nameless(home), Deadline.after(60), "its end")
    check_told(home.call(*WARM), {0})
    storage = home.roots.embedded_storage
    assert [one.name for one in storage.saved.iterdir()] == [machine.directory.name]
    watched.call("start", codes={0})
    assert restored(watched) == set(NODES)
    points(1)


@pytest.mark.fault("W04", "libvirtd and the process that saves a machine are killed")
def test_a_machine_whose_libvirtd_died_as_well_is_ended_by_the_next_run(
    watched: Watched, machine: SavedMachine, points: Points
) -> None:
    home = watched.home
    SavedMachines(home.roots.embedded_storage).remove(machine)
    pids: list[int] = []
    ended = home.begin(*WARM, on_pid=pids.append, agents=False)
    wait_until(lambda: nameless(home), Deadline.after(60), "a VM to be saved")
    with suppress(ProcessLookupError):
        os.kill(pids[0], signal.SIGSTOP)
    home.host.restart_daemon()
    os.kill(pids[0], signal.SIGKILL)
    assert ended().code == SIGKILLED
    check_told(home.call(*WARM), {0})
    assert nameless(home) == set()
    points(1)


def test_a_damaged_machine_is_saved_anew(watched: Watched, machine: SavedMachine) -> None:
    flip(-4096)(machine.memory)
    told = json.loads(watched.home.call("--json", *WARM).out)
    assert [len(told["saved"]), len(told["there"])] == [1, 0]
    machines = SavedMachines(watched.home.roots.embedded_storage)
    (made,) = machines.list()
    assert made.manifest.id != machine.manifest.id
    assert machines.find_damage(made) is None


def test_two_that_save_the_same_machine_save_it_once(
    watched: Watched, machine: SavedMachine
) -> None:
    home = watched.home
    SavedMachines(home.roots.embedded_storage).remove(machine)
    first, second = home.crowd(("--json", *WARM), ("--json", *WARM))
    told = [json.loads(one.out) for one in (first, second)]
    assert (
        sorted(len(one["saved"]) for one in told) == [0, 1]
        or {machine["manifest"]["id"] for one in told for machine in one["saved"]}.__len__() == 1
    )
    assert len(SavedMachines(home.roots.embedded_storage).list()) == 1
