"""Devices of the host, as libvirt gives them back. Part of LibvirtClient."""

from ai_how.libvirt_client.session import Session


class Devices:
    """The part of a client for devices of the host."""

    _link: Session

    def reattach_device(self, address: str) -> None:
        """Give a PCI device that no VM has back to the host's drivers; safe to repeat.

        Which driver binds it, the kernel decides. Raises LibvirtError if a VM has the device, or
        libvirt does not know it.
        """
        name = f"pci_{address.replace(':', '_').replace('.', '_')}"
        self._link.change(
            f"giving the device {address} back",
            lambda raw: raw.nodeDeviceLookupByName(name).reAttach(),
        )
