"""The steps that make a cluster's network, and that set right what became of it.

A network that was set right is no harm, so undo leaves it so: it takes away only what a run added.
"""

from dataclasses import dataclass
from ipaddress import IPv4Network
from typing import ClassVar
from uuid import UUID

from ai_how.errors import HostError, LibvirtError
from ai_how.libvirt_client.network_xml import NetworkHost, uses_network
from ai_how.plan.step import Applied, ForwardStep
from ai_how.vm_management.context import PlanContext
from ai_how.vm_management.networks.drift import read_bridge_mac
from ai_how.vm_management.networks.host_networks import FORWARDING_OFF, RULES_MISSING
from ai_how.vm_management.steps.subjects import DomainStep, NetworkStep
from ai_how.waiting import Deadline, wait_until

RULES_S = 60.0


@dataclass(frozen=True, slots=True)
class DefineNetwork(NetworkStep):
    """The network's definition; undone even when it was started.

    `former_xml` is what undo puts back where there was one; what runs then runs on.
    """

    kind: ClassVar[str] = "network"
    uuid: UUID
    xml: str
    former_xml: str | None = None

    @property
    def needs(self) -> frozenset[str]:
        return frozenset()

    def apply(self, world: PlanContext) -> Applied:
        world.write_sent_xml(f"network-{self.name}", self.xml)
        world.client.define_network(self.xml)
        return Applied.MADE

    def revert(self, world: PlanContext) -> None:
        if self.former_xml is not None:
            world.client.define_network(self.former_xml)
            return
        world.client.destroy_network(self.uuid)
        world.client.undefine_network(self.uuid)

    def describe(self) -> str:
        return f"{'redefine' if self.former_xml else 'define'} the network {self.name}"


@dataclass(frozen=True, slots=True)
class StartNetwork(NetworkStep):
    """The network's bridge, its dnsmasq and its firewall rules; `in_use` where guests run on it."""

    kind: ClassVar[str] = "network-up"
    uuid: UUID
    needs: frozenset[str] = frozenset()
    in_use: bool = False

    def apply(self, world: PlanContext) -> Applied:
        _start(world, self.name, self.uuid)
        return Applied.MADE

    def revert(self, world: PlanContext) -> None:
        if not self.in_use:
            world.client.destroy_network(self.uuid)

    def describe(self) -> str:
        return f"start the network {self.name}"


@dataclass(frozen=True, slots=True)
class RestartNetwork(NetworkStep):
    """The network as it is defined, in the place of one that runs otherwise.

    For a moment the cluster's guests are on no network; others' guests would stay so.
    """

    kind: ClassVar[str] = "network-anew"
    uuid: UUID
    own: frozenset[UUID]
    needs: frozenset[str] = frozenset()
    is_cut: bool = False
    """Whether its bridge carries nothing any more: then nobody is left to be cut off."""

    def apply(self, world: PlanContext) -> Applied:
        network = world.client.find_network(self.uuid)
        others = [
            one.name
            for one in world.client.list_domains()
            if one.state.is_on and one.uuid not in self.own and uses_network(one.xml, network)
        ]
        if others and not self.is_cut:
            raise HostError(
                f"the network {self.name} was changed, and VMs of others run on it",
                details=f"setting it right would cut them off: {', '.join(others)}",
                hint="turn them off, and start again",
            )
        world.client.destroy_network(self.uuid)
        _start(world, self.name, self.uuid)
        return Applied.MADE

    def revert(self, world: PlanContext) -> None:
        """Guests run on it."""

    def describe(self) -> str:
        return f"restart the network {self.name}"


@dataclass(frozen=True, slots=True)
class UpdateNetworkHosts(NetworkStep):
    """A network whose DHCP and DNS know `hosts`, of which some may be `new` to it."""

    kind: ClassVar[str] = "network-hosts"
    uuid: UUID
    hosts: tuple[NetworkHost, ...]
    new: tuple[NetworkHost, ...]
    needs: frozenset[str] = frozenset()

    def apply(self, world: PlanContext) -> Applied:
        world.client.ensure_network_hosts(self.uuid, self.hosts)
        return Applied.MADE

    def revert(self, world: PlanContext) -> None:
        world.client.forget_network_hosts(self.uuid, self.new)

    def describe(self) -> str:
        names = ", ".join(one.name for one in self.hosts)
        return f"tell the DHCP and DNS of the network {self.name} of {names}"


@dataclass(frozen=True, slots=True)
class RestartDhcp(NetworkStep):
    """The network's DHCP and DNS server, where it has died."""

    kind: ClassVar[str] = "network-dhcp"
    uuid: UUID
    needs: frozenset[str] = frozenset()

    def apply(self, world: PlanContext) -> Applied:
        world.client.renew_dhcp(self.uuid)
        return Applied.MADE

    def revert(self, world: PlanContext) -> None:
        """It goes with its network."""

    def describe(self) -> str:
        return f"start the DHCP server of the network {self.name}"


@dataclass(frozen=True, slots=True)
class ReconnectInterface(DomainStep):
    """A guest that runs, back on its network: one that was down has lost its guests."""

    kind: ClassVar[str] = "plug"
    uuid: UUID
    network: UUID
    needs: frozenset[str] = frozenset()
    tap: str = ""
    """The host's end of its interface, where that is down: libvirt does not set it up again."""

    def apply(self, world: PlanContext) -> Applied:
        if not world.client.get_domain(self.uuid).state.is_on:
            return Applied.KEPT
        world.client.plug_in(self.uuid, self.network)
        if self.tap:
            world.networks.set_up(self.tap)
        return Applied.MADE

    def revert(self, world: PlanContext) -> None:
        """A guest that is on its network is no harm."""

    def describe(self) -> str:
        return f"plug the VM {self.domain} into its network"


@dataclass(frozen=True, slots=True)
class RepairUplink(NetworkStep):
    """The way out of the network: forwarding, and the firewall rules that libvirt makes.

    Only where all of that host is ours. Its libvirtd makes its chains when it starts, so it is
    ended, and its supervisor starts it again; guests run on.
    """

    kind: ClassVar[str] = "network-uplink"
    uuid: UUID
    subnet: str
    needs: frozenset[str] = frozenset()

    def apply(self, world: PlanContext) -> Applied:
        """One that is not had again is said, and is no failure: the cluster runs without it."""
        try:
            self._mend(world)
        except HostError as error:
            world.warn(f"the network {self.name} has no way out yet: {error.brief}")
            return Applied.KEPT
        return Applied.MADE

    def revert(self, world: PlanContext) -> None:
        """A way out is no harm."""

    def describe(self) -> str:
        return f"give the network {self.name} its way out again"

    def _mend(self, world: PlanContext) -> None:
        networks, subnet = world.networks, IPv4Network(self.subnet)
        if networks.find_uplink_problem(subnet) == FORWARDING_OFF:
            networks.forward()
        if networks.find_uplink_problem(subnet) == RULES_MISSING:
            world.restart_libvirtd()
            network = world.client.find_network(self.uuid)
            if network is not None and network.is_active:
                wait_until(
                    lambda: networks.find_uplink_problem(subnet) is None,
                    Deadline.after(RULES_S),
                    f"the firewall rules of the network {self.name}",
                )


def _start(world: PlanContext, name: str, uuid: UUID) -> None:
    try:
        _start_over_leftovers(world, name, uuid)
    except LibvirtError as error:
        if takers := world.networks.find_used_ports():
            raise HostError(
                f"the network {name} cannot start: {', '.join(takers)} taken on this host",
                details=str(error),
                hint="sudo ss -lnptu 'sport = 53 or sport = 67'",
            ) from error
        raise


def _start_over_leftovers(world: PlanContext, name: str, uuid: UUID) -> None:
    """Start it; where that fails, once more without what a libvirt that ended has left of it."""
    try:
        world.client.start_network(uuid)
    except LibvirtError:
        network = world.client.find_network(uuid)
        if network is None or network.is_active:
            raise
        mac = read_bridge_mac(network.xml)
        if not world.networks.remove_left(name, network.bridge or "", mac):
            raise
        world.client.start_network(uuid)


@dataclass(frozen=True, slots=True)
class RemoveNetwork(ForwardStep, NetworkStep):
    """No network of that UUID, unless a VM that is not ours uses it: then it is left, and said."""

    kind: ClassVar[str] = "remove-network"
    uuid: UUID
    needs: frozenset[str] = frozenset()

    def apply(self, world: PlanContext) -> Applied:
        network = world.client.find_network(self.uuid)
        users = [one.name for one in world.client.list_domains() if uses_network(one.xml, network)]
        if users:
            raise HostError(
                f"the network {self.name} is used by VMs that are not of this cluster",
                details=", ".join(users),
                hint="detach them, and destroy again",
            )
        world.client.destroy_network(self.uuid)
        world.client.undefine_network(self.uuid)
        return Applied.MADE

    def describe(self) -> str:
        return f"remove the network {self.name}"
