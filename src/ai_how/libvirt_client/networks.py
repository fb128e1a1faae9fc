"""Networks: look-ups and changes. Part of LibvirtClient."""

from collections.abc import Callable
from uuid import UUID

import libvirt

from ai_how.errors import LibvirtError
from ai_how.libvirt_client.conversion import (
    check_claim,
    ensure,
    observe_each,
    observe_network,
    read_identity,
    unless_gone,
    with_first_known,
)
from ai_how.libvirt_client.facts import NetworkInfo
from ai_how.libvirt_client.names import Names
from ai_how.libvirt_client.session import Session


class Networks:
    """The part of a client for networks."""

    _link: Session
    _names: Names

    def find_network(self, uuid: UUID) -> NetworkInfo | None:
        """The network, or None where libvirt says that there is none."""
        return unless_gone(
            lambda: self._link.read(
                f"looking for network {uuid}",
                lambda raw: observe_network(find_raw_network(raw, uuid)),
            )
        )

    def find_network_by_name(self, name: str) -> NetworkInfo | None:
        """The network of that exact name, whoever created it."""
        return unless_gone(
            lambda: self._link.read(
                f"looking for network {name}",
                lambda raw: observe_network(raw.networkLookupByName(name)),
            )
        )

    def list_networks(self) -> tuple[NetworkInfo, ...]:
        """Every network of this libvirt by name, including other users' networks."""
        return self._link.read(
            "listing networks",
            lambda raw: observe_each(raw.listAllNetworks(0), observe_network),
        )

    def network_xml(self, uuid: UUID) -> str:
        """The XML of a network: as it is, or as defined if it is down."""
        return self._link.read(
            f"reading the XML of network {uuid}",
            lambda raw: find_raw_network(raw, uuid).XMLDesc(0),
        )

    def define_network(self, xml: str) -> NetworkInfo:
        """Define a network; the same UUID and name redefine it.

        A subnet in use only fails at the start. Raises OwnershipError if the name or the UUID
        belongs to another network.
        """

        def define(raw: libvirt.virConnect, flags: int) -> libvirt.virNetwork:
            # The call with flags exists since libvirt 7.7.
            return raw.networkDefineXMLFlags(xml, flags) if flags else raw.networkDefineXML(xml)

        def ask(raw: libvirt.virConnect) -> NetworkInfo:
            validate = libvirt.VIR_NETWORK_DEFINE_VALIDATE
            return observe_network(with_first_known(lambda flags: define(raw, flags), validate, 0))

        name, uuid = read_identity(xml)
        self._names.learn(uuid, name)
        try:
            return self._link.change(f"defining network {name}", ask)
        except LibvirtError as error:
            check_claim(error, xml, find=self.find_network, find_by_name=self.find_network_by_name)
            raise

    def start_network(self, uuid: UUID) -> None:
        """Start a network; one that is up stays as it is."""
        self._ensure_network(
            f"starting network {uuid}",
            uuid,
            lambda network: network.create(),
            lambda network: network.isActive() == 1,
        )

    def destroy_network(self, uuid: UUID) -> None:
        """Stop a network, even with guests. Absent, or down already, is success."""
        unless_gone(
            lambda: self._ensure_network(
                f"taking down network {uuid}",
                uuid,
                lambda network: network.destroy(),
                lambda network: network.isActive() == 0,
            )
        )

    def undefine_network(self, uuid: UUID) -> None:
        """Remove a network's definition. Absent is success. Destroy it first."""
        unless_gone(
            lambda: self._link.change(
                f"undefining network {uuid}",
                lambda raw: find_raw_network(raw, uuid).undefine(),
            )
        )

    def _ensure_network(
        self,
        what: str,
        uuid: UUID,
        act: Callable[[libvirt.virNetwork], object],
        is_done: Callable[[libvirt.virNetwork], bool],
    ) -> None:
        def ask(raw: libvirt.virConnect) -> None:
            network = find_raw_network(raw, uuid)
            ensure(lambda: act(network), lambda: is_done(network))

        self._link.change(what, ask)


def find_raw_network(raw: libvirt.virConnect, uuid: UUID) -> libvirt.virNetwork:
    """libvirt's object. Raises libvirtError if there is none."""
    return raw.networkLookupByUUIDString(str(uuid))
