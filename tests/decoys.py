"""Things of somebody else's that look like ours; no test may change a byte of them.

Their names extend those of a cluster `hpc`, and the VM and the network carry a copy of our mark.
"""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

from ai_how.host.embedded import EmbeddedHost
from ai_how.libvirt_client.client import LibvirtClient
from ai_how.libvirt_client.connection import open_connection
from ai_how.libvirt_client.uri import read_uri
from ai_how.libvirt_client.xml import MARK_NAMESPACE
from ai_how.process import get_tool, run

if TYPE_CHECKING:
    import libvirt  # noqa: TID251  storage pools are nothing that the product's client knows

DEFINED = 2  # VIR_DOMAIN_XML_INACTIVE

VM, NETWORK, POOL, BRIDGE = "hpc-controller-2", "hpc-2", "hpc", "ahdecoy"
VOLUME = "hpc-controller.qcow2"
VM_UUID = UUID("de000000-7f0e-4c56-9a35-0a4c4ea1f0aa")
NETWORK_UUID = UUID("de000000-7f0e-4c56-9a35-0a4c4ea1f0ab")
CLUSTER_ID = UUID("de000000-7f0e-4c56-9a35-0a4c4ea1f0ac")
NAMES = frozenset({VM, NETWORK, POOL, BRIDGE})


def place_decoys(host: EmbeddedHost) -> None:
    """Have them on a host that is up: a paused VM with a disk, a network, a pool, a bridge."""
    directory = host.paths.root / "decoys"
    directory.mkdir()
    disk = directory / VOLUME
    run(["qemu-img", "create", "-q", "-f", "qcow2", disk, "16M"])
    virsh(host, "pool-define-as", POOL, "dir", "--target", str(directory))
    virsh(host, "pool-autostart", POOL)
    virsh(host, "pool-start", POOL)
    run(host.enter(["ip", "link", "add", BRIDGE, "type", "bridge"]))
    with LibvirtClient(host.uri) as client:
        client.define_network(_network_xml())
        client.start_network(NETWORK_UUID)
        client.define_domain(_vm_xml(disk))
        client.start_domain(VM_UUID, paused=True)


def remove_decoys(host: EmbeddedHost) -> None:
    """Have none of them any more, for a test of what is left when all is gone."""
    with LibvirtClient(host.uri) as client:
        client.destroy_domain(VM_UUID)
        client.undefine_domain(VM_UUID, snapshots_too=False)
        client.destroy_network(NETWORK_UUID)
        client.undefine_network(NETWORK_UUID)
    virsh(host, "pool-destroy", POOL)
    virsh(host, "pool-undefine", POOL)
    run(host.enter(["ip", "link", "delete", BRIDGE]))
    (host.paths.root / "decoys" / VOLUME).unlink()
    (host.paths.root / "decoys").rmdir()


def look_at_decoys(host: EmbeddedHost) -> frozenset[str]:
    """Each of them as a line that changes with any change: content, definition, process, device."""
    directory = host.paths.root / "decoys"
    if not directory.exists():
        return frozenset()
    raw = open_connection(read_uri(host.uri))
    try:
        told = list(_look(raw))
    finally:
        raw.close()
    link = run(host.enter(["ip", "-o", "link", "show", BRIDGE]), check=False).stdout
    told += [f"bridge {link.split(':')[0]} {link.split()[-3:]}" if link else "bridge gone"]
    told += [f"file {line}" for line in _files(directory)]
    return frozenset(f"decoy: {line}" for line in told)


def _look(raw: "libvirt.virConnect") -> Iterator[str]:
    every = {vm.UUIDString(): vm for vm in raw.listAllDomains(0)}
    if vm := every.get(str(VM_UUID)):
        # As it is defined: libvirt words the rest anew when its daemon comes back.
        yield f"VM {vm.ID()} {vm.state()[0]} {_digest(vm.XMLDesc(DEFINED))}"
    nets = {net.UUIDString(): net for net in raw.listAllNetworks(0)}
    if net := nets.get(str(NETWORK_UUID)):
        yield f"network {net.isActive()} {_digest(net.XMLDesc(0))}"
    for pool in raw.listAllStoragePools(0):
        # The rest of its description is what libvirt last saw of its file system.
        lines = pool.XMLDesc(0).splitlines()
        path = next(line.strip() for line in lines if "<path>" in line)
        yield f"pool {pool.name()} {pool.UUIDString()} {path} {sorted(pool.listVolumes())}"


def virsh(host: EmbeddedHost, *words: str) -> str:
    """What virsh prints of an embedded host."""
    tool = get_tool("virsh", package="libvirt-clients")
    return run([tool, "-q", "-c", host.uri, *words], timeout_s=60).stdout


def _files(directory: Path) -> Iterable[str]:
    for path in sorted(directory.rglob("*")):
        seen = path.lstat()
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        yield f"{path} {seen.st_ino} {seen.st_mode:o} {digest}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _mark(node: str) -> str:
    return (
        f"<metadata><ai-how:node xmlns:ai-how='{MARK_NAMESPACE}' cluster='hpc' id='{CLUSTER_ID}'"
        f" node='{node}'/></metadata>"
    )


def _vm_xml(disk: Path) -> str:
    return f"""
    <domain type='qemu'>
      <name>{VM}</name>
      <uuid>{VM_UUID}</uuid>
      {_mark("controller")}
      <memory unit='MiB'>32</memory>
      <vcpu>1</vcpu>
      <os><type arch='x86_64' machine='q35'>hvm</type></os>
      <devices>
        <disk type='file' device='disk'>
          <driver name='qemu' type='qcow2'/><source file='{disk}'/><target dev='vda' bus='virtio'/>
        </disk>
        <interface type='network'>
          <source network='{NETWORK}'/><mac address='52:54:00:de:c0:01'/>
        </interface>
        <controller type='usb' model='none'/>
        <memballoon model='none'/>
      </devices>
    </domain>"""


def _network_xml() -> str:
    return f"""
    <network>
      <name>{NETWORK}</name>
      <uuid>{NETWORK_UUID}</uuid>
      {_mark("")}
      <forward mode='nat'/>
      <bridge name='{BRIDGE}2'/>
      <mac address='52:54:00:de:c0:02'/>
      <ip address='10.254.77.1' netmask='255.255.255.0'>
        <dhcp><range start='10.254.77.2' end='10.254.77.9'/></dhcp>
      </ip>
    </network>"""
