"""From what is asked and what is there to the steps: all of them for a new cluster."""

import json
import os
import time
from collections.abc import Iterator
from dataclasses import is_dataclass, replace
from ipaddress import IPv4Network
from pathlib import Path
from uuid import UUID

import pytest

from ai_how.clusters.desired_cluster import DesiredCluster
from ai_how.clusters.observation import Observed, Wiring
from ai_how.clusters.plans.destroy import plan_destroy
from ai_how.clusters.plans.devices import plan_returns
from ai_how.clusters.plans.ports import with_ports
from ai_how.clusters.plans.rendering import PlanInputs
from ai_how.clusters.plans.suspend import plan_suspend
from ai_how.errors import HostError, SpecError, StateError
from ai_how.host.ports import Port
from ai_how.hpc import steps as slurm_steps
from ai_how.hpc.plan import STEP_TYPES, plan_start
from ai_how.hpc.stop_plan import plan_stop
from ai_how.hpc.workload import node_readiness
from ai_how.libvirt_client.client import LibvirtClient
from ai_how.libvirt_client.facts import Mark, Owner
from ai_how.libvirt_client.vm_state import VmState
from ai_how.plan.records import decode_step, encode_step
from ai_how.plan.step import Plan, Step
from ai_how.state.paths import ClusterPaths, StoragePaths
from ai_how.vm_management.nodes.share_faults import ShareFault
from ai_how.vm_management.saved_machines.store import SavedMachineRef
from ai_how.vm_management.steps import disks as disk_steps
from ai_how.vm_management.steps import domains as domain_steps
from ai_how.vm_management.steps import guest as guest_steps
from ai_how.vm_management.steps import leases as lease_steps
from ai_how.vm_management.steps import networks as network_steps
from ai_how.vm_management.steps import ports as port_steps
from ai_how.vm_management.steps import power as power_steps
from ai_how.vm_management.steps import suspend as suspend_steps
from ai_how.vm_management.steps import vgpus as vgpu_steps
from ai_how.vm_management.vgpus import Vgpu
from cluster_bench import (
    DIGEST,
    TWO_NODES,
    domain_seen,
    draft_of,
    everything_seen,
    make_image,
    network_seen,
    read_hpc,
    rendering_of,
)

DRAFT = draft_of(read_hpc())
STOP = plan_stop(DRAFT.state, everything_seen(DRAFT))
SHORT = DIGEST[:12]
BASE = f"base/{SHORT}"
# SLURM takes a node that is off for one that runs, in everything that is seen here.
LOST = "slurm-lost/hpc"
NODES = [node.name for node in DRAFT.state.nodes]
TEST_NODE = Path(__file__).resolve().parents[1] / "driver" / "test_node.xml"
RENDERING = PlanInputs(
    network_xml=lambda: "<network/>",
    domain_xml=lambda node, _one: f"<domain>{node.name} {node.memory_mib}</domain>",
    base_of=lambda digest: Path(f"/srv/ai-how/bases/{digest}.qcow2"),
)

SAVED = SavedMachineRef("a" * 64, UUID(int=7))
WARM = replace(RENDERING, saved_of=lambda _name: SAVED)

NEW_CLUSTER = f"""\
base/{SHORT}: place the image {SHORT}
disks/hpc: create a directory for the disks of hpc
network/hpc: define the network hpc
network-up/hpc: start the network hpc < network/hpc
disk/hpc-controller: create a disk of 10 GiB for controller < base/{SHORT} disks/hpc
domain/hpc-controller: define the VM hpc-controller < disk/hpc-controller
boot/hpc-controller: start the VM hpc-controller\
 < base/{SHORT} domain/hpc-controller network-up/hpc
agent/hpc-controller: wait for the guest agent of hpc-controller < boot/hpc-controller
services/hpc-controller: give controller its identity and start its services < agent/hpc-controller
"""


def start(draft: DesiredCluster = DRAFT, seen: Observed | None = None, **options) -> Plan:
    return plan_start(draft, seen or Observed(), RENDERING, **options)


def keys(plan: Plan) -> list[str]:
    return [step.key for step in plan.steps]


def step_of(plan: Plan, key: str) -> Step:
    return next(step for step in plan.steps if step.key == key)


def told(plan: Plan) -> str:
    lines = (f"{s.key}: {s.describe()} < {' '.join(sorted(s.needs))}" for s in plan.steps)
    return "".join(f"{line.removesuffix(' < ')}\n" for line in lines)


def node_of(text: str, name: str) -> str:
    return text.replace("controller", name)


def without_domains(seen: Observed, *names: str) -> Observed:
    gone = {DRAFT.state.get_node(name).uuid for name in names}
    return replace(seen, domains={u: one for u, one in seen.domains.items() if u not in gone})


def with_domain(seen: Observed, name: str, state: VmState, *, agent: bool = True) -> Observed:
    one = domain_seen(DRAFT, name, state, agent=agent)
    return replace(seen, domains={**seen.domains, one.uuid: one})


def without_disk(seen: Observed, name: str) -> Observed:
    return replace(seen, disks=seen.disks - {name})


def with_slurm(seen: Observed, name: str, state: str) -> Observed:
    return replace(seen, readiness={**seen.readiness, name: node_readiness(name, state, None)})


def wired(wiring: Wiring) -> Observed:
    """A cluster with all that it should have, and wired like this."""
    return replace(everything_seen(DRAFT), wiring=wiring)


def brought_up(name: str, *before: str) -> list[str]:
    return [*(f"{word}/hpc-{name}" for word in (*before, "agent", "services"))]


TAIL = ["clocks/hpc", "ready/hpc"]


def with_network(seen: Observed, old: str, new: str) -> Observed:
    """The network runs and is defined otherwise."""
    assert old in seen.network.xml
    return replace(seen, network=replace(seen.network, xml=seen.network.xml.replace(old, new)))


PLUGS = [f"plug/hpc-{name}" for name in NODES]


def test_the_plan_of_a_new_cluster_is_as_agreed():
    head, chain = NEW_CLUSTER.split("disk/", 1)
    chain = f"disk/{chain}"
    nodes = "".join(node_of(chain, name) for name in NODES)
    services = " ".join(sorted(f"services/hpc-{name}" for name in NODES))
    tail = (
        f"clocks/hpc: compare the clocks of 3 nodes < {services}\n"
        "ready/hpc: wait until SLURM has compute-01, compute-02, and run a job on each"
        " < clocks/hpc\n"
    )
    assert told(start()) == head + nodes + tail


def test_a_healthy_cluster_needs_nothing():
    assert start(seen=everything_seen(DRAFT)).steps == ()


def test_a_stopped_cluster_is_brought_up_and_nothing_is_made():
    plan = start(seen=everything_seen(DRAFT, VmState.SHUT_OFF))
    assert keys(plan) == [
        *(BASE, "network-up/hpc"),
        *(key for name in NODES for key in brought_up(name, "boot")),
        *(LOST, *TAIL),
    ]
    assert step_of(plan, "boot/hpc-compute-01").needs == {BASE, "network-up/hpc"}


def test_a_missing_vm_is_defined_on_its_disk():
    seen = without_domains(everything_seen(DRAFT), "compute-01")
    assert keys(start(seen=seen)) == [
        BASE,
        LOST,
        *brought_up("compute-01", "domain", "boot"),
        *TAIL,
    ]


def test_a_missing_disk_of_a_vm_that_is_off_is_made_anew():
    seen = with_domain(everything_seen(DRAFT), "compute-01", VmState.SHUT_OFF)
    plan = start(seen=without_disk(seen, "compute-01"))
    assert keys(plan) == [BASE, LOST, *brought_up("compute-01", "disk", "boot"), *TAIL]
    assert step_of(plan, "boot/hpc-compute-01").needs == {BASE, LOST, "disk/hpc-compute-01"}


def test_a_disk_is_not_made_anew_below_a_vm_that_runs():
    with pytest.raises(HostError) as caught:
        start(seen=without_disk(everything_seen(DRAFT), "compute-01"))
    assert caught.value.brief == "the disk of compute-01 is gone, but its VM is running"
    assert caught.value.hint == "ai-how hpc stop compute-01 && ai-how hpc start compute-01"


@pytest.mark.parametrize("state", [VmState.RUNNING, VmState.SHUT_OFF])
def test_a_controllers_missing_disk_is_refused_as_home_was_on_it(state):
    with pytest.raises(HostError) as caught:
        start(seen=without_disk(everything_seen(DRAFT, state), "controller"))
    assert (
        caught.value.brief == "the disk of controller is gone, and with it /home and SLURM's state"
    )
    assert caught.value.details == str(DRAFT.state.get_node("controller").disk)
    assert caught.value.hint.startswith("ai-how hpc destroy")


def test_a_missing_network_is_made_again_and_one_that_is_down_only_started():
    seen = replace(everything_seen(DRAFT, VmState.SHUT_OFF), network=None)
    assert keys(start(seen=seen))[1:3] == ["network/hpc", "network-up/hpc"]
    seen = replace(everything_seen(DRAFT), network=network_seen(DRAFT, is_active=False))
    assert keys(start(seen=seen)) == ["network-up/hpc", *PLUGS]


def test_a_network_that_was_changed_is_made_as_it_was_and_its_guests_come_back_to_it():
    seen = with_network(everything_seen(DRAFT), "prefix='24'", "prefix='25'")
    plan = start(seen=seen)
    assert keys(plan) == ["network/hpc", "network-anew/hpc", *PLUGS]
    assert step_of(plan, "network/hpc").former_xml == seen.network.xml
    assert step_of(plan, "plug/hpc-controller").needs == {"network-anew/hpc"}
    off = with_network(everything_seen(DRAFT, VmState.SHUT_OFF), "prefix='24'", "prefix='25'")
    assert keys(start(seen=off))[1:3] == ["network/hpc", "network-up/hpc"]


def test_what_is_only_defined_otherwise_is_set_right_and_nobody_is_cut_off():
    seen = everything_seen(DRAFT)
    other = seen.network.xml.replace("prefix='24'", "prefix='25'")
    seen = replace(seen, network=replace(seen.network, defined_xml=other))
    plan = start(seen=seen)
    assert keys(plan) == ["network/hpc"]
    assert step_of(plan, "network/hpc").former_xml == other
    lost = replace(
        everything_seen(DRAFT), network=replace(network_seen(DRAFT), is_persistent=False)
    )
    assert keys(start(seen=lost)) == ["network/hpc"]


def test_a_lease_that_was_taken_away_is_given_back_while_the_network_runs():
    mac = DRAFT.state.get_node("compute-01").mac
    plan = start(seen=with_network(everything_seen(DRAFT), mac, "52:54:00:00:00:01"))
    assert keys(plan) == ["network-hosts/hpc"]
    assert [one.name for one in step_of(plan, "network-hosts/hpc").hosts] == ["compute-01"]
    assert step_of(plan, "network-hosts/hpc").new == ()


def test_new_nodes_are_told_to_the_network_and_undo_takes_only_them_from_it():
    former = draft_of(read_hpc(nodes=TWO_NODES.replace("count: 2", "count: 1")))
    draft = draft_of(read_hpc(), former.state)
    plan = start(draft, everything_seen(former))
    step = step_of(plan, "network-hosts/hpc")
    assert [one.name for one in step.new] == ["compute-02"]
    assert step.hosts == step.new
    assert "network-hosts/hpc" in step_of(plan, "boot/hpc-compute-02").needs


def test_a_dhcp_server_that_died_is_started_and_guests_without_a_network_are_plugged_in():
    assert keys(start(seen=wired(Wiring(dhcp_is_gone=True)))) == ["network-dhcp/hpc"]
    seen = wired(Wiring(unplugged=frozenset({"compute-02"})))
    assert keys(start(seen=seen)) == ["plug/hpc-compute-02"]
    slow = with_slurm(seen, "compute-02", "down*")
    plan = start(seen=slow)
    assert keys(plan) == ["plug/hpc-compute-02", *brought_up("compute-02"), *TAIL]
    assert step_of(plan, "agent/hpc-compute-02").needs == {"plug/hpc-compute-02"}


@pytest.mark.fault("H15", "planned for a bridge, a way out or a tap that is not as it was")
def test_what_libvirt_has_up_and_is_not_there_is_made_anew():
    gone = Wiring(bridge_trouble="its bridge is gone", dhcp_is_gone=True)
    plan = start(seen=wired(gone))
    assert keys(plan) == ["network-anew/hpc", *PLUGS]
    assert step_of(plan, "network-anew/hpc").is_cut
    cut = replace(gone, uplink_trouble="no rules", uplink_is_ours=True)
    plan = start(seen=wired(cut))
    assert keys(plan) == ["network-uplink/hpc", "network-anew/hpc", *PLUGS]
    assert step_of(plan, "network-anew/hpc").needs == {"network-uplink/hpc"}
    assert start(seen=wired(Wiring(uplink_trouble="no rules"))).steps == ()
    plan = start(seen=wired(Wiring(down_taps={"compute-01": "vnet3"})))
    assert keys(plan) == ["plug/hpc-compute-01"]
    assert step_of(plan, "plug/hpc-compute-01").tap == "vnet3"


@pytest.mark.fault("H15", "a guest's tap is deleted, and its node is asked for or not")
def test_a_node_whose_interface_was_deleted_is_refused_with_what_gives_it_another():
    names = frozenset({"compute-02"})
    seen = wired(Wiring(dead_taps={"compute-02": "vnet5"}, unplugged=names))
    with pytest.raises(HostError) as caught:
        start(seen=seen)
    assert caught.value.brief == (
        "compute-02 has lost its network interface: vnet5 was deleted on the host"
    )
    assert caught.value.hint == "ai-how hpc stop compute-02 && ai-how hpc start compute-02"
    assert start(seen=seen, only=["compute-01"]).steps == ()
    # One that crashed is started anew, and gets another.
    crashed = start(seen=with_domain(seen, "compute-02", VmState.CRASHED))
    assert "boot/hpc-compute-02" in keys(crashed)


def test_a_node_whose_share_is_not_served_is_refused_with_what_mounts_it_again():
    ended, removed = ShareFault("/srv/a", is_there=True), ShareFault("/srv/b", is_there=False)
    seen = replace(everything_seen(DRAFT), share_faults={"compute-02": (removed, ended)})
    with pytest.raises(HostError) as caught:
        start(seen=seen)
    assert caught.value.brief == "compute-02: the server of its share /srv/a has ended"
    assert caught.value.hint == "ai-how hpc stop compute-02 && ai-how hpc start compute-02"
    assert start(seen=seen, only=["compute-01"]).steps == ()
    # Without its directory, the check of the shares says what to do.
    assert start(seen=replace(seen, share_faults={"compute-02": (removed,)})).steps == ()


@pytest.mark.parametrize("state", ["drained", "draining"])
def test_a_node_that_its_user_drained_is_as_it_should_be(state):
    assert start(seen=with_slurm(everything_seen(DRAFT), "compute-01", state)).steps == ()


@pytest.mark.parametrize("state", ["down", "down*", "idle*", "unknown*", "drained*"])
def test_a_node_that_slurm_has_lost_is_told_who_it_is_again(state):
    seen = with_slurm(everything_seen(DRAFT), "compute-01", state)
    assert keys(start(seen=seen)) == [*brought_up("compute-01"), *TAIL]


def test_where_slurm_is_silent_every_node_is_looked_after_and_none_restarted():
    plan = start(seen=replace(everything_seen(DRAFT), readiness=None, workload_trouble="no answer"))
    assert keys(plan) == [*(key for name in NODES for key in brought_up(name)), *TAIL]


def test_a_silent_agent_is_waited_for():
    seen = with_domain(everything_seen(DRAFT), "compute-02", VmState.RUNNING, agent=False)
    assert keys(start(seen=seen)) == [*brought_up("compute-02"), *TAIL]


def test_a_paused_vm_is_resumed_and_undo_does_not_cut_its_power():
    plan = start(seen=with_domain(everything_seen(DRAFT), "compute-02", VmState.PAUSED))
    assert keys(plan) == [*brought_up("compute-02", "boot"), *TAIL]
    assert step_of(plan, "boot/hpc-compute-02").was_on is True
    assert step_of(plan, "boot/hpc-compute-02").describe() == "resume the VM hpc-compute-02"


def test_a_crashed_vm_is_started_and_undo_cuts_its_power():
    plan = start(seen=with_domain(everything_seen(DRAFT), "compute-02", VmState.CRASHED))
    assert [key for key in keys(plan) if key.startswith("boot/")] == ["boot/hpc-compute-02"]
    assert "was_on=False" in repr(step_of(plan, "boot/hpc-compute-02"))


def test_a_vm_that_runs_undefined_is_defined_and_runs_on():
    seen = everything_seen(DRAFT)
    domains = {
        uuid: replace(one, is_persistent=not one.name.endswith("compute-02"))
        for uuid, one in seen.domains.items()
    }
    assert keys(start(seen=replace(seen, domains=domains))) == ["domain/hpc-compute-02"]


def test_only_the_named_nodes_and_the_controller_are_brought_up():
    plan = start(only=["compute-02"])
    assert [key for key in keys(plan) if key.startswith("boot/")] == [
        "boot/hpc-controller",
        "boot/hpc-compute-02",
    ]
    assert "domain/hpc-compute-01" in keys(plan)
    assert step_of(plan, "ready/hpc").nodes == ("compute-02",)


def test_a_node_that_is_left_off_is_made_but_started_only_by_its_name():
    nodes = """compute_nodes: [{cpu_cores: 1, memory_gb: 1, disk_gb: 10},
      {cpu_cores: 1, memory_gb: 1, disk_gb: 10, auto_start: false}]"""
    draft = draft_of(read_hpc(nodes=nodes))
    plan = start(draft)
    assert "domain/hpc-compute-02" in keys(plan)
    assert "boot/hpc-compute-02" not in keys(plan)
    assert step_of(plan, "ready/hpc").nodes == ("compute-01",)
    healthy = everything_seen(draft)
    off = domain_seen(draft, "compute-02", VmState.SHUT_OFF)
    seen = replace(healthy, domains={**healthy.domains, off.uuid: off})
    assert start(draft, seen).steps == ()
    named = start(draft, seen, only=["compute-02"])
    assert keys(named) == [BASE, LOST, *brought_up("compute-02", "boot"), *TAIL]
    assert step_of(named, "ready/hpc").nodes == ("compute-02",)


def test_every_partition_is_tested_with_the_nodes_that_it_has():
    slurm = """slurm_config: {partitions: [{name: a, nodes: [compute-01]},
      {name: b, nodes: [compute-02]}]}"""
    plan = start(draft_of(read_hpc(slurm)))
    ready = [step for step in plan.steps if step.kind == "ready"]
    assert [(one.key, one.partition, one.nodes) for one in ready] == [
        ("ready/hpc/a", "a", ("compute-01",)),
        ("ready/hpc/b", "b", ("compute-02",)),
    ]
    assert {one.subject for one in ready} == {"hpc"}


def test_a_changed_cluster_is_told_to_every_node_that_runs_and_none_is_restarted():
    plan = start(seen=everything_seen(DRAFT), tell_all=True)
    assert keys(plan) == [*(f"services/hpc-{name}" for name in NODES), *TAIL]
    assert step_of(plan, "services/hpc-controller").needs == frozenset()


def test_a_stale_definition_is_replaced_while_its_vm_is_off_and_left_while_it_runs():
    assert start(seen=everything_seen(DRAFT), stale=NODES).steps == ()
    off = with_domain(everything_seen(DRAFT), "compute-01", VmState.SHUT_OFF)
    plan = start(seen=off, stale=["compute-01"])
    assert keys(plan) == [BASE, LOST, *brought_up("compute-01", "domain", "boot"), *TAIL]
    former = domain_seen(DRAFT, "compute-01").xml
    assert step_of(plan, "domain/hpc-compute-01").former_xml == former


LARGER = TWO_NODES.replace("disk_gb: 10", "disk_gb: 20")
MORE = TWO_NODES.replace("memory_gb: 1", "memory_gb: 2")


def test_a_larger_disk_is_grown_while_its_vm_is_off():
    draft = draft_of(read_hpc(nodes=LARGER), DRAFT.state)
    plan = start(draft, everything_seen(DRAFT, VmState.SHUT_OFF))
    assert [key for key in keys(plan) if key.startswith("grow/")] == [
        "grow/hpc-compute-01",
        "grow/hpc-compute-02",
    ]
    assert step_of(plan, "grow/hpc-compute-01").size_gib == 20
    assert "grow/hpc-compute-01" in step_of(plan, "boot/hpc-compute-01").needs


def test_other_memory_is_defined_anew_and_undo_puts_the_former_back():
    draft = draft_of(read_hpc(nodes=MORE), DRAFT.state)
    seen = everything_seen(DRAFT, VmState.SHUT_OFF)
    step = step_of(start(draft, seen), "domain/hpc-compute-01")
    assert step.xml == "<domain>compute-01 2048</domain>"
    assert step.former_xml == domain_seen(DRAFT, "compute-01").xml
    assert step.describe() == "redefine the VM hpc-compute-01"


@pytest.mark.parametrize("nodes", [LARGER, MORE])
def test_a_node_that_runs_cannot_change_its_size(nodes):
    with pytest.raises(SpecError) as caught:
        start(draft_of(read_hpc(nodes=nodes), DRAFT.state), everything_seen(DRAFT))
    assert caught.value.brief == "compute-01 is running, so its size cannot change"
    assert caught.value.hint == "ai-how hpc stop compute-01 && ai-how hpc start compute-01"


def test_a_node_no_longer_asked_for_is_left_as_it_is():
    draft = draft_of(read_hpc(nodes=TWO_NODES.replace("2", "1")), DRAFT.state)
    assert start(draft, everything_seen(DRAFT)).steps == ()
    assert "compute-02" not in told(start(draft, everything_seen(DRAFT, VmState.SHUT_OFF)))


def test_stop_tells_slurm_then_the_compute_nodes_then_the_controller():
    assert told(plan_stop(DRAFT.state, everything_seen(DRAFT))) == (
        "slurm/hpc: tell SLURM that compute-01, compute-02 will be off\n"
        "off/hpc-compute-01: shut down the VM hpc-compute-01 < slurm/hpc\n"
        "off/hpc-compute-02: shut down the VM hpc-compute-02 < slurm/hpc\n"
        "slurm-off/hpc: tell SLURM that compute-01, compute-02 are off"
        " < off/hpc-compute-01 off/hpc-compute-02 slurm/hpc\n"
        "off/hpc-controller: shut down the VM hpc-controller"
        " < off/hpc-compute-01 off/hpc-compute-02 slurm-off/hpc slurm/hpc\n"
    )


def test_stop_leaves_out_what_is_off():
    off = everything_seen(DRAFT, VmState.SHUT_OFF)
    assert plan_stop(DRAFT.state, off).steps == ()
    assert keys(plan_stop(DRAFT.state, with_domain(off, "compute-01", VmState.PAUSED))) == [
        "off/hpc-compute-01"
    ]


def test_stop_of_some_nodes_leaves_the_others_on():
    assert keys(plan_stop(DRAFT.state, everything_seen(DRAFT), only=["compute-02"])) == [
        "slurm/hpc",
        "off/hpc-compute-02",
        "slurm-off/hpc",
    ]
    with pytest.raises(StateError, match="cluster hpc has no node compute-77") as caught:
        plan_stop(DRAFT.state, everything_seen(DRAFT), only=["compute-77"])
    assert caught.value.details == "it has: controller, compute-01, compute-02"


def test_stop_where_slurm_is_silent_asks_only_the_guests():
    seen = replace(everything_seen(DRAFT), readiness=None)
    assert not [key for key in keys(plan_stop(DRAFT.state, seen)) if key.startswith("slurm/")]


def test_destroy_takes_everything_each_thing_after_what_uses_it():
    plan = plan_destroy(DRAFT.state)
    per_node = [f"{word}/hpc-{name}" for name in NODES for word in ("undefine", "remove-disk")]
    assert keys(plan) == [*per_node, "remove-network/hpc", "remove-disks/hpc"]
    assert step_of(plan, "remove-disk/hpc-compute-01").needs == {"undefine/hpc-compute-01"}
    assert step_of(plan, "remove-network/hpc").needs == set(keys(plan)[:-2])


def test_destroy_removes_nothing_before_all_guests_are_off_and_every_disk_is_backed_up():
    plan = plan_destroy(DRAFT.state, STOP, backups=Path("/backups"))
    backup = step_of(plan, "backup/hpc-compute-01")
    assert backup.target == Path("/backups/hpc-compute-01-3b7c1f0e.qcow2")
    off = {f"off/hpc-{name}" for name in NODES}
    assert off < backup.needs
    assert step_of(plan, "off/hpc-controller").needs > off - {"off/hpc-controller"}
    assert step_of(plan, "undefine/hpc-compute-01").needs > {f"backup/hpc-{n}" for n in NODES}
    assert step_of(plan, "remove-disk/hpc-compute-01").needs == {"undefine/hpc-compute-01"}


def test_a_node_that_is_no_longer_asked_for_goes_with_its_cluster():
    draft = draft_of(read_hpc(nodes=TWO_NODES.replace("2", "1")), DRAFT.state)
    assert "undefine/hpc-compute-02" in keys(plan_destroy(draft.state))
    assert "off/hpc-compute-02" in keys(plan_stop(draft.state, everything_seen(DRAFT)))


def suspended(draft: DesiredCluster, *names: str) -> Observed:
    """These nodes (or all) are off with their memory saved, and the others run."""
    seen = everything_seen(draft)
    for node in draft.state.nodes:
        if not names or node.name in names:
            seen = with_domain(seen, node.name, VmState.SHUT_OFF)
            one = replace(seen.domains[node.uuid], has_managed_save=True)
            seen = replace(seen, domains={**seen.domains, node.uuid: one}, readiness=None)
    return seen


def lines_of(plan: Plan, *beginnings: str) -> list[str]:
    return [line for line in told(plan).splitlines() if line.startswith(beginnings)]


def test_a_new_node_with_a_saved_machine_is_restored_from_its_disk_and_memory():
    plan = plan_start(DRAFT, Observed(), WARM)
    kinds = [step.kind for step in plan.steps]
    assert kinds.count("restore") == 3
    assert "boot" not in kinds
    disks = [step for step in plan.steps if isinstance(step, disk_steps.CreateOverlay)]
    assert {step.saved for step in disks} == {SAVED}


def test_a_node_that_has_its_disk_boots_whatever_was_saved():
    off = everything_seen(DRAFT, VmState.SHUT_OFF)
    assert "restore" not in [step.kind for step in plan_start(DRAFT, off, WARM).steps]


def test_a_node_that_is_not_to_run_is_given_no_saved_disk():
    left_off = TWO_NODES.replace("count: 2", "count: 2, auto_start: false")
    plan = plan_start(draft_of(read_hpc(nodes=left_off)), Observed(), WARM)
    disks = {
        step.node: step.saved for step in plan.steps if isinstance(step, disk_steps.CreateOverlay)
    }
    assert disks == {"controller": SAVED, "compute-01": None, "compute-02": None}


def test_a_suspended_cluster_goes_on_with_its_controller_first():
    plan = start(seen=suspended(DRAFT))
    says, needs = "from its saved memory", f"base/{SHORT} clock/hpc-controller"
    assert lines_of(plan, "resume/", "clock/") == [
        f"resume/hpc-controller: resume the VM hpc-controller {says} < base/{SHORT}",
        "clock/hpc-controller: set the clock of controller < agent/hpc-controller",
        *(
            line
            for name in ("compute-01", "compute-02")
            for line in (
                f"resume/hpc-{name}: resume the VM hpc-{name} {says} < {needs}",
                f"clock/hpc-{name}: set the clock of {name} < agent/hpc-{name}",
            )
        ),
    ]
    assert not [step for step in plan.steps if step.kind in {"boot", "domain", "services"}]


def test_a_suspended_node_beside_a_controller_that_runs_goes_on_alone():
    plan = start(seen=suspended(DRAFT, "compute-02"))
    assert [step.key for step in plan.steps if step.kind == "resume"] == ["resume/hpc-compute-02"]
    assert "clock/hpc-controller" not in [step.key for step in plan.steps]


def test_a_suspended_node_boots_anew_where_its_memory_is_to_be_thrown_away():
    plan = plan_start(DRAFT, suspended(DRAFT), replace(RENDERING, resumes=False))
    boots = [step for step in plan.steps if isinstance(step, domain_steps.StartDomain)]
    assert [step.kind for step in boots] == ["boot"] * 3
    assert all(step.is_anew for step in boots)


def test_a_suspended_node_does_not_change_its_size():
    with pytest.raises(SpecError, match="is suspended, so its size cannot change"):
        start(draft_of(read_hpc(nodes=LARGER), DRAFT.state), suspended(DRAFT))


def test_a_suspended_node_without_its_disk_is_refused():
    seen = replace(suspended(DRAFT), disks=frozenset({"controller", "compute-01"}))
    with pytest.raises(HostError, match="compute-02 is suspended, but its disk is gone"):
        start(seen=seen)


def test_a_cluster_is_suspended_with_its_controller_last():
    needs = " < suspend/hpc-compute-01 suspend/hpc-compute-02"
    assert told(plan_suspend(DRAFT.state, everything_seen(DRAFT))) == "".join(
        f"suspend/hpc-{name}: save the memory of the VM hpc-{name}, and turn it off{after}\n"
        for name, after in (("compute-01", ""), ("compute-02", ""), ("controller", needs))
    )


@pytest.mark.parametrize(
    ("device", "why"),
    [
        ("<hostdev mode='subsystem' type='pci'/>", "a device of the host"),
        ("<filesystem type='mount'/>", "virtiofs mounts"),
    ],
)
def test_a_node_with_what_is_not_in_its_memory_is_not_suspended(device, why):
    seen = everything_seen(DRAFT)
    node = DRAFT.state.get_node("compute-01")
    one = seen.domains[node.uuid]
    spoilt = replace(one, xml=one.xml.replace("<devices>", f"<devices>{device}"))
    seen = replace(seen, domains={**seen.domains, node.uuid: spoilt})
    with pytest.raises(HostError, match=f"compute-01 cannot be suspended: it has {why}"):
        plan_suspend(DRAFT.state, seen)


def every_plan() -> Iterator[Plan]:
    off = everything_seen(DRAFT, VmState.SHUT_OFF)
    yield start()
    yield start(seen=with_domain(everything_seen(DRAFT), "compute-02", VmState.PAUSED))
    yield start(draft_of(read_hpc(nodes=LARGER), DRAFT.state), off)
    yield start(draft_of(read_hpc(nodes=MORE), DRAFT.state), off)
    yield start(seen=with_network(everything_seen(DRAFT), "prefix='24'", "prefix='25'"))
    former = draft_of(read_hpc(nodes=TWO_NODES.replace("count: 2", "count: 1")))
    yield start(seen=replace(everything_seen(former), wiring=Wiring(dhcp_is_gone=True)))
    yield start(seen=wired(Wiring(uplink_trouble="off", uplink_is_ours=True)))
    yield plan_start(DRAFT, Observed(), WARM)
    yield start(seen=suspended(DRAFT))
    yield plan_suspend(DRAFT.state, everything_seen(DRAFT))
    yield plan_stop(DRAFT.state, everything_seen(DRAFT))
    yield plan_destroy(DRAFT.state, STOP, backups=Path("/backups"))
    yield start(replace(DRAFT, functions={"compute-01": ("0000:65:00.0", "0000:65:00.1")}))
    for uuid in (None, UUID(int=1)):
        vgpu = Vgpu("0000:65:00.4", "nvidia-63", uuid)
        yield start(replace(DRAFT, vgpus={"compute-01": vgpu}))
    yield Plan("stop", (*STOP.steps, *plan_returns(STOP.steps, with_card())))
    port = Port("controller", 80, "127.0.0.1", 8080, "10.77.0.10")
    yield with_ports(start(), (port,), None, host=None, cluster="hpc")


def with_card() -> Observed:
    """All is up, and compute-01 has a PCI device of the host."""
    seen, node = everything_seen(DRAFT), DRAFT.state.get_node("compute-01")
    address = "<address domain='0x0000' bus='0x65' slot='0x00' function='0x0'/>"
    card = f"<devices><hostdev type='pci'><source>{address}</source></hostdev>"
    domain = seen.domains[node.uuid]
    domain = replace(domain, xml=domain.xml.replace("<devices>", card))
    return replace(seen, domains={**seen.domains, node.uuid: domain})


def test_every_step_is_the_same_after_a_journey_through_the_journal():
    seen = set()
    for plan in every_plan():
        for step in plan.steps:
            record = json.loads(json.dumps(encode_step(step)))
            assert decode_step(record, STEP_TYPES) == step
            assert record["key"] == step.key
            seen.add(step.kind)
    assert seen == set(STEP_TYPES)


STEP_MODULES = (
    disk_steps,
    domain_steps,
    guest_steps,
    lease_steps,
    network_steps,
    port_steps,
    power_steps,
    suspend_steps,
    slurm_steps,
    vgpu_steps,
)


def test_every_step_that_there_is_can_be_read_from_a_journal():
    known = {
        one
        for module in STEP_MODULES
        for one in vars(module).values()
        if isinstance(one, type) and is_dataclass(one) and hasattr(one, "kind")
    }
    assert known == set(STEP_TYPES.values())
    assert len(STEP_TYPES) == len(known)


def test_a_plan_for_64_nodes_is_what_libvirt_takes(tmp_path):
    nodes = TWO_NODES.replace("count: 2", "count: 64")
    hpc = read_hpc(nodes=nodes)
    image = make_image(tmp_path / "image")
    storage, paths = StoragePaths(tmp_path / "storage"), ClusterPaths(tmp_path / "hpc")
    started_s = time.process_time()
    draft = draft_of(hpc, subnet=IPv4Network("10.77.0.0/24"))
    rendering = rendering_of(draft, storage, paths, {DIGEST: image})
    plan = plan_start(draft, Observed(), rendering)
    took_s = time.process_time() - started_s
    print(f"\na plan of {len(plan.steps)} steps for 65 VMs took {took_s:.2f} s of CPU")  # noqa: T201
    assert len(plan.steps) == 65 * 5 + 6
    with LibvirtClient(f"test://{TEST_NODE}") as client:
        for step in plan.steps:
            if isinstance(step, network_steps.DefineNetwork):
                client.define_network(step.xml)
            if isinstance(step, domain_steps.DefineDomain):
                client.define_domain(step.xml)
        marks = {one.mark for one in client.list_domains()}
        lineage, owner = draft.state.lineage, Owner(os.geteuid(), tmp_path)
        assert marks == {Mark("hpc", lineage, one.name, owner) for one in draft.state.nodes}
        found = client.find_network(draft.state.network.uuid)
        assert found is not None
        assert found.xml.count("<host mac=") == 65


def test_a_clock_that_is_off_is_set_by_a_start_of_a_cluster_that_is_up():
    late = {DRAFT.state.get_node("compute-01").uuid: -1203.0}
    seen = replace(everything_seen(DRAFT), skews_s=late)
    assert keys(start(seen=seen)) == ["clock/hpc-compute-01"]


def test_a_clock_that_is_off_is_set_before_its_node_is_given_its_identity():
    late = {DRAFT.state.get_controller().uuid: -1203.0}
    seen = replace(everything_seen(DRAFT), skews_s=late)
    services = [f"services/hpc-{name}" for name in NODES]
    plan = start(seen=seen, tell_all=True)
    assert keys(plan) == ["clock/hpc-controller", *services, *TAIL]
    assert step_of(plan, services[0]).needs == {"clock/hpc-controller"}
    assert step_of(plan, "clock/hpc-controller").is_controller
    plan = start(seen=replace(seen, readiness=None))
    assert step_of(plan, "clock/hpc-controller").needs == {"agent/hpc-controller"}
    assert step_of(plan, services[0]).needs == {"clock/hpc-controller"}
