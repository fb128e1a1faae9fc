"""Names of devices from pci.ids, which Debian's package of that name installs."""

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

PLACES = (Path("usr/share/misc/pci.ids"), Path("usr/share/hwdata/pci.ids"))
NVIDIA, AMD, INTEL = 0x10DE, 0x1002, 0x8086
_SHORT = {NVIDIA: "NVIDIA", AMD: "AMD", INTEL: "Intel"}
_PRODUCT = re.compile(r"^(?P<chip>[^\[]*?)\s*\[(?P<product>.+)\]$")

Pair = tuple[int, int]


@dataclass(frozen=True, slots=True)
class PciNames:
    """The names of vendors and devices; a device without a name gets its numbers."""

    vendors: dict[int, str] = field(default_factory=dict)
    devices: dict[Pair, str] = field(default_factory=dict)
    is_found: bool = False

    def vendor(self, number: int) -> str:
        """A short name for the three makers of GPUs, else pci.ids', else the number."""
        return _SHORT.get(number) or self.vendors.get(number) or f"vendor {number:04x}"

    def chip_and_product(self, pair: Pair) -> tuple[str | None, str]:
        """`AD102 [GeForce RTX 4090]` is the chip AD102 and the product NVIDIA GeForce RTX 4090."""
        vendor, name = self.vendor(pair[0]), self.devices.get(pair)
        if name is None:
            return None, f"{vendor} {pair[1]:04x}"
        if found := _PRODUCT.match(name):
            return found["chip"] or None, f"{vendor} {found['product']}"
        return None, f"{vendor} {name}"


def read_pci_names(root: Path, wanted: Collection[Pair]) -> PciNames:
    """The names of the wanted devices; the first file that is there is read."""
    for place in PLACES:
        try:
            with (root / place).open(encoding="utf-8", errors="replace") as lines:
                return _find(lines, wanted)
        except OSError:
            continue
    return PciNames()


def _find(lines: Iterator[str], wanted: Collection[Pair]) -> PciNames:
    """`vendor  name`, then `<tab>device  name`; two tabs are a subsystem, `C` is a class."""
    vendors_wanted = {vendor for vendor, _ in wanted}
    vendors: dict[int, str] = {}
    devices: dict[Pair, str] = {}
    vendor: int | None = None
    for line in lines:
        if line.startswith("C "):
            break
        if line.startswith(("#", "\t\t")) or not line.strip():
            continue
        number, name = _entry(line.strip())
        if not line.startswith("\t"):
            vendor = number if number in vendors_wanted else None
            if vendor is not None:
                vendors[vendor] = name
        elif vendor is not None and number is not None and (vendor, number) in wanted:
            devices[vendor, number] = name
    return PciNames(vendors, devices, is_found=True)


def _entry(line: str) -> tuple[int | None, str]:
    word, _, name = line.partition(" ")
    try:
        return int(word, 16), name.strip()
    except ValueError:
        return None, ""
