"""What decides an image that is made from another one, and the digest of all that."""

import hashlib
import json
import os
import shlex
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ai_how.errors import ImageError
from ai_how.images.bundles import Bundle
from ai_how.images.recipe import ROOT
from ai_how.images.sets import (
    DOCUMENTED,
    KUBERNETES,
    components_in,
    keeps_documentation,
    packages_in,
)

_SCRIPTS = ("derive.sh", "derive-inside.sh", "pack.sh")


@dataclass(frozen=True, slots=True)
class CopiedFile:
    """A file or directory of the host, and its path in the image."""

    target: str
    source: Path


@dataclass(frozen=True, slots=True)
class BuildStep:
    """A command of `run`; one that begins with a script of the host has its path, too."""

    command: str
    script: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Blueprint:
    """What is added to an image, in the order in which it is done."""

    name: str
    sets: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    files: tuple[CopiedFile, ...] = ()
    steps: tuple[BuildStep, ...] = ()
    bundle: Bundle | None = None

    @property
    def all_sets(self) -> tuple[str, ...]:
        """Those that were asked for, and the one that comes with Kubernetes."""
        return tuple(sorted({*self.sets, *((KUBERNETES,) if self.bundle else ())}))

    @property
    def all_packages(self) -> tuple[str, ...]:
        return tuple(sorted({*packages_in(self.all_sets), *self.packages}))

    @property
    def components(self) -> tuple[str, ...]:
        """The components of Debian that packages come from, besides main."""
        return components_in(self.all_sets)

    @property
    def set_scripts(self) -> dict[str, Path]:
        """The directories of those sets that build something: each has a script, `install`."""
        places = {name: ROOT / "set_scripts" / name for name in self.all_sets}
        return {name: place for name, place in places.items() if place.is_dir()}

    @property
    def documented(self) -> tuple[str, ...]:
        """The packages of the base whose documentation is added."""
        return DOCUMENTED if keeps_documentation(self.sets) else ()

    @property
    def all_files(self) -> tuple[CopiedFile, ...]:
        """Those of the sets come first, so that the user's own win."""
        ours = [
            CopiedFile(f"/{path.relative_to(root)}", path)
            for name in self.all_sets
            for root in [ROOT / "of_sets" / name]
            for path in sorted(root.rglob("*"))
            if path.is_file()
        ]
        return (*ours, *self.files)

    def recipe(self, base_digest: str) -> dict[str, Any]:
        """All that decides the image, for its manifest; files and scripts by their digests.

        Raises ImageError where a file or script cannot be read.
        """
        recipe: dict[str, Any] = {
            "name": self.name,
            "base": base_digest,
            "with": list(self.all_sets),
            "packages": sorted(self.packages),
            "all_packages": list(self.all_packages),
            "documented": list(self.documented),
            "files": {one.target: digest_of(one.source) for one in self.all_files},
            "run": [
                {
                    "command": step.command,
                    "sha256": digest_of(step.script) if step.script else None,
                }
                for step in self.steps
            ],
            "scripts": {
                name: hashlib.sha256((ROOT / name).read_bytes()).hexdigest() for name in _SCRIPTS
            },
        }
        if scripts := self.set_scripts:
            recipe["set_scripts"] = {name: digest_of(place) for name, place in scripts.items()}
        if self.bundle:
            recipe["kubernetes"] = self.bundle.identity()
        return recipe


def digest_of_recipe(recipe: dict[str, Any]) -> str:
    """Hexadecimal SHA-256 of a recipe in its canonical form; the name decides nothing."""
    deciding = {key: value for key, value in recipe.items() if key != "name"}
    text = json.dumps(deciding, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def digest_of(path: Path) -> str:
    """SHA-256 of a file, or of all below a directory: names, kinds, modes and contents."""
    try:
        if not path.is_dir():
            return _digest_of_one(path, follow=True)
        seen = hashlib.sha256(f"{path.stat().st_mode & 0o7777:o}\n".encode())
        for below in sorted(_all_below(path)):
            line = f"{below.relative_to(path)}\0{_digest_of_one(below, follow=False)}\n"
            seen.update(line.encode("utf-8", "surrogateescape"))
        return seen.hexdigest()
    except OSError as error:
        raise _unreadable(error.filename or path, error.strerror or str(error)) from error


def stage(source: Path, target: Path) -> None:
    """Copy a file or directory with modes, times and links; the owner is us.

    Raises ImageError where it cannot be read.
    """
    try:
        if source.is_dir():
            shutil.copytree(source, target, symlinks=True)
        else:
            shutil.copy2(source, target)
    except shutil.Error as error:
        [first, *_] = error.args[0]
        raise _unreadable(first[0], first[2]) from error
    except OSError as error:
        if error.filename and Path(error.filename).is_relative_to(target.parent):
            raise
        raise _unreadable(error.filename or source, error.strerror or str(error)) from error


def _all_below(directory: Path) -> Iterator[Path]:
    with os.scandir(directory) as entries:
        for entry in entries:
            yield Path(entry.path)
            if entry.is_dir(follow_symlinks=False):
                yield from _all_below(Path(entry.path))


def _digest_of_one(path: Path, *, follow: bool) -> str:
    seen = path.stat() if follow else path.lstat()
    digest = hashlib.sha256(f"{seen.st_mode & 0o7777:o}\n".encode())
    if stat.S_ISLNK(seen.st_mode):
        digest = hashlib.sha256(f"-> {path.readlink()}".encode("utf-8", "surrogateescape"))
    elif stat.S_ISREG(seen.st_mode):
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    elif not stat.S_ISDIR(seen.st_mode):
        raise _unreadable(path, "it is neither a file, nor a directory, nor a link")
    return digest.hexdigest()


def _unreadable(path: object, why: str) -> ImageError:
    return ImageError(
        f"{path} cannot be copied to an image: {why}", hint=f"ls -ld {shlex.quote(str(path))}"
    )
