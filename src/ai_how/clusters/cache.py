"""What a machine without any history needs to start the clusters of a file at once, as one file.

That is the images of the nodes and the saved VMs that new nodes are restored from.
"""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ai_how import __version__
from ai_how.clusters.cleanup import host_up
from ai_how.clusters.kind import ClusterKind
from ai_how.clusters.preflight.node_images import catalogue_of, choose_accel, get_image
from ai_how.clusters.save_machines import find_wanted
from ai_how.errors import HostError
from ai_how.host.place import HypervisorHost
from ai_how.images.copying import Progress
from ai_how.images.manifest import Image, Manifest
from ai_how.images.store import ImageStore
from ai_how.libvirt_client.client import LibvirtClient
from ai_how.spec.models import ClusterFile
from ai_how.state.lock import held_lock
from ai_how.state.paths import Roots
from ai_how.vm_management.cache_file import Contents, take_cache_in, write_cache
from ai_how.vm_management.nodes.domain_definition import Accel
from ai_how.vm_management.saved_machines.matching import describe_host
from ai_how.vm_management.saved_machines.saving import MachineToSave, no_save_reason
from ai_how.vm_management.saved_machines.store import SavedMachine, SavedMachines, SavedManifest

if TYPE_CHECKING:
    from ai_how.vm_management.saved_machines.generic_vm import MachineKey

_LOCK_WAIT_S = 900  # another run may be saving a VM
_SHOWN = 16


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written to a file, and why VMs of the file are not in it."""

    images: tuple[Image, ...]
    machines: tuple[SavedMachine, ...]
    unsaved: tuple[MachineToSave, ...]
    """VMs that could be saved and are not."""
    cold: dict[str, str]
    """By node, why it has to boot."""
    no_save_reason: str | None
    """Why no VM can be saved on this host at all; None if that is possible."""


@dataclass(frozen=True, slots=True)
class CacheKey:
    """What decides which cache a machine can use, as two digests of 16 digits.

    `images` is of the images of the file, and `machines` of its types of nodes and of `host`, which
    describes the host in words. Both are known before anything was built.
    """

    images: str
    machines: str
    host: str

    @property
    def text(self) -> str:
        return f"{self.images}-{self.machines}"


def export_cache(
    kinds: Sequence[ClusterKind],
    spec: ClusterFile,
    roots: Roots,
    place: HypervisorHost,
    target: Path,
    *,
    on_progress: Progress | None = None,
) -> Exported:
    """Write the images of a file, and the newest saved VM of each type of node, to a new file.

    Raises HostError where an image is not built, or something is there already.
    """
    catalogue = catalogue_of(roots, spec)
    wanted: dict[MachineKey, MachineToSave] = {}
    cold: dict[str, str] = {}
    for kind in kinds:
        section = kind.section_of(spec)
        accel, _ = choose_accel(section.hardware, place, roots)
        image_of = partial(get_image, catalogue=catalogue, kind=kind)
        found, why_cold = find_wanted(kind, section, image_of, roots, place, accel, "")
        wanted |= found
        cold |= why_cold
    names = _images_of(kinds, spec)
    images = {image.digest: image for name in names for image in catalogue.parts_of(name)}
    machines = SavedMachines(place.storage)
    with ExitStack() as held:
        if place.storage.saved.is_dir():
            doing = "export saved VMs"
            held.enter_context(
                held_lock(place.storage.saved_lock, doing=doing, wait_s=_LOCK_WAIT_S)
            )
        there = {key: machines.find_of_another_host(key.definition_digest) for key in wanted}
        saved = {
            key: one for key, one in there.items() if one and machines.find_damage(one) is None
        }
        write_cache(target, tuple(images.values()), tuple(saved.values()), on_progress=on_progress)
    unsaved = tuple(one for key, one in wanted.items() if key not in saved)
    return Exported(
        tuple(images.values()), tuple(saved.values()), unsaved, cold, no_save_reason(place)
    )


def import_cache(
    kinds: Sequence[ClusterKind],
    spec: ClusterFile,
    roots: Roots,
    place: HypervisorHost,
    source: Path,
    *,
    warn: Callable[[str], None],
    on_progress: Progress | None = None,
) -> Contents:
    """Take in the images and saved VMs of a file of `export_cache`, as far as they are not here.

    Saved VMs that cannot be used on this host are left out, with the reason. Raises ImageError,
    before anything is taken in, for a file that is damaged or no such file.
    """
    store = ImageStore(roots.images)
    reason = no_save_reason(place)
    accels = _accels_of(kinds, spec, place, roots) if reason is None else ()
    hosts = [_describe(roots, place, accel, warn) for accel in accels]

    def refusal(manifest: SavedManifest) -> str | None:
        if reason or manifest.host in hosts:
            return reason
        return f"it is of {manifest.host}, this host is {' or '.join(hosts)}"

    return take_cache_in(
        source, store, SavedMachines(place.storage), refusal=refusal, on_progress=on_progress
    )


def find_cache_key(
    kinds: Sequence[ClusterKind],
    spec: ClusterFile,
    roots: Roots,
    place: HypervisorHost,
    *,
    warn: Callable[[str], None],
) -> CacheKey:
    """The key of what `export_cache` writes after a start of the file on this host."""
    catalogue = catalogue_of(roots, spec)
    asked = {name: catalogue.asked_digest(name) for name in _images_of(kinds, spec)}
    hosts = {
        accel: _describe(roots, place, accel, warn)
        for accel in _accels_of(kinds, spec, place, roots)
    }

    def stand_in(name: str | None) -> Image:
        """An image that is not built yet has the same key afterwards: it stands for itself."""
        return _stand_in(asked[name])

    wanted: dict[MachineKey, MachineToSave] = {}
    for kind in kinds:
        section = kind.section_of(spec)
        accel, _ = choose_accel(section.hardware, place, roots)
        found, _ = find_wanted(kind, section, stand_in, roots, place, accel, hosts[accel])
        wanted |= found
    host = " or ".join(hosts.values())
    return CacheKey(
        images=_digest(__version__, *sorted(set(asked.values()))),
        machines=_digest(host, *sorted(key.definition_digest for key in wanted)),
        host=host,
    )


def _images_of(kinds: Sequence[ClusterKind], spec: ClusterFile) -> tuple[str | None, ...]:
    """The images that the nodes of the clusters boot."""
    sections = [(kind, kind.section_of(spec)) for kind in kinds]
    nodes = (node for kind, section in sections for node in kind.nodes_of(section))
    return tuple(dict.fromkeys(node.base_image for node in nodes))


def _accels_of(
    kinds: Sequence[ClusterKind], spec: ClusterFile, place: HypervisorHost, roots: Roots
) -> tuple[Accel, ...]:
    """What the VMs of the clusters run with."""
    sections = (kind.section_of(spec) for kind in kinds)
    chosen = (choose_accel(section.hardware, place, roots)[0] for section in sections)
    return tuple(dict.fromkeys(chosen))


def require_new(target: Path) -> Path:
    """The absolute path of a file to write. Raises HostError where its directory is missing."""
    target = Path(os.path.abspath(target))  # noqa: PTH100  links stay as they are
    if not target.parent.is_dir():
        raise HostError(f"{target.parent} is no directory", hint="mkdir -p DIRECTORY")
    return target


def _describe(
    roots: Roots, place: HypervisorHost, accel: Accel, warn: Callable[[str], None]
) -> str:
    """The host as saved VMs depend on it; the embedded one runs for that."""
    with (
        host_up(place, roots, warn),
        LibvirtClient(place.uri, is_kept=place.is_kept) as client,
    ):
        return describe_host(client, accel)


def _stand_in(digest: str) -> Image:
    none = "0" * 64
    return Image(
        Path("/nowhere"),
        Manifest(
            digest=digest[:64],
            name="any",
            created_at=datetime.fromtimestamp(0, UTC),
            virtual_size_bytes=1,
            disk_sha256=none,
            kernel_sha256=none,
            initrd_sha256=none,
            identity="agent",
        ),
    )


def _digest(*parts: str) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:_SHOWN]
