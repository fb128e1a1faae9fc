"""Whether VMs can have UEFI here: QEMU's descriptions of firmware, by which libvirt chooses one.

docs/interop/firmware.json of QEMU has their form, and the directories.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ai_how.errors import HostError

DIRECTORIES = ("etc/qemu/firmware", "usr/share/qemu/firmware")
INSTALL_UEFI = "sudo apt-get install ovmf  # Fedora: edk2-ovmf"


def has_uefi(root: Path) -> bool:
    """Whether a VM can boot by UEFI here."""
    return any(map(_is_plain_uefi, _descriptions(root)))


def require_uefi(root: Path) -> None:
    """Raises HostError with the command that installs it where no VM could boot by UEFI."""
    if not has_uefi(root):
        raise HostError(
            "the image boots by UEFI, and this host has no UEFI firmware for VMs", hint=INSTALL_UEFI
        )


def _descriptions(root: Path) -> Iterator[dict[str, Any]]:
    for directory in DIRECTORIES:
        for path in sorted((root / directory).glob("*.json")):
            try:
                described = json.loads(path.read_text())
            except (OSError, ValueError):
                continue
            if isinstance(described, dict):
                yield described


def _is_plain_uefi(described: dict[str, Any]) -> bool:
    """Whether it is for these VMs, and does not enforce signatures."""
    arches = [one.get("architecture") for one in described.get("targets", ())]
    return (
        "uefi" in described.get("interface-types", ())
        and "x86_64" in arches
        and "enrolled-keys" not in described.get("features", ())
    )
