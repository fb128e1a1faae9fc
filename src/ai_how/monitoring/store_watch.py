"""Whether a collector can write what it sees: a finding about itself."""

import shlex
from dataclasses import replace
from pathlib import Path

from ai_how.clusters.diagnosis.catalogue import HostCause, Severity
from ai_how.monitoring.model import Finding, Snapshot, SourceState

AFTER_S = 60.0


class StoreWatch:
    """Remembers since when the database of one cluster cannot be written."""

    def __init__(self, database: Path) -> None:
        self._database = database
        self._since: float | None = None

    def judge(self, seen: Snapshot, store: SourceState) -> Snapshot:
        """The snapshot, with a finding if that has been so for a while."""
        if store.trouble is None:
            self._since = None
            return seen
        self._since = seen.at if self._since is None else min(self._since, seen.at)
        if seen.at - self._since < AFTER_S:
            return seen
        finding = Finding(
            id=str(HostCause.SOURCE_SILENT),
            severity=str(Severity.WARNING),
            subject=store.name,
            text=f"what is seen of {seen.cluster} cannot be kept: it waits in memory",
            since=self._since,
            evidence=(store.trouble,),
            remedy=f"df -h {shlex.quote(str(self._database.parent))}",
        )
        return replace(seen, findings=(*seen.findings, finding))
