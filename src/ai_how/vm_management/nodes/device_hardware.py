"""What goes with the devices of the host that a node has, besides the devices."""

from dataclasses import dataclass

from ai_how.libvirt_client.placements import ANYWHERE, Placement


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceHardware:
    """Chosen for one node; the default is what any VM has."""

    placement: Placement = ANYWHERE
    window_gib: int | None = None
    """The addresses for the memory of PCI devices; None is QEMU's default."""
    graphics: tuple[str, ...] = ()
    """The first function of each GPU; a file with a ROM is for these."""
    foreign: tuple[str, ...] = ()
    """Those of them that are not NVIDIA's."""


PLAIN = DeviceHardware()
