"""The steps that make a cluster's network, disks and VMs, and bring the VMs up."""

import shlex
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar
from uuid import UUID

from ai_how.errors import DeadlineError, GuestError, OwnershipError
from ai_how.guest.agent import GuestAgent
from ai_how.guest.identity import render_archive
from ai_how.plan.step import Applied
from ai_how.state.files import replaced_atomically
from ai_how.state.models import VmState
from ai_how.state.paths import ensure_private_directory
from ai_how.vm_management.world import World
from ai_how.waiting import Deadline

CLOCK_TOLERANCE_S = 1.0


@dataclass(frozen=True, slots=True)
class DefineNetwork:
    """The network's definition; undone even when it was started."""

    kind: ClassVar[str] = "network"
    name: str
    uuid: UUID
    xml: str

    @property
    def key(self) -> str:
        return f"network/{self.name}"

    @property
    def needs(self) -> frozenset[str]:
        return frozenset()

    def apply(self, world: World) -> Applied:
        _keep_xml(world, f"network-{self.name}", self.xml)
        world.client.define_network(self.xml)
        return Applied.MADE

    def revert(self, world: World) -> None:
        world.client.destroy_network(self.uuid)
        world.client.undefine_network(self.uuid)

    def describe(self) -> str:
        return f"define the network {self.name}"


@dataclass(frozen=True, slots=True)
class StartNetwork:
    """The network's bridge, its dnsmasq and its firewall rules."""

    kind: ClassVar[str] = "network-up"
    name: str
    uuid: UUID
    needs: frozenset[str] = frozenset()

    @property
    def key(self) -> str:
        return f"network-up/{self.name}"

    def apply(self, world: World) -> Applied:
        world.client.start_network(self.uuid)
        return Applied.MADE

    def revert(self, world: World) -> None:
        world.client.destroy_network(self.uuid)

    def describe(self) -> str:
        return f"start the network {self.name}"


@dataclass(frozen=True, slots=True)
class PlaceBase:
    """An image where QEMU reads it. It is shared by all clusters, so undo leaves it there."""

    kind: ClassVar[str] = "base"
    digest: str

    @property
    def key(self) -> str:
        return f"base/{self.digest[:12]}"

    @property
    def needs(self) -> frozenset[str]:
        return frozenset()

    def apply(self, world: World) -> Applied:
        image = world.images[self.digest]
        world.disks.ensure_base(image)
        world.disks.ensure_kernel(image)
        return Applied.MADE

    def revert(self, world: World) -> None:
        """Whoever destroys the last cluster that uses it removes it."""

    def describe(self) -> str:
        return f"place the image {self.digest[:12]}"


@dataclass(frozen=True, slots=True)
class ClaimDirectory:
    """A directory for the cluster's disks, with our mark in it."""

    kind: ClassVar[str] = "disks"
    cluster: str
    cluster_id: UUID

    @property
    def key(self) -> str:
        return f"disks/{self.cluster}"

    @property
    def needs(self) -> frozenset[str]:
        return frozenset()

    def apply(self, world: World) -> Applied:
        return world.disks.claim_directory(self.cluster, self.cluster_id)

    def revert(self, world: World) -> None:
        with suppress(OwnershipError):  # then it never became ours
            world.disks.remove_cluster_directory(self.cluster, self.cluster_id)

    def describe(self) -> str:
        return f"make a directory for the disks of {self.cluster}"


@dataclass(frozen=True, slots=True)
class CreateOverlay:
    """A node's own disk, copy-on-write over its image."""

    kind: ClassVar[str] = "disk"
    cluster: str
    cluster_id: UUID
    node: str
    base: Path
    size_gib: int
    needs: frozenset[str] = frozenset()

    @property
    def key(self) -> str:
        return f"disk/{self.cluster}-{self.node}"

    def apply(self, world: World) -> Applied:
        return world.disks.create_overlay(
            self.cluster, self.cluster_id, self.node, base=self.base, size_gib=self.size_gib
        )

    def revert(self, world: World) -> None:
        world.disks.remove_disk(self.cluster, self.cluster_id, self.node)

    def describe(self) -> str:
        return f"create a disk of {self.size_gib} GiB for {self.node}"


@dataclass(frozen=True, slots=True)
class GrowDisk:
    """A larger disk for a node that is off; its file system grows when it boots."""

    kind: ClassVar[str] = "grow"
    cluster: str
    node: str
    disk: Path
    size_gib: int

    @property
    def key(self) -> str:
        return f"grow/{self.cluster}-{self.node}"

    @property
    def needs(self) -> frozenset[str]:
        return frozenset()

    def apply(self, world: World) -> Applied:
        world.disks.resize(self.disk, self.size_gib)
        return Applied.MADE

    def revert(self, world: World) -> None:
        """A disk that has grown is no harm; one that shrinks may be."""

    def describe(self) -> str:
        return f"grow the disk of {self.node} to {self.size_gib} GiB"


@dataclass(frozen=True, slots=True)
class DefineDomain:
    """A node's VM, not running; `former_xml` is what undo puts back where there was one."""

    kind: ClassVar[str] = "domain"
    domain: str
    uuid: UUID
    xml: str
    needs: frozenset[str] = frozenset()
    former_xml: str | None = None

    @property
    def key(self) -> str:
        return f"domain/{self.domain}"

    def apply(self, world: World) -> Applied:
        _keep_xml(world, self.domain, self.xml)
        ensure_private_directory(world.paths.console)
        world.client.define_domain(self.xml)
        return Applied.MADE

    def revert(self, world: World) -> None:
        if self.former_xml is not None:
            world.client.define_domain(self.former_xml)
            return
        world.client.destroy_domain(self.uuid)
        world.client.undefine_domain(self.uuid, snapshots_too=False)

    def describe(self) -> str:
        return f"{'redefine' if self.former_xml else 'define'} the VM {self.domain}"


@dataclass(frozen=True, slots=True)
class StartDomain:
    """A VM that runs; `was_on` where it is only to be resumed, and undo must not cut its power."""

    kind: ClassVar[str] = "boot"
    domain: str
    uuid: UUID
    needs: frozenset[str] = frozenset()
    was_on: bool = False

    @property
    def key(self) -> str:
        return f"boot/{self.domain}"

    def apply(self, world: World) -> Applied:
        seen = world.client.get_domain(self.uuid)
        if seen.state is VmState.PAUSED:
            world.client.resume_domain(self.uuid)
        else:
            world.client.start_domain(self.uuid)
        return Applied.KEPT if seen.state.is_on else Applied.MADE

    def revert(self, world: World) -> None:
        if not self.was_on:
            world.client.destroy_domain(self.uuid)

    def describe(self) -> str:
        return f"{'resume' if self.was_on else 'start'} the VM {self.domain}"


@dataclass(frozen=True, slots=True)
class AwaitAgent:
    """The guest's agent answers: the kernel and the image's system are up."""

    kind: ClassVar[str] = "agent"
    domain: str
    uuid: UUID
    needs: frozenset[str] = frozenset()

    @property
    def key(self) -> str:
        return f"agent/{self.domain}"

    def apply(self, world: World) -> Applied:
        try:
            world.wait_for_agent(self.uuid, Deadline.after(world.patience.agent_s))
        except DeadlineError as error:
            if world.stop.is_set():
                raise
            node = self.domain.removeprefix(f"{world.paths.name}-")
            raise GuestError(
                f"the guest agent of {self.domain} did not come in time",
                hint=f"tail {shlex.quote(str(world.paths.evidence))}/*/{node}.console.log",
            ) from error
        return Applied.MADE

    def revert(self, world: World) -> None:
        """Nothing was changed."""

    def describe(self) -> str:
        return f"wait for the guest agent of {self.domain}"


@dataclass(frozen=True, slots=True)
class GiveIdentity:
    """The node knows who it is, and its services are starting."""

    kind: ClassVar[str] = "services"
    domain: str
    node: str
    uuid: UUID
    needs: frozenset[str] = frozenset()

    @property
    def key(self) -> str:
        return f"services/{self.domain}"

    def apply(self, world: World) -> Applied:
        identity = world.identities[self.node]()
        agent = world.agent(self.uuid, self.node)
        agent.set_clock(time.time_ns())
        agent.check(
            ["/usr/lib/ai-how/become"],
            Deadline.after(world.patience.identity_s),
            stdin=render_archive(identity, now_s=int(time.time())),
            stop=world.stop,
        )
        return Applied.MADE

    def revert(self, world: World) -> None:
        """It goes with the node's disk; a node that keeps its disk keeps its identity."""

    def describe(self) -> str:
        return f"give {self.node} its identity and start its services"


@dataclass(frozen=True, slots=True)
class CheckClocks:
    """Every node's clock agrees with the host's, else munge would refuse what they sign."""

    kind: ClassVar[str] = "clocks"
    cluster: str
    nodes: tuple[tuple[str, UUID], ...]
    needs: frozenset[str] = frozenset()

    @property
    def key(self) -> str:
        return f"clocks/{self.cluster}"

    def apply(self, world: World) -> Applied:
        deadline = Deadline.after(world.patience.clock_s)
        for name, uuid in self.nodes:
            agent = world.agent(uuid, name)
            while (skew_s := _read_skew_s(agent)) > CLOCK_TOLERANCE_S:
                if deadline.has_passed or world.stop.wait(1.0):
                    raise GuestError(
                        f"the clock of {name} is {skew_s:.1f} s off",
                        hint=f"ai-how hpc exec {name} -- timedatectl",
                    )
        return Applied.MADE

    def revert(self, world: World) -> None:
        """Nothing was changed."""

    def describe(self) -> str:
        return f"compare the clocks of {len(self.nodes)} nodes"


@dataclass(frozen=True, slots=True)
class AwaitReady:
    """SLURM says idle for every node, and a one-task job has run on each of them."""

    kind: ClassVar[str] = "ready"
    cluster: str
    controller: UUID
    nodes: tuple[str, ...]
    partition: str
    home: str
    needs: frozenset[str] = frozenset()

    @property
    def key(self) -> str:
        return f"ready/{self.cluster}"

    def apply(self, world: World) -> Applied:
        agent = world.agent(self.controller, "controller")
        deadline = Deadline.after(world.patience.ready_s)
        words = ["/usr/lib/ai-how/ready", self.home, self.partition, *self.nodes]
        try:
            agent.check(words, deadline, stop=world.stop)
        except DeadlineError as error:
            if world.stop.is_set():
                raise
            why = agent.run(["sinfo", "-N", "-a", "-o", "%N %T %E"], Deadline.after(30)).output
            raise GuestError(
                f"SLURM did not have {', '.join(self.nodes)} ready in time",
                details=why.strip()[-2000:] or None,
                hint="ai-how hpc logs controller",
            ) from error
        return Applied.MADE

    def revert(self, world: World) -> None:
        """Nothing was changed."""

    def describe(self) -> str:
        return f"wait until SLURM has {', '.join(self.nodes)}, and run a job on each"


def _read_skew_s(agent: GuestAgent) -> float:
    """By how much a guest's clock is off at least: it was read at some moment between two looks."""
    before = time.time_ns()
    guest = agent.read_clock_ns()
    return max(before - guest, guest - time.time_ns(), 0) / 1e9


def _keep_xml(world: World, name: str, xml: str) -> None:
    ensure_private_directory(world.paths.xml)
    with replaced_atomically(world.paths.xml / f"{name}.xml") as draft:
        draft.write_text(xml)
