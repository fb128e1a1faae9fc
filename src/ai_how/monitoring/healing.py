"""Mends what is safe to mend: each act can be repeated, and a kill leaves nothing half-done.

Acts are done one after the other under the cluster's lock, and logged before and after. The first
one that fails is the last.
"""

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ai_how.clusters.diagnosis.catalogue import MachineCause
from ai_how.errors import AiHowError, GuestError, HostError
from ai_how.guest.agent import GuestAgent
from ai_how.libvirt_client.vm_state import VmState
from ai_how.monitoring.heal_log import BEGUN, DONE, FAILED, MOST_ACTS, HealLog, HealRecord
from ai_how.monitoring.model import Finding
from ai_how.state.lock import held_lock
from ai_how.state.models import ClusterState, NodeState
from ai_how.waiting import Deadline, wait_until

if TYPE_CHECKING:  # they load libvirt
    from ai_how.clusters.known_cluster import KnownCluster
    from ai_how.host.place import HypervisorHost
    from ai_how.libvirt_client.client import LibvirtClient

ACT_S = 90.0
"""How long an act may take."""
STAYS_S = 3.0
"""A VM that runs for so long was not paused again at once."""


@dataclass(frozen=True, slots=True)
class Hands:
    """What an act works with."""

    state: ClusterState
    client: "LibvirtClient"

    def agent(self, node: str) -> GuestAgent:
        """The agent of a node. Raises StateError if there is no such node."""
        known = self.state.get_node(node)
        return GuestAgent(self.client, known.uuid, known.name)

    def head(self) -> NodeState:
        """The controller."""
        return self.state.get_controller()


Act = Callable[[Hands], None]
"""Looks again whether there is something to do, does it, and sees that it worked.

Raises AiHowError if it did not.
"""


@dataclass(frozen=True, slots=True)
class Mend:
    """How a finding is mended. A lower rank is mended first, as others may depend on it."""

    rank: int
    what: Callable[[Finding], str]
    act: Callable[[Finding], Act]


@dataclass(frozen=True, slots=True, kw_only=True)
class Healed:
    """What was done, or would be."""

    id: str
    subject: str
    what: str
    outcome: str
    """`done`, `failed`, `planned`, or `left`: it was done too often already."""
    error: str = ""


@dataclass(frozen=True, slots=True)
class _Planned:
    finding: Finding
    what: str
    act: Act
    rank: int = field(compare=False)


def plan_healing(
    findings: Collection[Finding], mends: Mapping[str, Mend], *, resumes_paused: bool
) -> list[_Planned]:
    """What is to be done, in order (pure). VMs paused by hand only if that was asked for."""
    planned = []
    for one in findings:
        is_asked = resumes_paused and one.id == MachineCause.VM_PAUSED
        if (mend := mends.get(one.id)) and (one.heals or is_asked):
            planned.append(_Planned(one, mend.what(one), mend.act(one), mend.rank))
    return sorted(planned, key=lambda one: (one.rank, one.finding.subject))


def heal(
    cluster: "KnownCluster",
    planned: Sequence[_Planned],
    *,
    dry_run: bool = False,
    clock: Callable[[], float] = time.time,
    open_client: "Callable[[HypervisorHost], AbstractContextManager[LibvirtClient]] | None" = None,
) -> Iterator[Healed]:
    """Do what is planned; each result as soon as it is there. The first failure is the last act.

    Raises LockedError if another run works on the cluster, HostError if one was cut short.
    """
    log = HealLog(cluster.paths.heals)
    if dry_run:
        for one in planned:
            is_left = log.recent(one.finding.id, one.finding.subject, clock()) >= MOST_ACTS
            yield _healed(one, "left" if is_left else "planned")
        return
    if not planned:
        return
    with _hands(cluster, open_client) as hands:
        for one in planned:
            if log.recent(one.finding.id, one.finding.subject, clock()) >= MOST_ACTS:
                yield _healed(one, "left")
                continue
            result = _do(one, hands, log, clock)
            yield result
            if result.outcome == FAILED:
                return


@contextmanager
def _hands(
    cluster: "KnownCluster",
    open_client: "Callable[[HypervisorHost], AbstractContextManager[LibvirtClient]] | None",
) -> Iterator[Hands]:
    """What acts need, while the cluster's lock is held."""
    if open_client is None:
        from ai_how.clusters.cluster_access import client_of  # noqa: PLC0415  it loads libvirt

        open_client = client_of
    paths, kind = cluster.paths, cluster.kind.name
    state, place = cluster.get_state(), cluster.place()
    if not place.is_up:
        raise HostError("the embedded host is down", hint=f"ai-how {kind} start")
    with held_lock(paths.lock, doing=f"{kind} check"):
        if paths.journal.exists():
            raise HostError(
                "a run was cut short: nothing is healed before that is repaired",
                hint=f"ai-how {kind} start",
            )
        with open_client(place) as client:
            for node in state.nodes:
                client.learn(node.uuid, node.domain_name)
            yield Hands(state, client)


def _do(one: _Planned, hands: Hands, log: HealLog, clock: Callable[[], float]) -> Healed:
    def note(word: str, error: str = "") -> None:
        log.write(
            HealRecord(
                at=clock(),
                id=one.finding.id,
                subject=one.finding.subject,
                what=one.what,
                word=word,
                error=error,
            )
        )

    note(BEGUN)
    try:
        one.act(hands)
    except AiHowError as error:
        said = ": ".join(part for part in (error.brief, (error.details or "")[-300:]) if part)
        note(FAILED, said)
        return _healed(one, FAILED, said)
    note(DONE)
    return _healed(one, DONE)


def _healed(one: _Planned, outcome: str, error: str = "") -> Healed:
    return Healed(
        id=one.finding.id,
        subject=one.finding.subject,
        what=one.what,
        outcome=outcome,
        error=error,
    )


def _resume(finding: Finding) -> Act:
    """Let a paused VM run on. One that is paused again at once is a failure."""
    is_by_disk = finding.id == MachineCause.DISK_IO_ERROR

    def act(hands: Hands) -> None:
        node = hands.state.get_node(finding.subject)
        seen = hands.client.get_domain(node.uuid)
        if seen.state is not VmState.PAUSED or seen.waits_for_disk is not is_by_disk:
            return
        hands.client.resume_domain(node.uuid)
        ends = Deadline.after(STAYS_S)

        def has_stayed() -> bool:
            now = hands.client.get_domain(node.uuid)
            if now.state is VmState.PAUSED:
                raise GuestError(f"{node.name} was paused again at once ({now.reason_text})")
            return ends.has_passed

        wait_until(has_stayed, Deadline.after(ACT_S), f"{node.name} to run on", interval_s=0.5)

    return act


def _resumes(finding: Finding) -> str:
    return f"resume the VM of {finding.subject}"


MENDS: Mapping[str, Mend] = {
    MachineCause.DISK_IO_ERROR: Mend(0, _resumes, _resume),
    MachineCause.VM_PAUSED: Mend(0, _resumes, _resume),
}
"""Those of every kind of cluster, by the id of the finding."""
