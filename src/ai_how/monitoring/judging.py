"""How signs become findings: a table of rules, and a judge that remembers since when.

A rule sees one snapshot and a little of the past, and says what it sees. The judge keeps the first
sight over the rounds, waits where a moment means nothing, and lets nothing flap.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ai_how.clusters.diagnosis.catalogue import Entry, Severity, fill
from ai_how.monitoring.model import Finding, NodeSample, Snapshot
from ai_how.monitoring.past import Past

HELD_S = 900.0
"""A finding whose source is silent stays so long: nobody knows whether it is over."""
OVER_S = 10.0
"""A finding is over when nothing of it was seen for so long."""
LATE_ROUNDS, LATE_S = 3.0, 20.0
"""An answer is old after so many rounds of its source, and so many seconds more."""
GIB = 1024  # in MiB
MOST_EVIDENCE = 8
MOST_FINDINGS = 500
CHANGING = frozenset({"start", "stop", "destroy", "recover"})
"""Verbs that switch nodes on or off."""
RUNNING = frozenset({"running", "blocked"})
OFF = frozenset({"shut_off", "absent"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Sign:
    """Something wrong that one look shows. Text of a guest in it is one line already."""

    id: str
    subject: str
    text: str
    """With the subject."""
    evidence: tuple[str, ...] = ()
    words: Mapping[str, str] = field(default_factory=dict)
    """For the remedy of the catalogue; nothing that a guest wrote."""
    remedy: str | None = None
    """If it is another than that of the catalogue."""
    severity: Severity | None = None
    """If it is another than that of the catalogue."""
    since: float | None = None
    """If what is wrong says it itself."""
    heals: bool = False


@dataclass(frozen=True, slots=True)
class Look:
    """What a rule sees."""

    now: Snapshot
    past: Past
    found: frozenset[tuple[str, str]] = frozenset()
    """Id and subject of what was found at the last look."""

    def was_found(self, name: str, subject: str) -> bool:
        """For rules with two thresholds: what is found stays until it is clearly over."""
        return (name, subject) in self.found

    def is_fresh(self, source: str) -> bool:
        """Whether what is known of a source is not old."""
        state = self.now.find_source(source)
        if state is None:
            return True
        if state.at is None:
            return False
        return self.now.at - state.at <= LATE_ROUNDS * state.every_s + LATE_S

    def running(self) -> Iterator[NodeSample]:
        """The nodes whose VM runs, as far as that is known now."""
        if self.is_fresh("libvirt"):
            yield from (one for one in self.now.nodes if one.vm and one.vm.state in RUNNING)

    def guests(self) -> Iterator[NodeSample]:
        """Those of them that have told of themselves lately."""
        for one in self.running():
            if one.guest is not None and self.is_fresh(f"guest/{one.name}"):
                yield one


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A rule: it finds signs in what one source says."""

    find: Callable[[Look], Iterable[Sign]]
    reads: str
    """The source; `guest` is that of the subject."""
    after_s: float = 0.0
    """It is a finding when it was seen for so long. A single look does not wait."""
    unless: frozenset[str] = frozenset()
    """Ids that explain it: with one of them for the same subject it is no finding of its own."""


@dataclass(slots=True)
class _Known:
    rule: Rule
    sign: Sign
    since: float
    seen_at: float
    is_told: bool = False


class Judge:
    """The rules of one cluster, with what they saw before. Not for several threads at once."""

    def __init__(
        self, rules: Sequence[Rule], catalogue: Mapping[str, Entry], *, is_single: bool = False
    ) -> None:
        """`is_single` is for one look without a past: nothing is waited for."""
        self._rules = tuple(rules)
        self._catalogue = catalogue
        self._is_single = is_single
        self._past = Past()
        self._known: dict[tuple[str, str], _Known] = {}

    def judge(self, now: Snapshot) -> tuple[Finding, ...]:
        """The findings now, the worst first. While a verb switches nodes, none is new."""
        self._past.begin(now.at)
        told = frozenset(key for key, one in self._known.items() if one.is_told)
        look = Look(now, self._past, told)
        is_changing = bool(CHANGING & set((now.doing or "").split()))
        seen = dict(_signs(self._rules, look))
        for key, (rule, sign) in seen.items():
            if key in self._known or not is_changing:
                self._see(key, rule, sign, now.at)
        for key, one in list(self._known.items()):
            if key not in seen and self._is_over(one, look):
                del self._known[key]
        found = [self._tell(one, look) for one in self._known.values() if self._is_due(one)]
        ranks = {word: place for place, word in enumerate(Severity)}
        found.sort(key=lambda one: (ranks[Severity(one.severity)], one.subject, one.id))
        return tuple(found[:MOST_FINDINGS])

    def _see(self, key: tuple[str, str], rule: Rule, sign: Sign, at: float) -> None:
        before = self._known.get(key)
        # After the clock was set back, nothing has begun in the future.
        first = min(before.since, at) if before else at
        since = first if sign.since is None else min(sign.since, at)
        is_told = before.is_told if before else False
        self._known[key] = _Known(rule, sign, since, at, is_told)

    def _is_over(self, one: _Known, look: Look) -> bool:
        """Whether what is no longer seen is over, or only not known."""
        silent_s = look.now.at - one.seen_at
        if silent_s < 0:
            return True
        if _is_silent(one, look):
            return silent_s > HELD_S
        return silent_s > OVER_S or not one.is_told

    def _is_due(self, one: _Known) -> bool:
        if self._is_single or one.seen_at - one.since >= one.rule.after_s:
            one.is_told = True
        return one.is_told

    def _tell(self, one: _Known, look: Look) -> Finding:
        sign, now = one.sign, look.now
        entry = self._catalogue[sign.id]
        remedy = sign.remedy
        if remedy is None:
            words = {"kind": now.kind, "node": sign.subject, **sign.words}
            remedy = fill(entry.remedy, **words)
        evidence = sign.evidence[:MOST_EVIDENCE]
        if _is_silent(one, look) and one.seen_at < now.at:
            evidence += (f"last seen {now.at - one.seen_at:.0f} s ago: its source is silent",)
        return Finding(
            id=str(sign.id),
            severity=str(sign.severity or entry.severity),
            subject=sign.subject,
            text=sign.text,
            since=one.since,
            evidence=evidence,
            remedy=remedy,
            heals=sign.heals,
        )


def _signs(
    rules: Iterable[Rule], look: Look
) -> Iterator[tuple[tuple[str, str], tuple[Rule, Sign]]]:
    """What all rules see, by id and subject, without what another sign explains."""
    every = [(rule, sign) for rule in rules for sign in rule.find(look)]
    there = {(sign.id, sign.subject) for _, sign in every}
    for rule, sign in every:
        if not any((name, sign.subject) in there for name in rule.unless):
            yield (sign.id, sign.subject), (rule, sign)


def _is_silent(one: _Known, look: Look) -> bool:
    """Whether its source says nothing now, though it should."""
    if one.rule.reads != "guest":
        return not look.is_fresh(one.rule.reads)
    node = look.now.find_node(one.sign.subject)
    if node is None or node.vm is None or not look.is_fresh("libvirt"):
        return node is not None
    return node.vm.state in RUNNING and not look.is_fresh(f"guest/{node.name}")


def is_off(now: Snapshot) -> bool:
    """Whether the cluster is off: no node is on, and none ended by a fault."""
    if not now.is_up:
        return True
    seen = [one.vm for one in now.nodes if one.vm is not None]
    return bool(seen) and all(
        one.state in OFF and one.reason not in {"crashed", "failed"} for one in seen
    )


def size_text(mib: float) -> str:
    """An amount of memory or disk, in the unit that suits it."""
    return f"{mib / GIB:.1f} GiB" if mib >= GIB else f"{mib:.0f} MiB"


def time_text(seconds: float) -> str:
    """`2 h 5 min`: the two largest units."""
    left, parts = round(max(0.0, seconds)), []
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2]) or "0 s"
