"""What libvirt shows becomes our types, whoever made it."""

from uuid import UUID

import pytest

from ai_how.errors import HostError
from ai_how.libvirt_client.facts import (
    DomainInfo,
    EventKind,
    GuestMemory,
    Mark,
    read_bridge,
    read_mark,
    read_stats,
    read_version,
)
from ai_how.libvirt_client.vm_state import VmState

CLUSTER = UUID("33333333-3333-4333-8333-333333333333")
MARKED = (
    '<domain><metadata><x:node xmlns:x="urn:ai-how:cluster:1" cluster="demo" '
    f'id="{CLUSTER}" node="compute-01"/></metadata></domain>'
)
BOMB = '<!DOCTYPE d [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]>'


def seen(xml: str) -> DomainInfo:
    return DomainInfo(
        uuid=CLUSTER,
        name="n",
        state=VmState.RUNNING,
        state_number=1,
        reason=1,
        is_persistent=True,
        domid=1,
        vcpus=1,
        memory_mib=1,
        mark=None,
        xml=xml,
    )


def channel(name: str, state: str) -> str:
    target = f"<target type='virtio' name='{name}' state='{state}'/>"
    return f"<domain><devices><channel>{target}</channel></devices></domain>"


def test_our_mark_is_read_whatever_prefix_libvirt_gave_it() -> None:
    assert read_mark(MARKED) == Mark("demo", CLUSTER, "compute-01")
    assert read_mark(MARKED.replace(' node="compute-01"', "")) == Mark("demo", CLUSTER, "")


@pytest.mark.fault("S31", "broken XML of other VMs")
@pytest.mark.parametrize(
    "xml",
    [
        "",
        "<domain/>",
        "<domain",
        BOMB + MARKED,
        MARKED.replace(str(CLUSTER), "not a uuid"),
        MARKED.replace(f'id="{CLUSTER}"', ""),
        MARKED.replace("urn:ai-how:cluster:1", "urn:other"),
        "<domain><metadata/>" + MARKED.replace("<domain>", "").replace("metadata", "devices"),
    ],
)
def test_anything_else_is_no_mark_and_breaks_nothing(xml: str) -> None:
    assert read_mark(xml) is None


def test_a_bridge_is_read_and_may_be_absent() -> None:
    assert read_bridge("<network><bridge name='ah1'/></network>") == "ah1"
    assert read_bridge("<network><forward mode='bridge'/></network>") is None
    assert read_bridge("<network") is None


@pytest.mark.fault("S22", "other channels")
def test_only_the_agents_own_channel_counts_and_only_connected() -> None:
    assert seen(channel("org.qemu.guest_agent.0", "connected")).is_agent_connected
    assert not seen(channel("org.qemu.guest_agent.0", "disconnected")).is_agent_connected
    assert not seen(channel("com.redhat.spice.0", "connected")).is_agent_connected


@pytest.mark.fault("S31", "a DOCTYPE")
def test_xml_with_a_doctype_is_refused_where_it_matters() -> None:
    with pytest.raises(HostError, match="DOCTYPE"):
        _ = seen(BOMB + "<domain/>").is_agent_connected


def test_figures_are_summed_over_disks_and_cards() -> None:
    stats = read_stats(
        {
            "cpu.time": 5,
            "balloon.current": 2048,
            "balloon.maximum": 4096,
            "balloon.rss": 1024,
            "block.count": 2,
            "block.0.name": "vda",
            "block.0.allocation": 10,
            "block.1.allocation": 20,
            "block.0.capacity": 100,
            "block.0.physical": 7,
            "net.count": 1,
            "net.0.rx.bytes": 3,
            "net.0.tx.bytes": 4,
        }
    )
    assert (stats.cpu_time_ns, stats.memory_current_mib, stats.memory_max_mib) == (5, 2, 4)
    assert (stats.memory_rss_mib, stats.disk_allocation_bytes) == (1, 30)
    assert (stats.disk_capacity_bytes, stats.disk_physical_bytes) == (100, 7)
    assert (stats.net_received_bytes, stats.net_sent_bytes) == (3, 4)


def test_a_guests_memory_is_known_once_its_balloon_driver_has_told_it() -> None:
    told = {"balloon.available": 500 * 1024, "balloon.usable": 400 * 1024}
    untold = [
        {},
        {"balloon.last-update": 0, "balloon.rss": 1},
        told,
        told | {"balloon.last-update": 0},
    ]
    assert [read_stats(record).guest_memory for record in untold] == [None] * 4
    memory = read_stats(told | {"balloon.last-update": 7}).guest_memory
    assert memory == GuestMemory(500, 400, 7)
    assert memory.used_mib == 100


def test_figures_that_are_not_told_are_none() -> None:
    stats = read_stats({"state.state": 5, "block.count": 1})
    assert stats.cpu_time_ns is None
    assert stats.disk_capacity_bytes is None


def test_events_have_libvirts_order() -> None:
    assert EventKind.of_lifecycle(0) is EventKind.DEFINED
    assert EventKind.of_lifecycle(5) is EventKind.STOPPED
    assert EventKind.of_lifecycle(8) is EventKind.CRASHED
    assert EventKind.of_lifecycle(9) is EventKind.OTHER
    assert EventKind.of_agent(1) is EventKind.AGENT_CONNECTED
    assert EventKind.of_agent(2) is EventKind.AGENT_DISCONNECTED
    assert EventKind.of_agent(7) is EventKind.OTHER


def test_versions_come_apart() -> None:
    assert read_version(9_000_001) == (9, 0, 1)
    assert read_version(12_008_000) == (12, 8, 0)
