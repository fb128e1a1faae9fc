"""The steps that create, repair and remove a cluster's network.

Undo removes what the run added. It does not revert a repair.
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
    """Define the network; undo also stops it.

    If there was a definition, `former_xml`, undo defines it again; the live network stays as it is.
    """

    kind: ClassVar[str] = "network"
    uuid: UUID
    xml: str
    former_xml: str | None = None

    @property
    def needs(self) -> frozenset[str]:
        return frozenset()

    def apply(self, context: PlanContext) -> Applied:
        context.write_sent_xml(f"network-{self.name}", self.xml)
        context.client.define_network(self.xml)
        return Applied.MADE

    def revert(self, context: PlanContext) -> None:
        if self.former_xml is not None:
            context.client.define_network(self.former_xml)
            return
        context.client.destroy_network(self.uuid)
        context.client.undefine_network(self.uuid)

    def describe(self) -> str:
        return f"{'redefine' if self.former_xml else 'define'} the network {self.name}"


@dataclass(frozen=True, slots=True)
class StartNetwork(NetworkStep):
    """Start the network: bridge, dnsmasq and firewall rules. `in_use`: guests run on it."""

    kind: ClassVar[str] = "network-up"
    uuid: UUID
    needs: frozenset[str] = frozenset()
    in_use: bool = False

    def apply(self, context: PlanContext) -> Applied:
        _start(context, self.name, self.uuid)
        return Applied.MADE

    def revert(self, context: PlanContext) -> None:
        if not self.in_use:
            context.client.destroy_network(self.uuid)

    def describe(self) -> str:
        return f"start the network {self.name}"


@dataclass(frozen=True, slots=True)
class RestartNetwork(NetworkStep):
    """Restart a network whose live definition differs from the persistent one.

    The cluster's guests lose their network for a moment. Guests of others would lose it for good,
    so HostError is raised if there are any.
    """

    kind: ClassVar[str] = "network-anew"
    uuid: UUID
    own: frozenset[UUID]
    needs: frozenset[str] = frozenset()
    is_cut: bool = False
    """Whether its bridge carries no traffic, so that a restart disconnects nobody."""

    def apply(self, context: PlanContext) -> Applied:
        network = context.client.find_network(self.uuid)
        others = [
            domain.name
            for domain in context.client.list_domains()
            if domain.state.is_on
            and domain.uuid not in self.own
            and uses_network(domain.xml, network)
        ]
        if others and not self.is_cut:
            raise HostError(
                f"the network {self.name} was changed, and VMs of other users run on it",
                details=f"a restart of the network would disconnect them: {', '.join(others)}",
                hint="turn them off, and start again",
            )
        context.client.destroy_network(self.uuid)
        _start(context, self.name, self.uuid)
        return Applied.MADE

    def revert(self, context: PlanContext) -> None:
        """Does nothing: guests run on it."""

    def describe(self) -> str:
        return f"restart the network {self.name}"


@dataclass(frozen=True, slots=True)
class UpdateNetworkHosts(NetworkStep):
    """Update the DHCP and DNS entries of `hosts`; undo removes those of the `new` ones."""

    kind: ClassVar[str] = "network-hosts"
    uuid: UUID
    hosts: tuple[NetworkHost, ...]
    new: tuple[NetworkHost, ...]
    needs: frozenset[str] = frozenset()

    def apply(self, context: PlanContext) -> Applied:
        context.client.ensure_network_hosts(self.uuid, self.hosts)
        return Applied.MADE

    def revert(self, context: PlanContext) -> None:
        context.client.forget_network_hosts(self.uuid, self.new)

    def describe(self) -> str:
        names = ", ".join(host.name for host in self.hosts)
        return f"update the DHCP and DNS entries of {names} in the network {self.name}"


@dataclass(frozen=True, slots=True)
class RestartDhcp(NetworkStep):
    """Restart the network's dnsmasq, its DHCP and DNS server, after it ended."""

    kind: ClassVar[str] = "network-dhcp"
    uuid: UUID
    needs: frozenset[str] = frozenset()

    def apply(self, context: PlanContext) -> Applied:
        context.client.renew_dhcp(self.uuid)
        return Applied.MADE

    def revert(self, context: PlanContext) -> None:
        """Does nothing: it ends with its network."""

    def describe(self) -> str:
        return f"start the DHCP server of the network {self.name}"


@dataclass(frozen=True, slots=True)
class ReconnectInterface(DomainStep):
    """Attach the tap of a running guest to the bridge again: a network that was down lost it."""

    kind: ClassVar[str] = "plug"
    uuid: UUID
    network: UUID
    needs: frozenset[str] = frozenset()
    tap: str = ""
    """The tap of its interface if that is down: libvirt does not set it up again."""

    def apply(self, context: PlanContext) -> Applied:
        if not context.client.get_domain(self.uuid).state.is_on:
            return Applied.KEPT
        context.client.plug_in(self.uuid, self.network)
        if self.tap:
            context.networks.set_up(self.tap)
        return Applied.MADE

    def revert(self, context: PlanContext) -> None:
        """Does nothing: the guest may stay on its network."""

    def describe(self) -> str:
        return f"reconnect the VM {self.domain} to its network"


@dataclass(frozen=True, slots=True)
class RepairUplink(NetworkStep):
    """Repair the uplink of the network: IPv4 forwarding and libvirt's firewall rules.

    Only on the embedded host. libvirtd creates its chains when it starts, so it is killed, and its
    supervisor restarts it; guests keep running.
    """

    kind: ClassVar[str] = "network-uplink"
    uuid: UUID
    subnet: str
    needs: frozenset[str] = frozenset()

    def apply(self, context: PlanContext) -> Applied:
        """If the repair fails, warn the user and return KEPT: the cluster works without it."""
        try:
            self._repair(context)
        except HostError as error:
            context.warn(f"the network {self.name} has no uplink yet: {error.brief}")
            return Applied.KEPT
        return Applied.MADE

    def revert(self, context: PlanContext) -> None:
        """Does nothing: the uplink may stay."""

    def describe(self) -> str:
        return f"repair the uplink of the network {self.name}"

    def _repair(self, context: PlanContext) -> None:
        networks, subnet = context.networks, IPv4Network(self.subnet)
        if networks.find_uplink_problem(subnet) == FORWARDING_OFF:
            networks.forward()
        if networks.find_uplink_problem(subnet) == RULES_MISSING:
            context.restart_libvirtd()
            network = context.client.find_network(self.uuid)
            if network is not None and network.is_active:
                wait_until(
                    lambda: networks.find_uplink_problem(subnet) is None,
                    Deadline.after(RULES_S),
                    f"the firewall rules of the network {self.name}",
                )


def _start(context: PlanContext, name: str, uuid: UUID) -> None:
    try:
        _start_and_retry(context, name, uuid)
    except LibvirtError as error:
        if ports := context.networks.find_used_ports():
            raise HostError(
                f"the network {name} cannot start: {', '.join(ports)} in use on this host",
                details=str(error),
                hint="sudo ss -lnptu 'sport = 53 or sport = 67'",
            ) from error
        raise


def _start_and_retry(context: PlanContext, name: str, uuid: UUID) -> None:
    """Start the network. After a failure, remove leftovers of a killed libvirtd, and retry."""
    try:
        context.client.start_network(uuid)
    except LibvirtError:
        network = context.client.find_network(uuid)
        if network is None or network.is_active:
            raise
        mac = read_bridge_mac(network.xml)
        if not context.networks.remove_left(name, network.bridge or "", mac):
            raise
        context.client.start_network(uuid)


@dataclass(frozen=True, slots=True)
class RemoveNetwork(ForwardStep, NetworkStep):
    """Remove the network. Raises HostError if a VM of another owner uses it."""

    kind: ClassVar[str] = "remove-network"
    uuid: UUID
    needs: frozenset[str] = frozenset()

    def apply(self, context: PlanContext) -> Applied:
        network = context.client.find_network(self.uuid)
        users = [
            domain.name
            for domain in context.client.list_domains()
            if uses_network(domain.xml, network)
        ]
        if users:
            raise HostError(
                f"the network {self.name} is used by VMs that are not of this cluster",
                details=", ".join(users),
                hint="detach them, and destroy again",
            )
        context.client.destroy_network(self.uuid)
        context.client.undefine_network(self.uuid)
        return Applied.MADE

    def describe(self) -> str:
        return f"remove the network {self.name}"
