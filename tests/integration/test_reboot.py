"""The host goes down without a word, QEMU and libvirtd with it: a start brings all of it back."""

import json
import os
from collections.abc import Iterator

import pytest

from ai_how.host.embedded import EmbeddedHost
from ai_how.libvirt_client.vm_state import VmState
from ai_how.process import run
from ai_how.state.models import ClusterState
from tiny_cluster import TinyHome, opened, state_of, steps

pytestmark = pytest.mark.libvirt

NODES = ("controller", "compute-01", "compute-02")
PATTERN = "-P 0x5a 512k 64k"
# Written at each verb; what a reboot must not change is the rest.
TOLD = {"serial", "updated_at", "nodes"}


@pytest.fixture
def home(own_host: EmbeddedHost) -> Iterator[TinyHome]:
    """A host of its own, with nothing on it but a cluster that runs."""
    with opened(TinyHome(own_host.paths.root.parent)) as home:
        call(home, "start")
        yield home


def call(home: TinyHome, *words: str) -> str:
    done = home.call("hpc", *words)
    assert done.code == 0, done.said
    return done.out


def places(state: ClusterState) -> list[tuple[object, ...]]:
    return [(one.name, one.uuid, one.mac, one.ip, one.disk) for one in state.nodes]


def reboot(home: TinyHome) -> None:
    """All processes are killed at once; /run and the kernel's links and rules are gone."""
    supervisor = home.host.find_supervisor()
    assert supervisor is not None
    os.kill(supervisor.pid, 9)
    home.host.down()
    assert not home.host.status().is_up


def write_data(home: TinyHome) -> None:
    for node in state_of(home).nodes:
        run(["qemu-io", "-f", "qcow2", "-c", f"write {PATTERN}", node.disk])


def check_data(home: TinyHome) -> None:
    for node in state_of(home).nodes:
        told = run(["qemu-io", "-f", "qcow2", "-c", f"read {PATTERN}", node.disk]).stdout
        assert "verification failed" not in told


@pytest.mark.fault("F63", "libvirtd, QEMU and dnsmasq killed, /run emptied, under a cluster")
@pytest.mark.parametrize("is_on", [True, False])
def test_a_cluster_comes_back_from_a_reboot_with_its_data_and_addresses(
    home: TinyHome, is_on: bool
) -> None:
    call(home, "stop")
    write_data(home)
    if is_on:
        call(home, "start")
    before = state_of(home)
    keys = {path: path.read_bytes() for path in home.paths("hpc").secrets.rglob("*")}
    reboot(home)
    told = json.loads(home.call("--json", "hpc", "status").out)
    assert {(one["state"], one["reason"]) for one in told["nodes"]} == {
        (VmState.SHUT_OFF, "the embedded host is down")
    }
    made = steps(home)
    assert not [key for key in made if key.startswith(("disk/", "domain/", "network/"))]
    assert [key for key in made if key.startswith("boot/")] == [f"boot/hpc-{n}" for n in NODES]
    after = state_of(home)
    assert places(after) == places(before)
    assert after.model_dump(exclude=TOLD) == before.model_dump(exclude=TOLD)
    assert {path: path.read_bytes() for path in home.paths("hpc").secrets.rglob("*")} == keys
    assert steps(home) == []
    told = json.loads(home.call("--json", "hpc", "status").out)
    assert told["network_problems"] == []
    assert [one["problems"] for one in told["nodes"]] == [[], [], []]
    call(home, "stop")
    check_data(home)
    call(home, "destroy", "--force")


@pytest.mark.fault("F63", "the host goes down in the middle of a start, a stop, a destroy")
@pytest.mark.parametrize(
    ("verb", "key"),
    [
        ("start", "boot/hpc-compute-01"),
        ("stop", "off/hpc-compute-01"),
        ("destroy", "remove-disk/hpc-compute-01"),
    ],
)
def test_a_verb_that_a_reboot_cut_short_is_set_right(home: TinyHome, verb: str, key: str) -> None:
    if verb != "destroy":
        call(home, "stop")
        write_data(home)
    if verb == "stop":
        call(home, "start")
    words = ("destroy", "--force") if verb == "destroy" else (verb,)
    died = home.call("hpc", *words, at_any=[["after intent", key]], act="kill")
    assert died.code == -9, died.said
    reboot(home)
    if verb == "destroy":
        call(home, *words)
        assert not home.paths("hpc").state.exists()
        return
    steps(home)
    assert steps(home) == []
    call(home, "stop")
    check_data(home)
    call(home, "destroy", "--force")
