"""A libvirt in memory: what the steps use of the client, with libvirt's own refusals.

Its guests come up at once, and their agents do whatever they are told.
"""

import base64
import shlex
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from uuid import UUID
from xml.etree import ElementTree as ET

from ai_how.errors import LibvirtError, OwnershipError
from ai_how.libvirt_client.facts import DomainInfo, NetworkInfo, read_bridge, read_mark
from ai_how.libvirt_client.network_xml import (
    HostChanges,
    NetworkFacts,
    NetworkHost,
    find_host_changes,
    find_host_removals,
    read_network_facts,
)
from ai_how.libvirt_client.vm_state import VmState
from ai_how.libvirt_client.xml import read_xml
from ai_how.spec.nodes import Role
from ai_how.waiting import Deadline

NO_DOMAIN, NO_NETWORK, INVALID = 42, 43, 55


@dataclass(frozen=True)
class _Domain:
    xml: str
    state: VmState = VmState.SHUT_OFF


@dataclass(frozen=True)
class _Network:
    xml: str
    is_active: bool = False


@dataclass
class FakeLibvirt:
    """Its rules are libvirt's: names are unique, and what starts needs its network and disks."""

    domains: dict[UUID, _Domain] = field(default_factory=dict)
    networks: dict[UUID, _Network] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock)
    told: list[tuple[UUID, str]] = field(default_factory=list)
    unplugged: set[str] = field(default_factory=set)
    """The VMs that run and whose network was taken down: they are on none, though it be back."""
    max_calls: int = 4

    @property
    def content(self) -> dict[str, str]:
        """Everything that is there, to compare one moment with another."""
        vms = {f"VM {name_of(one.xml)}": f"{one.state} {one.xml}" for one in self.domains.values()}
        nets = {
            f"network {name_of(one.xml)}": f"{one.is_active} {one.xml}"
            for one in self.networks.values()
        }
        return vms | nets | {f"unplugged {name}": "" for name in self.unplugged}

    def learn(self, uuid: UUID, name: str) -> None:
        """Its own errors name what they are about already."""

    # VMs

    def virsh(self, *words: str) -> str:
        return shlex.join(["virsh", "--connect", "fake", *words])

    def define_domain(self, xml: str) -> DomainInfo:
        with self.lock:
            uuid = _claimed(xml, {key: one.xml for key, one in self.domains.items()})
            former = self.domains.get(uuid)
            self.domains[uuid] = _Domain(xml, former.state if former else VmState.SHUT_OFF)
            return self.get_domain(uuid)

    def find_domain(self, uuid: UUID) -> DomainInfo | None:
        one = self.domains.get(uuid)
        return None if one is None else _seen(uuid, one)

    def get_domain(self, uuid: UUID) -> DomainInfo:
        if seen := self.find_domain(uuid):
            return seen
        raise _refusal("Domain not found", NO_DOMAIN)

    def list_domains(self) -> tuple[DomainInfo, ...]:
        return tuple(_seen(uuid, one) for uuid, one in self.domains.items())

    def domain_xml(self, uuid: UUID) -> str:
        return self.get_domain(uuid).xml

    def start_domain(
        self,
        uuid: UUID,
        *,
        paused: bool = False,
        is_anew: bool = False,
        timeout_s: float | None = None,
    ) -> None:
        with self.lock:
            root = read_xml(self.get_domain(uuid).xml)
            network = root.find("./devices/interface/source").get("network")
            active = [name_of(one.xml) for one in self.networks.values() if one.is_active]
            if network not in active:
                raise _refusal(f"network '{network}' is not active", INVALID)
            for source in root.findall("./devices/disk//source"):
                if not Path(source.get("file")).is_file():
                    raise _refusal(f"Cannot access storage file '{source.get('file')}'", 38)
            self.unplugged.discard(name_of(self.get_domain(uuid).xml))
            self._set(uuid, VmState.PAUSED if paused else VmState.RUNNING)

    def resume_domain(self, uuid: UUID) -> None:
        self._set(uuid, VmState.RUNNING)

    def shutdown_domain(self, uuid: UUID, *, timeout_s: float | None = None) -> None:
        self._set(uuid, VmState.SHUT_OFF)

    def destroy_domain(self, uuid: UUID) -> None:
        if uuid in self.domains:
            self._set(uuid, VmState.SHUT_OFF)

    def snapshot_names(self, uuid: UUID) -> tuple[str, ...]:
        return ()

    def undefine_domain(self, uuid: UUID, *, snapshots_too: bool) -> None:
        with self.lock:
            one = self.domains.get(uuid)
            assert one is None or not one.state.is_on, "a VM that runs would run on, undefined"
            self.domains.pop(uuid, None)

    def _set(self, uuid: UUID, state: VmState) -> None:
        with self.lock:
            name = name_of(self.get_domain(uuid).xml)
            if not state.is_on:
                self.unplugged.discard(name)
            self.domains[uuid] = replace(self.domains[uuid], state=state)

    # Networks

    def define_network(self, xml: str) -> NetworkInfo | None:
        with self.lock:
            uuid = _claimed(xml, {key: one.xml for key, one in self.networks.items()})
            former = self.networks.get(uuid)
            self.networks[uuid] = _Network(xml, former.is_active if former else False)
            return self.find_network(uuid)

    def find_network(self, uuid: UUID) -> NetworkInfo | None:
        one = self.networks.get(uuid)
        if one is None:
            return None
        mark = read_mark(one.xml)
        return NetworkInfo(
            uuid, name_of(one.xml), read_bridge(one.xml), one.is_active, mark, one.xml
        )

    def find_network_by_name(self, name: str) -> NetworkInfo | None:
        named = [uuid for uuid, one in self.networks.items() if name_of(one.xml) == name]
        return self.find_network(named[0]) if named else None

    def list_networks(self) -> tuple[NetworkInfo, ...]:
        return tuple(seen for uuid in self.networks if (seen := self.find_network(uuid)))

    def start_network(self, uuid: UUID) -> None:
        with self.lock:
            if uuid not in self.networks:
                raise _refusal("Network not found", NO_NETWORK)
            self.networks[uuid] = replace(self.networks[uuid], is_active=True)

    def destroy_network(self, uuid: UUID) -> None:
        with self.lock:
            if one := self.networks.get(uuid):
                self.unplugged |= self._users(one)
                self.networks[uuid] = replace(one, is_active=False)

    def undefine_network(self, uuid: UUID) -> None:
        with self.lock:
            one = self.networks.pop(uuid, None)
            assert one is None or not one.is_active, "a network that is up would stay, undefined"
            assert one is None or not self._users(one), "the network goes while VMs use it"

    def ensure_network_hosts(self, uuid: UUID, hosts: Collection[NetworkHost]) -> None:
        self._change_hosts(uuid, lambda facts: find_host_changes(hosts, facts))

    def forget_network_hosts(self, uuid: UUID, hosts: Collection[NetworkHost]) -> None:
        if uuid in self.networks:
            self._change_hosts(uuid, lambda facts: find_host_removals(hosts, facts))

    def renew_dhcp(self, uuid: UUID) -> None:
        assert self.networks[uuid].is_active

    def plug_in(self, uuid: UUID, network_uuid: UUID) -> None:
        with self.lock:
            assert self.networks[network_uuid].is_active
            self.unplugged.discard(name_of(self.get_domain(uuid).xml))

    def _users(self, network: _Network) -> set[str]:
        return {
            name_of(vm.xml)
            for vm in self.domains.values()
            if vm.state.is_on and f"network='{name_of(network.xml)}'" in vm.xml
        }

    def _change_hosts(self, uuid: UUID, find: Callable[[NetworkFacts], HostChanges]) -> None:
        """In the XML, as libvirt does it; what is in the way goes first."""
        with self.lock:
            root = read_xml(self.networks[uuid].xml)
            changes = find(read_network_facts(self.networks[uuid].xml))
            dhcp, dns = root.find("./ip/dhcp"), root.find("./dns")
            for entry in changes.dhcp_out:
                dhcp.remove(next(x for x in dhcp if x.get("mac") == entry.mac))
            for entry in changes.dns_out:
                dns.remove(next(x for x in dns if x.get("ip") == entry.ip))
            for entry in changes.dhcp_in:
                ET.SubElement(dhcp, "host", mac=entry.mac, name=entry.name, ip=entry.ip)
            for entry in changes.dns_in:
                ET.SubElement(ET.SubElement(dns, "host", ip=entry.ip), "hostname").text = entry.name
            xml = ET.tostring(root, encoding="unicode")
            self.networks[uuid] = replace(self.networks[uuid], xml=xml)

    # Guests

    def is_agent_connected(self, uuid: UUID) -> bool:
        seen = self.find_domain(uuid)
        return seen is not None and seen.is_agent_connected

    def wait_for_agent(self, uuid: UUID, deadline: Deadline, stop: threading.Event) -> None:
        assert self.get_domain(uuid).state is VmState.RUNNING

    def agent_command(self, uuid: UUID, command: Mapping[str, object], timeout_s: float) -> object:
        assert self.get_domain(uuid).state is VmState.RUNNING
        match command:
            case {"execute": "guest-get-time"}:
                return time.time_ns()
            case {"execute": "guest-exec", "arguments": {"path": path, "arg": words}}:
                with self.lock:
                    self.told.append((uuid, " ".join([path, *words])))
                    if words == ["poweroff"]:
                        self._set(uuid, VmState.SHUT_OFF)
                    return {"pid": len(self.told)}
            case {"execute": "guest-exec-status", "arguments": {"pid": pid}}:
                output = self._sinfo() if self.told[pid - 1][1].startswith("sinfo") else ""
                data = base64.b64encode(output.encode()).decode()
                return {"exited": True, "exitcode": 0, "out-data": data}
        return {}

    def _sinfo(self) -> str:
        marks = [(one, read_mark(one.xml)) for one in self.domains.values()]
        computes = [(one.state, mark.node) for one, mark in marks if mark and mark.node != CONTROL]
        return "".join(
            f"{node}|{'idle' if state is VmState.RUNNING else 'down*'}|none\n"
            for state, node in computes
        )

    def stats(self, uuids: Collection[UUID]) -> Mapping[UUID, object]:
        return {}


CONTROL = Role.CONTROLLER.value


def name_of(xml: str) -> str:
    return read_xml(xml).findtext("name") or ""


def _claimed(xml: str, there: Mapping[UUID, str]) -> UUID:
    uuid = UUID(read_xml(xml).findtext("uuid"))
    for other, known in there.items():
        if (other == uuid) != (name_of(known) == name_of(xml)):
            raise OwnershipError(f"{name_of(xml)} exists, but does not belong to this cluster")
    return uuid


def _seen(uuid: UUID, one: _Domain) -> DomainInfo:
    channel = "org.qemu.guest_agent.0"
    is_up = one.state is VmState.RUNNING
    xml = one.xml.replace(f"name='{channel}'", f"name='{channel}' state='connected'")
    return DomainInfo(
        uuid=uuid,
        name=name_of(one.xml),
        state=one.state,
        state_number=1 if is_up else 5,
        reason=1,
        is_persistent=True,
        domid=None,
        vcpus=1,
        memory_mib=1024,
        mark=read_mark(one.xml),
        xml=xml if is_up else one.xml,
    )


def _refusal(text: str, code: int) -> LibvirtError:
    error = LibvirtError(text)
    error.code = code
    return error
