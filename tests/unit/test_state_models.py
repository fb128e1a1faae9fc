"""What is remembered is a value; libvirt's numbers become libvirt's words."""

import re
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from uuid import UUID, uuid5

import pytest
from pydantic import ValidationError

from ai_how.clusters.status import Resources, report
from ai_how.errors import StateError
from ai_how.libvirt_client.vm_state import VmState, reason_text
from ai_how.spec.nodes import Role
from ai_how.state.models import ClusterState, NetworkState, NodeState

LINEAGE = UUID("0f0e0d0c-0b0a-4908-8706-050403020100")
CREATED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
HEADER = Path("/usr/include/libvirt/libvirt-domain.h")


def node(name: str, last: int, role: Role = Role.COMPUTE) -> NodeState:
    return NodeState(
        name=name,
        role=role,
        uuid=uuid5(LINEAGE, name),
        domain_name=f"demo-{name}",
        mac=f"52:54:00:00:00:{last:02x}",
        ip=IPv4Address(f"10.20.0.{last}"),
        cpu_cores=2,
        memory_mib=1024,
        disk_gib=8,
        disk=Path(f"/disks/demo/{name}.qcow2"),
        image_digest="sha256:abc",
        auto_start=False,
        stages_s={"boot": 12.5},
    )


def cluster_state(**changes: object) -> ClusterState:
    fields = {
        "lineage": LINEAGE,
        "name": "demo",
        "created_at": CREATED,
        "updated_at": CREATED,
        "host_uri": "qemu:///system",
        "user": "hpc",
        "network": NetworkState(
            uuid=uuid5(LINEAGE, "network"),
            name="demo",
            bridge="ah0123456789",
            subnet=IPv4Network("10.20.0.0/24"),
            gateway=IPv4Address("10.20.0.1"),
        ),
        "nodes": (node("controller", 10, Role.CONTROLLER), node("compute-01", 11)),
    }
    return ClusterState(**{**fields, **changes})


@pytest.mark.parametrize(
    ("number", "state"),
    [
        (0, "unknown"),
        (1, "running"),
        (2, "blocked"),
        (3, "paused"),
        (4, "shutting_down"),
        (5, "shut_off"),
        (6, "crashed"),
        (7, "suspended"),
        (8, "unknown"),
        (-1, "unknown"),
    ],
)
def test_every_libvirt_state_has_its_name(number, state):
    assert VmState.from_libvirt(number) == state


def test_only_shut_off_is_off_among_libvirts_states():
    on = {state for state in map(VmState.from_libvirt, range(1, 8)) if state.is_on}
    assert on == set(map(VmState.from_libvirt, range(1, 8))) - {VmState.SHUT_OFF}
    assert not VmState.ABSENT.is_on
    assert not VmState.UNKNOWN.is_on


@pytest.mark.parametrize(
    ("state", "reason", "text"),
    [
        (1, 1, "booted"),
        (3, 1, "user"),
        (3, 5, "I/O error"),
        (3, 11, "starting up"),
        (4, 1, "user"),
        (5, 1, "shutdown"),
        (5, 2, "destroyed"),
        (5, 3, "crashed"),
        (5, 5, "saved"),
        (5, 6, "failed"),
        (5, 8, "daemon"),
        (6, 1, "panicked"),
        (5, 0, "unknown"),
        (5, 99, "unknown (99)"),
        (5, -1, "unknown (-1)"),
        (42, 1, "unknown (1)"),
    ],
)
def test_a_reason_is_told_in_virshs_words(state, reason, text):
    assert reason_text(state, reason) == text


def test_every_reason_in_libvirts_header_has_a_text():
    header = HEADER.read_text()
    names = ("NOSTATE", "RUNNING", "BLOCKED", "PAUSED", "SHUTDOWN", "SHUTOFF", "CRASHED")
    for state, name in enumerate((*names, "PMSUSPENDED")):
        enum = re.search(rf"typedef enum {{((?!typedef).)*?}} virDomain{_camel(name)}Reason;",
                         header, re.DOTALL)  # fmt: skip
        numbers = [int(number) for number in re.findall(r"= (\d+),", enum.group())]
        assert numbers
        for number in numbers:
            assert "(" not in reason_text(state, number), (name, number)


def _camel(name: str) -> str:
    return {"PMSUSPENDED": "PMSuspended"}.get(name, name.capitalize())


def test_a_state_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        cluster_state().serial = 3


def test_a_node_is_found_by_its_whole_name():
    assert cluster_state().find_node("compute-0") is None
    assert cluster_state().get_node("compute-01").ip == IPv4Address("10.20.0.11")
    with pytest.raises(StateError, match="cluster demo has no node compute-1") as caught:
        cluster_state().get_node("compute-1")
    assert caught.value.details == "it has: controller, compute-01"


@pytest.mark.parametrize(
    "change",
    [
        {"created_at": datetime(2026, 1, 1)},  # noqa: DTZ001  that it is refused is the point
        {"serial": -1},
        {"lineage": "demo"},
        {"colour": "blue"},
    ],
    ids=["naive time", "serial", "lineage", "extra"],
)
def test_what_makes_no_sense_is_not_remembered(change):
    with pytest.raises(ValidationError):
        cluster_state(**change)


def test_a_report_counts_states_and_adds_up_what_is_in_use():
    told = report(
        cluster_state(nodes=(*cluster_state().nodes, node("compute-02", 12))),
        {"controller": VmState.RUNNING, "compute-01": VmState.SHUT_OFF},
        CREATED + timedelta(hours=2),
    )
    assert told.counts == {VmState.RUNNING: 1, VmState.SHUT_OFF: 1, VmState.UNKNOWN: 1}
    assert told.total == Resources(cpu_cores=6, memory_mib=3072, disk_gib=24)
    assert told.in_use == Resources(cpu_cores=2, memory_mib=1024, disk_gib=24)
    assert told.age_s == 7200


def test_a_clock_that_was_set_back_makes_no_cluster_younger_than_nothing():
    assert report(cluster_state(), {}, CREATED - timedelta(seconds=5)).age_s == 0


def test_disks_of_absent_nodes_are_not_in_use():
    seen = {"controller": VmState.ABSENT, "compute-01": VmState.ABSENT}
    told = report(cluster_state(), seen, CREATED)
    assert told.in_use == Resources(0, 0, 0)


def test_a_cluster_without_nodes_has_a_report():
    told = report(cluster_state(nodes=()), {}, CREATED)
    assert (told.nodes, told.counts) == ((), {})
