"""What a loss of power may leave of a directory: replayed from the calls that filled it.

A file's content is durable from its own fsync on, and a name from the fsync of its directory; what
was not synced may be there or not, in any order, and a write may be there in part. A rename is
there or not. Nothing else is assumed of a file system, though most promise more.
"""

import itertools
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Generic, TypeVar

from file_calls import DONE, Call, trace

MARK = "/dev/null"
# Subsets of more loose operations than this are not all tried.
ALL_SUBSETS = 6

# They change no name and no content.
READS = frozenset({
    "access", "faccessat", "faccessat2", "readlink", "readlinkat", "getcwd", "getdents64",
    "stat", "lstat", "fstat", "newfstatat", "statx", "read", "ioctl", "fcntl", "flock",
    "chmod", "fchmod", "fchmodat",
})  # fmt: skip

Names = Mapping[str, int]
Image = dict[int, bytes | Names]
"""Every inode of a file system: what a file holds, or whom the names of a directory lead to."""


@dataclass(frozen=True, slots=True)
class Rename:
    """Names of a directory, changed at once: what they lead to now, or that they are no more."""

    inode: int
    names: Mapping[str, int | None]

    def apply(self, image: Image) -> None:
        known = dict(image[self.inode])
        for name, target in self.names.items():
            known.pop(name, None)
            if target is not None:
                known[name] = target
        image[self.inode] = known


@dataclass(frozen=True, slots=True)
class Write:
    """Bytes into a file."""

    inode: int
    offset: int
    data: bytes

    def apply(self, image: Image) -> None:
        old = bytes(image[self.inode]).ljust(self.offset, b"\0")
        image[self.inode] = old[: self.offset] + self.data + old[self.offset + len(self.data) :]

    def torn(self, tears: int) -> Iterator["Write"]:
        """At so many places: only its beginning, zeros behind that, or its end behind zeros."""
        size = len(self.data)
        places = {0, 1, size - 2, size - 1, *range(0, size, max(1, size // tears))}
        for cut in sorted(places & set(range(size))):
            yield replace(self, data=self.data[:cut])
            yield replace(self, data=self.data[:cut] + b"\0" * (size - cut))
            yield replace(self, data=b"\0" * cut + self.data[cut:])


@dataclass(frozen=True, slots=True)
class Resize:
    """A file cut, or made longer by zeros."""

    inode: int
    size: int

    def apply(self, image: Image) -> None:
        image[self.inode] = bytes(image[self.inode])[: self.size].ljust(self.size, b"\0")


@dataclass(frozen=True, slots=True)
class Sync:
    """What was done to this inode before is durable."""

    inode: int


@dataclass(frozen=True, slots=True)
class Mark:
    """The writer had come to a point where what it had done is promised to last."""


Change = Rename | Write | Resize
Operation = Change | Sync | Mark


def mark() -> None:
    """Say in the trace that all before is promised to last."""
    descriptor = os.open(MARK, os.O_WRONLY | os.O_CLOEXEC)
    os.write(descriptor, b"!")
    os.close(descriptor)


@dataclass
class Recording:
    """What a writer did below `root`: the image before, and every operation."""

    root: Path
    start: Image = field(default_factory=dict)
    operations: list[Operation] = field(default_factory=list)
    _now: Image = field(default_factory=dict)
    _open: dict[int, tuple[int, int, bool]] = field(default_factory=dict)
    """By descriptor: the inode, the offset, and whether it appends."""

    TOP = 0

    @classmethod
    def of(cls, writer: Callable[[], object], root: Path, logs: Path) -> "Recording":
        """Let a child write below `root`, which is as a real file system has it now."""
        recording = cls(root)
        recording._read(root, cls.TOP, {})
        recording._now = dict(recording.start)
        traced = trace(writer, logs)
        assert traced.code == DONE, traced.error
        for call in traced.calls:
            recording._note(call)
        return recording

    def _read(self, directory: Path, inode: int, known: dict[int, int]) -> None:
        names = {}
        for entry in sorted(directory.iterdir()):
            own = entry.lstat().st_ino
            if own not in known:
                known[own] = len(known) + 1
                if entry.is_dir():
                    self._read(entry, known[own], known)
                else:
                    self.start[known[own]] = entry.read_bytes()
            names[entry.name] = known[own]
        self.start[inode] = names

    def _do(self, operation: Change) -> None:
        self.operations.append(operation)
        operation.apply(self._now)

    def _note(self, call: Call) -> None:
        """ValueError for a call that changes something below `root` in a way not known here."""
        top = os.fsencode(self.root)
        if call.name == "write" and os.fsencode(MARK) in call.texts:
            self.operations.append(Mark())
            return
        concerned = [text for text in call.texts if text == top or text.startswith(top + b"/")]
        if not concerned or call.name in READS or (call.result is not None and call.result < 0):
            return
        act = getattr(self, f"_{call.name.removesuffix('2')}", None)
        if act is None:
            raise ValueError(f"not understood: {call.name}{call.texts}")
        act(call)

    def _place(self, path: bytes) -> tuple[int, str]:
        """The inode of a path's directory, and its name there."""
        parts = Path(os.fsdecode(path)).relative_to(self.root).parts
        inode = self.TOP
        for part in parts[:-1]:
            inode = self._now[inode][part]
        return inode, parts[-1] if parts else ""

    def _find(self, path: bytes) -> int | None:
        directory, name = self._place(path)
        return self._now[directory].get(name) if name else self.TOP

    def _paths(self, call: Call) -> list[bytes]:
        """The paths among the arguments, relative ones from the directory that is open there."""
        made, base = [], b""
        for argument in call.arguments:
            texts = replace(call, arguments=(argument,)).texts
            if not texts or not argument.startswith('"'):
                base = texts[0] if texts else base
            else:
                made.append(os.path.join(base, texts[0]))  # noqa: PTH118  bytes
        return made

    def _new(self, content: bytes | Names) -> int:
        inode = max(self._now) + 1
        self.start[inode] = self._now[inode] = content
        return inode

    def _openat(self, call: Call) -> None:
        [path] = self._paths(call)
        flags = next(one for one in call.arguments if one.startswith("O_")).split("|")
        inode = self._find(path)
        if inode is None:
            inode = self._new(b"")
            directory, name = self._place(path)
            self._do(Rename(directory, {name: inode}))
        elif "O_TRUNC" in flags and self._now[inode]:
            self._do(Resize(inode, 0))
        self._open[call.result] = (inode, 0, "O_APPEND" in flags)

    def _descriptor(self, call: Call) -> int:
        return int(call.arguments[0].partition("<")[0])

    def _write(self, call: Call) -> None:
        number = self._descriptor(call)
        inode, offset, appends = self._open[number]
        offset = len(self._now[inode]) if appends else offset
        data = call.texts[1][: call.result]
        assert len(data) == call.result, "the trace is cut"
        self._do(Write(inode, offset, data))
        self._open[number] = (inode, offset + len(data), appends)

    def _lseek(self, call: Call) -> None:
        number = self._descriptor(call)
        inode, _, appends = self._open[number]
        self._open[number] = (inode, call.result, appends)

    def _close(self, call: Call) -> None:
        self._open.pop(self._descriptor(call), None)

    def _fsync(self, call: Call) -> None:
        self.operations.append(Sync(self._open[self._descriptor(call)][0]))

    _fdatasync = _fsync

    def _ftruncate(self, call: Call) -> None:
        self._do(Resize(self._open[self._descriptor(call)][0], int(call.arguments[1])))

    def _mkdir(self, call: Call) -> None:
        directory, name = self._place(self._paths(call)[0])
        self._do(Rename(directory, {name: self._new({})}))

    def _link(self, call: Call) -> None:
        old, new = self._paths(call)
        directory, name = self._place(new)
        self._do(Rename(directory, {name: self._find(old)}))

    _linkat = _link

    def _unlink(self, call: Call) -> None:
        directory, name = self._place(self._paths(call)[0])
        self._do(Rename(directory, {name: None}))

    _unlinkat = _rmdir = _unlink

    def _rename(self, call: Call) -> None:
        """From one directory to another it is two changes, in any order, as far as we are told."""
        old, new = self._paths(call)
        (source, name), (directory, new_name) = self._place(old), self._place(new)
        target = self._find(old)
        if source == directory:
            self._do(Rename(directory, {name: None, new_name: target}))
        else:
            self._do(Rename(directory, {new_name: target}))
            self._do(Rename(source, {name: None}))

    _renameat = _rename


def left_by(operations: Sequence[Operation], tears: int) -> Iterator[list[Change]]:
    """What of these may be on disk when power is lost after the last: all, or some, or torn."""
    changes = [(at, one) for at, one in enumerate(operations) if isinstance(one, Change)]
    loose = [number for number, (at, one) in enumerate(changes) if not _is_synced(operations, at)]
    every = [one for _, one in changes]
    yield every
    few = len(loose) if len(loose) <= ALL_SUBSETS else 2
    dropped = [set(one) for n in range(few) for one in itertools.combinations(loose, n + 1)]
    dropped += [set(loose[at:]) for at in range(len(loose))] if few < len(loose) else []
    for missing in dropped:
        yield [one for number, one in enumerate(every) if number not in missing]
    for first, second in itertools.combinations(loose, 2):
        swapped = list(every)
        swapped[first], swapped[second] = every[second], every[first]
        yield swapped
        # The later one alone had come, when power was lost between the two.
        yield [one for number, one in enumerate(every) if number == second or number not in loose]
    for number in loose:
        if isinstance(write := every[number], Write):
            for torn in write.torn(tears):
                yield [*every[:number], torn, *every[number + 1 :]]
                kept = [torn if n == number else one for n, one in enumerate(every)]
                yield [one for n, one in enumerate(kept) if n == number or n not in loose]


def _is_synced(operations: Sequence[Operation], at: int) -> bool:
    inode = operations[at].inode
    return any(isinstance(one, Sync) and one.inode == inode for one in operations[at + 1 :])


Reading = TypeVar("Reading")


@dataclass
class Verdict(Generic[Reading]):
    """How many losses of power were replayed, and which of them a reader was not right after."""

    replays: int = 0
    images: int = 0
    violations: list[str] = field(default_factory=list)
    promised: list[Reading] = field(default_factory=list)
    """What the reader says at each mark, were there no loss of power."""


def replay(
    recording: Recording,
    read: Callable[[Path], Reading],
    is_right: Callable[[Reading, Reading], bool],
    scratch: Path,
    *,
    after: Callable[[Path], str | None] = lambda _directory: None,
    tears: int = 8,
) -> Verdict[Reading]:
    """Lose power after every operation in every way, and read what is left.

    Right is what the reader says of the last mark that was reached, or of the next one.
    `after` does with what is left what the next run would do, and tells what is wrong then.
    """
    verdict: Verdict[Reading] = Verdict()
    operations = recording.operations
    marks = [at for at, one in enumerate(operations) if isinstance(one, Mark)]
    for at in marks:
        changes = [one for one in operations[:at] if isinstance(one, Change)]
        verdict.promised.append(_read_after(recording, changes, read, scratch)[1])
    seen: dict[object, Reading | Exception] = {}
    for cut in range(marks[0], len(operations) + 1):
        reached = sum(at < cut for at in marks)
        wanted = verdict.promised[max(reached - 1, 0) : reached + 1]
        for changes in left_by(operations[:cut], tears):
            verdict.replays += 1
            key, found = _read_after(recording, changes, read, scratch, seen)
            if key not in seen:
                verdict.images += 1
                seen[key] = found
                if not isinstance(found, Exception) and (wrong := after(scratch)):
                    verdict.violations.append(f"after operation {cut}: {wrong}")
            if isinstance(found, Exception) or not any(is_right(found, one) for one in wanted):
                verdict.violations.append(f"after operation {cut}: {found!r:.300}")
    return verdict


def _read_after(
    recording: Recording,
    changes: Sequence[Change],
    read: Callable[[Path], Reading],
    scratch: Path,
    seen: Mapping[object, Reading | Exception] | None = None,
) -> tuple[object, Reading | Exception]:
    image = dict(recording.start)
    for change in changes:
        change.apply(image)
    key = tuple(_files(image, recording.TOP, ""))
    if seen is not None and key in seen:
        return key, seen[key]
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(mode=0o700)
    for path, content in key:
        if content is None:
            (scratch / path).mkdir(mode=0o700)
        else:
            (scratch / path).write_bytes(content)
    try:
        return key, read(scratch)
    # Whatever the reader fails with is what the harness looks for.
    except Exception as error:  # noqa: BLE001
        return key, error


def _files(image: Image, inode: int, path: str) -> Iterator[tuple[str, bytes | None]]:
    """Every path with its content, None for a directory; parents first."""
    for name, target in sorted(image[inode].items()):
        content = image[target]
        if isinstance(content, bytes):
            yield path + name, content
        else:
            yield path + name, None
            yield from _files(image, target, f"{path}{name}/")
