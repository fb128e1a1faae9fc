"""The steps of the nodes of a start: from what is there of each to where it is up (pure)."""

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from uuid import UUID

from ai_how.clusters.desired_cluster import DesiredCluster
from ai_how.clusters.observation import Observed
from ai_how.clusters.plans.network import NetworkPlan
from ai_how.clusters.plans.rendering import PlanInputs
from ai_how.errors import HostError, SpecError
from ai_how.libvirt_client.vm_state import VmState
from ai_how.plan.step import ConcurrencyLimit, Step
from ai_how.spec.nodes import Node
from ai_how.state.models import NodeState
from ai_how.vm_management.saved_machines.store import SavedMachineRef
from ai_how.vm_management.steps.disks import ClaimDirectory, CreateOverlay, GrowDisk, PlaceBase
from ai_how.vm_management.steps.domains import DefineDomain, RestoreDomain, StartDomain
from ai_how.vm_management.steps.guest import AwaitAgent, GiveIdentity
from ai_how.vm_management.steps.suspend import StartFromManagedSave


@dataclass(slots=True)
class NodeChain:
    """The steps of one node, in their order."""

    steps: list[Step] = field(default_factory=list)
    comes_up: bool = False
    """Whether they bring the node up, so that there is something to wait for."""

    @property
    def last(self) -> frozenset[str]:
        """What the next step of the node needs: the key of the last one, if there is any."""
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
    """What several nodes need, such as a base image: these steps come before all of theirs."""

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
        """Disk, definition and boot of a node, as far as each is missing.

        The chain comes up where the node `is_wanted` on and is not there, or not `is_working`.
        `is_stale` says that its VM is defined in another way than it would be now; `holds` what is
        on its disk and nowhere else. Raises SpecError or HostError for what cannot be done.
        """
        kind, domain = self.desired.state.kind, self.seen.find_domain(one.uuid)
        is_on = domain is not None and domain.state.is_running
        if is_on and one.name in (*self.desired.grown, *self.desired.changed):
            raise SpecError(
                f"{one.name} is running, so its size cannot change",
                hint=f"ai-how {kind} stop {one.name} && ai-how {kind} start {one.name}",
            )
        if is_wanted and is_on and (tap := self.seen.known_faults.dead_taps.get(one.name)):
            raise HostError(
                f"{one.name} has lost its network interface: {tap} was deleted on the host",
                details="A running VM cannot get a new one.",
                hint=f"ai-how {kind} stop {one.name} && ai-how {kind} start {one.name}",
            )
        chain, saved = NodeChain(), None
        if one.name not in self.seen.disks:
            saved = self.inputs.saved_of(one.name) if is_wanted else None
            chain.add(self._create_disk(one, saved, holds))
        elif one.name in self.desired.grown:
            chain.add(GrowDisk(self.desired.state.name, one.name, one.disk, one.disk_gib))
        is_lost = domain is None or not domain.is_persistent  # one that runs on, undefined
        if is_lost or one.name in self.desired.changed or (is_stale and not is_on):
            previous = domain.xml if domain else None
            xml = self.inputs.domain_xml(node, one)
            chain.add(DefineDomain(one.domain_name, one.uuid, xml, chain.last, previous))
        if not is_wanted:
            return chain
        if domain is None or not is_on or domain.state is VmState.PAUSED:
            needs = self.network.needed | chain.last
            if not is_on:
                # A disk is no better than what it stands on, so that is looked at before each boot.
                needs |= {self._place_base(one).key}
            chain.add(self._start_domain(one, needs, saved))
        elif is_working:
            return chain
        chain.comes_up = True
        return chain

    def resume(self, one: NodeState, needs: frozenset[str] = frozenset()) -> NodeChain:
        """A node that is suspended goes on from its saved memory, after what it `needs`.

        Raises SpecError or HostError where that memory and its disk no longer belong together.
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
        """Then the node's agent is waited for, and told who the node is."""
        plug = self.network.plugs.get(one.name)
        needs = chain.last | ({plug.key} if plug else set())
        chain.add(AwaitAgent(one.domain_name, one.uuid, needs))
        chain.add(GiveIdentity(one.domain_name, one.name, one.uuid, chain.last))

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


def limit_boots(steps: Collection[Step], boot_limit: int | None) -> ConcurrencyLimit | None:
    """A segment for each VM that is started, from there to its node's identity.

    None where no node would have to wait for another.
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
    """The same steps, but no other VM is started before this one, where it is started."""
    boots = [step for step in steps if isinstance(step, StartDomain)]
    first = frozenset(step.key for step in boots if step.uuid == uuid)
    return [
        replace(step, needs=step.needs | first)
        if isinstance(step, StartDomain) and step.key not in first
        else step
        for step in steps
    ]
