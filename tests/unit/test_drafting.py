"""A cluster's layout: derived at first, kept for ever after, and what cannot change is refused."""

from datetime import timedelta
from ipaddress import IPv4Address, IPv4Network
from uuid import uuid4

import pytest

from ai_how.clusters.desired_cluster import HostChoices, plan_desired_cluster
from ai_how.errors import SpecError
from ai_how.hpc.kind import SLURM
from ai_how.spec.identity import bridge_name, mac_address, object_uuid
from ai_how.state.models import ClusterState
from cluster_bench import CLUSTER_ID, DIGEST, NOW, SUBNET, TWO_NODES, draft_of, read_hpc

ONE_NODE = TWO_NODES.replace("count: 2", "count: 1")
THREE_NODES = TWO_NODES.replace("count: 2", "count: 3")
FIRST = draft_of(read_hpc())


def with_each(*changes: str) -> str:
    """Two compute nodes, each with a change."""
    plain = "cpu_cores: 1, memory_gb: 1, disk_gb: 10"
    return f"compute_nodes: [{', '.join(f'{{{plain}{change}}}' for change in changes)}]"


def test_a_new_cluster_is_laid_out_from_its_id_alone():
    state = FIRST.state
    assert (state.lineage, state.serial, state.created_at) == (CLUSTER_ID, 0, NOW)
    assert (state.host_uri, state.user) == ("embedded", "hpc")
    assert state.network.uuid == object_uuid(CLUSTER_ID, "network")
    assert state.network.bridge == bridge_name(CLUSTER_ID)
    assert (state.network.subnet, state.network.gateway) == (SUBNET, SUBNET[1])
    assert [(one.domain_name, str(one.ip)) for one in state.nodes] == [
        ("hpc-controller", "10.77.0.10"),
        ("hpc-compute-01", "10.77.0.11"),
        ("hpc-compute-02", "10.77.0.12"),
    ]
    for one in state.nodes:
        assert one.uuid == object_uuid(CLUSTER_ID, f"domain/{one.name}")
        assert one.mac == mac_address(CLUSTER_ID, one.name)
        assert one.disk.name == f"{one.name}.qcow2"
        assert one.image_digest == DIGEST
    assert FIRST.grown == FIRST.changed == FIRST.forgotten == ()
    assert [one for _, one in FIRST.nodes] == list(state.nodes)


def test_the_same_file_again_changes_nothing():
    later = NOW + timedelta(days=1)
    again = plan_desired_cluster(
        FIRST.section,
        FIRST.state,
        kind=SLURM,
        cluster_id=CLUSTER_ID,
        host_uri="embedded",
        choices=HostChoices(
            subnet=lambda: pytest.fail("a subnet was chosen anew"),
            disk_of=lambda _node: pytest.fail("a disk was placed anew"),
            digest_of=lambda _node: pytest.fail("an image was chosen anew"),
        ),
        now=later,
    )
    assert again.state == FIRST.state.model_copy(update={"updated_at": later})
    assert again.grown == again.changed == again.forgotten == ()


def remembered(**changes: object) -> ClusterState:
    nodes = tuple(
        node.model_copy(update=changes) if node.name == "compute-02" else node
        for node in FIRST.state.nodes
    )
    return FIRST.state.model_copy(update={"nodes": nodes})


def test_a_node_keeps_its_address_image_disk_and_times():
    former = remembered(
        ip=IPv4Address("10.77.0.99"), image_digest="b" * 64, stages_s={"boot": 12.5}
    )
    node = draft_of(read_hpc(nodes=THREE_NODES), former).state.get_node("compute-02")
    assert str(node.ip) == "10.77.0.99"
    assert (node.image_digest, node.stages_s) == ("b" * 64, {"boot": 12.5})


def test_nodes_added_later_leave_the_others_alone():
    more = draft_of(read_hpc(nodes=THREE_NODES), FIRST.state).state
    assert more.nodes[:3] == FIRST.state.nodes
    assert str(more.get_node("compute-03").ip) == "10.77.0.13"


def test_a_node_no_longer_asked_for_is_kept_and_named():
    fewer = draft_of(read_hpc(nodes=ONE_NODE), FIRST.state)
    assert fewer.forgotten == ("compute-02",)
    assert fewer.state.nodes == FIRST.state.nodes
    assert [one.name for _, one in fewer.nodes] == ["controller", "compute-01"]
    back = draft_of(read_hpc(), fewer.state)
    assert back.forgotten == ()
    assert back.state.nodes == FIRST.state.nodes


def test_an_asked_address_that_another_node_has_is_refused():
    nodes = with_each("", "", ", ip: 10.77.0.12")
    hpc = read_hpc("network: {subnet: 10.77.0.0/24}", nodes=nodes)
    with pytest.raises(SpecError) as caught:
        draft_of(hpc, FIRST.state)
    assert caught.value.brief == "10.77.0.12 is the address of both compute-02 and compute-03"
    assert "ip" in caught.value.hint


def test_a_larger_disk_is_grown_and_a_smaller_one_refused():
    nodes = with_each("", ", auto_start: true").replace("10, a", "20, a")
    larger = draft_of(read_hpc(nodes=nodes), FIRST.state)
    assert larger.grown == ("compute-02",)
    assert larger.state.get_node("compute-02").disk_gib == 20
    with pytest.raises(SpecError) as caught:
        draft_of(read_hpc(), larger.state)
    assert caught.value.brief == "the disk of compute-02 would shrink"
    assert caught.value.details == "it has 20 GiB; the file asks for 10 GiB"
    assert caught.value.hint == "disk_gb: 20"


@pytest.mark.parametrize("change", ["cpu_cores: 2", "memory_gb: 2"])
def test_other_cpus_or_memory_are_a_change(change):
    key, _, _ = change.partition(":")
    nodes = TWO_NODES.replace(f"{key}: 1", change)
    assert draft_of(read_hpc(nodes=nodes), FIRST.state).changed == ("compute-01", "compute-02")


@pytest.mark.parametrize(
    ("network", "what", "there", "asked"),
    [
        ("{subnet: 10.78.0.0/24}", "subnet", "10.77.0.0/24", "10.78.0.0/24"),
        ("{bridge: mybr0}", "bridge", bridge_name(CLUSTER_ID), "mybr0"),
    ],
)
def test_the_network_of_a_cluster_cannot_change(network, what, there, asked):
    with pytest.raises(SpecError) as caught:
        draft_of(read_hpc(f"network: {network}"), FIRST.state)
    assert caught.value.brief == f"the {what} of a cluster cannot be changed"
    assert caught.value.details == f"hpc has {there}; the file asks for {asked}"
    assert "ai-how hpc destroy" in caught.value.hint


@pytest.mark.fault("F60", "another account, another kind of home in the file")
@pytest.mark.parametrize(
    ("line", "what", "there", "asked"),
    [
        ("access: {user: alice}", "user", "hpc", "alice"),
        ("storage: {home: none}", "home", "nfs", "none"),
    ],
)
def test_whose_disks_these_are_cannot_change(line, what, there, asked):
    with pytest.raises(SpecError) as caught:
        draft_of(read_hpc(line), FIRST.state)
    assert caught.value.brief == f"the {what} of a cluster cannot be changed"
    assert caught.value.details == f"hpc has {there}; the file asks for {asked}"


def test_a_state_that_does_not_know_its_home_refuses_none():
    older = FIRST.state.model_copy(update={"home": ""})
    assert draft_of(read_hpc("storage: {home: none}"), older).state.home == "none"


def test_the_same_network_written_out_is_no_change():
    network = f"{{subnet: {SUBNET}, bridge: {bridge_name(CLUSTER_ID)}}}"
    assert draft_of(read_hpc(f"network: {network}"), FIRST.state).state.network == (
        FIRST.state.network
    )


def test_a_cluster_that_outgrows_its_subnet_is_refused_with_the_way_out():
    nodes = TWO_NODES.replace("count: 2", "count: 253")
    with pytest.raises(SpecError) as caught:
        draft_of(read_hpc(nodes=nodes), draft_of(read_hpc()).state)
    assert str(caught.value) == (
        "hpc cannot have 254 nodes: its subnet 10.77.0.0/24 has room for 253"
    )
    assert "ai-how hpc destroy" in caught.value.hint
    full = draft_of(read_hpc(nodes=nodes.replace("253", "252")), draft_of(read_hpc()).state)
    assert len({node.ip for node in full.state.nodes}) == 253


def test_two_clusters_share_no_identity():
    other = draft_of(read_hpc(name="hpc-x"), cluster_id=uuid4(), subnet=IPv4Network("10.78.0.0/24"))
    for field in ("uuid", "mac", "domain_name", "disk"):
        ours = {getattr(one, field) for one in FIRST.state.nodes}
        assert not ours & {getattr(one, field) for one in other.state.nodes}, field
    assert other.state.network.bridge != FIRST.state.network.bridge


def test_a_left_off_node_is_remembered_as_such():
    draft = draft_of(read_hpc(nodes=with_each("", ", auto_start: false")))
    assert [one.auto_start for one in draft.state.nodes] == [True, True, False]
