"""What was measured, and its text: for notes and the README."""

import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field


class BenchError(Exception):
    """A measured command failed: its figures would mean nothing."""


# A start of that title in which ssh was tried until it answered.
AND_SSH = ", and ssh"


@dataclass(frozen=True)
class Run:
    """One run of a command; CPU and peak memory include the programs it waited for.

    `ssh_s` is from the command's start until ssh had run `true` on every node, None where that was
    not asked.
    """

    wall_s: float
    cpu_s: float
    peak_rss_mib: float
    ssh_s: float | None = None


@dataclass(frozen=True)
class PeerResult:
    """A tool that one would take instead, on this machine; without `ssh_s`, `note` says why.

    `nodes_s` has the same by node. `command_s` is when the tool's own command was done, which may
    be long before its machines can be used.
    """

    name: str
    version: str
    what: str
    note: str
    ssh_s: float | None = None
    command_s: float | None = None
    nodes_s: dict[str, float] = field(default_factory=dict)
    packages: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Compared:
    """The same work by ai-how and by hand, in turn; `load` is the machine's, of the last minute.

    `amount` is how much of `unit` each run works through, 0 where that means nothing.
    """

    ours_s: list[float] = field(default_factory=list)
    by_hand_s: list[float] = field(default_factory=list)
    load: list[float] = field(default_factory=list)
    amount: float = 0.0
    unit: str = ""


@dataclass(frozen=True)
class Watched:
    """What a collector costs while a cluster of one size idles; percent of one processor."""

    collector_percent: float
    rss_mib: float
    pss_mib: float
    database_mib_a_day: float
    """As it grew while it was measured."""
    guests_percent_without: float
    guests_percent_with: float
    load: float


@dataclass
class Results:
    """All that was measured, as results.json has it.

    `stages_s` has what each start did, by kind and node; `boot_s` when a cold boot passed its
    marks, by node, from the start of its QEMU; `qemu_mib` what the QEMU of each node took when a
    large cluster was ready; `files_s` what work on files took, by where they are; `exec_mib_s` how
    fast `hpc exec` passes bytes into a node and out of it; `use` what one does with a cluster that
    is up, which may have been measured on another day, on `use_machine`; `watched` what the
    monitoring costs, by the size of the cluster.
    """

    machine: dict[str, str]
    runs: dict[str, list[Run]] = field(default_factory=dict)
    stages_s: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    boot_s: dict[str, dict[str, float]] = field(default_factory=dict)
    qemu_mib: dict[str, float] = field(default_factory=dict)
    files_s: dict[str, dict[str, float]] = field(default_factory=dict)
    exec_mib_s: dict[str, float] = field(default_factory=dict)
    use: dict[str, Compared] = field(default_factory=dict)
    use_machine: dict[str, str] = field(default_factory=dict)
    watched: dict[str, Watched] = field(default_factory=dict)
    peers: list[PeerResult] = field(default_factory=list)


def render(results: Results) -> str:
    """The plain text of all of it."""
    return "\n".join(
        [
            *(f"{name:<14}{value}" for name, value in results.machine.items()),
            *(render_runs(results.runs) if results.runs else ()),
            *(
                line
                for kind, nodes in results.stages_s.items()
                for line in render_nodes(f"stages, {kind} (s)", nodes)
            ),
            *(render_nodes("cold boot, at (s)", results.boot_s) if results.boot_s else ()),
            *(f"each QEMU of {name}: {mib:.0f} MiB" for name, mib in results.qemu_mib.items()),
            *(f"hpc exec, {way}: {rate:.2f} MiB/s" for way, rate in results.exec_mib_s.items()),
            *(render_nodes("files in (s)", results.files_s) if results.files_s else ()),
            *(render_use(results.use) if results.use else ()),
            *(render_watched(results.watched) if results.watched else ()),
            *(render_peers(results) if results.peers else ()),
        ]
    )


def render_runs(all_runs: dict[str, list[Run]]) -> Iterator[str]:
    yield ""
    yield (
        f"{'command':<34}{'runs':>5}{'wall s':>9}{'ssh s':>8}{'CPU s':>8}{'CPU min':>9}"
        f"{'peak MiB':>10}"
    )
    for title, runs in all_runs.items():
        cpu_s = [run.cpu_s for run in runs]
        yield (
            f"{title:<34}{len(runs):>5}{statistics.median(run.wall_s for run in runs):>9.2f}"
            f"{seconds(median_ssh_s(runs)):>8}{statistics.median(cpu_s):>8.2f}{min(cpu_s):>9.2f}"
            f"{max(run.peak_rss_mib for run in runs):>10.0f}"
        )
    yield "(medians where there are several runs; peak of the CLI and what it waits for)"


def median_ssh_s(runs: list[Run]) -> float | None:
    found = [run.ssh_s for run in runs if run.ssh_s is not None]
    return statistics.median(found) if found else None


def render_nodes(title: str, nodes: dict[str, dict[str, float]]) -> Iterator[str]:
    """A table: a line for each node, a column for each name that one of them has."""
    names = list(dict.fromkeys(name for seconds_s in nodes.values() for name in seconds_s))
    widths = [max(len(name), 7) + 2 for name in names]
    head = "".join(f"{name:>{width}}" for name, width in zip(names, widths, strict=True))
    yield ""
    yield f"{title:<28}{head}"
    for node, seconds_s in nodes.items():
        cells = "".join(
            f"{seconds_s[name]:>{width}.1f}" if name in seconds_s else f"{'-':>{width}}"
            for name, width in zip(names, widths, strict=True)
        )
        yield f"  {node:<26}{cells}"


def render_use(use: dict[str, Compared]) -> Iterator[str]:
    """A line for each work: the medians, how many times ours takes longer, and rates."""
    yield ""
    head = f"{'runs':>5}{'ai-how s':>10}{'by hand s':>11}{'ratio':>7}{'load':>6}"
    yield f"{'the same work':<50}{head}"
    for title, one in use.items():
        ours_s, by_hand_s = statistics.median(one.ours_s), statistics.median(one.by_hand_s)
        line = (
            f"{title:<50}{len(one.ours_s):>5}{ours_s:>10.2f}{by_hand_s:>11.2f}"
            f"{ours_s / by_hand_s:>7.2f}{max(one.load):>6.1f}"
        )
        if one.amount:
            line += f"  {one.amount / ours_s:.2f} and {one.amount / by_hand_s:.2f} {one.unit}/s"
        yield line
    yield "(medians; each by ai-how and by hand in turn)"


def render_watched(watched: dict[str, Watched]) -> Iterator[str]:
    """A line for each size."""
    yield ""
    head = f"{'collector %':>12}{'RSS MiB':>9}{'PSS MiB':>9}{'MiB/day':>9}"
    yield f"{'idle cluster':<14}{head}{'guests %':>10}{'with it %':>11}{'load':>6}"
    for size, one in watched.items():
        yield (
            f"{size:<14}{one.collector_percent:>12.2f}{one.rss_mib:>9.1f}{one.pss_mib:>9.1f}"
            f"{one.database_mib_a_day:>9.2f}{one.guests_percent_without:>10.1f}"
            f"{one.guests_percent_with:>11.1f}{one.load:>6.1f}"
        )
    yield "(percent of one processor; guests: all QEMUs together)"


def render_peers(results: Results) -> Iterator[str]:
    """Who, until ssh answers on three machines; ours first, where it was measured.

    Ours is ready when a SLURM job has run on every node, which the others do not come to.
    """
    yield ""
    yield f"{'who':<17}{'version':<22}{'ssh s':>7}{'ready s':>9}  what was measured; note"
    commit = results.machine.get("commit", "-")
    for title, runs in results.runs.items():
        ssh_s = median_ssh_s(results.runs.get(f"{title}{AND_SSH}", []))
        if ssh_s is not None:
            ready_s = statistics.median(run.wall_s for run in runs)
            yield f"{'ai-how':<17}{commit:<22}{ssh_s:>7.1f}{ready_s:>9.1f}  {title}"
    for peer in results.peers:
        said = "; ".join(part for part in (peer.what, peer.note) if part)
        yield f"{peer.name:<17}{peer.version:<22}{seconds(peer.ssh_s):>7}{'-':>9}  {said}"


def seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
