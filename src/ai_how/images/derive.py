"""Makes an image from another one: its tree of files, and packages, files and commands on top."""

import difflib
import os
import re
import shlex
import stat
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ai_how.errors import ImageError
from ai_how.images.apt_progress import AptProgress
from ai_how.images.blueprint import Blueprint, digest_of_recipe, stage
from ai_how.images.build import (
    USUAL,
    BuildOptions,
    Watcher,
    build_errors,
    finish,
    is_expired,
    within,
)
from ai_how.images.bundles import Contents
from ai_how.images.copying import disk_errors
from ai_how.images.manifest import INITRD, KERNEL, Image
from ai_how.images.recipe import DEFAULT_SUITE, ROOT, suite_recipe
from ai_how.images.sandbox import build_environment, find_workplace, in_namespace
from ai_how.images.sets import KUBERNETES
from ai_how.images.store import ImageStore
from ai_how.process import get_tool, run_lines
from ai_how.spec.images import NO_TREE

_PHASES = {
    "unpack": (0.02, "unpacking the base"),
    "update": (0.10, "reading the package lists"),
    "upgrade": (0.15, "taking newer packages"),
    "install": (0.20, "installing packages"),
    "documentation": (0.60, "adding documentation"),
    "sets": (0.65, "building what the sets bring"),
    "files": (0.70, "copying files"),
    "run": (0.70, "running commands"),
    "pack": (0.80, "making the file system"),
    "clean": (0.93, "cleaning up"),
}
_NO_PACKAGE = re.compile(
    r"E: (?:Unable to locate package (?P<name>\S+)"
    r"|Package '(?P<none>\S+)' has no installation candidate"
    r"|Version '(?P<version>\S+)' for '(?P<of>\S+)' was not found)"
)
_HEADERS = re.compile(r"linux-headers-\d")
_TAIL = 40
_INSTALLING = 0.4
# The share of reading a bundle, which may have to be downloaded.
_READ = 0.2
_PROGRAMS = (("zstd", "zstd"), ("tar", "tar"), ("mke2fs", "e2fsprogs"))


def derive_image(
    store: ImageStore,
    blueprint: Blueprint,
    base: Image,
    *,
    watch: Watcher,
    options: BuildOptions = USUAL,
) -> Image:
    """Make the image of a blueprint on `base`, or return it if it exists.

    Raises ImageError with the last lines of what failed; nothing of the image is in the store then.
    """
    recipe = blueprint.recipe(base.digest)
    digest = digest_of_recipe(recipe)
    if not options.refresh and (image := store.find_built(digest)):
        return image
    if base.tree is None or base.kernel is None or base.initrd is None:
        raise no_base(blueprint.name, base)
    for program, package in _PROGRAMS:
        get_tool(program, package=package)
    bundle = None
    if blueprint.bundle:
        bundle = blueprint.bundle.read(within(watch, 0.0, _READ))
        watch = within(watch, _READ, 1.0)
    with store.draft() as draft:
        with disk_errors(draft):
            _write_job(draft / "job", blueprint, base, options)
            if bundle:
                _write_bundle(draft / "job" / "sets" / KUBERNETES, bundle)
        if blueprint.recipe(base.digest) != recipe:
            raise ImageError(f"files of the image {blueprint.name} changed while they were read")
        start = base if options.refresh else find_start(store, recipe) or base
        _run(draft, blueprint, start, watch, options)
        watch(0.95, "converting the disk")
        for name in (KERNEL, INITRD):
            os.link(base.directory / name, draft / name)
        image = finish(
            store,
            draft,
            name=blueprint.name,
            digest=digest,
            suite=base.manifest.suite,
            cmdline=base.manifest.cmdline,
            recipe=recipe,
            kubernetes_version=bundle.version if bundle else base.manifest.kubernetes_version,
        )
    watch(1.0, "done")
    return image


def no_base(name: str, base: Image) -> ImageError:
    """Why an image cannot be made from one without a tree of files."""
    brief = f"{name} cannot be made from {base.name} {base.digest[:12]}"
    is_prepared = "prepared_from" in base.manifest.recipe
    if base.manifest.identity == "nocloud" or base.manifest.is_imported or is_prepared:
        return ImageError(
            brief,
            details=NO_TREE,
            hint=f"from: default  # of the image {name} in the cluster file",
        )
    return ImageError(
        brief,
        details="It was built by an earlier ai-how, and has no tree of files.",
        hint=f"ai-how image rm {base.digest[:12]}  # then build it again",
    )


def find_start(store: ImageStore, recipe: dict[str, Any]) -> Image | None:
    """An image from which less is to be added than from the base, and with the same result.

    It was made from the same base, with a part of the packages and files, and no command: an
    image to which a package is added costs the installation of that package. One that was made on
    another machine is none: only who names it trusts it.
    """
    fitting = [
        one
        for one in store.list()
        if isinstance(one, Image)
        and one.tree
        and not one.manifest.is_imported
        and _is_part(one.manifest.recipe, recipe)
    ]
    return max(fitting, key=lambda one: len(one.manifest.recipe["all_packages"]), default=None)


def _is_part(earlier: dict[str, Any], recipe: dict[str, Any]) -> bool:
    return (
        all(earlier.get(key) == recipe[key] for key in ("base", "scripts", "documented"))
        and earlier.keys() >= {"run", "all_packages", "files"}
        and not earlier["run"]
        and set(earlier["all_packages"]) <= set(recipe["all_packages"])
        and earlier["files"].items() <= recipe["files"].items()
        and earlier.get("kubernetes") in (None, recipe.get("kubernetes"))
        and earlier.get("set_scripts", {}).items() <= recipe.get("set_scripts", {}).items()
    )


def _write_job(job: Path, blueprint: Blueprint, base: Image, options: BuildOptions) -> None:
    """The files that derive-inside.sh reads."""
    job.mkdir()
    (job / "packages").write_text("".join(f"{name}\n" for name in blueprint.all_packages))
    if blueprint.documented:
        (job / "documented").write_text("".join(f"{name}\n" for name in blueprint.documented))
    if options.refresh:
        (job / "upgrade").touch()
    if options.mirror:
        (job / "sources.list").write_text(f"deb {options.mirror} {base.manifest.suite} main\n")
    if blueprint.components:
        (job / "components").write_text("".join(f"{one}\n" for one in blueprint.components))
    for name, place in blueprint.set_scripts.items():
        (job / "sets").mkdir(exist_ok=True)
        stage(place, job / "sets" / name)
    if certificates := options.access.certificates:
        (job / "certificates").write_text("".join(certificates))
    for number, one in enumerate(blueprint.all_files):
        (job / "files").mkdir(exist_ok=True)
        stage(one.source, job / "files" / str(number))
        (job / "files" / f"{number}.target").write_text(one.target)
    for number, step in enumerate(blueprint.steps):
        (job / "run").mkdir(exist_ok=True)
        command = step.command
        if step.script:
            stage(step.script, job / "run" / f"{number}.script")
            # What follows the name of the script is kept as it is written.
            command = "/ai-how-job/script" + command[len(command.split(maxsplit=1)[0]) :]
        (job / "run" / str(number)).write_text(command + "\n")


def _write_bundle(place: Path, bundle: Contents) -> None:
    """The files that the script of the set puts in their places."""
    (place / "version").write_text(f"{bundle.version}\n")
    for name, source in bundle.files.items():
        target = place / "bundle" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        stage(source, target)


def _run(
    draft: Path, blueprint: Blueprint, base: Image, watch: Watcher, options: BuildOptions
) -> None:
    settings = {
        "OUT": str(draft),
        "PLACE": str(find_workplace(draft, ROOT)),
        "BASE": str(base.tree),
        "CHECK_EXPIRY": "false" if options.allow_expired else "true",
        "PACK": str(ROOT / "pack.sh"),
        "INSIDE": str(ROOT / "derive-inside.sh"),
        "PYTHON": sys.executable,
        "IMAGE_BYTES": str(base.manifest.virtual_size_bytes),
    }
    heard = _Heard(blueprint, draft, base.manifest.suite, watch)
    try:
        with build_errors(blueprint.name, draft, again=blueprint.name):
            # What a program of the image has begun ends with the first namespace.
            for phase in ("make", "pack"):
                run_lines(
                    in_namespace([get_tool("sh"), ROOT / "derive.sh", phase]),
                    env=build_environment(settings, options.access),
                    is_whole_env=True,
                    on_line=heard.hear,
                )
    except ImageError as error:
        raise heard.explain(error) from error


@dataclass(slots=True)
class _Heard:
    """What derive.sh has said so far."""

    blueprint: Blueprint
    draft: Path
    suite: str | None
    watch: Callable[[float, str], None]
    phase: str = "unpack"
    step: int = 0
    code: str | None = None
    tail: deque[str] = field(default_factory=lambda: deque(maxlen=_TAIL))
    apt: AptProgress = field(default_factory=AptProgress)

    def hear(self, line: str) -> None:
        words = line.split()
        if words[:2] == ["ai-how:", "phase"]:
            self.phase = words[2]
            share, what = _PHASES[self.phase]
            if self.phase == "run":
                self.step = int(words[3])
                what = self.blueprint.steps[self.step].command.splitlines()[0]
            self.watch(share, what)
            self.tail.clear()
        elif words[:2] == ["ai-how:", "failed"]:
            self.code = words[2]
        else:
            self.tail.append(line)
            self._count(line)

    def _count(self, line: str) -> None:
        if self.phase == "install" and (done := self.apt.hear(line)) is not None:
            share, what = _PHASES["install"]
            self.watch(share + _INSTALLING * done, what)

    def explain(self, error: ImageError) -> ImageError:
        """The error in the words of the cluster file."""
        name, said = self.blueprint.name, "\n".join(self.tail)
        if "no space left" in error.brief:
            return error
        if self.phase == "run":
            step = self.blueprint.steps[self.step]
            return ImageError(
                f"the image {name} cannot be built: `{step.command.splitlines()[0]}` failed "
                f"(images.{name}.run[{self.step}], exit code {self.code})",
                details=said or "It printed nothing.",
                hint=f"ai-how image build {shlex.quote(name)}  # after a change of that command",
            )
        if self.phase in ("install", "documentation", "sets") and (
            found := _NO_PACKAGE.search(said)
        ):
            is_for_modules = self.phase == "sets" and _HEADERS.match(_missing_in(found))
            return self._no_headers(said) if is_for_modules else self._no_package(found)
        if self.phase == "update" and not is_expired(said):
            return ImageError(
                f"the image {name} cannot be built: the lists of packages cannot be read",
                details=said,
                hint=f"ai-how image build {shlex.quote(name)} --mirror http://deb.debian.org/debian",
            )
        return ImageError(error.brief, details=said or error.details, hint=error.hint)

    def _no_headers(self, said: str) -> ImageError:
        """Modules fit one kernel; the archive keeps the headers of its newest ones."""
        return ImageError(
            f"the image {self.blueprint.name} cannot be built: there are no headers any more of "
            "the kernel of its base, for which modules have to be built",
            details=said,
            hint=f"ai-how image build {suite_recipe(self.suite or DEFAULT_SUITE).asked_as} "
            f"--refresh  # a newer kernel; then build {shlex.quote(self.blueprint.name)} again",
        )

    def _no_package(self, found: re.Match[str]) -> ImageError:
        package = _missing_in(found)
        what = f"{package} {found['version']}" if found["version"] else package
        known = _read_list(self.draft / "job" / "known")
        near = difflib.get_close_matches(package, set(known) - {package}, n=1)
        return ImageError(
            f"the image {self.blueprint.name} cannot be built: {self.suite} has no package {what}",
            details=f"Did you mean {near[0]}?" if near else None,
            hint=f"https://packages.debian.org/search?keywords={package}&suite={self.suite}",
        )


def _missing_in(found: re.Match[str]) -> str:
    """The package of a match of _NO_PACKAGE."""
    return found["name"] or found["none"] or found["of"]


def _read_list(path: Path) -> list[str]:
    """The words of a file that a program of an image may have made a link, or anything else."""
    try:
        is_file = stat.S_ISREG(path.lstat().st_mode)
        return path.read_text(errors="replace").split() if is_file else []
    except OSError:
        return []
