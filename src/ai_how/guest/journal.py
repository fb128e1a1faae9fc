"""The journal of a node: what journalctl is asked for, and the entries that it prints as JSON."""

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from ai_how.guest.agent import GuestAgent
from ai_how.waiting import Deadline

LOG_S = 60.0
# This fits into one answer of a guest agent, in base64 and with the rest of the answer.
JOURNAL_BYTES = 512 * 1024
# A longer line of a guest is no entry; it must not fill our memory.
LONGEST_ENTRY = 8 << 20
_BOOT_ID = "/proc/sys/kernel/random/boot_id"
_CUT = 'set -o pipefail; limit=$1; shift; journalctl "$@" | tail -c "$limit"'
_FIELDS = "MESSAGE,SYSLOG_IDENTIFIER,_COMM,_PID,SYSLOG_PID,PRIORITY,_SYSTEMD_UNIT,UNIT"
_BEGINNING = datetime.fromtimestamp(0, UTC)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked for of the journal of each node."""

    lines: int | None = None
    """The last ones; None for all."""
    since: datetime | None = None
    units: Sequence[str] = ()
    boot: int | None = None
    """0 is the current one, -1 the previous; None for all."""

    @property
    def comes_reversed(self) -> bool:
        """Whether journalctl prints the entries from the last to the first.

        From a time on, older ones (252) take `--lines` as the first lines, unless they do.
        """
        return self.since is not None and self.lines is not None


@dataclass(frozen=True, slots=True)
class LogEntry:
    """An entry of a journal, or a line of a serial log, which has its node and message alone.

    All of it is the guest's word, with whatever control characters it has.
    """

    node: str
    message: str
    time: datetime | None = None
    identifier: str | None = None
    pid: int | None = None
    unit: str | None = None
    priority: int | None = None
    """As of syslog: 0 is an emergency, 3 an error, 7 for debugging."""
    cursor: str | None = None
    """Its place in the journal, for journalctl."""


def journal_words(*options: str) -> tuple[str, ...]:
    """The command that prints the end of a journal, limited in bytes."""
    shell = ("/bin/busybox", "sh", "-c", _CUT, "journal")
    return (*shell, str(JOURNAL_BYTES), "--no-pager", *options)


def entry_words(
    wanted: Wanted, *, boot: str | None = None, cursor: str | None = None, follows: bool = False
) -> list[bytes]:
    """The command that prints the entries of a journal; with a `cursor`, those from there on.

    `boot` is as journalctl takes it. If it `follows`, it prints new ones until it is ended.
    """
    words = ["journalctl", "--quiet", "--no-pager", "--all", "--output=json"]
    words += [f"--output-fields={_FIELDS}", *(f"--unit={one}" for one in wanted.units)]
    if boot is not None:
        words.append(f"--boot={boot}")
    if cursor:
        words.append(f"--cursor={cursor}")
    elif wanted.since:
        words.append(f"--since=@{max(0, int(wanted.since.timestamp()))}")
    if follows:
        words += ["--follow", "--no-tail"]
    elif wanted.lines is not None:
        words.append(f"--lines={wanted.lines}")
        words += ["--reverse"] if wanted.comes_reversed else []
    return [word.encode("utf-8", "surrogateescape") for word in words]


class EntryReader:
    """Parses the output of `entry_words`, which comes in pieces."""

    def __init__(self, node: str) -> None:
        self._node = node
        self._left = bytearray()
        self._time = _BEGINNING

    def feed(self, data: bytes) -> Iterator[LogEntry]:
        """The entries that are complete now; a line that is none is the message of one."""
        self._left += data
        *lines, rest = self._left.split(b"\n")
        if len(rest) > LONGEST_ENTRY:
            lines, rest = [*lines, rest], bytearray()
        self._left = rest
        for line in lines:
            if line:
                yield self._read(line)

    def _read(self, line: bytearray) -> LogEntry:
        fields: Any = None
        with suppress(ValueError, RecursionError):
            fields = json.loads(line)
        if not isinstance(fields, dict):
            return LogEntry(self._node, line.decode("utf-8", "replace"), self._time)
        with suppress(OverflowError):
            time_us = _number(fields.get("__REALTIME_TIMESTAMP"))
            self._time = _BEGINNING + timedelta(microseconds=time_us) if time_us else self._time
        return LogEntry(
            node=self._node,
            message=_text(fields.get("MESSAGE")),
            time=self._time,
            identifier=_text(fields.get("SYSLOG_IDENTIFIER") or fields.get("_COMM")) or None,
            pid=_number(fields.get("_PID") or fields.get("SYSLOG_PID")),
            unit=_text(_unit_of(fields)) or None,
            priority=_number(fields.get("PRIORITY")),
            cursor=_text(fields.get("__CURSOR")) or None,
        )


def _unit_of(fields: dict[str, Any]) -> object:
    """The unit of an entry; of what systemd says of a unit, that one, as `--unit` has it."""
    own = fields.get("UNIT") if str(fields.get("_PID")) == "1" else None
    return own or fields.get("_SYSTEMD_UNIT")


def find_boot(agent: GuestAgent, boot: int) -> str:
    """The boot at that offset from the current one, as journalctl's `--boot` takes it.

    Ordered by the start of each boot. journalctl itself orders by the end, which selects another
    boot after a clock was set back (seen with systemd 257).
    """
    deadline = Deadline.after(LOG_S)
    running = agent.run(("/bin/cat", _BOOT_ID), deadline).output.strip().replace("-", "")
    listed = agent.run(("/usr/bin/journalctl", "--list-boots", "-o", "json"), deadline).output
    # If there is no such boot, or no JSON output, journalctl decides.
    with suppress(ValueError, KeyError, TypeError, IndexError):
        boots = sorted(json.loads(listed), key=lambda one: int(one["first_entry"]))
        ids = [str(one["boot_id"]) for one in boots]
        ids.remove(running)
        return ids[boot]
    return str(boot)


def _text(value: object) -> str:
    """The text of a field: bytes that are no text are a list, and so are several values."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        return ""
    with suppress(ValueError, TypeError):
        return bytes(value).decode("utf-8", "replace")
    return "\n".join(filter(None, map(_text, value)))


def _number(value: object) -> int | None:
    """The number of a field, if it is one that a journal has."""
    text = _text(value)
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else None  # noqa: PLR2004
