"""A report of use as one HTML page that needs nothing else: no script, no request, print-ready."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from ai_how.monitoring.usage import HOUR_S, JobLine, Points, Usage, UsageReport

WIDTH, HEIGHT = 720.0, 160.0
"""Of a picture, in its own units."""
BUCKETS = 48
FEW_HOURS = 10
"""Below, hours have decimals."""
WAITS_S = (1, 10, 60, 600, 3600, 6 * 3600, 86400)
"""The upper ends of the classes of waiting times; the last class has none."""


@dataclass(frozen=True, slots=True)
class Bar:
    """A part of a picture."""

    x: float
    y: float
    width: float
    height: float
    kind: str
    """Its CSS class."""
    text: str
    """What it says when it is pointed at, and to a screen reader."""


@dataclass(frozen=True, slots=True)
class Tick:
    """A label at the foot of a picture."""

    x: float
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Pictures:
    """All pictures of the page."""

    cpus: tuple[str, ...]
    """Outlines of the areas of CPUs that there were; a gap begins a new one."""
    allotted: tuple[str, ...]
    most_cpus: float
    times: tuple[Tick, ...]
    ends: tuple[Bar, ...]
    most_ends: int
    waits: tuple[Bar, ...]
    wait_names: tuple[Tick, ...]


def render_page(report: UsageReport) -> str:
    """The page, in UTF-8 when it is written."""
    from jinja2 import Environment, PackageLoader, StrictUndefined  # noqa: PLC0415  only it needs it

    loader = PackageLoader("ai_how.monitoring", "templates")
    world = Environment(loader=loader, autoescape=True, undefined=StrictUndefined)
    world.filters |= {
        "percent": percent,
        "hours": hours,
        "span": span,
        "time": _time,
        "ended": describe_ends,
        "how": describe_end,
    }
    return world.get_template("report.html.j2").render(
        report=report, pictures=_draw(report), width=WIDTH, height=HEIGHT
    )


def percent(share: float | None) -> str:
    """A share for people."""
    return "?" if share is None else f"{100 * share:.0f} %"


def hours(value: float | None) -> str:
    """Hours of CPUs for people."""
    if value is None:
        return "?"
    return f"{value:.2f}" if value < FEW_HOURS else f"{value:,.0f}"


def span(seconds: float | None) -> str:
    """A duration for people, in two units at most."""
    if seconds is None:
        return "-"
    for size, name, next_size, next_name in (
        (86400, "d", 3600, "h"),
        (3600, "h", 60, "min"),
        (60, "min", 1, "s"),
    ):
        if seconds >= size:
            rest = int(seconds % size // next_size)
            return f"{int(seconds // size)} {name}" + (f" {rest} {next_name}" if rest else "")
    return f"{seconds:.0f} s"


def describe_ends(usage: Usage) -> str:
    """How many jobs ended in which way."""
    return ", ".join(f"{count} {state.replace('_', ' ')}" for state, count in usage.ended.items())


def describe_end(line: JobLine) -> str:
    """Why a job failed, in SLURM's words and with its exit code."""
    parts = [line.state.replace("_", " ")]
    if line.state == "out_of_memory":
        return parts[0]  # SLURM gives such a job the signal 125, which does not exist
    if line.signal:
        parts.append(f"signal {line.signal}")
    elif line.exit_code:
        parts.append(f"exit code {line.exit_code}")
    if line.reason and line.reason.lower() not in {"none", "nonzeroexitcode"}:
        parts.append(line.reason)
    return ", ".join(parts)


def _time(at: float | None) -> str:
    return "-" if at is None else f"{datetime.fromtimestamp(at).astimezone():%Y-%m-%d %H:%M}"


def _draw(report: UsageReport) -> Pictures:
    most_cpus = max((value or 0 for _, value in (*report.cpus, *report.allotted)), default=0) or 1
    ends, most_ends = _bars_of_ends(report)
    waits = _bars_of_waits(report.waits_s)
    return Pictures(
        cpus=tuple(_areas(report.cpus, report, most_cpus)),
        allotted=tuple(_areas(report.allotted, report, most_cpus)),
        most_cpus=most_cpus,
        times=tuple(_times(report)),
        ends=tuple(ends),
        most_ends=most_ends,
        waits=tuple(waits),
        wait_names=tuple(_wait_names()),
    )


def _x_of(at: float, report: UsageReport) -> float:
    length = max(report.until - report.since, 1.0)
    return WIDTH * min(1.0, max(0.0, (at - report.since) / length))


def _areas(points: Points, report: UsageReport, most: float) -> Iterable[str]:
    """The outlines, from the ground up and back to it."""
    run: list[tuple[float, float]] = []
    step_s = points[1][0] - points[0][0] if len(points) > 1 else 0.0
    for at, value in (*points, (report.until, None)):
        if value is not None:
            run += [
                (_x_of(at, report), HEIGHT * (1 - value / most)),
                (_x_of(at + step_s, report), HEIGHT * (1 - value / most)),
            ]
        elif run:
            outline = [(run[0][0], HEIGHT), *run, (run[-1][0], HEIGHT)]
            yield " ".join(f"{x:.1f},{y:.1f}" for x, y in outline)
            run = []


def _times(report: UsageReport, count: int = 6) -> Iterable[Tick]:
    length = report.until - report.since
    form = "%H:%M" if length <= 36 * HOUR_S else "%b %d"
    for number in range(count):
        at = report.since + length * number / count
        yield Tick(_x_of(at, report), f"{datetime.fromtimestamp(at).astimezone():{form}}")


def _bars_of_ends(report: UsageReport) -> tuple[list[Bar], int]:
    """How many jobs ended when and how, stacked."""
    length = max(report.until - report.since, 1.0)
    counts: list[dict[str, int]] = [{} for _ in range(BUCKETS)]
    for state, times in report.ended_at.items():
        for at in times:
            bucket = counts[min(BUCKETS - 1, int((at - report.since) / length * BUCKETS))]
            bucket[state] = bucket.get(state, 0) + 1
    most = max((sum(one.values()) for one in counts), default=0) or 1
    bars, width = [], WIDTH / BUCKETS
    for place, bucket in enumerate(counts):
        top = HEIGHT
        for state, count in bucket.items():
            height = HEIGHT * count / most
            top -= height
            begins = _time(report.since + length * place / BUCKETS)
            text = f"{begins}: {count} {state.replace('_', ' ')}"
            bars.append(Bar(width * place, top, width * 0.9, height, _kind(state), text))
    return bars, most


def _kind(state: str) -> str:
    return {"completed": "good", "cancelled": "ended"}.get(state, "bad")


def _bars_of_waits(waits_s: Sequence[float]) -> list[Bar]:
    counts = [0] * (len(WAITS_S) + 1)
    for wait in waits_s:
        counts[sum(wait >= end for end in WAITS_S)] += 1
    most, width = max(counts) or 1, WIDTH / len(counts)
    names = [tick.text for tick in _wait_names()]
    return [
        Bar(
            width * place,
            HEIGHT * (1 - count / most),
            width * 0.9,
            HEIGHT * count / most,
            "waited",
            f"{names[place]}: {count} jobs",
        )
        for place, count in enumerate(counts)
    ]


def _wait_names() -> list[Tick]:
    width = WIDTH / (len(WAITS_S) + 1)
    names = [f"< {span(end)}" for end in WAITS_S] + [f"≥ {span(WAITS_S[-1])}"]
    return [Tick(width * place, name) for place, name in enumerate(names)]
