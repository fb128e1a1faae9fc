"""The VM of a node without an identity, and the key by which a saved VM matches a node."""

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import UUID, uuid5

from ai_how.libvirt_client.facts import Mark
from ai_how.vm_management.nodes.domain_definition import DirectKernel, DomainDefinition
from ai_how.vm_management.xml.render import render_domain

# The cluster id in the mark of VMs that are booted only to be saved; no cluster has it.
GENERIC_ID = UUID("5a1e0f43-6c39-4a6e-9d0b-5d1f6f8b2c11")
_MAC = "52:54:00:00:00:01"
_NOWHERE = Path("/nowhere")


def cold_boot_reason(definition: DomainDefinition) -> str | None:
    """Why such a VM cannot be restored from a saved VM; None if it can."""
    if definition.has_host_devices:
        return "it has a device of the host"
    if definition.shares:
        return "it has virtiofs mounts"
    return None


def generic_definition(
    definition: DomainDefinition, *, disk: Path = _NOWHERE, console_log: Path = _NOWHERE
) -> DomainDefinition:
    """The definition without the properties that identify a node.

    It has no network: whatever the VM sends while it boots reaches no other host.
    """
    boot = definition.boot
    return replace(
        definition,
        mark=Mark("", GENERIC_ID, ""),
        name=f"ai-how-nameless-{generic_uuid(disk).hex[:8]}",
        uuid=generic_uuid(disk),
        genid=uuid5(GENERIC_ID, "genid"),
        title="a machine that is booted to be saved",
        disk=disk,
        network=None,
        mac=_MAC,
        console_log=console_log,
        boot=boot and DirectKernel(boot.kernel, boot.initrd, generic_cmdline(boot.cmdline)),
        nvram=disk.with_name("nvram.fd") if definition.is_uefi else None,
        pins=(),
    )


def generic_uuid(disk: Path) -> UUID:
    """The UUID of the VM that boots from this disk to be saved."""
    return uuid5(GENERIC_ID, str(disk))


def generic_cmdline(cmdline: str) -> str:
    """A kernel command line without the arguments that identify a node."""
    words = cmdline.split(" ")
    return " ".join(word for word in words if not word.startswith("systemd.machine_id="))


@dataclass(frozen=True, slots=True)
class MachineKey:
    """What a node's VM and a saved VM must share, so that the node can be restored from it.

    `definition_digest` is the SHA-256 of the XML, the image's digest and the size of the disk. The
    whole XML is hashed so that no property is forgotten, but for the directory of the storage: a
    saved VM fits wherever it is. `host` describes the host in words.
    """

    definition_digest: str
    host: str

    @property
    def key(self) -> str:
        """The name of the saved VM's directory: a SHA-256 in hexadecimal."""
        return _digest(self.definition_digest, self.host)


def machine_key_of(
    definition: DomainDefinition, *, image_digest: str, disk_gib: int, host: str
) -> MachineKey:
    """The key of the saved VM from which this VM can be restored."""
    xml = render_domain(_anywhere(generic_definition(definition)))
    return MachineKey(_digest(xml, image_digest, str(disk_gib)), host)


def _anywhere(definition: DomainDefinition) -> DomainDefinition:
    """The definition with the names of the files of its image, without their directory."""
    boot = definition.boot
    return replace(
        definition,
        backing_chain=tuple(_NOWHERE / path.name for path in definition.backing_chain),
        boot=boot
        and replace(
            boot,
            kernel=_NOWHERE / boot.kernel.name,
            initrd=boot.initrd and _NOWHERE / boot.initrd.name,
        ),
    )


def _digest(*parts: str) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
