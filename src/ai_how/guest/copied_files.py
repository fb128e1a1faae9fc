"""Copies files to a program in a guest, and back; nothing here is overwritten that changed here."""

import errno
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from ai_how.errors import GuestError
from ai_how.guest.frames import CHUNK_BYTES, Link, LinkLostError
from ai_how.guest.own_files import (
    DIRECTORY,
    FILE,
    GIT,
    LINK,
    Entry,
    IgnoreRules,
    draft_name,
    look_at,
)

Change = tuple[Entry, Entry | None]
"""A file of the guest as it is, and as it was when the job was submitted."""

ABSENT = "n"
"""The frame in the place of the content of a file that is gone."""
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


def send_files(link: Link, top: Path, entries: Mapping[str, Entry]) -> list[str]:
    """Tell the guest what is here, and send what it wants; return the names that were sent.

    What was removed meanwhile, or replaced by a link, counts as never been there. Raises
    LinkLostError with what the guest said instead of what it wants.
    """
    link.send_json("m", entries)
    kind, content = link.receive()
    if kind != "w":
        error = LinkLostError("the files cannot be copied")
        error.last = kind, content
        raise error
    wanted, sent = json.loads(content), []
    for name in wanted:
        if entries.get(name, [""])[0] != FILE:
            raise GuestError("the guest asks for a file that it was not offered", details=name)
        try:
            number = os.open(top / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            if error.errno not in _GONE:
                raise
            link.send(ABSENT)
            continue
        send_content(link, number)
        sent.append(name)
    return sent


def send_content(link: Link, number: int) -> None:
    """Send all that can be read from a descriptor, and close it."""
    try:
        while part := os.read(number, CHUNK_BYTES):
            link.send("c", part)
    finally:
        os.close(number)
    link.send("c")


@dataclass(slots=True)
class TakenBack:
    """What became of the files that a job made or changed."""

    received: list[str] = field(default_factory=list)
    beside: dict[str, str] = field(default_factory=dict)
    """Files that changed here as well: what the job made of each has the second name."""
    ignored: list[str] = field(default_factory=list)
    """Ignored ones, which stay in the guest."""
    refused: list[str] = field(default_factory=list)
    """Links that lead out of the directory, and files that lie behind a link here."""


def take_back(
    link: Link, top: Path, changes: Mapping[str, Change], rules: IgnoreRules, *, suffix: str
) -> TakenBack:
    """Write the files of a guest that changed there, each as a whole or not at all.

    One that also changed here keeps its name, and the guest's gets the `suffix`.
    """
    done, wanted = TakenBack(), {}
    for name, (seen, before) in sorted(changes.items()):
        if not _is_name(name):
            raise GuestError("the guest sent a name that leads out of the directory", details=name)
        is_directory = seen[0] == DIRECTORY
        if rules.is_ignored(name, is_directory=is_directory):
            done.ignored.append(name)
        elif not _is_plain(top, name) or _leads_out(name, seen):
            done.refused.append(name)
        elif seen[0] in (DIRECTORY, FILE, LINK) and (here := look_at(top / name)) != seen:
            target = name if here in (None, before) else f"{name}{suffix}"
            if is_directory:
                _make_directory(top / target)
            else:
                wanted[name] = target
            if target != name:
                done.beside[name] = target
    files = [name for name in wanted if changes[name][0][0] == FILE]
    link.send_json("g", files)
    for name in files:
        if not _take_file(link, top / wanted[name], changes[name][0]):
            done.beside.pop(name, None)
            del wanted[name]
    for name in set(wanted) - set(files):
        with _draft_of(top / wanted[name]) as draft:
            draft.symlink_to(str(changes[name][0][1]))
    done.received = [name for name in wanted if name not in done.beside]
    return done


def _take_file(link: Link, target: Path, entry: Entry) -> bool:
    """Write what the guest sends; False if the file was removed there meanwhile."""
    _, mode, _, time_ns = entry
    kind, part = link.receive()
    if kind == ABSENT:
        return False
    with _draft_of(target) as draft:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(draft, flags, 0o600), "wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            while True:
                if kind != "c":
                    raise GuestError(
                        f"{target.name} could not be read in the guest",
                        details=part.decode(errors="replace"),
                    )
                if not part:
                    break
                file.write(part)
                kind, part = link.receive()
            file.flush()
            os.fchmod(file.fileno(), int(mode) & 0o777)
            os.utime(file.fileno(), ns=(int(time_ns), int(time_ns)))
    return True


@contextmanager
def _draft_of(target: Path) -> Iterator[Path]:
    """A name beside `target`, which takes its place at the end, unless that fails.

    A file is locked as long as it is written: else it is of a run that was killed. The error of a
    file operation is about `target`.
    """
    draft = target.with_name(draft_name())
    try:
        target.parent.mkdir(parents=True, exist_ok=True)  # it may have been removed here
        draft.unlink(missing_ok=True)
        try:
            yield draft
            draft.replace(target)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(target)) from error


def _make_directory(target: Path) -> None:
    if target.is_symlink() or target.is_file():
        target.unlink()
    target.mkdir(parents=True, exist_ok=True)


def _is_name(name: str) -> bool:
    parts = name.split("/")
    return not ({"", ".", "..", GIT} & set(parts)) and "\0" not in name


def _is_plain(top: Path, name: str) -> bool:
    """Whether all that is above a file here is a directory, or not there yet."""
    above = [parent for parent in PurePosixPath(name).parents if parent.name]
    return all(look_at(top / parent) in ([DIRECTORY], None) for parent in above)


def _leads_out(name: str, entry: Entry) -> bool:
    """Whether an entry is a link to something outside of the directory."""
    if entry[0] != LINK:
        return False
    target = str(entry[1])
    way = os.path.normpath(os.path.join(os.path.dirname(name), target))  # noqa: PTH118, PTH120
    return target.startswith("/") or way == ".." or way.startswith("../")
