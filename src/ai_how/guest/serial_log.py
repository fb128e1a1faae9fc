"""The serial output of nodes since a run began: the logs keep every boot."""

import os
import re
import shlex
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from ai_how.errors import HostError
from ai_how.state.models import ClusterState
from ai_how.state.paths import ClusterPaths, ensure_private_directory

TAIL_BYTES = 256 * 1024


def mark_consoles(paths: ClusterPaths, state: ClusterState) -> Mapping[str, int]:
    """The current end of each node's log: everything before it is from other runs."""
    ends = {}
    for node in state.nodes:
        try:
            ends[node.name] = paths.console_log(node.name).stat().st_size
        except OSError:
            ends[node.name] = 0
    return ends


def prepare_log(paths: ClusterPaths, node: str) -> None:
    """Create the serial log of a node that is off, so that virtlogd uses our file.

    A file that virtlogd itself created belongs to root on the system's libvirt; it is kept beside
    it.
    """
    log = paths.console_log(node)
    ensure_private_directory(log.parent)
    with suppress(FileNotFoundError):
        seen = log.lstat()
        if seen.st_uid == os.geteuid() and stat.S_ISREG(seen.st_mode):
            return
        log.rename(turned_over(log))
    log.touch(mode=0o600)


def turned_over(log: Path) -> Path:
    """The file to which virtlogd rotates a log that grew too large."""
    return log.with_name(f"{log.name}.0")


def read_console(log: Path, begin: int) -> str:
    """The end of a node's output from `begin` on. Raises OSError if it cannot be read."""
    with log.open("rb") as file:
        size = file.seek(0, 2)
        # A log that is shorter now was rotated by virtlogd.
        begin = 0 if begin > size else begin
        file.seek(max(begin, size - TAIL_BYTES))
        return file.read(TAIL_BYTES).decode("utf-8", "replace").replace("\r\n", "\n")


class SerialTail:
    """The lines of a serial log that have been added, also where its file is begun anew."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._file: BinaryIO | None = None
        self._left = b""

    def close(self) -> None:
        if self._file:
            self._file.close()
        self._file = None

    def read(self) -> list[str]:
        """The new lines; none if there is no file. Raises HostError if only root can read it."""
        found: list[str] = []
        if self._file:
            found = self._lines(self._file.read())
            if not self._was_replaced(self._file):
                return found
            found += self.rest()
            self.close()
        try:
            self._file = self._log.open("rb")
        except FileNotFoundError:
            return found
        except PermissionError as error:
            raise HostError(
                f"only root can read {self._log}",
                hint=f"sudo tail -n 200 {shlex.quote(str(self._log))}",
            ) from error
        return found + self._lines(self._file.read())

    def rest(self) -> list[str]:
        """What comes after the last line: a prompt, or a line that is being written."""
        left, self._left = self._left, b""
        return [_decoded(left)] if left else []

    def _lines(self, data: bytes) -> list[str]:
        *lines, self._left = (self._left + data).split(b"\n")
        return [_decoded(line) for line in lines]

    def _was_replaced(self, file: BinaryIO) -> bool:
        """Whether the log is another file by now, or was cut short."""
        try:
            there = self._log.stat()
        except FileNotFoundError:
            return False  # it is between two files
        return not os.path.samestat(there, os.fstat(file.fileno())) or there.st_size < file.tell()


def _decoded(line: bytes) -> str:
    return line.decode("utf-8", "replace").rstrip("\r")


def without_controls(text: str) -> str:
    """The text of a guest without control characters, besides tabs and line breaks."""
    return _ESCAPES.sub("", text)


LINE_LENGTH = 200
_PANIC = re.compile(r"Kernel panic - not syncing: ([^\n]+)")
_NO_ROOT = re.compile(r"ai-how: no root disk: ([^\n]+)")
_EMERGENCY = re.compile(r"You are in (emergency|rescue) mode")
_ESCAPES = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # colours, the cursor
    r"|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?"  # titles, palettes
    r"|\x1b[0-~]|[\x00-\x08\x0b-\x1f\x7f-\x9f]"
)


def find_console_cause(text: str) -> str | None:
    """Why a guest with this serial output will never come up; None if it still may."""
    for look in (find_deadlock, find_panic, find_lost_root, find_emergency):
        if found := look(text):
            return found
    return None


def one_line(text: str) -> str:
    """A line of a guest, safe to show and to write: JSON can have halves of characters."""
    whole = text.encode("utf-8", "replace").decode()
    plain = " ".join(without_controls(whole).split())
    return plain if len(plain) <= LINE_LENGTH else f"{plain[: LINE_LENGTH - 1]}…"


def find_panic(console: str) -> str | None:
    """The panic of the guest's kernel. None where there is no such line."""
    found = _PANIC.search(console)
    return f"kernel panic: {one_line(found[1].removesuffix(' ]---'))}" if found else None


def find_deadlock(console: str) -> str | None:
    """A panic for want of memory. None where there is no such line."""
    found = _PANIC.search(console)
    is_memory = found and re.search(r"memory|out of mem", found[1], re.IGNORECASE)
    return f"it ran out of memory: {one_line(found[1])}" if found and is_memory else None


def find_lost_root(console: str) -> str | None:
    """That the initrd found no root disk. None where there is no such line."""
    found = _NO_ROOT.search(console)
    return f"its root disk was not found ({one_line(found[1])})" if found else None


def find_emergency(console: str) -> str | None:
    """That systemd gave up. None where there is no such line."""
    found = _EMERGENCY.search(console)
    return f"its systemd gave up and is in {found[1]} mode" if found else None


# The kernel says the first, unless it is told to be quiet; our own images say the second.
_BOOTS = re.compile(rb"\] Linux version |ai-how: the guest agent starts")


def find_boot(log: Path) -> int:
    """Where the output of the last boot begins, in bytes; where that is not known, all is of it."""
    try:
        with log.open("rb") as file:
            begin = max(0, file.seek(0, 2) - TAIL_BYTES)
            file.seek(begin)
            found = [one.start() for one in _BOOTS.finditer(file.read(TAIL_BYTES))]
    except OSError:
        return 0
    return begin + found[-1] if found else begin
