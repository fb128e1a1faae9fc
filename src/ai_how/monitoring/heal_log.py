"""What was done to heal a cluster: a line before each act and one after, in its directory.

The bound on acts is counted from it, so that it holds over processes and kills.
"""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ai_how.state.files import replaced_atomically
from ai_how.state.lock import OPENED

MOST_ACTS, WITHIN_S = 3, 3600.0
"""An act is done so often for one id and subject within this time."""
LARGEST_BYTES = 256 << 10
KEPT_LINES = 500
BEGUN, DONE, FAILED = "begun", "done", "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class HealRecord:
    """A line: an act that begins, or how it ended."""

    at: float
    id: str
    subject: str
    what: str
    word: str
    """`begun`, `done` or `failed`. One that was killed has no end."""
    error: str = ""


class HealLog:
    """The log of one cluster. It is written by whoever holds the cluster's lock."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> list[HealRecord]:
        """All lines that are whole, the oldest first."""
        try:
            lines = self._path.read_bytes().split(b"\n")
        except OSError:
            return []
        return list(_records(lines))

    def recent(self, name: str, subject: str, now: float) -> int:
        """How often an act for this finding was begun lately.

        One of the future counts: the clock was set back since.
        """
        return sum(
            one.word == BEGUN
            and (one.id, one.subject) == (name, subject)
            and one.at > now - WITHIN_S
            for one in self.read()
        )

    def write(self, record: HealRecord) -> None:
        """Add a line durably. Raises OSError; then the act must not begin."""
        if self._path.exists() and self._path.stat().st_size > LARGEST_BYTES:
            kept = self.read()[-KEPT_LINES:]
            with replaced_atomically(self._path) as draft:
                draft.write_bytes(b"".join(map(_line, kept)))
        descriptor = os.open(self._path, OPENED | os.O_APPEND, 0o600)
        try:
            end = os.lseek(descriptor, 0, os.SEEK_END)
            # A line that a kill cut short must not swallow this one.
            torn = end > 0 and os.pread(descriptor, 1, end - 1) != b"\n"
            os.write(descriptor, (b"\n" if torn else b"") + _line(record))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _line(record: HealRecord) -> bytes:
    return json.dumps(asdict(record)).encode() + b"\n"


def _records(lines: Sequence[bytes]) -> Iterator[HealRecord]:
    for line in lines:
        try:
            told = json.loads(line)
            yield HealRecord(
                at=float(told["at"]),
                id=str(told["id"]),
                subject=str(told["subject"]),
                what=str(told["what"]),
                word=str(told["word"]),
                error=str(told.get("error", "")),
            )
        except (ValueError, KeyError, TypeError):
            continue
