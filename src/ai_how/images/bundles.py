"""Bundles: Kubernetes as its publisher packs it, and what an image takes of one.

What is used of an archive is unpacked once, to a directory by its SHA-256, which gets its name when
it is whole. A directory of the user is read where it is.
"""

import hashlib
import json
import os
import re
import shlex
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from ai_how.errors import HostError, ImageError, StateError, ToolError
from ai_how.images.build import Watcher
from ai_how.images.bundle_layout import PROGRAMS, VERSION, unpack_archive, used_of_directory
from ai_how.images.copying import (
    digest_of,
    disk_errors,
    draft_directory,
    sha256_of,
    sweep_drafts,
    sync,
)
from ai_how.images.fingerprints import Fingerprint, fingerprint, let_settle
from ai_how.images.importing import told
from ai_how.images.manifest import Sha256
from ai_how.process import run_bounded
from ai_how.spec.images import is_url, path_in
from ai_how.spec.kubernetes import KubernetesSourceSpec
from ai_how.state.files import replaced_atomically
from ai_how.state.lock import held_lock
from ai_how.state.paths import ensure_private_directory

_RELEASES = "https://dl.k8s.io"
_ARCHIVE = "kubernetes-server-linux-amd64.tar.gz"
LOCK_WAIT_S = 60
_LARGEST_DIGEST = 4096
_LARGEST_ARCHIVE = 8 << 30
_ANSWER_S = 20
_DOWNLOADED = 0.6
_LIST = "files.json"
_WITHOUT_INTERNET = "Where there is no internet, `bundle` names the archive as a file."
_TEXT = re.compile(r"(?:Kubernetes )?v?((?:\d+\.){2}\d+[0-9A-Za-z.+_-]{0,64})")
_ELF_AMD64 = b"\x7fELF\x02\x01", b"\x3e\x00"


def lock_of(cache: Path) -> Path:
    """Whoever holds it gives names to directories of the cache, or takes them away."""
    return cache / ".lock"


def releases_of(cache: Path) -> Path:
    """A directory with a file for each release that was downloaded: its archive's SHA-256."""
    return cache / ".releases"


@dataclass(frozen=True, slots=True)
class Contents:
    """What an image takes of a bundle: the version, and files by `bin/…`, `images/…`, …."""

    version: str
    files: Mapping[str, Path]


class _Record(BaseModel):
    """The digest of files of the user that were read, and their fingerprints then."""

    model_config = ConfigDict(frozen=True)

    source: str
    files: dict[str, Fingerprint]
    sha256: Sha256


@dataclass(frozen=True, slots=True)
class Bundle:
    """Where Kubernetes comes from; without a `place` it is a release of its publisher.

    `cache` has what was unpacked. A relative `place` is one beside a cluster file of which it is
    not known where that is.
    """

    cache: Path
    place: Path | str | None = None
    version: str | None = None
    sha256: str | None = None

    @property
    def told(self) -> str:
        """What it is called in messages."""
        return told(str(self.place)) if self.place else f"Kubernetes {self.version}"

    def identity(self) -> dict[str, str]:
        """What decides the image: a digest, or the number of a release, which never changes.

        A file or directory of the user is read for it, if it has changed. Raises ImageError where
        it cannot be read.
        """
        if self.sha256:
            return {"archive": self.sha256}
        if self.place is None:
            return {"release": str(self.version)}
        place = self._path()
        if place.is_dir():
            files = used_of_directory(place)
            return {"directory": self._known_digest(files, lambda: _digest_of_all(files))}
        return {"archive": self._known_digest({"": place}, lambda: _sha256_of(place))}

    def read(self, watch: Watcher) -> Contents:
        """What it contains, after all checks; an archive is downloaded and unpacked if need be.

        Raises ImageError for whatever is not as it must be; nothing of it is kept then.
        """
        is_directory = isinstance(self.place, Path) and self._path().is_dir()
        files = used_of_directory(self._path()) if is_directory else self._unpacked(watch)
        _require_programs(files, self.told)
        return Contents(self._version_of(files), files)

    def _path(self) -> Path:
        if not isinstance(self.place, Path):
            raise TypeError(f"{self.place} is no path")
        if not self.place.is_absolute():
            raise ImageError(
                f"{self.place} is relative to its cluster file",
                details="It is not known where that file is.",
                hint=f"ls -l {shlex.quote(str(self.place))}  # then name the absolute path",
            )
        return self.place

    def _unpacked(self, watch: Watcher) -> Mapping[str, Path]:
        """The used files of the archive, from the cache or after they were put there."""
        if (known := self._known_archive()) and (files := _whole(self.cache / known)):
            with suppress(OSError):  # by this it is known when it was used: see bundle_cache.py
                os.utime(self.cache / known)
            return files
        with disk_errors(self.cache):
            ensure_private_directory(self.cache)
            with held_lock(lock_of(self.cache), doing="unpack a bundle", wait_s=LOCK_WAIT_S):
                sweep_drafts(self.cache)
            with draft_directory(self.cache) as draft:
                archive, digest = self._fetched(draft, watch)
                watch(_DOWNLOADED, "unpacking Kubernetes")
                before = fingerprint(archive)
                tree = draft / "tree"
                tree.mkdir()
                unpack_archive(archive, tree, told=self.told)
                if fingerprint(archive) != before or _sha256_of(archive) != digest:
                    raise ImageError(f"{self.told} changed while it was read")
                _require_programs(_files_below(tree), self.told)
                return self._publish(tree, digest)

    def _fetched(self, draft: Path, watch: Watcher) -> tuple[Path, str]:
        """The archive, and its SHA-256, which is what it has to be."""
        if isinstance(self.place, Path):
            archive = self._path()
        else:
            archive = draft / "archive"
            self._download(archive, watch)
        digest = _sha256_of(archive)
        if self.sha256 not in (None, digest):
            raise ImageError(
                f"{self.told} is refused: its SHA-256 is another one",
                details=f"expected {self.sha256}\nfound    {digest}",
                hint="https://kubernetes.io/releases/download/  # what its publisher says",
            )
        return archive, digest

    def _download(self, archive: Path, watch: Watcher) -> None:
        # With it comes TLS, which nearly no run needs.
        from ai_how.images.download import download  # noqa: PLC0415

        def hear(share: float) -> None:
            watch(_DOWNLOADED * share, f"downloading Kubernetes {self.version or ''}".strip())

        if isinstance(self.place, str):
            download(self.place, archive, max_bytes=_LARGEST_ARCHIVE, on_progress=hear)
            return
        address = f"{_RELEASES}/v{self.version}/{_ARCHIVE}"
        published = archive.with_name("published")
        try:
            download(f"{address}.sha512", published, max_bytes=_LARGEST_DIGEST)
            download(address, archive, max_bytes=_LARGEST_ARCHIVE, on_progress=hear)
        except ImageError as error:
            raise ImageError(
                f"Kubernetes {self.version} is not here: {error.brief}",
                details=f"{error.details or ''}\n{_WITHOUT_INTERNET}".strip(),
                hint=f"{error.hint or 'curl -I'}  # or: bundle: ./{_ARCHIVE}",
            ) from error
        wanted = published.read_text(errors="replace").split()[:1]
        if wanted != [found := digest_of(archive, "sha512")]:
            raise ImageError(
                f"{address} is refused: its SHA-512 is not the published one",
                details=f"published {' '.join(wanted)}\nfound     {found}",
                hint=f"curl -L {shlex.quote(address)}.sha512",
            )

    def _publish(self, tree: Path, digest: str) -> Mapping[str, Path]:
        """Give an unpacked tree its name, by one rename."""
        files = _files_below(tree)
        sizes = {name: path.stat().st_size for name, path in files.items()}
        (tree / _LIST).write_text(json.dumps(sizes, indent=2) + "\n")
        for path in sorted(tree.rglob("*"), reverse=True):
            sync(path)
        sync(tree)
        target = self.cache / digest
        with held_lock(lock_of(self.cache), doing="unpack a bundle", wait_s=LOCK_WAIT_S):
            if not (whole := _whole(target)):
                with draft_directory(self.cache) as grave:
                    if target.exists():
                        target.rename(grave)
                    tree.rename(target)
                whole = _whole(target)
            if self.place is None:
                release = self._release()
                ensure_private_directory(release.parent)
                with replaced_atomically(release) as draft:
                    draft.write_text(f"{digest}\n")
            sync(self.cache)
        if whole is None:
            raise ImageError(f"{target} changed while it was written")
        return whole

    def _release(self) -> Path:
        """Which archive a release is, of those that were downloaded."""
        return releases_of(self.cache) / str(self.version)

    def _known_archive(self) -> str | None:
        """The SHA-256 of the archive, where it is known without downloading it."""
        if self.place is None and not self.sha256:
            with suppress(OSError):
                return self._release().read_text().strip()
            return None
        return self.identity()["archive"]

    def _known_digest(self, files: Mapping[str, Path], compute: Callable[[], str]) -> str:
        """The digest of files of the user; it is computed once for each state of them."""
        seen = {name: fingerprint(path) for name, path in files.items()}
        source = str(self.place)
        path = self.cache / ".seen" / f"{hashlib.sha256(source.encode()).hexdigest()}.json"
        with suppress(OSError, ValidationError):
            record = _Record.model_validate_json(path.read_bytes())
            if record.source == source and record.files == seen:
                return record.sha256
        for one in seen.values():
            let_settle(one)
        digest = compute()
        if seen == {name: fingerprint(path) for name, path in files.items()}:
            # It only saves time: a look at an image may have nowhere to write.
            with suppress(OSError, HostError, StateError):
                ensure_private_directory(self.cache)
                ensure_private_directory(path.parent)
                with (
                    held_lock(lock_of(self.cache), doing="note a digest", wait_s=LOCK_WAIT_S),
                    replaced_atomically(path) as draft,
                ):
                    draft.write_text(
                        _Record(source=source, files=seen, sha256=digest).model_dump_json()
                    )
        return digest

    def _version_of(self, files: Mapping[str, Path]) -> str:
        """What the bundle says of itself, else what the file says of it."""
        found = next((_version_in(files[name]) for name in VERSION if name in files), None)
        if found is None and isinstance(self.place, Path) and self.place.is_dir():
            found = _asked_version(files["bin/kubelet"])
        if found and self.version and self.version not in (found, found.partition("+")[0]):
            raise ImageError(
                f"{self.told} is of version {found}, and not {self.version}",
                hint=f"version: {found.partition('+')[0]}",
            )
        if version := found or self.version:
            return version
        raise ImageError(
            f"{self.told} does not say its version",
            details="It has no file `kubernetes/version`.",
            hint="version: 1.34.2  # beside `bundle` in the cluster file",
        )


def bundle_of(source: KubernetesSourceSpec, directory: Path | None, cache: Path) -> Bundle:
    """The bundle of a section of a cluster file in `directory`."""
    place: Path | str | None = source.bundle
    if source.bundle and not is_url(source.bundle):
        place = path_in(directory or Path(), source.bundle)
    return Bundle(cache, place=place, version=source.version, sha256=source.sha256)


def _require_programs(files: Mapping[str, Path], told: str) -> None:
    missing = [name for name in PROGRAMS if f"bin/{name}" not in files]
    if missing:
        raise ImageError(
            f"{told} lacks {', '.join(missing)}",
            details="A bundle has them in kubernetes/server/bin.",
            hint=f"{'ls -R' if Path(told).is_dir() else 'tar -tf'} {shlex.quote(told)}",
        )
    for name in PROGRAMS:
        if not _is_for_guests(files[f"bin/{name}"]):
            raise ImageError(
                f"{name} of {told} is no program for Linux on amd64",
                hint=f"https://dl.k8s.io/vVERSION/{_ARCHIVE}",
            )


def _is_for_guests(program: Path) -> bool:
    with program.open("rb") as file:
        head = file.read(20)
    return head.startswith(_ELF_AMD64[0]) and head[18:20] == _ELF_AMD64[1]


def _version_in(file: Path) -> str | None:
    with file.open(errors="replace") as opened:
        found = _TEXT.fullmatch(opened.read(256).strip())
    return found[1] if found else None


def _asked_version(kubelet: Path) -> str | None:
    """What a kubelet of the user says of itself, if it runs on this host."""
    with suppress(ToolError):
        done = run_bounded([kubelet, "--version"], timeout_s=_ANSWER_S, most_bytes=4096)
        if done.returncode == 0 and (found := _TEXT.fullmatch(done.stdout.strip())):
            return found[1]
    return None


def _whole(directory: Path) -> Mapping[str, Path] | None:
    """The files of an unpacked archive; None unless each is there with its size."""
    try:
        sizes = json.loads((directory / _LIST).read_text())
        if any((directory / name).stat().st_size != size for name, size in sizes.items()):
            return None
    except (OSError, ValueError, AttributeError):
        return None
    return {name: directory / name for name in sizes}


def _files_below(directory: Path) -> dict[str, Path]:
    return {
        str(path.relative_to(directory)): path
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def _digest_of_all(files: Mapping[str, Path]) -> str:
    seen = hashlib.sha256()
    for name in sorted(files):
        seen.update(f"{name}\0{_sha256_of(files[name])}\n".encode())
    return seen.hexdigest()


def _sha256_of(path: Path) -> str:
    try:
        if not path.is_file():
            path.stat()
            raise ImageError(
                f"{path} is neither a file nor a directory",
                hint=f"ls -l {shlex.quote(str(path))}",
            )
        return sha256_of(path)
    except OSError as error:
        raise ImageError(
            f"{path} cannot be read: {error.strerror}", hint=f"ls -l {shlex.quote(str(path))}"
        ) from error
