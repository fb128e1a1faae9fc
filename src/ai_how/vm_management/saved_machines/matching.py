"""Finds the saved VM of each new node, and the reason why others have none."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ai_how.host.facts import read_cpu_identity
from ai_how.libvirt_client.client import LibvirtClient
from ai_how.spec.nodes import Node
from ai_how.state.models import NodeState
from ai_how.vm_management.nodes.domain_definition import Accel, DomainDefinition
from ai_how.vm_management.saved_machines.generic_vm import (
    MachineKey,
    cold_boot_reason,
    machine_key_of,
)
from ai_how.vm_management.saved_machines.store import SavedMachine, SavedMachineRef, SavedMachines

DefinitionFor = Callable[[Node, NodeState], DomainDefinition]


@dataclass(frozen=True, slots=True)
class SavedMachineMatches:
    """The saved VM per node, by the node's name, and notes for the user on the other nodes."""

    machines: Mapping[str, SavedMachine]
    notes: tuple[str, ...]

    @property
    def saved(self) -> dict[str, SavedMachineRef]:
        """References to the saved VMs, for the steps of the plan."""
        return {
            name: SavedMachineRef(saved.manifest.key, saved.manifest.id)
            for name, saved in self.machines.items()
        }


NONE_SAVED = SavedMachineMatches({}, ())


def find_matches(
    nodes: Iterable[tuple[Node, NodeState]],
    define: DefinitionFor,
    machines: SavedMachines,
    host: str,
) -> SavedMachineMatches:
    """Find the saved VM from which each of these new nodes can be restored."""
    found: dict[str, SavedMachine] = {}
    results: dict[MachineKey, SavedMachine | str | None] = {}
    notes: dict[str, list[str]] = {}
    for node, node_state in nodes:
        definition = define(node, node_state)
        if reason := cold_boot_reason(definition):
            notes.setdefault(reason, []).append(node_state.name)
            continue
        key = machine_key_of(
            definition,
            image_digest=node_state.image_digest,
            disk_gib=node_state.disk_gib,
            host=host,
        )
        if key not in results:
            results[key] = _look(machines, key)
        answer = results[key]
        if isinstance(answer, SavedMachine):
            found[node_state.name] = answer
        elif answer:
            notes.setdefault(answer, []).append(node_state.name)
    lines = (f"{', '.join(names)}: booting cold, as {why}" for why, names in notes.items())
    return SavedMachineMatches(found, tuple(lines))


def describe_host(client: LibvirtClient, accel: Accel, *, root: Path = Path("/")) -> str:
    """The properties of a host on which a saved memory depends, in words.

    With KVM this includes the host's CPU and kernel. An emulated guest does not depend on them.
    """
    version = client.version()
    qemu, libvirt = (
        ".".join(map(str, numbers)) for numbers in (version.hypervisor, version.libvirt)
    )
    cpu = read_cpu_identity(root) if accel is Accel.KVM else "an emulated CPU"
    return f"QEMU {qemu}, libvirt {libvirt}, {cpu}"


def _look(machines: SavedMachines, key: MachineKey) -> SavedMachine | str | None:
    """The saved VM of this key, the reason why one cannot be used, or None."""
    machine = machines.find(key.key)
    if machine is None:
        other = machines.find_of_another_host(key.definition_digest)
        return other and f"the saved VM is of {other.manifest.host}, this host is {key.host}"
    if why := machines.discard_damaged(machine):
        return f"the saved VM was damaged ({why}) and is removed"
    machines.mark_used(machine)
    return machine
