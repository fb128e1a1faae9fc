"""Which files of a bundle are used, and the unpacking of its archive.

Of an archive only files with the names that are used are written, and to names of ours: nothing in
it can lead elsewhere. What could only be there to do that is refused all the same.
"""

import gzip
import io
import os
import posixpath
import re
import shlex
import shutil
import stat
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Final

from ai_how.errors import ImageError
from ai_how.process import dying_with_us, get_tool, start_piped

PROGRAMS = (
    *("kube-apiserver", "kube-controller-manager", "kube-scheduler"),
    *("kubelet", "kube-proxy", "kubectl"),
)
VERSION = ("version", "docker_tag")
"""Files that say the version, the surest first: ours, and one that Kubernetes publishes."""

_DOCKER_TAG = "kube-apiserver.docker_tag"
_PROGRAM_PLACE = ("server", "bin")
_KINDS = {"images": (".tar",), "manifests": (".yaml", ".yml")}
_TOP = "kubernetes"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,199}")
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_CHUNK_BYTES: Final = 1 << 20
_MOST_BYTES: Final = 64 << 30
_MOST_MEMBERS: Final = 50_000


def role_of(parts: tuple[str, ...]) -> str | None:
    """What a file is used as, by its path in a bundle: `bin/kubelet`, `images/x.tar`, `version`."""
    if parts[:1] == (_TOP,):
        parts = parts[1:]
    if parts == ("version",):
        return "version"
    if parts[:-1] == _PROGRAM_PLACE:
        if parts[-1] in PROGRAMS:
            return f"bin/{parts[-1]}"
        return "docker_tag" if parts[-1] == _DOCKER_TAG else None
    if len(parts) == 2 and parts[1].endswith(_KINDS.get(parts[0], ())):  # noqa: PLR2004
        return "/".join(parts)
    return None


def used_of_directory(directory: Path) -> dict[str, Path]:
    """The used files of a directory with the layout of a bundle, by what each is used as.

    Raises ImageError where it cannot be read, and for names that images cannot have.
    """
    found: dict[str, Path] = {}
    for top in (directory / _TOP, directory):
        places = (top, top.joinpath(*_PROGRAM_PLACE), *(top / kind for kind in _KINDS))
        for path in (path for place in places for path in _files_in(place)):
            role = role_of(path.relative_to(directory).parts)
            if role is not None:
                _require_new(role, found, str(directory))
                found[role] = path
    return dict(sorted(found.items()))


def unpack_archive(archive: Path, target: Path, *, told: str) -> None:
    """Unpack the used files of an archive to a directory; it is read to its end.

    Raises ImageError for one that is damaged, and for what no bundle has: paths and links that lead
    out of it, and used files that are no files.
    """
    found: dict[str, Path] = {}
    with _decompressed(archive, told) as stream:
        forward = _Forward(stream, told)
        try:
            with tarfile.open(fileobj=forward, mode="r:") as tar:
                for number, member in enumerate(tar):
                    if number >= _MOST_MEMBERS:  # tarfile remembers all of them
                        raise _refused(told, f"it has more than {_MOST_MEMBERS} entries")
                    parts = _parts_of(member, told)
                    role = role_of(parts)
                    if role is None or member.isdir():
                        continue
                    if not member.isreg() or member.issparse():
                        raise _refused(told, f"{member.name} is no file")
                    _require_new(role, found, told)
                    found[role] = target / role
                    _write(tar, member, target / role)
        except (tarfile.TarError, EOFError, UnicodeError) as error:
            raise _refused(told, "it is damaged, or ends too early") from error
        if not forward.is_at_end:
            raise _refused(told, "it is damaged, or ends too early")
        forward.drain()


def _files_in(place: Path) -> Iterator[Path]:
    try:
        entries = sorted(os.scandir(place), key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise ImageError(
            f"{place} cannot be read: {error.strerror}", hint=f"ls -ld {shlex.quote(str(place))}"
        ) from error
    yield from (Path(entry.path) for entry in entries if entry.is_file())


def _require_new(role: str, found: dict[str, Path], told: str) -> None:
    if not _NAME.fullmatch(role.rpartition("/")[2]):
        raise _refused(told, f"{role!r} is a name that no image can have")
    if role in found:
        raise _refused(told, f"it has {role} twice")


def _parts_of(member: tarfile.TarInfo, told: str) -> tuple[str, ...]:
    """The parts of the path of an entry, without a `.` at its beginning."""
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts or "\0" in member.name:
        raise _refused(told, f"{member.name!r} leads out of it")
    if member.issym() or member.islnk():
        start = posixpath.dirname(member.name) if member.issym() else ""
        end = posixpath.normpath(posixpath.join(start, member.linkname))
        if end.startswith("/") or end.split("/")[0] == "..":
            raise _refused(told, f"{member.name!r} is a link that leads out of it")
    return path.parts


def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    source = tar.extractfile(member)
    if source is None:
        raise tarfile.ReadError(member.name)
    target.parent.mkdir(exist_ok=True)
    with source, target.open("xb") as file:
        shutil.copyfileobj(source, file, _CHUNK_BYTES)
        size = file.tell()
    if size != member.size:
        raise tarfile.ReadError(member.name)
    target.chmod(0o555 if target.parent.name == "bin" else 0o444)


class _Forward(io.RawIOBase):
    """A stream that tarfile reads as a file, forward only.

    It reads no more at once than a file is read in: extensions of any size in a header would be
    read into the memory.
    """

    def __init__(self, stream: IO[bytes], told: str) -> None:
        super().__init__()
        self._stream, self._told, self._at = stream, told, 0
        self._last = b""

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _CHUNK_BYTES:
            raise _refused(self._told, "one of its headers is too large")
        content = self._stream.read(size)
        self._at += len(content)
        if self._at > _MOST_BYTES:
            raise _refused(self._told, "it is too large")
        self._last = content
        return content

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        left = offset - self._at
        if whence != os.SEEK_SET or left < 0:
            raise tarfile.ReadError("the entries are not in their order")
        while left:
            if not (part := self.read(min(left, _CHUNK_BYTES))):
                raise tarfile.ReadError("it ends too early")
            left -= len(part)
        return offset

    @property
    def is_at_end(self) -> bool:
        """Whether the end of a tar was read last; tarfile also stops at what is no header."""
        return len(self._last) == tarfile.BLOCKSIZE and not self._last.strip(b"\0")

    def drain(self) -> None:
        """Read what is left, so that its checksum is compared."""
        while self.read(_CHUNK_BYTES):
            pass


@contextmanager
def _decompressed(archive: Path, told: str) -> Iterator[IO[bytes]]:
    """The tar in an archive. Raises ImageError where it is damaged, also at the end."""
    try:
        number = os.open(archive, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise ImageError(
            f"{told} cannot be read: {error.strerror}", hint=f"ls -l {shlex.quote(str(archive))}"
        ) from error
    with os.fdopen(number, "rb") as file:
        if not stat.S_ISREG(os.fstat(number).st_mode):
            raise _refused(told, "it is neither a file nor a directory")
        magic = os.pread(number, 4, 0)
        if magic.startswith(_GZIP):
            try:
                with gzip.open(file) as stream:
                    yield io.BufferedReader(stream, _CHUNK_BYTES)
            except (gzip.BadGzipFile, EOFError, zlib.error) as error:
                raise _refused(told, "it is damaged, or ends too early") from error
        elif magic == _ZSTD:
            yield from _of_zstd(archive, told)
        else:
            raise _refused(told, "it is packed neither by gzip nor by zstd")


def _of_zstd(archive: Path, told: str) -> Iterator[IO[bytes]]:
    words = dying_with_us([get_tool("zstd", package="zstd"), "-d", "-c", "-q", "--", archive])
    with start_piped(words, is_apart=True) as child:
        if child.stdout is None:
            raise TypeError("the program was started without pipes")
        try:
            with io.FileIO(os.dup(child.stdout.fileno())) as raw:
                yield io.BufferedReader(raw, _CHUNK_BYTES)
            is_whole = child.wait() == 0
        finally:
            child.kill()
    if not is_whole:
        raise _refused(told, "it is damaged, or ends too early")


def _refused(told: str, why: str) -> ImageError:
    return ImageError(f"{told} is refused: {why}", hint=f"tar -tvf {shlex.quote(told)}")
