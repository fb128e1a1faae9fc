"""What the steps of a plan act upon, and what they share."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from uuid import UUID

from ai_how.errors import HostError
from ai_how.guest.agent import GuestAgent
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
    """How long each kind of wait may take: several times what emulation was seen to need."""

    agent_s: float = 900
    identity_s: float = 300
    clock_s: float = 120
    slurm_s: float = 240
    """For slurmctld, where what it remembers is asked for before the wait for all nodes."""
    ready_s: float = 900
    shutdown_s: float = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanContext:
    """One cluster's surroundings during one plan. Shared by all threads; nothing in it changes."""

    cluster_id: UUID
    cluster_kind: str
    """Also the group of its verbs, for hints."""
    paths: ClusterPaths
    client: LibvirtClient
    disks: DiskManager
    images: Mapping[str, Image] = field(default_factory=dict)
    archives: Mapping[str, Callable[[], bytes]] = field(default_factory=dict)
    """For each node a call that makes what its guest agent unpacks; secrets are read only then."""
    stop: threading.Event = field(default_factory=threading.Event)
    timeouts: Timeouts = Timeouts()
    warn: Callable[[str], None] = lambda _line: None
    """A line for the user, from any thread."""
    networks: HostNetworks = field(default_factory=HostNetworks)
    restart_libvirtd: Callable[[], None] = lambda: None
    """Ends a libvirtd that is started again at once; does nothing where it is not ours."""
    console_offsets: Mapping[str, int] = field(default_factory=dict)

    def node_of(self, domain: str) -> str:
        """The node whose VM this is, by the VM's name."""
        return node_of(domain, self.paths.name) or domain

    def agent(self, uuid: UUID, name: str) -> GuestAgent:
        return GuestAgent(self.client, uuid, name)

    def wait_for_agent(self, uuid: UUID, deadline: Deadline) -> None:
        self.client.wait_for_agent(uuid, deadline, self.stop)

    def write_sent_xml(self, name: str, xml: str) -> None:
        """Keep what is sent to libvirt, for whoever wants to see it."""
        ensure_private_directory(self.paths.xml)
        with replaced_atomically(self.paths.xml / f"{name}.xml") as draft:
            draft.write_text(xml)

    def read_sent_xml(self, name: str) -> str:
        """What was sent to libvirt. Raises HostError where it was not kept."""
        try:
            return (self.paths.xml / f"{name}.xml").read_text()
        except OSError as error:
            raise HostError(f"what was sent of {name} cannot be read: {error.strerror}") from error
