"""Plans the nodes of a start (pure)."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from uuid import UUID

from ai_how.clusters.desired_cluster import DesiredCluster
from ai_how.clusters.observation import Observed
from ai_how.clusters.plans.network import NetworkPlan
from ai_how.clusters.plans.rendering import PlanInputs
from ai_how.errors import HostError, SpecError
from ai_how.libvirt_client.host_devices import passed_in
from ai_how.libvirt_client.vm_state import VmState
from ai_how.plan.step import ConcurrencyLimit, Step
from ai_how.spec.nodes import Node, Role
from ai_how.state.models import NodeState
from ai_how.vm_management.saved_machines.store import SavedMachineRef
from ai_how.vm_management.steps.disks import ClaimDirectory, CreateOverlay, GrowDisk, PlaceBase
from ai_how.vm_management.steps.domains import DefineDomain, RestoreDomain, StartDomain
from ai_how.vm_management.steps.guest import AwaitAgent, GiveIdentity
from ai_how.vm_management.steps.leases import LeaseDevices
from ai_how.vm_management.steps.suspend import StartFromManagedSave
from ai_how.vm_management.steps.vgpus import MakeVgpu


@dataclass(slots=True)
class NodeChain:
    """The steps of one node, in order."""

    steps: list[Step] = field(default_factory=list)
    comes_up: bool = False
    """Whether the steps start the node, so that the plan must wait for it."""

    @property
    def last(self) -> frozenset[str]:
        """The key of the last step, for the `needs` of the next one; empty if there is none."""
        return frozenset(step.key for step in self.steps[-1:])

    def add(self, *steps: Step) -> None:
        self.steps += steps


@dataclass(frozen=True, slots=True, kw_only=True)
class NodePlanner:
    """Plans the nodes of one start, one after the other."""

    desired: DesiredCluster
    seen: Observed
    inputs: PlanInputs
    network: NetworkPlan
    shared: dict[str, Step] = field(default_factory=dict)
    """Steps that several nodes need, such as placing a base image. They precede all others."""

    def boot(
        self,
        node: Node,
        one: NodeState,
        *,
        is_wanted: bool,
        is_working: bool,
        is_stale: bool,
        holds: str | None = None,
    ) -> NodeChain:
        """Create the disk, define the VM and boot it, as far as needed.

        The chain comes up if the node `is_wanted` and is off or not `is_working`. `is_stale` says
        that its definition differs from what the spec asks for now. `holds` names the only copy of
        data on its disk. Raises SpecError or HostError if the node cannot become what is asked for.
        """
        domain = self.seen.find_domain(one.uuid)
        is_on = domain is not None and domain.state.is_running
        if is_on:
            self._check_running(node, one, is_wanted=is_wanted)
        chain, saved = NodeChain(), None
        if one.name not in self.seen.disks:
            saved = self.inputs.saved_of(one.name) if is_wanted else None
            chain.add(self._create_disk(one, saved, holds))
        elif one.name in self.desired.grown:
            chain.add(GrowDisk(self.desired.state.name, one.name, one.disk, one.disk_gib))
        is_lost = domain is None or not domain.is_persistent  # running, but undefined
        if is_lost or one.name in self.desired.changed or (is_stale and not is_on):
            previous = domain.xml if domain else None
            xml = self.inputs.domain_xml(node, one)
            chain.add(DefineDomain(one.domain_name, one.uuid, xml, chain.last, previous))
        if not is_wanted:
            return chain
        if domain is None or not is_on or domain.state is VmState.PAUSED:
            needs = self.network.needed
            if not is_on:
                self._lend(node, one, chain)
                # An overlay depends on its base, so the base is checked before each boot.
                needs |= {self._place_base(one).key}
            chain.add(self._start_domain(one, needs | chain.last, saved))
        elif is_working:
            return chain
        chain.comes_up = True
        return chain

    def resume(self, one: NodeState, needs: frozenset[str] = frozenset()) -> NodeChain:
        """Resume a suspended node from its saved memory, after the steps in `needs`.

        Raises SpecError or HostError if the memory no longer matches the disk or the spec.
        """
        kind = self.desired.state.kind
        if one.name in (*self.desired.grown, *self.desired.changed):
            raise SpecError(
                f"{one.name} is suspended, so its size cannot change",
                hint=f"ai-how {kind} start --no-warm"
                "  # boots it anew: the jobs that it ran are lost",
            )
        if one.name not in self.seen.disks:
            raise HostError(
                f"{one.name} is suspended, but its disk is gone",
                details=str(one.disk),
                hint=f"ai-how {kind} destroy  # then start it again",
            )
        resume = StartFromManagedSave(
            domain=one.domain_name,
            uuid=one.uuid,
            needs=self.network.needed | {self._place_base(one).key} | needs,
            node=one.name,
            memory_mib=one.memory_mib,
        )
        return NodeChain([resume], comes_up=True)

    def identify(self, chain: NodeChain, one: NodeState) -> None:
        """Wait for the node's agent, then give the node its identity."""
        plug = self.network.plugs.get(one.name)
        needs = chain.last | ({plug.key} if plug else set())
        chain.add(AwaitAgent(one.domain_name, one.uuid, needs))
        chain.add(GiveIdentity(one.domain_name, one.name, one.uuid, chain.last))

    def chain(
        self,
        node: Node,
        one: NodeState,
        *,
        only: Collection[str],
        is_working: bool,
        is_stale: bool,
        is_to_tell: bool,
        holds: str | None,
        resume: Callable[[NodeState], NodeChain],
    ) -> NodeChain:
        """The steps of a node that has an identity: it boots, or `resume` has its steps.

        `only` are the nodes that a start names. A node that runs and `is_to_tell` gets its identity
        again. The rest is as for `boot`.
        """
        is_wanted = wants_on(one, only)
        if self.inputs.resumes and self.seen.has_managed_save(one):
            chain = resume(one) if is_wanted else NodeChain()
        else:
            chain = self.boot(
                node,
                one,
                is_wanted=is_wanted,
                is_working=is_working,
                is_stale=is_stale,
                holds=holds,
            )
            if chain.comes_up:
                self.identify(chain, one)
        if is_to_tell and not chain.comes_up and self.seen.is_on(one):
            chain.add(GiveIdentity(one.domain_name, one.name, one.uuid))
            chain.comes_up = True
        return chain

    def _check_running(self, node: Node, one: NodeState, *, is_wanted: bool) -> None:
        """Raises SpecError or HostError if a running node cannot become what is asked for."""
        kind, domain = self.desired.state.kind, self.seen.find_domain(one.uuid)
        if one.name in (*self.desired.grown, *self.desired.changed):
            raise SpecError(
                f"{one.name} is running, so its size cannot change",
                hint=f"ai-how {kind} stop {one.name} && ai-how {kind} start {one.name}",
            )
        # Its software would be told of cards that it does not have.
        missing = set(self.desired.pci_devices_of(node)) - (
            passed_in(domain.xml) if domain else frozenset()
        )
        if missing:
            raise SpecError(
                f"{one.name} is running, so it cannot get the device {min(missing)}",
                hint=f"ai-how {kind} stop {one.name} && ai-how {kind} start {one.name}",
            )
        if is_wanted and (tap := self.seen.known_faults.dead_taps.get(one.name)):
            raise HostError(
                f"{one.name} has lost its network interface: {tap} was deleted on the host",
                details="A running VM cannot get a new one.",
                hint=f"ai-how {kind} stop {one.name} && ai-how {kind} start {one.name}",
            )
        ended = [fault for fault in self.seen.share_faults.get(one.name, ()) if fault.is_there]
        if is_wanted and ended:
            raise HostError(
                f"{one.name}: {ended[0]}",
                details="A running VM cannot get a new one. Programs that use the share hang.",
                hint=f"ai-how {kind} stop {one.name} && ai-how {kind} start {one.name}",
            )

    def _create_disk(
        self, one: NodeState, saved: SavedMachineRef | None, holds: str | None
    ) -> Step:
        state, kind = self.desired.state, self.desired.state.kind
        if holds and self.seen.find_domain(one.uuid) is not None:
            raise HostError(
                f"the disk of {one.name} is gone, and with it {holds}",
                details=str(one.disk),
                hint=f"ai-how {kind} destroy  # then start it again",
            )
        if self.seen.is_on(one):
            raise HostError(
                f"the disk of {one.name} is gone, but its VM is running",
                details=str(one.disk),
                hint=f"ai-how {kind} stop {one.name} && ai-how {kind} start {one.name}",
            )
        needs = {self._place_base(one).key}
        if not self.seen.has_disk_directory:
            claim = ClaimDirectory(state.name, state.lineage)
            needs.add(self.shared.setdefault(claim.key, claim).key)
        return CreateOverlay(
            state.name,
            state.lineage,
            one.name,
            self.inputs.base_of(one.image_digest),
            one.disk_gib,
            frozenset(needs),
            saved,
        )

    def _lend(self, node: Node, one: NodeState, chain: NodeChain) -> None:
        """The devices of the host that the node's VM boots with."""
        if devices := self.desired.pci_devices_of(node):
            chain.add(LeaseDevices(one.domain_name, one.uuid, devices, chain.last))
        if vgpu := self.desired.vgpus.get(node.name):
            chain.add(MakeVgpu(one.domain_name, one.uuid, vgpu, chain.last))

    def _place_base(self, one: NodeState) -> Step:
        return self.shared.setdefault(one.image_digest, PlaceBase(one.image_digest))

    def _start_domain(
        self, one: NodeState, needs: frozenset[str], saved: SavedMachineRef | None
    ) -> Step:
        if saved:
            return RestoreDomain(
                domain=one.domain_name,
                uuid=one.uuid,
                needs=needs,
                cluster=self.desired.state.name,
                node=one.name,
                saved=saved,
            )
        domain = self.seen.find_domain(one.uuid)
        return StartDomain(
            one.domain_name,
            one.uuid,
            needs,
            was_on=domain is not None and domain.state.is_running,
            keeps_disk=one.name in self.seen.disks,
            is_anew=self.seen.has_managed_save(one),
        )


def wants_on(one: NodeState, only: Collection[str]) -> bool:
    """Whether a start brings a node up; the controllers come with any node that it names."""
    if not only:
        return one.auto_start
    return one.name in only or one.role is Role.CONTROLLER


def limit_boots(steps: Collection[Step], boot_limit: int | None) -> ConcurrencyLimit | None:
    """A segment for each VM that starts, from its start to the identity of its node.

    None if no node has to wait for another.
    """
    booted = [one for one in steps if isinstance(one, StartDomain) and not one.was_on]
    if boot_limit is None or len(booted) <= boot_limit:
        return None
    of_domain: dict[str, list[str]] = {one.domain: [one.key] for one in booted}
    for step in steps:
        if isinstance(step, AwaitAgent | GiveIdentity):
            of_domain.get(step.domain, []).append(step.key)
    return ConcurrencyLimit(boot_limit, tuple(map(tuple, of_domain.values())))


def with_first_boot(steps: Collection[Step], uuid: UUID) -> list[Step]:
    """The same steps, but no VM starts before this one, if it starts at all."""
    boots = [step for step in steps if isinstance(step, StartDomain)]
    first = frozenset(step.key for step in boots if step.uuid == uuid)
    return [
        replace(step, needs=step.needs | first)
        if isinstance(step, StartDomain) and step.key not in first
        else step
        for step in steps
    ]
