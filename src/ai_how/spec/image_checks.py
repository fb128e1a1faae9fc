"""Checks of `images`: names and their order, and the files of the host that they name."""

import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from ai_how.spec.images import ImageSpec, script_in
from ai_how.spec.models import ClusterFile
from ai_how.spec.problems import Finding, Loc, error_at, warning_at
from ai_how.spec.view import clusters_of

BUILT_IN = "default"


def check_images(file: ClusterFile) -> Iterator[Finding]:
    """Every contradiction within `images`, and images that no node boots."""
    for name, image in file.images.items():
        loc: Loc = ("images", name)
        if name == BUILT_IN:
            yield error_at(f"`{BUILT_IN}` is the built-in image; choose another name", loc)
            continue
        base = image.from_
        if (base.name is None) == (base.suite is None):
            yield error_at(
                "one of `name` and `suite` is required: `from: default`, or "
                "`from: {suite: bookworm}`",
                (*loc, "from"),
            )
        elif road := _road_back(name, file.images):
            words = " -> ".join(road)
            yield error_at(f"an image cannot be made from itself: {words}", (*loc, "from"))
        yield from _check_twice((*loc, "packages"), image.packages)
    wanted = set(_booted(file)) | {one.from_.name for one in file.images.values()}
    for name in file.images:
        if name not in wanted:
            yield warning_at(
                f"no node boots it; to have one boot it: `base_image_path: {name}`",
                ("images", name),
            )


def check_image_files(file: ClusterFile, directory: Path) -> Iterator[Finding]:
    """Every file that an image needs and that is not there; `directory` is that of the file."""
    for name, image in file.images.items():
        for target, source in image.files.items():
            loc: Loc = ("images", name, "files", target)
            if why := _why_unusable(directory / source, may_be_directory=True):
                yield error_at(f"{directory / source}: {why}", loc)
        for index, command in enumerate(image.run):
            loc = ("images", name, "run", index)
            if script := script_in(command):
                if why := _why_unusable(directory / script, may_be_directory=False):
                    yield error_at(f"{directory / script}: {why}", loc)
            elif " " not in command and (directory / command).is_file():
                yield warning_at(f"is run as a command; the script beside it is `./{command}`", loc)


def _booted(file: ClusterFile) -> Iterator[str | None]:
    for cluster in clusters_of(file):
        yield cluster.spec.base_image_path
        yield from (node.spec.base_image_path for node in cluster.nodes)


def _road_back(name: str, images: Mapping[str, ImageSpec]) -> list[str]:
    """The names from an image to what it is made from and so on, if that leads back to it."""
    road, here = [name], images[name].from_.name
    while here is not None and here in images and here not in road:
        road.append(here)
        here = images[here].from_.name
    return [*road, name] if here == name else []


def _check_twice(loc: Loc, packages: tuple[str, ...]) -> Iterator[Finding]:
    names = [package.partition("=")[0] for package in packages]
    for index, name in enumerate(names):
        if name in names[:index]:
            yield error_at(f"{name} is in the list already", (*loc, index))


def _why_unusable(path: Path, *, may_be_directory: bool) -> str | None:
    try:
        seen = path.stat()
        if may_be_directory and stat.S_ISDIR(seen.st_mode):
            return None if os.access(path, os.R_OK | os.X_OK) else "you may not read it"
    except (OSError, ValueError) as error:
        told = error.strerror if isinstance(error, OSError) else None
        return (told or str(error)).lower()
    if not stat.S_ISREG(seen.st_mode):
        return "not a file or directory" if may_be_directory else "not a file"
    return None if os.access(path, os.R_OK) else "you may not read it"
