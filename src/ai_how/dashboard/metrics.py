"""`/metrics`: what is seen of clusters, as Prometheus text 0.0.4 or OpenMetrics 1.0 (pure).

What is not known has no series, and so has what a source said that is silent since.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.exposition import generate_latest as as_text
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST as OPENMETRICS
from prometheus_client.openmetrics.exposition import generate_latest as as_openmetrics

from ai_how import __version__
from ai_how.dashboard.metrics_libvirt import add_libvirt
from ai_how.dashboard.metrics_own import NodeStart, add_own
from ai_how.dashboard.metrics_page import Page, Series
from ai_how.dashboard.metrics_slurm import add_slurm
from ai_how.monitoring.model import Snapshot

TEXT = CONTENT_TYPE_PLAIN_0_0_4
SILENT_TIMES = 3
"""A source that has missed so many answers is silent: what it said is not shown any more."""
SILENT_S = 30.0
"""But not before: an answer may be late."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What is shown of one cluster."""

    snapshot: Snapshot
    starts: tuple[NodeStart, ...] = ()
    """How the nodes last came up."""
    heals: Mapping[str, int] | None = None
    """How often `check --heal` acted, by what it mended it on; None: not known."""
    own_cost: Mapping[str, float] = field(default_factory=dict)
    """Of the collector: `cpu_s`, `memory_bytes`, `database_bytes`."""


def wants_openmetrics(accept: str) -> bool:
    """Whether an Accept header prefers OpenMetrics to Prometheus text, which is the default."""
    wanted = {"application/openmetrics-text": 0.0, "text/plain": 0.0}
    for one in accept.lower().split(","):
        name, *parameters = (part.strip() for part in one.split(";"))
        if name in wanted:
            wanted[name] = max(wanted[name], _weight(parameters))
    openmetrics, text = wanted.values()
    return openmetrics > 0 and openmetrics >= text


def _weight(parameters: Sequence[str]) -> float:
    told = next((one[2:] for one in parameters if one.startswith("q=")), "1")
    try:
        return min(max(float(told), 0.0), 1.0)
    except ValueError:
        return 0.0


def render_metrics(seen: Sequence[Seen], *, now: float, accept: str = "") -> tuple[bytes, str]:
    """The page and its content type. `now` decides which sources are silent."""
    page = make_page(seen, now=now)
    if wants_openmetrics(accept):
        return as_openmetrics(page), OPENMETRICS  # type: ignore[arg-type, no-untyped-call, unused-ignore]
    return as_text(page), TEXT  # type: ignore[arg-type, unused-ignore]


def make_page(seen: Sequence[Seen], *, now: float) -> Page:
    page = Page()
    whole = Series(page, {})
    whole.gauge(
        "ai_how_build_info", "The version of ai-how that serves this page.", 1, version=__version__
    )
    for one in seen:
        _add_cluster(Series(page, {"cluster": one.snapshot.cluster}), one, now)
    whole.gauge(
        "ai_how_metrics_series_left_out",
        "Series that were left out of this page, since it would be too large.",
        page.left_out,
    )
    return page


def _add_cluster(series: Series, seen: Seen, now: float) -> None:
    snapshot = seen.snapshot
    fresh = Fresh(snapshot, now)
    add_own(series, snapshot, fresh, starts=seen.starts, heals=seen.heals, own_cost=seen.own_cost)
    if fresh("libvirt"):
        for node in snapshot.nodes:
            if node.vm is not None:
                labels = {"node": node.name, "domain": node.vm.domain, "uuid": node.vm.uuid}
                add_libvirt(series.of(**labels), node.vm, has_disks=fresh("disks"))
    series.flag(
        "libvirt_up", "Whether scraping libvirt's metrics was successful.", fresh("libvirt")
    )
    if snapshot.slurm is not None and fresh("slurm"):
        add_slurm(series, snapshot.slurm)


@dataclass(frozen=True, slots=True)
class Fresh:
    """Says of a source whether what it said last still holds."""

    snapshot: Snapshot
    now: float

    def __call__(self, name: str) -> bool:
        """A source that is not listed is as old as the snapshot."""
        source = self.snapshot.find_source(name)
        at = self.snapshot.at if source is None else source.at
        every_s = source.every_s if source else SILENT_S / SILENT_TIMES
        return at is not None and self.now - at <= max(SILENT_TIMES * every_s, SILENT_S)
