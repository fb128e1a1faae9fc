"""The answer to "is it well": one look at a cluster, or the last one of its collector, judged."""

import threading
import time
from collections.abc import Callable, Collection
from contextlib import closing, suppress
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

from ai_how.clusters.collecting import find_collector
from ai_how.clusters.diagnosis.catalogue import Severity
from ai_how.errors import AiHowError
from ai_how.monitoring.asking import Connection
from ai_how.monitoring.heal_log import DONE, FAILED
from ai_how.monitoring.healing import Healed, heal, plan_healing
from ai_how.monitoring.health import mends_of
from ai_how.monitoring.judging import RUNNING, is_off
from ai_how.monitoring.live import snapshot_parts
from ai_how.monitoring.model import Finding, Snapshot, SourceState
from ai_how.monitoring.once import look_once
from ai_how.monitoring.records import read_snapshot

if TYPE_CHECKING:  # its caller has one
    from ai_how.clusters.known_cluster import KnownCluster

WITHIN_S = 60.0
"""How long a look may take: an emulated guest on a busy host answers late."""
FRESH_S = 30.0
PAUSE_S = 2.0
SETTLE_S = 90.0
"""What was mended may take so long to show: SLURM pings its nodes now and then."""


class Verdict(IntEnum):
    """How it is; the number is the exit code of `check`."""

    HEALTHY = 0
    ILL = 8
    """There is a finding of the severity that was asked for, or worse."""
    OFF = 9
    """The cluster is off, and nothing else is wrong."""

    @property
    def word(self) -> str:
        return {Verdict.HEALTHY: "healthy", Verdict.ILL: "ill", Verdict.OFF: "off"}[self]


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """A cluster that was checked."""

    seen: Snapshot
    is_collected: bool
    """Whether it is the word of a collector that runs."""
    findings: tuple[Finding, ...]
    """Those that were asked for, the worst first."""
    others: int
    """How many findings there are besides, of a lower severity or of other nodes."""
    verdict: Verdict

    @property
    def silent(self) -> tuple[SourceState, ...]:
        """What could not be looked at, though it is there to be looked at."""
        on = {f"guest/{one.name}" for one in self.seen.nodes if one.vm and one.vm.state in RUNNING}
        return tuple(
            one
            for one in self.seen.sources
            if one.trouble is not None and (one.name in on or not one.name.startswith("guest/"))
        )


def check(
    seen: Snapshot,
    *,
    severity: Severity = Severity.WARNING,
    nodes: Collection[str] = (),
    is_collected: bool = False,
) -> Checked:
    """What a snapshot says of the cluster, or of these nodes (pure)."""
    ranks = list(Severity)
    worst = ranks[: ranks.index(severity) + 1]
    asked = tuple(
        one
        for one in seen.findings
        if one.severity in worst and (not nodes or one.subject in nodes)
    )
    well = Verdict.OFF if is_off(seen) else Verdict.HEALTHY
    return Checked(
        seen=seen,
        is_collected=is_collected,
        findings=asked,
        others=len(seen.findings) - len(asked),
        verdict=Verdict.ILL if asked else well,
    )


def look(cluster: "KnownCluster", *, is_anew: bool = False) -> tuple[Snapshot, bool]:
    """The last snapshot of the collector, if one runs, or a look of our own; and which it is.

    `is_anew` is after something was changed: then only a look of our own counts.
    """
    if not is_anew and (found := find_collected(cluster)):
        return found, True
    seen = look_once(cluster, within_s=WITHIN_S)
    if any(one.trouble and one.at is None and one.name in _late(seen) for one in seen.sources):
        seen = look_once(cluster, within_s=WITHIN_S)  # the host may have been busy for a moment
    return seen, False


def _late(seen: Snapshot) -> set[str]:
    """The sources that are asked in guests that run, and whose agent is connected."""
    on = [one for one in seen.nodes if one.vm and one.vm.state in RUNNING]
    guests = {f"guest/{one.name}" for one in on if one.vm and one.vm.is_agent_connected}
    return {*guests, "slurm"} if guests else guests


def find_collected(cluster: "KnownCluster") -> Snapshot | None:
    """The last snapshot of a collector that runs, if it is fresh. None is started."""
    there = find_collector(cluster.paths)
    if there is None or not there.is_current:
        return None
    try:
        with closing(Connection(cluster.paths.collector_socket)) as line:
            age_s, seen = snapshot_parts(line.ask_line({"ask": "snapshot"}))
        if seen is None or age_s is None or age_s > FRESH_S:
            return None
        return read_snapshot(seen)
    except AiHowError:
        return None  # then we look for ourselves


def note_healing(cluster: "KnownCluster", one: Healed) -> None:
    """Have the collector keep the event, if one runs: the log of the cluster has it anyway."""
    if one.outcome not in {DONE, FAILED} or find_collector(cluster.paths) is None:
        return
    text = one.what if one.outcome == DONE else f"{one.what}: it failed: {one.error}"[:300]
    event = {"at": time.time(), "kind": "heal", "subject": one.subject, "text": text}
    with suppress(AiHowError), closing(Connection(cluster.paths.collector_socket)) as line:
        line.ask({"ask": "note", "event": event})


class Medic:
    """Mends what is found, each id and subject once. `tell` gets each result at once."""

    def __init__(
        self,
        cluster: "KnownCluster",
        tell: Callable[[Healed], None],
        *,
        resumes_paused: bool = False,
        dry_run: bool = False,
    ) -> None:
        self.results: list[Healed] = []
        self._cluster = cluster
        self._tell = tell
        self._mends = mends_of(cluster.kind)
        self._resumes_paused = resumes_paused
        self._dry_run = dry_run
        self._is_over = False

    def mend(self, found: Checked) -> bool:
        """Mend what is found and was not tried yet; whether that changed anything.

        After the first failure nothing is tried any more. Raises AiHowError if nothing may be.
        """
        tried = {(one.id, one.subject) for one in self.results}
        new = [one for one in found.findings if (one.id, one.subject) not in tried]
        planned = plan_healing(new, self._mends, resumes_paused=self._resumes_paused)
        if self._is_over or not planned:
            return False
        has_done = False
        for result in heal(self._cluster, planned, dry_run=self._dry_run):
            self.results.append(result)
            self._tell(result)
            note_healing(self._cluster, result)
            self._is_over = self._is_over or result.outcome == FAILED
            has_done = has_done or result.outcome == DONE
        return has_done and not self._is_over


def check_until_well(
    ask: Callable[[bool], Checked],
    *,
    within_s: float,
    medic: Medic | None = None,
) -> Checked:
    """Check, and mend, until it is well or the time is over; the last check.

    `ask` is told whether something was mended before: then it is given some time to take effect.
    """
    pause = threading.Event()
    ends, was_mended = time.monotonic() + within_s, False
    while True:
        found = ask(was_mended)
        if medic and medic.mend(found):
            was_mended = True
            ends = max(ends, time.monotonic() + SETTLE_S)
        left_s = ends - time.monotonic()
        if found.verdict is Verdict.HEALTHY or left_s <= 0:
            return found
        pause.wait(min(PAUSE_S, left_s))
