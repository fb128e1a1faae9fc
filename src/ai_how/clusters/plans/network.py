"""Plans the network: from its observed to its desired definition (pure)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ai_how.clusters.observation import Observed
from ai_how.libvirt_client.facts import NetworkInfo
from ai_how.plan.step import Step
from ai_how.state.models import ClusterState
from ai_how.vm_management.networks.definition import define_network
from ai_how.vm_management.networks.drift import find_drift, find_new_hosts
from ai_how.vm_management.steps.networks import (
    DefineNetwork,
    ReconnectInterface,
    RepairUplink,
    RestartDhcp,
    RestartNetwork,
    StartNetwork,
    UpdateNetworkHosts,
)


@dataclass(frozen=True, slots=True)
class NetworkPlan:
    """The steps of the network, and by node those that reconnect running VMs."""

    steps: tuple[Step, ...]
    plugs: Mapping[str, ReconnectInterface]

    @property
    def needed(self) -> frozenset[str]:
        """The key of the last step, which nodes need before they boot."""
        return frozenset(step.key for step in self.steps[-1:])


def plan_network(
    state: ClusterState, seen: Observed, network_xml: Callable[[], str]
) -> NetworkPlan:
    """The steps that repair the network and reconnect running nodes."""
    network, on = state.network, [one for one in state.nodes if seen.is_on(one)]
    there, faults = seen.network, seen.known_faults
    if there is None:
        define = DefineNetwork(network.name, network.uuid, network_xml())
        up = StartNetwork(network.name, network.uuid, frozenset({define.key}), in_use=bool(on))
        made: list[Step] = [define, up]
        cut_off = frozenset(one.name for one in on)
    else:
        made = _mending_steps(state, seen, there, network_xml)
        is_cut = any(step.kind in (StartNetwork.kind, RestartNetwork.kind) for step in made)
        cut_off = frozenset(one.name for one in on) if is_cut else faults.unplugged
        cut_off |= faults.down_taps.keys()
    needs = frozenset(step.key for step in made[-1:])
    plugs = {
        one.name: ReconnectInterface(
            one.domain_name, one.uuid, network.uuid, needs, faults.down_taps.get(one.name, "")
        )
        for one in on
        if one.name in cut_off and one.name not in faults.dead_taps
    }
    return NetworkPlan(tuple(made), plugs)


def _mending_steps(
    state: ClusterState, seen: Observed, there: NetworkInfo, network_xml: Callable[[], str]
) -> list[Step]:
    """The steps in order: definition, activity, hosts, DHCP server."""
    name, uuid, definition = state.network.name, state.network.uuid, define_network(state)
    drift, faults = find_drift(definition, there), seen.known_faults
    is_anew = bool(drift.live or faults.bridge_trouble)
    made: list[Step] = []

    def last() -> frozenset[str]:
        return frozenset(step.key for step in made[-1:])

    if drift.defined or drift.live:
        previous = there.defined_xml or there.xml
        made.append(DefineNetwork(name, uuid, network_xml(), previous))
    if faults.uplink_trouble and faults.uplink_is_ours and not drift.live:
        made.append(RepairUplink(name, uuid, str(state.network.subnet), last()))
    if not there.is_active:
        in_use = any(seen.is_on(one) for one in state.nodes)
        made.append(StartNetwork(name, uuid, last(), in_use=in_use))
    elif is_anew:
        own, is_cut = frozenset(one.uuid for one in state.nodes), bool(faults.bridge_trouble)
        made.append(RestartNetwork(name, uuid, own, last(), is_cut))
    if drift.hosts:
        new = find_new_hosts(definition, there)
        hosts = tuple(one for one in definition.hosts if one.name in drift.hosts)
        made.append(UpdateNetworkHosts(name, uuid, hosts, new, last()))
    if faults.dhcp_is_gone and not is_anew:
        made.append(RestartDhcp(name, uuid, last()))
    return made
