"""Which nodes of a start are restored from saved machines, and why the others are not."""

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
    """The saved machine of each node that has one, by its name, and what is said of the others."""

    machines: Mapping[str, SavedMachine]
    notes: tuple[str, ...]

    @property
    def saved(self) -> dict[str, SavedMachineRef]:
        """What the plan needs of it."""
        return {
            name: SavedMachineRef(one.manifest.key, one.manifest.id)
            for name, one in self.machines.items()
        }


NONE_SAVED = SavedMachineMatches({}, ())


def find_matches(
    nodes: Iterable[tuple[Node, NodeState]],
    define: DefinitionFor,
    machines: SavedMachines,
    host: str,
) -> SavedMachineMatches:
    """Look for the machine that each of these nodes, which are new, can be restored from."""
    found: dict[str, SavedMachine] = {}
    looked: dict[MachineKey, SavedMachine | str | None] = {}
    notes: dict[str, list[str]] = {}
    for node, one in nodes:
        definition = define(node, one)
        if reason := cold_boot_reason(definition):
            notes.setdefault(reason, []).append(one.name)
            continue
        key = machine_key_of(
            definition, image_digest=one.image_digest, disk_gib=one.disk_gib, host=host
        )
        if key not in looked:
            looked[key] = _look(machines, key)
        answer = looked[key]
        if isinstance(answer, SavedMachine):
            found[one.name] = answer
        elif answer:
            notes.setdefault(answer, []).append(one.name)
    lines = (f"{', '.join(names)}: booting cold, as {why}" for why, names in notes.items())
    return SavedMachineMatches(found, tuple(lines))


def describe_host(client: LibvirtClient, accel: Accel, *, root: Path = Path("/")) -> str:
    """All of a host that a saved memory depends on, in words.

    Under emulation the guest sees nothing of the host's own CPU. Under KVM it does, and of what the
    host's kernel makes of it.
    """
    version = client.version()
    qemu, libvirt = (".".join(map(str, one)) for one in (version.hypervisor, version.libvirt))
    cpu = read_cpu_identity(root) if accel is Accel.KVM else "an emulated CPU"
    return f"QEMU {qemu}, libvirt {libvirt}, {cpu}"


def _look(machines: SavedMachines, key: MachineKey) -> SavedMachine | str | None:
    """The machine, or why there is one that cannot be used."""
    machine = machines.find(key.key)
    if machine is None:
        other = machines.find_of_another_host(key.definition_digest)
        return other and f"the saved machine is of {other.manifest.host}, and this is {key.host}"
    if why := machines.discard_damaged(machine):
        return f"the saved machine is damaged ({why}), and was removed"
    machines.mark_used(machine)
    return machine
