"""Leases: which node has which device of the host, and the driver that the device had before.

A lease says what to put right. Whether a device is free, libvirt says.
"""

import json
from contextlib import suppress
from pathlib import Path
from typing import Annotated
from uuid import UUID

from pydantic import AwareDatetime, ConfigDict, Field, ValidationError

from ai_how.state.files import fsync_directory, read_file, replaced_atomically
from ai_how.state.models import Name, Remembered
from ai_how.state.paths import ensure_private_directory

SUFFIX = ".json"
LOCK = "lock"
_LARGEST_BYTES = 65536


class Lease(Remembered):
    """One function of a PCI device, and the node that has it. A newer version may add fields."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    device: Annotated[str, Field(pattern=r"^[0-9a-f]{4}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]$")]
    owner: UUID
    """The id of the cluster."""
    cluster: Name
    kind: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,31}$")]
    """The kind of the cluster."""
    node: Name
    driver: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")] | None
    """The driver that it had before; None if it had none."""
    boot: str
    """The id of the host's boot: after another one, drivers are bound anew."""
    taken_at: AwareDatetime


def find_lease(directory: Path, device: str) -> Lease | None:
    """The lease of a device; None if there is none, or it cannot be read."""
    return _read(_path(directory, device))


def read_leases(directory: Path) -> tuple[Lease, ...]:
    """All leases by address; those that cannot be read are left out."""
    found = (_read(path) for path in _paths(directory))
    return tuple(lease for lease in found if lease)


def find_damaged(directory: Path) -> tuple[Path, ...]:
    """The files of leases that cannot be read."""
    return tuple(path for path in _paths(directory) if _read(path) is None and path.exists())


def write_lease(directory: Path, lease: Lease) -> None:
    """Write a lease in the place of any other of this device. Raises StateError or HostError."""
    ensure_private_directory(directory)
    with replaced_atomically(_path(directory, lease.device)) as draft:
        draft.write_text(json.dumps(lease.model_dump(mode="json"), indent=2) + "\n", "utf-8")


def remove_lease(directory: Path, device: str) -> None:
    """Remove the lease of a device; safe to repeat."""
    _path(directory, device).unlink(missing_ok=True)
    with suppress(FileNotFoundError):
        fsync_directory(directory)


def _path(directory: Path, device: str) -> Path:
    return directory / f"{device}{SUFFIX}"


def _paths(directory: Path) -> list[Path]:
    with suppress(FileNotFoundError):
        return sorted(path for path in directory.iterdir() if path.suffix == SUFFIX)
    return []


def _read(path: Path) -> Lease | None:
    try:
        lease = Lease.model_validate_json(read_file(path, largest=_LARGEST_BYTES))
    except (OSError, ValidationError):
        return None
    return lease if lease.device == path.name.removesuffix(SUFFIX) else None
