"""The context of a plan: what its steps act upon, and share."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

from ai_how.errors import HostError
from ai_how.guest.agent import GuestAgent
from ai_how.host.ports import WayIn
from ai_how.images.manifest import Image
from ai_how.libvirt_client.client import LibvirtClient
from ai_how.plan.step import node_of
from ai_how.state.files import replaced_atomically
from ai_how.state.paths import ClusterPaths, ensure_private_directory
from ai_how.vm_management.disks.manager import DiskManager
from ai_how.vm_management.networks.host_networks import HostNetworks
from ai_how.waiting import Deadline


@dataclass(frozen=True, slots=True)
class Timeouts:
    """The timeout of each kind of wait, in seconds: several times what emulated guests need."""

    agent_s: float = 900
    identity_s: float = 300
    clock_s: float = 120
    slurm_s: float = 240
    """For slurmctld, when its saved state is needed before all nodes are ready."""
    ready_s: float = 900
    shutdown_s: float = 120
    rebind_s: float = 5
    """For libvirt to give the devices of a VM that is off back to their drivers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanContext:
    """What the steps of one plan of one cluster use. Immutable, and shared by all threads."""

    cluster_id: UUID
    cluster_kind: str
    """Also the group of its verbs, for hints."""
    paths: ClusterPaths
    client: LibvirtClient
    disks: DiskManager
    images: Mapping[str, Image] = field(default_factory=dict)
    archives: Mapping[str, Callable[[], bytes]] = field(default_factory=dict)
    """Per node, a call that builds the tar of its identity; secrets are read only by that call."""
    stop: threading.Event = field(default_factory=threading.Event)
    timeouts: Timeouts = Timeouts()
    warn: Callable[[str], None] = lambda _line: None
    """Shows a line to the user; may be called by any thread."""
    networks: HostNetworks = field(default_factory=HostNetworks)
    machine: Path = Path("/")
    """Contains the /sys and /proc that tell of the host's devices."""
    way_in: WayIn = field(default_factory=WayIn)
    restart_libvirtd: Callable[[], None] = lambda: None
    """Kills libvirtd, so that its supervisor restarts it; does nothing on a foreign libvirtd."""
    console_offsets: Mapping[str, int] = field(default_factory=dict)
    """Per node, the size of its serial log when the plan began, in bytes."""

    def node_of(self, domain: str) -> str:
        """The node of a VM, by the name of the VM."""
        return node_of(domain, self.paths.name) or domain

    def agent(self, uuid: UUID, name: str) -> GuestAgent:
        return GuestAgent(self.client, uuid, name)

    def wait_for_agent(self, uuid: UUID, deadline: Deadline) -> None:
        self.client.wait_for_agent(uuid, deadline, self.stop)

    def write_sent_xml(self, name: str, xml: str) -> None:
        """Save the XML that is sent to libvirt."""
        ensure_private_directory(self.paths.xml)
        with replaced_atomically(self.paths.xml / f"{name}.xml") as draft:
            draft.write_text(xml)

    def read_sent_xml(self, name: str) -> str:
        """The XML that was sent to libvirt. Raises HostError if it cannot be read."""
        try:
            return (self.paths.xml / f"{name}.xml").read_text()
        except OSError as error:
            raise HostError(f"the XML of {name} cannot be read: {error.strerror}") from error
