"""Files in one tar that is compressed by zstd, in a fixed order, each with its digest.

The first file is the digest of the second one, which is the list of all others. So every byte is
known before it is used, and a reader takes nothing that the list does not name.
"""

import hashlib
import io
import os
import shlex
import stat
import tarfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ai_how.errors import HostError, ImageError
from ai_how.images.copying import Progress, full_disk, new_file
from ai_how.images.manifest import Sha256
from ai_how.process import dying_with_us, get_tool, start_piped

LIST_DIGEST, LIST = "list.sha256", "list.json"
_MAGIC = b"\x28\xb5\x2f\xfd"
_CHUNK_BYTES = 1 << 20
_MAX_LIST_BYTES = 1 << 20
_MAX_FILES = 1000
_LEVEL = "-3"
_DIGEST_BYTES = 65
END = bytes(2 * tarfile.BLOCKSIZE)
"""The end of a tar."""


class PackedFile(BaseModel):
    """A file of the list, as it is on disk."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9./_-]*$", max_length=99)]
    size: Annotated[int, Field(ge=0, lt=1 << 42)]
    """In bytes."""
    sha256: Sha256


class FileList(BaseModel):
    """The list of the files, in their order."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    kind: str
    files: Annotated[tuple[PackedFile, ...], Field(max_length=_MAX_FILES)]


def pack(
    target: Path,
    kind: str,
    files: Sequence[tuple[PackedFile, Path]],
    *,
    on_progress: Progress | None = None,
) -> None:
    """Write a new file with these files, whole or not at all; 0600.

    Raises HostError where something is there, or the file system refuses; ImageError where a file
    has not the size and the digest that were given.
    """
    total = sum(one.size for one, _ in files)
    text = FileList(kind=kind, files=tuple(one for one, _ in files)).model_dump_json().encode()
    digest = f"{hashlib.sha256(text).hexdigest()}\n".encode()
    with new_file(target, needed_bytes=total) as draft:
        with _compressed(draft, needed_bytes=total) as out:
            for name, content in ((LIST_DIGEST, digest), (LIST, text)):
                out.write(header(name, len(content)) + content + padding(len(content)))
            done = 0
            for one, path in files:
                _write(out, one, path)
                done += one.size
                if on_progress:
                    on_progress(done / total)
            out.write(END)
        draft.chmod(0o600)


def header(name: str, size: int) -> bytes:
    """The header of a file in a tar, of which only the name and the size vary."""
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o444
    return info.tobuf(tarfile.GNU_FORMAT)


@dataclass(slots=True)
class Unpacker:
    """Reads what `pack` has written, in one pass.

    Everything that is not exactly as `pack` writes it is refused: ImageError with the `hint`.
    """

    source: Path
    hint: str
    stream: IO[bytes]
    files: tuple[PackedFile, ...] = ()

    def read_list(self, kind: str) -> tuple[PackedFile, ...]:
        """The list, which comes first."""
        digest = self._small(LIST_DIGEST, most=_DIGEST_BYTES)
        text = self._small(LIST, most=_MAX_LIST_BYTES)
        if f"{hashlib.sha256(text).hexdigest()}\n".encode() != digest:
            raise self.refused(f"{LIST} is damaged")
        try:
            found = FileList.model_validate_json(text)
        except ValidationError as error:
            raise self.refused("its list of files is of another version of ai-how") from error
        names = [one.name for one in found.files]
        if found.kind != kind or len(set(names)) != len(names):
            raise self.refused(f"it is no {kind}")
        self.files = found.files
        return found.files

    def read(self, one: PackedFile, take: Callable[[bytes], object]) -> None:
        """Hand the next file over in pieces. Raises ImageError at its end if it is damaged.

        The files have to be read in the order of the list.
        """
        if self._exactly(tarfile.BLOCKSIZE) != header(one.name, one.size):
            raise self.refused(f"{one.name} is not where it belongs")
        digest, left = hashlib.sha256(), one.size
        while left:
            part = self._exactly(min(left, _CHUNK_BYTES))
            digest.update(part)
            take(part)
            left -= len(part)
        self._padded(one.name, one.size)
        if digest.hexdigest() != one.sha256:
            raise self.refused(f"{one.name} is damaged")

    def read_end(self) -> None:
        """Raises ImageError unless the file ends here."""
        if self.stream.read(len(END) + 1) != END:
            raise self.refused("there is something behind its end, or it ends too early")

    def refused(self, why: str) -> ImageError:
        return ImageError(f"{self.source} is refused: {why}", hint=self.hint)

    def _small(self, name: str, *, most: int) -> bytes:
        block = self._exactly(tarfile.BLOCKSIZE)
        try:
            size = tarfile.TarInfo.frombuf(block, "ascii", "strict").size
        except (tarfile.HeaderError, ValueError):
            size = -1
        if not 0 <= size <= most or block != header(name, size):
            raise self.refused("it is damaged, or not of ai-how")
        content = self._exactly(size)
        self._padded(name, size)
        return content

    def _padded(self, name: str, size: int) -> None:
        rest = padding(size)
        if self._exactly(len(rest)) != rest:
            raise self.refused(f"{name} is damaged")

    def _exactly(self, count: int) -> bytes:
        content = self.stream.read(count)
        if len(content) != count:
            raise self.refused("it ends too early")
        return content


@contextmanager
def unpacked(source: Path, *, hint: str) -> Iterator[Unpacker]:
    """Read a file of `pack` during the block. Raises ImageError, with the hint, for another one."""
    _require_packed(source, hint)
    zstd = get_tool("zstd", package="zstd")
    errors = os.memfd_create("errors")
    try:
        words = dying_with_us([zstd, "-d", "-c", "-q", "--", source])
        with start_piped(words, errors=errors, is_apart=True) as child:
            stream = io.BufferedReader(io.FileIO(os.dup(_number(child.stdout)), "rb"), _CHUNK_BYTES)
            unpacker = Unpacker(source, hint, stream)
            try:
                yield unpacker
                is_whole = child.wait() == 0
            except ImageError as error:
                child.kill()
                error.details = error.details or _said(errors)
                raise
            finally:
                child.kill()
                stream.close()
            if not is_whole:
                raise ImageError(
                    f"{source} is refused: it is damaged", details=_said(errors), hint=hint
                )
    finally:
        os.close(errors)


def _require_packed(source: Path, hint: str) -> None:
    """Raises ImageError for what is no regular file that begins as zstd writes it."""
    try:
        number = os.open(source, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise ImageError(
            f"{source} cannot be read: {error.strerror}", hint=f"ls -l {shlex.quote(str(source))}"
        ) from error
    try:
        is_packed = stat.S_ISREG(os.fstat(number).st_mode)
        if not is_packed or os.pread(number, len(_MAGIC), 0) != _MAGIC:
            raise ImageError(f"{source} is refused: it is not packed by zstd", hint=hint)
    finally:
        os.close(number)


def _write(out: IO[bytes], one: PackedFile, path: Path) -> None:
    digest, left = hashlib.sha256(), one.size
    out.write(header(one.name, one.size))
    with path.open("rb") as source:
        while part := source.read(min(left, _CHUNK_BYTES)):
            out.write(part)
            digest.update(part)
            left -= len(part)
        is_longer = bool(source.read(1))
    if left or is_longer or digest.hexdigest() != one.sha256:
        raise ImageError(f"{path} has changed", hint=f"ls -l {shlex.quote(str(path))}")
    out.write(padding(one.size))


@contextmanager
def _compressed(target: Path, *, needed_bytes: int) -> Iterator[IO[bytes]]:
    """What is written during the block comes compressed into a new file."""
    zstd = get_tool("zstd", package="zstd")
    errors = os.memfd_create("errors")
    words = dying_with_us([zstd, _LEVEL, "-T0", "-q", "-o", target])
    try:
        with start_piped(words, errors=errors, is_apart=True) as child:
            raw = io.FileIO(os.dup(_number(child.stdin)), "wb")
            out = io.BufferedWriter(raw, _CHUNK_BYTES)
            try:
                _close(child.stdin)
                yield out
                out.close()
            except BrokenPipeError:
                child.wait()  # says below why it has ended
            except BaseException:
                child.kill()
                raise
            finally:
                raw.close()  # also if the rest cannot be written any more
        if child.returncode:
            said = _said(errors) or ""
            if "No space left" in said:
                raise full_disk(target.parent, needed_bytes)
            raise HostError(f"{target} cannot be written", details=said or None)
    finally:
        os.close(errors)


def _number(pipe: IO[bytes] | None) -> int:
    """The descriptor of a pipe of a child, which has both."""
    if pipe is None:
        raise TypeError("the program was started without pipes")
    return pipe.fileno()


def _close(pipe: IO[bytes] | None) -> None:
    if pipe:
        pipe.close()


def _said(errors: int) -> str | None:
    return os.pread(errors, 4096, 0).decode(errors="replace").strip() or None


def padding(size: int) -> bytes:
    """What follows a file of this size in a tar."""
    return bytes(-size % tarfile.BLOCKSIZE)
