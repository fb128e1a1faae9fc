"""The packages of an image: the list that is kept beside its disk."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ai_how.errors import ImageError
from ai_how.images.manifest import PACKAGES, Image

# Of Debian and its relatives, and of EPEL.
_SLURM = ("slurm-client", "slurm")


@dataclass(frozen=True, slots=True)
class Package:
    """A package that is installed in an image, and the source package it was built from."""

    name: str
    version: str
    architecture: str
    source: str
    source_version: str


def read_packages(path: Path) -> tuple[Package, ...]:
    """The packages of a list, in its order. Raises ImageError where it is no such list."""
    try:
        lines = path.read_text("utf-8").splitlines()
        return tuple(Package(*line.split("\t")) for line in lines)
    except (OSError, ValueError, TypeError) as error:
        raise ImageError(f"{path} is not a list of packages", details=str(error)) from error


def packages_of(image: Image) -> tuple[Package, ...] | None:
    """The packages of an image; None where that is not known: it is imported, or an early one."""
    if image.manifest.packages_sha256 is None:
        return None
    return _read_once(image.directory / PACKAGES, image.manifest.packages_sha256)


@lru_cache(maxsize=16)
def _read_once(path: Path, _sha256: str) -> tuple[Package, ...]:
    """The list of an image in the store, which does not change: each node asks for it."""
    return read_packages(path)


def find_slurm_version(packages: tuple[Package, ...]) -> str | None:
    """SLURM's version without Debian's part, such as 24.11.5; None where it is not installed."""
    version = next((one.version for one in packages if one.name in _SLURM), None)
    return version and version.rpartition("-")[0].partition("+")[0]


@dataclass(frozen=True, slots=True)
class VersionChange:
    """A package of which two images have different versions."""

    name: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class PackageDiff:
    """How the packages of one image differ from those of another one."""

    added: tuple[Package, ...]
    removed: tuple[Package, ...]
    changed: tuple[VersionChange, ...]


def compare(before: tuple[Package, ...], after: tuple[Package, ...]) -> PackageDiff:
    """What was added, removed and changed from `before` to `after`, each by name."""
    old = {(one.name, one.architecture): one for one in before}
    new = {(one.name, one.architecture): one for one in after}
    both = sorted(old.keys() & new.keys())
    return PackageDiff(
        added=tuple(new[key] for key in sorted(new.keys() - old.keys())),
        removed=tuple(old[key] for key in sorted(old.keys() - new.keys())),
        changed=tuple(
            VersionChange(key[0], old[key].version, new[key].version)
            for key in both
            if old[key].version != new[key].version
        ),
    )
