"""The archives of Kubernetes that were unpacked: how large each is, and which are still needed."""

import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from ai_how.images.bundles import LOCK_WAIT_S, lock_of, releases_of
from ai_how.images.copying import disk_errors, remove_tree, sweep_drafts
from ai_how.images.manifest import Image
from ai_how.state.lock import held_lock

KEPT_FOR = timedelta(days=30)
_DIGEST = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class UnpackedBundle:
    """What is there of one archive; `releases` are those that were downloaded as this archive."""

    path: Path
    size_bytes: int
    used_at: datetime
    releases: tuple[str, ...]
    images: tuple[str, ...]
    """The names of the images of the store that were made from it."""

    @property
    def digest(self) -> str:
        return self.path.name

    def is_needed(self, now: datetime) -> bool:
        """Whether an image has it, or it was used a short time ago: a build may be reading it."""
        return bool(self.images) or now - self.used_at < KEPT_FOR


@dataclass(frozen=True, slots=True)
class Pruned:
    """What was removed, and what is still there."""

    removed: tuple[UnpackedBundle, ...]
    kept: tuple[UnpackedBundle, ...]


def prune_bundles(cache: Path, images: Iterable[Image], now: datetime) -> Pruned:
    """Remove what no image of the store was made from, and nobody used for 30 days.

    Raises HostError where something cannot be removed.
    """
    if not cache.is_dir():
        return Pruned((), ())
    with (
        disk_errors(cache),
        held_lock(lock_of(cache), doing="remove bundles", wait_s=LOCK_WAIT_S),
    ):
        sweep_drafts(cache)
        found = _find(cache, tuple(images))
        removed = tuple(one for one in found if not one.is_needed(now))
        for one in removed:
            for release in one.releases:
                (releases_of(cache) / release).unlink(missing_ok=True)
            remove_tree(one.path)
    return Pruned(removed, tuple(one for one in found if one not in removed))


def _find(cache: Path, images: tuple[Image, ...]) -> tuple[UnpackedBundle, ...]:
    releases = _releases(cache)
    users: dict[str, list[str]] = {}
    for image in images:
        identity = image.manifest.recipe.get("kubernetes") or {}
        digest = identity.get("archive") or releases.get(str(identity.get("release")))
        users.setdefault(str(digest), []).append(image.name)
    return tuple(
        UnpackedBundle(
            path,
            _size_of(path),
            datetime.fromtimestamp(path.stat().st_mtime, UTC),
            tuple(one for one, digest in releases.items() if digest == path.name),
            tuple(dict.fromkeys(users.get(path.name, ()))),
        )
        for path in sorted(cache.iterdir())
        if _DIGEST.fullmatch(path.name) and path.is_dir() and not path.is_symlink()
    )


def _releases(cache: Path) -> dict[str, str]:
    """By release, the SHA-256 of its archive."""
    found = {}
    with suppress(FileNotFoundError):
        for path in sorted(releases_of(cache).iterdir()):
            found[path.name] = path.read_text().strip()
    return found


def _size_of(directory: Path) -> int:
    return sum(one.lstat().st_blocks * 512 for one in directory.rglob("*"))
