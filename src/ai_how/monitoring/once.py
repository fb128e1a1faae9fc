"""One look at a cluster from all sides, without a collector that runs."""

from typing import TYPE_CHECKING

from ai_how.monitoring.collector import Collector
from ai_how.monitoring.model import Snapshot
from ai_how.monitoring.watched import watched_of

if TYPE_CHECKING:  # its caller has one
    from ai_how.clusters.known_cluster import KnownCluster

WITHIN_S = 20.0
"""Emulated guests on a busy host take some seconds; others take less than two."""
GUEST_THREADS = 16


def look_once(cluster: "KnownCluster", *, within_s: float = WITHIN_S) -> Snapshot:
    """Ask all sources at the same time. A source that is late has a reason in `trouble`.

    Raises StateError if there is no such cluster, or its state is damaged.
    """
    cluster.get_state()
    collector = Collector(watched_of(cluster, is_single=True), guest_threads=GUEST_THREADS)
    try:
        return collector.once(within_s=within_s)
    finally:
        collector.close()
