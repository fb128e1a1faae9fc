"""What is told of a collector: by itself, and of one that does not answer or run."""

from typing import TYPE_CHECKING, Any

from ai_how.errors import AiHowError
from ai_how.monitoring.asking import Connection
from ai_how.monitoring.store import size_of

if TYPE_CHECKING:
    from ai_how.clusters.collecting import Collector
    from ai_how.state.paths import ClusterPaths

PATIENCE_S = 5.0


def ask_status(paths: "ClusterPaths", there: "Collector | None") -> dict[str, Any]:
    """Its status; None for what is not known. Does not start one, and does not hang."""
    told: dict[str, Any] = {
        "cluster": paths.name,
        "pid": there.pid if there else None,
        "since": there.since if there else None,
        "version": there.version if there else None,
        "stays": None,
        "keep_days": None,
        "readers": None,
        "cpu_s": None,
        "memory_mib": None,
        "own_memory_mib": None,
        "history_bytes": size_of(paths.history),
        "newest_age_s": None,
        "sources": [],
        "trouble": None,
    }
    if there is None:
        return told
    try:
        line = Connection(paths.collector_socket, patience_s=PATIENCE_S)
        try:
            answer = line.ask({"ask": "status"})["status"]
        finally:
            line.close()
        return told | {name: answer[name] for name in told if name in answer}
    except AiHowError as error:
        return told | {"trouble": error.brief}
