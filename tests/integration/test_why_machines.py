"""`hpc why` of machines, their network and their host: each cause is made, and named as the first.

The causes of SLURM are in tests/cluster/watched/test_why_nodes.py, those of jobs beside it.
"""

import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from ai_how.libvirt_client.network_xml import find_taps
from ai_how.libvirt_client.vm_state import VmState
from ai_how.process import run
from ai_how.waiting import Deadline, wait_until
from decoys import virsh
from leaks import pids_inside
from tiny_cluster import TinyHome, state_of, steps

pytestmark = pytest.mark.libvirt

READY, WRONG = 0, 8
NODE = "compute-02"
VM = f"hpc-{NODE}"


@pytest.fixture
def home(tiny_home: TinyHome) -> Iterator[TinyHome]:
    """A cluster that runs."""
    steps(tiny_home)
    yield tiny_home
    gone = tiny_home.call("hpc", "destroy", "--force")
    assert gone.code == 0, gone.said


def why(home: TinyHome, *words: str, **order: object) -> dict[str, Any]:
    """What it answers; its exit code says whether all is well."""
    done = home.call("--json", "hpc", "why", *words, **order)
    assert done.code in (READY, WRONG), done.said
    answer = json.loads(done.out)
    assert answer["is_well"] is (done.code == READY)
    assert (answer["cause"] is None) == answer["is_well"]
    return answer


def first(home: TinyHome, *words: str, **order: object) -> tuple[str, str]:
    """The id of the first cause, and what it is about."""
    cause = why(home, *words, **order)["cause"]
    assert cause is not None
    assert cause["text"]
    assert cause["evidence"] or cause["id"] in ("run-cut-short", "run-under-way", "host-down")
    assert cause["remedy"]
    return cause["id"], cause["subject"]


def link(home: TinyHome, *words: str) -> None:
    run(home.host.enter(["ip", "link", *words]))


def tap_of(home: TinyHome) -> str:
    state = state_of(home)
    with home.client() as client:
        domain = client.get_domain(state.get_node(NODE).uuid)
        network = client.find_network(state.network.uuid)
    assert network is not None
    [tap] = find_taps(domain.xml, network)
    return tap


def kill_qemu(home: TinyHome) -> None:
    words = f"guest={VM},".encode()
    [pid] = [
        pid for pid in pids_inside(home.host, "qemu-system-x86") if words in read_command_line(pid)
    ]
    os.kill(pid, signal.SIGKILL)
    state = state_of(home)
    with home.client() as client:
        wait_until(
            lambda: client.get_domain(state.get_node(NODE).uuid).state is VmState.SHUT_OFF,
            Deadline.after(60),
            "the end of the VM",
        )


def read_command_line(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def undefine(home: TinyHome) -> None:
    virsh(home.host, "destroy", VM)
    virsh(home.host, "undefine", VM)


def forget_network(home: TinyHome) -> None:
    virsh(home.host, "net-destroy", "hpc")
    virsh(home.host, "net-undefine", "hpc")


def kill_dnsmasq(home: TinyHome) -> None:
    for pid in pids_inside(home.host, "dnsmasq"):
        with suppress(FileNotFoundError, ProcessLookupError):  # one ends with the other
            if b"/hpc.conf" in read_command_line(pid):
                os.kill(pid, signal.SIGKILL)


FAULTS: dict[str, tuple[Callable[[TinyHome], object], str]] = {
    "node-off": (lambda home: home.call("hpc", "stop", NODE), NODE),
    "vm-undefined": (undefine, NODE),
    "vm-paused": (lambda home: virsh(home.host, "suspend", VM), NODE),
    "qemu-killed": (kill_qemu, NODE),
    "network-down": (lambda home: virsh(home.host, "net-destroy", "hpc"), "network"),
    "network-missing": (forget_network, "network"),
    "bridge-gone": (
        lambda home: link(home, "delete", state_of(home).network.bridge),
        "network",
    ),
    "interface-down": (lambda home: link(home, "set", tap_of(home), "down"), NODE),
    "interface-unplugged": (lambda home: link(home, "set", tap_of(home), "nomaster"), NODE),
    "cluster-off": (lambda home: home.call("hpc", "stop"), "cluster"),
    "cluster-suspended": (lambda home: home.call("hpc", "stop", "--suspend"), "cluster"),
}


def test_what_is_wrong_with_machines_and_their_network_is_the_first_cause(home: TinyHome) -> None:
    """One after another on one cluster, which a start mends each time."""
    for cause, (act, subject) in FAULTS.items():
        assert why(home)["is_well"] is True, cause
        act(home)
        # A fault of the host or the network is also why a single node is not ready.
        words = () if subject == NODE else (NODE,)
        assert first(home, *words) == (cause, subject)
        if cause == "vm-paused":
            assert why(home, "compute-01")["is_well"] is True
        steps(home)


def test_what_no_start_mends_is_told_with_what_does(home: TinyHome) -> None:
    disk = state_of(home).get_node(NODE).disk
    kept = disk.with_name("kept")
    disk.rename(kept)
    try:
        assert first(home) == ("disk-missing", NODE)
        disk.write_bytes(b"no disk")
        assert first(home) == ("disk-broken", NODE)
    finally:
        kept.rename(disk)
    kill_dnsmasq(home)
    answer = why(home)
    assert answer["is_well"] is True, "nodes work on without dnsmasq"
    assert [(one["id"], one["severity"]) for one in answer["also"]] == [("dhcp-gone", "warning")]
    assert first(home, agents=False) == ("agent-silent", "controller")
    link(home, "delete", tap_of(home))
    answer = why(home)
    assert answer["cause"]["id"] == "interface-gone"
    assert f"hpc stop {NODE} && " in answer["cause"]["remedy"]


@pytest.mark.fault("F33", "a libvirtd that stands still while it is asked why")
def test_a_run_that_works_on_the_cluster_and_a_libvirtd_that_hangs(home: TinyHome) -> None:
    with stopped(pids_inside(home.host, "libvirtd")):
        answer = why(home)
        assert answer["cause"]["id"] == "libvirt-silent"
        assert [one for one in answer["silent"] if one.startswith("libvirt: ")]
    assert home.call("hpc", "stop").code == 0
    died = home.call("hpc", "start", at_any=[("after intent", f"boot/{VM}")], act="kill")
    assert died.code == -signal.SIGKILL, died.said
    assert first(home) == ("run-cut-short", "cluster")
    assert home.call("hpc", "stop").code == 0
    pids: list[int] = []
    ended = home.begin(
        "hpc", "start", at_any=[("after intent", f"boot/{VM}")], act="stop", on_pid=pids.append
    )
    [pid] = pids
    try:
        wait_until(lambda: is_stopped(pid), Deadline.after(120), "the start to stand still")
        answer = why(home)
        assert answer["cause"]["id"] == "run-under-way"
        assert answer["cause"]["remedy"].startswith(f"ps -fp {pid}")
    finally:
        os.kill(pid, signal.SIGCONT)
        ended()


def is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


@contextmanager
def stopped(pids: list[int]) -> Iterator[None]:
    """Processes that stand still; they go on after the block."""
    with ExitStack() as stack:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
            stack.callback(os.kill, pid, signal.SIGCONT)
        yield


def test_an_embedded_host_that_is_down_is_the_first_cause(own_host) -> None:
    with ExitStack() as stack:
        home = TinyHome(own_host.paths.root.parent)
        stack.callback(home.close)
        home.prepare()
        steps(home)
        assert why(home)["is_well"] is True
        assert home.call("host", "down", "--force").code == 0
        assert first(home) == ("host-down", "host")
        assert first(home, NODE) == ("host-down", "host")
        steps(home)
        assert home.call("hpc", "destroy", "--force").code == 0
