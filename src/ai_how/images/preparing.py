"""Imported images as nodes: what is added to one, and what its VM says while that is done (pure).

A VM boots the image once, and prepare.sh adds what is missing in there. Its disk is kept as an
image of ours.
"""

import hashlib
import io
import re
import shlex
import tarfile
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from ai_how.errors import HostError, ImageError
from ai_how.images.apt_progress import AptProgress
from ai_how.images.blueprint import digest_of_recipe
from ai_how.images.copying import sha256_of
from ai_how.images.manifest import DISK, LONGEST_NAME, PACKAGES, Image, Manifest
from ai_how.images.packages import Package, find_slurm_version, read_packages
from ai_how.images.qcow2_header import read_header
from ai_how.images.recipe import ROOT
from ai_how.images.store import ImageStore
from ai_how.spec.images import Firmware

PLACE = "/run/ai-how-prepare"
"""Where prepare.sh and what it reads lie in the VM."""
_MOST_PACKAGES = 20_000
_OLDEST_SLURM = (22, 5)
_SCRIPTS = ("prepare.sh", "node.sh")
_TREES = ("rootfs", "of_imported")
_PHASES = {
    "settle": (0.02, "waiting for its first boot to end"),
    "update": (0.10, "reading the package lists"),
    "install": (0.20, "installing packages"),
    "configure": (0.85, "configuring"),
    "forget": (0.95, "removing what is of this VM alone"),
}
_INSTALLING = 0.6
_TAIL = 40
_FIELDS = len(fields(Package))
_UNPRINTABLE = re.compile(r"[^\x20-\x7e\u00a0-\U0010ffff]")
_VERSION = re.compile(r"\d[\w.+~-]{0,40}")
_WORD = re.compile(r"[a-z0-9._-]{1,40}")
_SUFFIX = "-prepared"


def preparation_of(digest: str) -> dict[str, Any]:
    """All that decides what an imported image is turned into, for the manifest of the result."""
    return {"prepared_from": digest, "scripts": dict(_digests_of_job())}


def prepared_digest(digest: str) -> str:
    """The SHA-256 by which the image is found that was prepared from the one of this digest."""
    return digest_of_recipe(preparation_of(digest))


def find_prepared(store: ImageStore, digest: str) -> Image | None:
    """The image that was prepared from an imported one; None if that was not done yet."""
    return store.find_built(prepared_digest(digest))


def name_of_prepared(name: str) -> str:
    """What the image is called that is prepared from the one of this name."""
    return f"{name[: LONGEST_NAME - len(_SUFFIX)]}{_SUFFIX}"


def render_job(more: dict[str, str]) -> bytes:
    """The tar archive that is unpacked at PLACE; `more` are further files of it, with content."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for path in _job_files():
            mode = 0o755 if path.suffix == ".sh" else 0o644
            _add(archive, str(path.relative_to(ROOT)), path.read_bytes(), mode)
        for name, text in more.items():
            _add(archive, name, text.encode(), 0o600)
    return buffer.getvalue()


def _add(archive: tarfile.TarFile, name: str, content: bytes, mode: int) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(content), mode
    archive.addfile(info, io.BytesIO(content))


def _job_files() -> list[Path]:
    below = (path for tree in _TREES for path in (ROOT / tree).rglob("*") if path.is_file())
    return sorted([*(ROOT / name for name in _SCRIPTS), *below])


@cache
def _digests_of_job() -> tuple[tuple[str, str], ...]:
    """The SHA-256 of each of our files; they do not change while this program runs."""
    return tuple((str(path.relative_to(ROOT)), sha256_of(path)) for path in _job_files())


@dataclass(slots=True)
class Heard:
    """What prepare.sh has said so far. A guest says it: nothing of it is believed further."""

    image: Image
    watch: Callable[[float, str], None]
    phase: str = "settle"
    missing: tuple[str, ...] = ()
    failure: str | None = None
    slurm: str | None = None
    system: str | None = None
    os: str | None = None
    has_pmix: bool = False
    is_finished: bool = False
    packages: list[str] = field(default_factory=list)
    tail: deque[str] = field(default_factory=lambda: deque(maxlen=_TAIL))
    apt: AptProgress = field(default_factory=AptProgress)

    def hear(self, line: str) -> None:
        line = _UNPRINTABLE.sub("", line)[:500]
        head, _, rest = line.partition(" ")
        if head != "ai-how:":
            self.tail.append(line)
            self._count(line)
            return
        word, _, value = rest.partition(" ")
        if word == "phase" and value in _PHASES:
            self.phase = value
            self.watch(*_PHASES[value])
            self.tail.clear()
        elif word == "missing":
            self.missing = tuple(value.split())
        elif word == "failed":
            self.failure = value
        elif word == "slurm" and _VERSION.fullmatch(value):
            self.slurm = value
        elif word == "system":
            self.system = value[:80]
        elif word == "os" and _WORD.fullmatch(value):
            self.os = value
        elif word == "pmix":
            self.has_pmix = True
        elif word == "package" and len(self.packages) < _MOST_PACKAGES:
            if len(value.split()) == _FIELDS:
                self.packages.append("\t".join(value.split()))
        elif word == "finished":
            self.is_finished = True

    def _count(self, line: str) -> None:
        if self.phase == "install" and (done := self.apt.hear(line)) is not None:
            share, what = _PHASES["install"]
            self.watch(share + _INSTALLING * done, what)

    @property
    def is_too_old(self) -> bool:
        """Whether its SLURM does not know what our settings need (cgroup v2)."""
        found = re.match(r"(\d+)\.(\d+)", self.slurm or "")
        return found is not None and (int(found[1]), int(found[2])) < _OLDEST_SLURM

    def explain(self, uplink_trouble: str | None, told: str | None = None) -> HostError:
        """Why the image is not prepared, as an error that says what would help.

        `told` is what ssh said.
        """
        brief = f"the image {self.image.name} cannot be prepared for a cluster"
        said = "\n".join(self.tail)
        if self.failure == "packages":
            lacks = f"It lacks {', '.join(self.missing)}."
            if uplink_trouble:
                return ImageError(
                    f"{brief}: it lacks packages, and VMs have no uplink: {uplink_trouble}",
                    details=lacks,
                    hint="ai-how doctor  # or an image in which they are installed",
                )
            return ImageError(
                f"{brief}: its packages cannot be installed",
                details=f"{lacks}\n{said}".strip(),
                hint="ai-how host status  # says whether VMs reach the outside",
            )
        if self.failure == "manager":
            return ImageError(
                f"{brief}: it has neither apt nor dnf",
                hint="remove base_image_path to use the built-in image",
            )
        if self.failure == "login":
            return ImageError(
                f"{brief}: it has an account with the number 1000, which is that of the login",
                hint="remove that account in the image, then import it again",
            )
        if self.is_too_old:
            return ImageError(
                f"{brief}: its SLURM {self.slurm} is too old, and 22.05 is the oldest that works",
                hint="use a newer release of that distribution",
            )
        doing = _PHASES[self.phase][1]
        return ImageError(
            f"{brief}: it failed while {doing}" + (f": {self.failure}" if self.failure else ""),
            details=said or told,
            hint=f"ai-how image build {shlex.quote(self.image.name)}  # tries it again",
        )


def finish_prepared(
    store: ImageStore, draft: Path, image: Image, heard: Heard, firmware: Firmware
) -> Image:
    """Add the disk of a draft to the store, as what was prepared from `image`."""
    (draft / PACKAGES).write_text("".join(f"{line}\n" for line in heard.packages), "utf-8")
    packages = read_packages(draft / PACKAGES)
    recipe = preparation_of(image.digest)
    digest = asked = digest_of_recipe(recipe)
    if heard.system:
        recipe["system"] = heard.system
    recipe |= {"source": image.name, "has_pmix": heard.has_pmix, "os": heard.os or ""}
    if former := store.find_built(digest):
        digest = hashlib.sha256(f"{digest}{former.digest}{datetime.now(UTC)}".encode()).hexdigest()
    header = read_header(draft / DISK, max_virtual_bytes=store.max_virtual_bytes)
    return store.add(
        draft,
        Manifest(
            digest=digest,
            asked_digest=asked,
            name=name_of_prepared(image.name),
            created_at=datetime.now(UTC),
            virtual_size_bytes=header.virtual_size_bytes,
            disk_sha256=sha256_of(draft / DISK),
            packages_sha256=sha256_of(draft / PACKAGES),
            identity="agent",
            slurm_version=heard.slurm or find_slurm_version(packages),
            recipe=recipe,
            firmware="uefi" if firmware == "uefi" else None,
        ),
    )
