"""Devices of the host in the XML of VMs, and their addresses. Does not load libvirt."""

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Self
from xml.etree.ElementTree import Element  # only the type: the parser is ours

from ai_how.errors import HostError, SpecError
from ai_how.libvirt_client.xml import read_xml

_PCI_ADDRESS = re.compile(
    r"(?:([0-9a-f]{4}):)?([0-9a-f]{2}):([01][0-9a-f])\.([0-7])", re.IGNORECASE
)
_WITH_PCI_ADDRESS = ("hostdev[@type='pci']", "interface[@type='hostdev']", "disk[@type='nvme']")


@dataclass(frozen=True, slots=True)
class PciAddress:
    """The PCI address of a host device, in the notation of `lspci -D`."""

    domain: int
    bus: int
    slot: int
    function: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads `0000:65:00.0`, or `65:00.0` in domain 0. Raises SpecError for anything else."""
        if not (found := _PCI_ADDRESS.fullmatch(text)):
            raise SpecError(f"{text!a} is not a PCI address such as 0000:65:00.0", hint="lspci -D")
        return cls(*(int(part or "0", 16) for part in found.groups()))

    def __str__(self) -> str:
        return f"{self.domain:04x}:{self.bus:02x}:{self.slot:02x}.{self.function:x}"


def devices_in(xml: str) -> frozenset[str]:
    """The devices of the host in the XML of a VM, by PCI address or, mediated ones, by UUID.

    A VM of others may have what we do not know, which is left out: USB and SCSI have other
    addresses.
    """
    try:
        return frozenset(_devices(read_xml(xml)))
    except HostError:
        return frozenset()


def passed_in(xml: str) -> frozenset[str]:
    """The PCI devices that a VM has as nodes have them. Raises HostError for what is no XML."""
    return frozenset(_addresses(read_xml(xml), "hostdev[@type='pci']"))


def _devices(root: Element) -> Iterator[str]:
    for address in root.iterfind("./devices/hostdev[@type='mdev']/source/address"):
        yield address.get("uuid", "").lower()
    for kind in _WITH_PCI_ADDRESS:
        yield from _addresses(root, kind)


def _addresses(root: Element, kind: str) -> Iterator[str]:
    for address in root.iterfind(f"./devices/{kind}/source/address"):
        words = [address.get(key, "") for key in ("domain", "bus", "slot", "function")]
        with suppress(ValueError):
            yield str(PciAddress(*(int(word, 16) for word in words)))
