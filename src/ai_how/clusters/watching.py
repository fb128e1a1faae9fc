"""Whether and how a cluster is watched, by its file; and what its verbs do about that."""

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from ai_how.clusters.collecting import (
    Order,
    allow_collector,
    end_collector,
    find_collector,
    start_collector,
)
from ai_how.errors import AiHowError, HostError

if TYPE_CHECKING:
    from ai_how.clusters.kind import ClusterKind
    from ai_how.clusters.known_cluster import KnownCluster
    from ai_how.spec.models import MonitoringSpec
    from ai_how.state.paths import ClusterPaths


def order_of(
    cluster: "KnownCluster", settings: "MonitoringSpec", *, stays: bool = False, begun_by: str = ""
) -> Order:
    """How the collector of a cluster is started. Raises HostError if its kind has none."""
    if not cluster.kind.collector:
        raise HostError(f"clusters of the kind {cluster.kind.name} are not watched")
    return Order(
        program=("-I", "-m", cluster.kind.collector),
        roots=cluster.roots,
        name=cluster.name,
        stays=stays,
        keep_days=settings.keep_days,
        begun_by=begun_by,
    )


def settings_of(kind: "ClusterKind", paths: "ClusterPaths") -> "MonitoringSpec":
    """What the file of the last start says; the defaults if that cannot be read any more."""
    from ai_how.spec.models import MonitoringSpec  # noqa: PLC0415  seldom needed
    from ai_how.spec.reader import read_spec  # noqa: PLC0415  as above

    try:
        return kind.section_of(read_spec(paths.spec, os.environ, copied_from=paths.root)).monitoring
    except AiHowError:
        return MonitoringSpec.model_construct()


def watch_from_start(
    cluster: "KnownCluster",
    settings: "MonitoringSpec",
    *,
    is_begun: bool,
    warn: Callable[[str], None],
) -> None:
    """After a start, have a collector if the file says so. One that fails is a warning.

    `is_begun` says whether the start changed anything: then it is an event.
    """
    if not cluster.kind.collector:
        return
    try:
        allow_collector(cluster.paths)
        if settings.enabled or find_collector(cluster.paths):
            begun_by = "start" if is_begun else ""
            start_collector(
                order_of(cluster, settings, stays=settings.enabled, begun_by=begun_by),
                is_setting=True,
            )
    except (AiHowError, OSError) as error:
        why = error.brief if isinstance(error, AiHowError) else str(error)
        warn(f"{cluster.name} is up, but it is not watched: {why}")


def unwatch(paths: "ClusterPaths", why: str, warn: Callable[[str], None]) -> None:
    """Before a stop or destroy: end the collector. One that does not end is a warning."""
    try:
        end_collector(paths, why)
    except (AiHowError, OSError) as error:
        warn(error.brief if isinstance(error, AiHowError) else str(error))
