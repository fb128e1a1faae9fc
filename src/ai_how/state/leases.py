"""Leases: which node has which device of the host, and what is to be put right after it.

A lease says what to put right. Whether a device is free, libvirt says.
"""

import json
from contextlib import suppress
from pathlib import Path
from typing import Annotated, TypeVar
from uuid import UUID

from pydantic import AwareDatetime, ConfigDict, Field, ValidationError

from ai_how.state.files import fsync_directory, read_file, replaced_atomically
from ai_how.state.models import Name, Remembered
from ai_how.state.paths import ensure_private_directory

SUFFIX = ".json"
VGPU_SUFFIX = ".vgpu"  # older versions look at none of these files
LOCK = "lock"
_LARGEST_BYTES = 65536
Address = Annotated[str, Field(pattern=r"^[0-9a-f]{4}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]$")]
Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]


class NodeLease(Remembered):
    """The node that has a device. A newer version may add fields."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    owner: UUID
    """The id of the cluster."""
    cluster: Name
    kind: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,31}$")]
    """The kind of the cluster."""
    node: Name
    host: str = ""
    """The URI of the libvirt that has its VM."""
    boot: str
    """The id of the host's boot: after another one, drivers are bound anew, and vGPUs are gone."""
    taken_at: AwareDatetime


class Lease(NodeLease):
    """One function of a PCI device."""

    device: Address
    driver: Word | None
    """The driver that it had before; None if it had none."""
    is_left: bool = False
    """Whether it was not given back when that was tried; then it had the driver `left_with`."""
    left_with: Word | None = None


class VgpuLease(NodeLease):
    """A vGPU that was made for a node, or was about to be made."""

    parent: Address
    """The card or the VF that has it."""
    type: Word
    """The id of its type."""
    uuid: UUID | None
    """That of the mediated device; None if the VF itself is the vGPU."""

    @property
    def device(self) -> str:
        """What a VM with it has: a mediated device, by its UUID, or a VF, by its address."""
        return str(self.uuid or self.parent)


_L = TypeVar("_L", Lease, VgpuLease)


def find_lease(directory: Path, device: str) -> Lease | None:
    """The lease of a device; None if there is none, or it cannot be read."""
    return _read(directory / f"{device}{SUFFIX}", Lease)


def find_vgpu_lease(directory: Path, device: str) -> VgpuLease | None:
    """The lease of a vGPU; None if there is none, or it cannot be read."""
    return _read(directory / f"{device}{VGPU_SUFFIX}", VgpuLease)


def read_leases(directory: Path) -> tuple[Lease, ...]:
    """All leases by address; those that cannot be read are left out."""
    found = (_read(path, Lease) for path in _paths(directory, SUFFIX))
    return tuple(lease for lease in found if lease)


def read_vgpu_leases(directory: Path) -> tuple[VgpuLease, ...]:
    """All leases of vGPUs; those that cannot be read are left out."""
    found = (_read(path, VgpuLease) for path in _paths(directory, VGPU_SUFFIX))
    return tuple(lease for lease in found if lease)


def find_damaged(directory: Path) -> tuple[Path, ...]:
    """The files of leases that cannot be read."""
    damaged = [path for path in _paths(directory, SUFFIX) if _read(path, Lease) is None]
    damaged += [path for path in _paths(directory, VGPU_SUFFIX) if _read(path, VgpuLease) is None]
    return tuple(path for path in damaged if path.exists())


def write_lease(directory: Path, lease: Lease | VgpuLease) -> None:
    """Write a lease in the place of any other of this device. Raises StateError or HostError."""
    ensure_private_directory(directory)
    with replaced_atomically(_path(directory, lease)) as draft:
        draft.write_text(json.dumps(lease.model_dump(mode="json"), indent=2) + "\n", "utf-8")


def remove_lease(directory: Path, lease: Lease | VgpuLease) -> None:
    """Remove the lease of a device, whoever has it; safe to repeat."""
    _path(directory, lease).unlink(missing_ok=True)
    with suppress(FileNotFoundError):
        fsync_directory(directory)


def _path(directory: Path, lease: Lease | VgpuLease) -> Path:
    suffix = SUFFIX if isinstance(lease, Lease) else VGPU_SUFFIX
    return directory / f"{lease.device}{suffix}"


def _paths(directory: Path, suffix: str) -> list[Path]:
    with suppress(FileNotFoundError):
        return sorted(path for path in directory.iterdir() if path.suffix == suffix)
    return []


def _read(path: Path, model: type[_L]) -> _L | None:
    try:
        lease = model.model_validate_json(read_file(path, largest=_LARGEST_BYTES))
    except (OSError, ValidationError):
        return None
    return lease if lease.device == path.stem else None
