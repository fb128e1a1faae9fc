"""Checks of `images`: names and their order, and the files of the host that they name."""

import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from pydantic import ValidationError

from ai_how.spec.images import (
    NO_TREE,
    OF_PLACES,
    ImageBaseSpec,
    ImageSpec,
    base_of,
    is_place,
    is_url,
    path_in,
    script_in,
    section_of,
)
from ai_how.spec.kubernetes import IMAGE
from ai_how.spec.kubernetes_checks import boots_own_image, bundle_files, check_kubernetes
from ai_how.spec.models import ClusterFile
from ai_how.spec.problems import Finding, Loc, error_at, render_value, warning_at
from ai_how.spec.view import clusters_of

BUILT_IN = "default"
_APART = {"nvidia", "simulated-gpus"}
_LONG = "images: {NAME: {from: {url: …, checksums: …, key: …}}}"


def check_images(file: ClusterFile) -> Iterator[Finding]:
    """Every contradiction within `images`, and images that no node boots."""
    for name, image in file.images.items():
        loc: Loc = ("images", name)
        if name == BUILT_IN:
            yield error_at(f"`{BUILT_IN}` is the built-in image; choose another name", loc)
            continue
        if wrong := find_contradiction(image.from_):
            field, words = wrong
            base: Loc = (*loc, "from")
            beside = ((*base, key) for key in OF_PLACES)  # one of these is wrong: that comes first
            yield error_at(words, (*base, field) if field else base, *beside)
        elif road := _road_back(name, file.images):
            words = " -> ".join(road)
            yield error_at(f"an image cannot be made from itself: {words}", (*loc, "from"))
        elif image.is_changed and _root_of(name, file.images).is_place:
            yield _no_tree(loc, image)
        yield from _check_twice((*loc, "packages"), image.packages)
        if image.with_ and _sets_of(name, file.images) >= _APART:
            yield error_at(
                "`nvidia` and `simulated-gpus` exclude each other: each brings a libnvidia-ml.so.1",
                (*loc, "with"),
            )
    for loc, text in _booted(file):
        if why := _why_no_reference(text):
            yield error_at(why, loc)
    yield from check_kubernetes(file)
    wanted = {text for _, text in _booted(file)} | {one.from_.name for one in file.images.values()}
    if boots_own_image(file):
        wanted.add(IMAGE)
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
            if why := _why_unusable(path_in(directory, source), may_be_directory=True):
                yield error_at(f"{path_in(directory, source)}: {why}", loc)
        for index, command in enumerate(image.run):
            loc = ("images", name, "run", index)
            if script := script_in(command):
                if why := _why_unusable(directory / script, may_be_directory=False):
                    yield error_at(f"{directory / script}: {why}", loc)
            elif " " not in command and (directory / command).is_file():
                yield warning_at(f"is run as a command; the script beside it is `./{command}`", loc)
        for key, text in _files_of(image.from_):
            if why := _why_unusable(path_in(directory, text), may_be_directory=False):
                yield error_at(f"{path_in(directory, text)}: {why}", ("images", name, "from", key))
    yield from _check_bundles(file, directory)
    for loc, text in _booted(file):
        yield from _check_booted(loc, text, file, directory)


def _check_bundles(file: ClusterFile, directory: Path) -> Iterator[Finding]:
    for loc, path, has_digest in bundle_files(file, directory):
        if why := _why_unusable(path, may_be_directory=True):
            yield error_at(f"{path}: {why}", loc)
        elif has_digest and path.is_dir():
            yield error_at("a directory has no SHA-256", (*loc[:-1], "sha256"), loc)


def names_files(file: ClusterFile) -> bool:
    """Whether the images or playbooks of a file may depend on what lies beside it."""
    has_playbooks = file.clusters.hpc is not None and bool(file.clusters.hpc.provision)
    cloud = file.clusters.cloud
    has_bundle = cloud is not None and cloud.kubernetes_config.bundle is not None
    return (
        bool(file.images)
        or has_playbooks
        or has_bundle
        or any(is_place(text) for _, text in _booted(file))
    )


def _booted(file: ClusterFile) -> Iterator[tuple[Loc, str]]:
    """What the nodes of the file boot, each with its place."""
    for cluster in clusters_of(file):
        asked = [(cluster.loc, cluster.spec.base_image_path)]
        asked += [(node.loc, node.spec.base_image_path) for node in cluster.nodes]
        yield from (((*loc, "base_image_path"), text) for loc, text in asked if text is not None)


def _check_booted(loc: Loc, text: str, file: ClusterFile, directory: Path) -> Iterator[Finding]:
    if is_place(text):
        path = None if is_url(text) else path_in(directory, text)
        if path and (why := _why_unusable(path, may_be_directory=False)):
            yield error_at(f"{path}: {why}", loc)
    elif text not in file.images and _is_file(directory / text):
        yield warning_at(f"is the name of an image; the file beside it is `./{text}`", loc)


def _files_of(base: ImageBaseSpec) -> Iterator[tuple[str, str]]:
    """The fields that name files of the host, each with its path."""
    fields = ("path", "checksums", "signature", "key")
    values = ((key, getattr(base, key)) for key in fields)
    yield from ((key, text) for key, text in values if text is not None and not is_url(text))


def find_contradiction(base: ImageBaseSpec) -> tuple[str | None, str] | None:
    """What is wrong between the fields of a `from`: the field if it is about one, and the words."""
    named = [one for one in (base.name, base.suite, base.path, base.url) if one is not None]
    beside = [key for key in OF_PLACES if getattr(base, key) is not None]
    field: str | None = None
    if len(named) != 1:
        words = (
            "one of `name`, `suite`, `path` and `url` is required: `from: default`, "
            "`from: {suite: bookworm}`, or `from: {path: ./image.qcow2}`"
        )
    elif beside and not base.is_place:
        field, words = beside[0], "belongs to `path` or `url`"
    elif base.path and is_url(base.path):
        field, words = "path", f"is a URL; write `url: {base.path}`"
    elif base.key and is_url(base.key):
        field = "key"
        words = "must be a file of yours: a key from the server of the image proves nothing"
    elif base.sha256 and base.sha512:
        field, words = "sha512", "one of `sha256` and `sha512` is enough"
    elif base.checksums and (base.sha256 or base.sha512):
        digest = "sha256" if base.sha256 else "sha512"
        field, words = "checksums", f"one of `{digest}` and `checksums` is enough"
    elif base.checksums and not base.key:
        field = "checksums"
        words = (
            "checksums without a signature are worth no more than the https of their server: name "
            "a file with the `key` that must have signed them, or the `sha256` of the image"
        )
    elif (base.signature or base.key) and not base.checksums:
        field = "signature" if base.signature else "key"
        words = "has no effect without `checksums`"
    elif base.url and not (base.sha256 or base.sha512 or base.checksums):
        field = "url"
        words = (
            "a URL needs the digest of its file: `sha256`, `sha512`, or `checksums` with the "
            "`key` that must have signed them"
        )
    else:
        return None
    return field, words


def _why_no_reference(text: str) -> str | None:
    """What is wrong with the URL of a `base_image_path`."""
    if not is_url(text):
        return None
    try:
        base = base_of(text)
    except ValidationError as error:
        found = error.errors(include_url=False)[0]
        value = render_value(section_of(text)[str(found["loc"][0])])
        return f"found {value}; allowed: {found['ctx']['allowed']}"
    if base.sha256 or base.sha512:
        return None
    return (
        f"a URL needs the digest of its file: `{text}#sha256=DIGEST`; where its publisher signs "
        f"checksums: `{_LONG}`"
    )


def _root_of(name: str, images: Mapping[str, ImageSpec]) -> ImageBaseSpec:
    """What an image is made from in the end, or something of the circle that it leads into."""
    base, seen = images[name].from_, {name}
    while base.name is not None and base.name in images and base.name not in seen:
        seen.add(base.name)
        base = images[base.name].from_
    return base


def _sets_of(name: str, images: Mapping[str, ImageSpec]) -> set[str]:
    """The sets of an image, and of those of the file that it is made from."""
    sets, here, seen = set[str](), name, set[str]()
    while here in images and here not in seen:
        seen.add(here)
        sets.update(images[here].with_)
        here = images[here].from_.name or ""
    return sets


def _no_tree(loc: Loc, image: ImageSpec) -> Finding:
    added = next(
        key for key in ("with_", "packages", "files", "run", "kubernetes") if getattr(image, key)
    )
    return error_at(
        f"something can be added to an image only where ai-how has its tree of files. {NO_TREE}",
        (*loc, added.rstrip("_")),
    )


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


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
