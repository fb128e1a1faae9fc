"""What is ours has our name, our UUID and our mark; whatever lacks one of them is left alone."""

from dataclasses import replace
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from test_seen import seen
from test_state_models import LINEAGE, cluster_state, node

from ai_how.clusters.observation import observe
from ai_how.errors import LibvirtError, OwnershipError
from ai_how.hpc.kind import SLURM
from ai_how.libvirt_client.client import LibvirtClient
from ai_how.libvirt_client.conversion import check_claim, read_identity
from ai_how.libvirt_client.facts import DomainInfo, Mark, NetworkInfo, Owner
from ai_how.libvirt_client.vm_state import VmState
from ai_how.spec.nodes import Role
from ai_how.state.models import ClusterState, NodeState
from fake_libvirt import FakeLibvirt

STATE = cluster_state()
CONTROLLER, COMPUTE = STATE.nodes
OTHER = UUID("99999999-9999-4999-8999-999999999999")
# VIR_ERR_OPERATION_FAILED is what a define says of a name or UUID that is taken.
TAKEN, ELSE = 9, 1


def ours(one: NodeState, **changes: object) -> DomainInfo:
    mark = Mark(STATE.name, LINEAGE, one.name)
    return replace(
        seen("<domain/>"), **{"uuid": one.uuid, "name": one.domain_name, "mark": mark, **changes}
    )


def network(**changes: object) -> NetworkInfo:
    plain = NetworkInfo(
        STATE.network.uuid, "demo", "br0", is_active=True, mark=None, xml="<network/>"
    )
    return replace(plain, **changes)


class Libvirt(FakeLibvirt):
    """One that shows what it is told to show."""

    def __init__(self, *shown: DomainInfo | NetworkInfo) -> None:
        super().__init__()
        self.vms = tuple(one for one in shown if isinstance(one, DomainInfo))
        self.nets = [one for one in shown if isinstance(one, NetworkInfo)]

    def list_domains(self) -> tuple[DomainInfo, ...]:
        return self.vms

    def find_network(self, uuid: UUID) -> NetworkInfo | None:
        return next((one for one in self.nets if one.uuid == uuid), None)

    def find_network_by_name(self, name: str) -> NetworkInfo | None:
        return next((one for one in self.nets if one.name == name), None)


def look(*shown: DomainInfo | NetworkInfo, state: ClusterState = STATE, **options: bool):
    return observe(Libvirt(*shown), state, SLURM, **options)


def test_what_is_ours_is_seen_by_its_uuid_and_nothing_else_is():
    stranger = ours(COMPUTE, uuid=OTHER, name="demo-compute-011", mark=None)
    found = look(ours(CONTROLLER), stranger, ours(COMPUTE), network())
    assert found.domains == {one.uuid: ours(one) for one in STATE.nodes}
    assert found.network == network()
    assert found.find_domain(COMPUTE.uuid) == ours(COMPUTE)
    assert found.find_domain(OTHER) is None


def test_nothing_there_is_nothing_seen():
    found = look()
    assert (dict(found.domains), found.network) == ({}, None)


@pytest.mark.fault("F40", "a foreign VM of a node's name, in libvirt's list")
@pytest.mark.parametrize("one", STATE.nodes, ids=lambda one: one.name)
@pytest.mark.parametrize("has_mark", [True, False])
def test_a_vm_of_our_name_with_another_uuid_is_refused(one, has_mark):
    copied = Mark(STATE.name, LINEAGE, one.name) if has_mark else None
    with pytest.raises(OwnershipError) as caught:
        look(ours(one, uuid=OTHER, mark=copied))
    assert (
        caught.value.brief
        == f"a VM named {one.domain_name} exists, but does not belong to this cluster"
    )
    assert caught.value.details == f"its UUID is {OTHER}"
    assert "rename" in caught.value.hint


@pytest.mark.fault("H04", "another owner's VM and network of our names, in libvirt's lists")
def test_whose_a_vm_or_network_of_our_name_is_is_told():
    owner = Owner(4_000_000, Path("/home/other/.local/state/ai-how"))
    mark = Mark("other", OTHER, COMPUTE.name, owner)
    whose = f"its UUID is {OTHER}\nit belongs to uid 4000000, state directory {owner.state}"
    with pytest.raises(OwnershipError) as caught:
        look(ours(COMPUTE, uuid=OTHER, mark=mark))
    assert caught.value.details == whose
    with pytest.raises(OwnershipError) as caught:
        look(network(uuid=OTHER, mark=replace(mark, node="")))
    assert caught.value.details == whose


@pytest.mark.fault("F45", "our UUID with another's mark, or with none")
@pytest.mark.parametrize("mark", [None, Mark("demo", OTHER, "compute-01")])
def test_a_vm_of_our_uuid_without_our_mark_is_refused(mark):
    with pytest.raises(
        OwnershipError, match="has the UUID of a node, but not the mark of this cluster"
    ) as caught:
        look(ours(CONTROLLER), ours(COMPUTE, name="renamed", mark=mark))
    assert caught.value.brief.startswith("the VM renamed ")
    assert caught.value.hint == f"virsh --connect fake dumpxml {COMPUTE.uuid}"


def test_a_vm_of_ours_that_was_renamed_is_still_ours():
    assert look(ours(COMPUTE, name="renamed")).find_domain(COMPUTE.uuid).name == "renamed"


@pytest.mark.fault("S21", "another's VM and network with a copied mark")
def test_a_copied_mark_makes_nothing_ours():
    copy = ours(COMPUTE, uuid=OTHER, name="copied")
    found = look(copy, ours(CONTROLLER), ours(COMPUTE, uuid=uuid4(), name="plain", mark=None))
    assert set(found.domains) == {CONTROLLER.uuid}
    assert found.impostors == ("copied",)
    other = Mark("demo", OTHER, "compute-01")
    assert look(ours(COMPUTE, uuid=OTHER, name="neighbour", mark=other)).impostors == ()


@pytest.mark.fault("F41", "a foreign network of our name, in libvirt's list")
def test_a_network_of_our_name_with_another_uuid_is_refused():
    with pytest.raises(OwnershipError) as caught:
        look(network(uuid=OTHER))
    assert caught.value.brief == "a network named demo exists, but does not belong to this cluster"
    assert caught.value.details == f"its UUID is {OTHER}"
    assert "rename" in caught.value.hint
    assert look(network(uuid=OTHER, name="demo2")).network is None


def test_disks_are_seen_where_they_are(tmp_path):
    there = node("controller", 10, Role.CONTROLLER).model_copy(update={"disk": tmp_path / "a"})
    absent = node("compute-01", 11).model_copy(update={"disk": tmp_path / "b"})
    there.disk.touch()
    assert look(state=cluster_state(nodes=(there, absent))).disks == {"controller"}


def test_a_vm_and_a_network_that_libvirt_does_not_know_are_named_in_errors():
    """After a look at a cluster that is only remembered, with libvirt's own errors."""
    with LibvirtClient("test:///default", patience_s=10) as client:
        observe(client, STATE, SLURM, asks_workload=False)
        for node_ in STATE.nodes:
            with pytest.raises(LibvirtError) as caught:
                client.get_domain(node_.uuid)
            assert caught.value.brief.startswith(f"looking for VM {node_.domain_name}")
            assert str(node_.uuid) not in str(caught.value)
        with pytest.raises(LibvirtError) as caught:
            client.start_network(STATE.network.uuid)
        assert STATE.network.name in caught.value.brief
        assert str(STATE.network.uuid) not in str(caught.value)


def test_slurm_is_asked_only_where_it_is_wanted():
    found = look(ours(CONTROLLER, state=VmState.SHUT_OFF))
    assert (found.readiness, found.workload_trouble) == (None, "the controller is off")
    found = look(ours(CONTROLLER), asks_workload=False)
    assert (found.readiness, found.workload_trouble) == (None, None)
    found = look(ours(CONTROLLER))
    assert found.workload_trouble == "the controller's guest agent does not answer"


def xml_of(name: str, uuid: UUID | None) -> str:
    return f"<domain><name>{name}</name>{f'<uuid>{uuid}</uuid>' if uuid else ''}</domain>"


def refusal(code: int | None) -> LibvirtError:
    error = LibvirtError("no")
    error.code = code
    return error


def claim(code: int | None, xml: str, *there: DomainInfo) -> None:
    libvirt = Libvirt(*there)
    by_name = {one.name: one for one in libvirt.vms}
    by_uuid = {one.uuid: one for one in libvirt.vms}
    check_claim(refusal(code), xml, find=by_uuid.get, find_by_name=by_name.get)


def test_who_holds_a_name_or_a_uuid_that_was_refused_is_told():
    mine, uuid = ours(COMPUTE), COMPUTE.uuid
    with pytest.raises(OwnershipError, match="its name or UUID is in use") as caught:
        claim(TAKEN, xml_of(mine.name, uuid), replace(mine, uuid=OTHER))
    assert caught.value.brief.startswith(f"{mine.name} cannot be defined")
    assert caught.value.details == f"another one has the name {mine.name}"
    assert isinstance(caught.value.__cause__, LibvirtError)
    with pytest.raises(OwnershipError) as caught:
        claim(TAKEN, xml_of(mine.name, uuid), replace(mine, name="theirs"))
    assert caught.value.details == "by theirs"
    with pytest.raises(OwnershipError):
        claim(TAKEN, xml_of(mine.name, None), replace(mine, uuid=OTHER))


def test_a_define_that_failed_for_another_reason_claims_nothing():
    mine = ours(COMPUTE)
    xml = xml_of(mine.name, mine.uuid)
    claim(TAKEN, xml)
    claim(TAKEN, xml, mine)
    claim(TAKEN, xml_of(mine.name, None))
    claim(ELSE, xml, replace(mine, uuid=OTHER))
    claim(None, xml, replace(mine, uuid=OTHER))


def test_what_a_define_would_claim_is_in_its_xml():
    uuid = uuid4()
    assert read_identity(xml_of("a", uuid)) == ("a", uuid)
    assert read_identity(xml_of("a", None)) == ("a", None)
    assert read_identity("<domain><metadata><name>x</name></metadata></domain>") == ("", None)
