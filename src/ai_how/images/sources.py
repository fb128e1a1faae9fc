"""Files and URLs that a cluster file names as images, and which image of the store each is.

What was imported is recorded beside the images (`.sources/`), so that nothing is read again: for a
file with its inode, size and times, which change with every write to it.
"""

import hashlib
import json
import re
import shlex
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel, ConfigDict, ValidationError

from ai_how.errors import ImageError
from ai_how.images.build import Watcher
from ai_how.images.checksums import Digests, find_digests
from ai_how.images.copying import copy_sparse, disk_errors, sha256_of
from ai_how.images.fingerprints import Fingerprint, fingerprint, let_settle
from ai_how.images.importing import Wanted, import_disk, require_firmware, told
from ai_how.images.manifest import LONGEST_NAME, Digest, Image, Sha256
from ai_how.images.recipe import DEFAULT
from ai_how.images.signatures import Signed, verified_text
from ai_how.images.store import ImageStore
from ai_how.spec.images import SUITES, Firmware, ImageBaseSpec, base_of, is_url, path_in
from ai_how.state.files import replaced_atomically
from ai_how.state.lock import held_lock
from ai_how.state.paths import ensure_private_directory

Location = Path | str  # a text is an https URL

_LOCK_WAIT_S = 60
_COPIED = 0.9
_LARGEST_TEXT = 8 << 20  # of checksums, signatures and keys


@dataclass(frozen=True, slots=True)
class SignedChecksums:
    """A publisher's file of checksums; without a `signature` of its own it is clear-signed."""

    file: Location
    key: Path
    signature: Location | None = None


@dataclass(frozen=True, slots=True)
class ImageSource:
    """Where a disk or an exported image comes from, and what it must be.

    `name` is what a new image is called in the store. A relative `place` is one beside a cluster
    file of which it is not known where that is.
    """

    place: Location
    name: str
    sha256: str | None = None
    sha512: str | None = None
    checksums: SignedChecksums | None = None
    firmware: Firmware | None = None

    @property
    def known_digest(self) -> str | None:
        """The digest of the image, where it is known without having it."""
        return self.sha256 if isinstance(self.place, str) else None

    @property
    def told(self) -> str:
        """The absolute path, or the URL without a password and a token that it may carry."""
        return told(str(self.place))


class _Record(BaseModel):
    """What was imported; `file` is the inode, the size, mtime and ctime of a file then."""

    model_config = ConfigDict(frozen=True)

    source: str
    image: Digest
    sha256: Sha256
    file: Fingerprint | None = None


def source_of(base: ImageBaseSpec, directory: Path | None, name: str | None = None) -> ImageSource:
    """The source of a `from` with a path or a URL, in a cluster file in `directory`."""
    place = _location(base.url or base.path or "", directory)
    checksums = None
    if base.checksums and base.key:
        checksums = SignedChecksums(
            file=_location(base.checksums, directory),
            key=_path(base.key, directory),
            signature=_location(base.signature, directory) if base.signature else None,
        )
    return ImageSource(
        place=place,
        name=name or name_of(place),
        sha256=base.sha256,
        sha512=base.sha512,
        checksums=checksums,
        firmware=base.firmware,
    )


def source_of_text(text: str, directory: Path | None) -> ImageSource:
    """The source of a `base_image_path` that is a path or a URL. Raises ImageError for another."""
    try:
        return source_of(base_of(text), directory)
    except ValidationError as error:
        allowed = error.errors(include_url=False)[0]["ctx"]["allowed"]
        raise ImageError(
            f"{text} is refused", details=f"Allowed: {allowed}.", hint="ai-how image import --help"
        ) from error


def asked_digest(source: ImageSource) -> str:
    """What decides which disk this is: the digest that was asked for, else that of the file.

    Of a URL with signed checksums it is that of the URL. Raises ImageError for a file that cannot
    be read.
    """
    if source.sha256 or source.sha512:
        return source.sha256 or str(source.sha512)
    if not isinstance(source.place, Path):
        return hashlib.sha256(source.told.encode()).hexdigest()
    _require_absolute(source)
    try:
        return sha256_of(source.place)
    except OSError as error:
        raise ImageError(
            f"{source.place} cannot be read: {error.strerror}",
            hint=f"ls -l {shlex.quote(str(source.place))}",
        ) from error


def name_of(place: Location) -> str:
    """A valid name for the image of a file: its own, as far as that is one."""
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", PurePosixPath(_file_name(place)).stem)
    name = re.sub(r"^[^A-Za-z0-9]+", "", stem)[:LONGEST_NAME] or "image"
    return f"{name}-disk" if name in (DEFAULT, *SUITES) else name


def find_imported(store: ImageStore, source: ImageSource) -> Image | None:
    """The image that was imported from this source; None if it was not, or has changed since.

    Raises ImageError for a file that cannot be read, and where the image is for another firmware.
    """
    _require_absolute(source)
    image = None
    if source.sha256 and not isinstance(source.place, Path):
        image = _read(store, source.sha256)
    if image is None and (record := _read_record(store, source)):
        is_same = not isinstance(source.place, Path) or record.file == fingerprint(source.place)
        if is_same and source.sha256 in (None, record.sha256):
            image = _read(store, record.image)
    if image:
        require_firmware(image, source.firmware)
    return image


def stored_name(store: ImageStore, source: ImageSource) -> str:
    """What the image of this source is called in the store, or would be.

    A file that changed keeps the name under which it was imported before.
    """
    try:
        record = _read_record(store, source)
        known = source.sha256 if isinstance(source.place, str) else None
        image = (known and _read(store, known)) or (record and _read(store, record.image))
    except ImageError:  # a file that belongs to the source is gone
        image = None
    return image.name if image else source.name


def import_source(
    store: ImageStore,
    source: ImageSource,
    watch: Watcher,
    *,
    name: str | None = None,
) -> Image:
    """Copy or download an image to the store, and record where it is from.

    An image that is in the store already keeps its name, unless a `name` is required. Raises
    ImageError for whatever is not as it must be; nothing of it is in the store then.
    """
    _require_absolute(source)
    digests = Digests(source.sha256, source.sha512)
    if source.checksums:
        watch(0.0, "reading the checksums")
        digests = _published_digests(store, source, source.checksums)
    wanted = Wanted(
        name=name,
        default_name=stored_name(store, source),
        sha256=digests.sha256,
        sha512=digests.sha512,
        firmware=source.firmware,
    )
    doing = "copying" if isinstance(source.place, Path) else "downloading"
    before = None
    if isinstance(source.place, Path):
        before = fingerprint(source.place)
        let_settle(before)
    image, digest = import_disk(
        store,
        source.place,
        wanted,
        on_progress=lambda share: watch(_COPIED * share, doing),
        on_copied=partial(_on_copied, source, before, watch),
    )
    _record(
        store, source, _Record(source=source.told, image=image.digest, sha256=digest, file=before)
    )
    watch(1.0, "done")
    return image


def _published_digests(
    store: ImageStore, source: ImageSource, checksums: SignedChecksums
) -> Digests:
    """The digests of the image in the publisher's file, after the check of its signature."""
    with store.draft() as draft:
        names = {"checksums": checksums.file, "key": checksums.key}
        if checksums.signature:
            names["signature"] = checksums.signature
        for name, place in names.items():
            _fetch(place, draft / name)
        signed = Signed(
            file=draft / "checksums",
            told=told(str(checksums.file)),
            key=draft / "key",
            key_told=str(checksums.key),
            signature=draft / "signature" if checksums.signature else None,
            signature_told=told(str(checksums.signature)),
        )
        text = verified_text(signed, draft)
    return find_digests(text, _file_name(source.place), told=signed.told)


def _fetch(place: Location, target: Path) -> None:
    if not isinstance(place, Path):
        # With it comes TLS, which nearly no run needs.
        from ai_how.images.download import download  # noqa: PLC0415

        download(place, target, max_bytes=_LARGEST_TEXT)
        return
    copy_sparse(place, target)
    if target.stat().st_size > _LARGEST_TEXT:
        raise ImageError(f"{place} is refused: it is larger than {_LARGEST_TEXT} bytes")


def _file_name(place: Location) -> str:
    path = str(place) if isinstance(place, Path) else unquote(urlsplit(place).path)
    return PurePosixPath(path).name


def _on_copied(source: ImageSource, before: Fingerprint | None, watch: Watcher) -> None:
    if isinstance(source.place, Path) and fingerprint(source.place) != before:
        raise ImageError(
            f"{source.place} changed while it was copied",
            hint=f"ls -l {shlex.quote(str(source.place))}",
        )
    watch(_COPIED, "checking the disk")


def _location(text: str, directory: Path | None) -> Location:
    return text if is_url(text) else _path(text, directory)


def _path(text: str, directory: Path | None) -> Path:
    return path_in(directory or Path(), text)


def _require_absolute(source: ImageSource) -> None:
    checksums = source.checksums
    signed = (checksums.file, checksums.key, checksums.signature) if checksums else ()
    places = [source.place, *signed]
    for place in places:
        if isinstance(place, Path) and not place.is_absolute():
            raise ImageError(
                f"{place} is relative to its cluster file",
                details="It is not known where that file is.",
                hint=f"ls -l {shlex.quote(str(place))}  # then name the absolute path",
            )


def _read(store: ImageStore, digest: str) -> Image | None:
    image = store.read(digest)
    return image if isinstance(image, Image) else None


def _key_of(source: ImageSource) -> str:
    """The name of the record: a digest of all that decides it besides a file's own content."""
    digest = source.sha256 or source.sha512
    if digest and not isinstance(source.place, Path):
        decides = [digest]
    else:
        decides = [str(source.place)]
        # A record has the SHA-256 of the file, and can be compared with no other digest.
        decides += [source.sha512] if source.sha512 else []
    if source.checksums:
        signed = (source.checksums.file, source.checksums.signature, source.checksums.key)
        decides += [_content_of(one) for one in signed]
    return hashlib.sha256(json.dumps(decides).encode()).hexdigest()


def _content_of(place: Location | None) -> str:
    """A URL, or the digest of a file of the host."""
    if not isinstance(place, Path):
        return place or ""
    try:
        return hashlib.sha256(place.read_bytes()).hexdigest()
    except OSError as error:
        raise ImageError(
            f"{place} cannot be read: {error.strerror}", hint=f"ls -l {shlex.quote(str(place))}"
        ) from error


def _read_record(store: ImageStore, source: ImageSource) -> _Record | None:
    try:
        return _Record.model_validate_json(store.paths.source(_key_of(source)).read_bytes())
    except (OSError, ValidationError):
        return None  # as if it had not been imported


def _record(store: ImageStore, source: ImageSource, record: _Record) -> None:
    """Record an import, and forget those whose image is gone."""
    path = store.paths.source(_key_of(source))
    doing = f"record where {record.image[:12]} is from"
    with (
        disk_errors(store.paths.root),
        held_lock(store.paths.lock, doing=doing, wait_s=_LOCK_WAIT_S),
    ):
        ensure_private_directory(path.parent)
        for other in path.parent.glob("*.json"):
            if not store.paths.image(_image_in(other)).is_dir():
                other.unlink(missing_ok=True)
        with replaced_atomically(path) as draft:
            draft.write_text(record.model_dump_json(indent=2) + "\n")


def _image_in(path: Path) -> str:
    try:
        return _Record.model_validate_json(path.read_bytes()).image
    except (OSError, ValidationError):
        return "-"  # no image has this name
