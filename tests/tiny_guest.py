"""A guest of 32 MiB without a disk, for tests that need a QEMU and no system in it."""

from pathlib import Path
from uuid import UUID

from ai_how.libvirt_client.client import LibvirtClient
from ai_how.libvirt_client.facts import DomainInfo

TINY = UUID("7b1c1f0e-7f0e-4c56-9a35-0a4c4ea1f0aa")


def render_tiny_guest(*, network: str | None = None, console_log: Path | None = None) -> str:
    """The XML to define: under emulation, and on a network and with a log where these are named."""
    interface = f"<interface type='network'><source network='{network}'/></interface>"
    log = f"<log file='{console_log}' append='on'/>"
    return f"""
    <domain type='qemu'>
      <name>tiny</name>
      <uuid>{TINY}</uuid>
      <memory unit='MiB'>32</memory>
      <vcpu>1</vcpu>
      <os><type arch='x86_64' machine='q35'>hvm</type><bios useserial='yes'/></os>
      <devices>
        {interface if network else ""}
        <serial type='pty'>{log if console_log else ""}</serial>
        <controller type='usb' model='none'/>
        <memballoon model='none'/>
      </devices>
    </domain>"""


def start_tiny_guest(client: LibvirtClient, xml: str, *, paused: bool = True) -> DomainInfo:
    """Define it and start it; paused, it takes no processor time."""
    client.define_domain(xml)
    client.start_domain(TINY, paused=paused)
    return client.get_domain(TINY)


def remove_tiny_guest(client: LibvirtClient) -> None:
    client.destroy_domain(TINY)
    client.undefine_domain(TINY, snapshots_too=False)
