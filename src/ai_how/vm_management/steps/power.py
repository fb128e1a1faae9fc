"""The steps that take a cluster down: SLURM first, then guests, then what they were made of.

None has anything to revert: a stop or destroy that was cut short is carried on, not undone.
"""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar
from uuid import UUID

from ai_how.errors import AiHowError, DeadlineError, HostError
from ai_how.hpc.jobs import (
    close_script,
    describe_jobs,
    end_script,
    jobs_script,
    read_jobs,
)
from ai_how.libvirt_client.facts import DomainSeen
from ai_how.plan.step import Applied
from ai_how.state.models import VmState
from ai_how.vm_management.context import World
from ai_how.vm_management.networks.drift import uses_network
from ai_how.waiting import Deadline, wait_until

ASK_AGAIN_S = 15.0  # an ACPI event that comes before the guest listens is lost
ASK_S = 30.0  # QEMU passes an ACPI event on at once, unless it hangs
SLURM_S = 60.0
JOBS_END_S = 120.0


def shut_down(world: World, domain: str, uuid: UUID) -> bool:
    """Have a VM off: asked first, by its agent and by ACPI, and cut off at the deadline.

    Returns whether it went by itself.

    Where it cannot even be asked, because QEMU hangs or cannot write to the disk, the deadline
    decides: one such guest must not keep the others on.
    """

    def is_off() -> bool:
        seen = world.client.find_domain(uuid)
        return seen is None or not seen.state.is_on

    deadline = Deadline.after(world.patience.shutdown_s)
    while not deadline.has_passed:
        seen = world.client.find_domain(uuid)
        if seen is None or not seen.state.is_on:
            return True
        if seen.state is VmState.CRASHED:  # nothing in it would hear us
            break
        _ask(world, domain, seen, deadline)
        with suppress(DeadlineError):
            wait_until(is_off, deadline.sooner_of(ASK_AGAIN_S), f"the end of {domain}")
    if is_off():
        return True
    world.client.destroy_domain(uuid)
    world.say(f"{domain} did not shut down by itself: its power was cut")
    return False


def _ask(world: World, domain: str, seen: DomainSeen, deadline: Deadline) -> None:
    """Both ways: an agent may hang, and a guest may not listen to ACPI."""
    with suppress(AiHowError):
        if seen.state is VmState.PAUSED:
            world.client.resume_domain(seen.uuid)
        if seen.is_agent_connected:
            world.agent(seen.uuid, domain).shut_down()
            return
    with suppress(AiHowError):
        within_s = max(1.0, deadline.sooner_of(ASK_S).remaining_s)
        world.client.shutdown_domain(seen.uuid, timeout_s=within_s)


@dataclass(frozen=True, slots=True)
class Forward:
    """A step that is only ever carried on."""

    def revert(self, world: World) -> None:
        """What was taken down stays down."""


@dataclass(frozen=True, slots=True)
class CloseSlurm(Forward):
    """SLURM gives these nodes no more jobs; what runs there is queued again, or else ended.

    `drained` are those that their user has closed: their state and its reason are left alone.
    """

    kind: ClassVar[str] = "slurm"
    cluster: str
    controller: UUID
    nodes: tuple[str, ...]
    needs: frozenset[str] = frozenset()
    drained: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        return f"slurm/{self.cluster}"

    def apply(self, world: World) -> Applied:
        """A SLURM that does not answer must not keep its VMs alive, so that is no failure."""
        agent = world.agent(self.controller, "controller")
        closed = [name for name in self.nodes if name not in self.drained]
        first = [close_script(closed)] if closed else []
        script = "; ".join([*first, jobs_script(self.nodes)])
        try:
            answer = agent.run(["/bin/sh", "-c", script], Deadline.after(SLURM_S))
            if jobs := read_jobs(answer.output):
                for line in describe_jobs(jobs, "its node is stopped"):
                    world.say(line)
                script = end_script(jobs, self.nodes)
                agent.run(["/bin/sh", "-c", script], Deadline.after(JOBS_END_S))
        except AiHowError:
            return Applied.KEPT
        return Applied.MADE

    def describe(self) -> str:
        return f"tell SLURM that {', '.join(self.nodes)} will be off"


@dataclass(frozen=True, slots=True)
class ShutDownGuest(Forward):
    """A VM that is off: asked first, by its agent and by ACPI, and cut off at the deadline.

    One that is to be backed up then, and had to be cut off, gets a line that says what may lack.
    """

    kind: ClassVar[str] = "off"
    domain: str
    uuid: UUID
    needs: frozenset[str] = frozenset()
    is_backed_up: bool = False

    @property
    def key(self) -> str:
        return f"off/{self.domain}"

    def apply(self, world: World) -> Applied:
        if not shut_down(world, self.domain, self.uuid) and self.is_backed_up:
            world.say(f"the backup of {self.domain} may lack what it wrote in its last minute")
        return Applied.MADE

    def describe(self) -> str:
        return f"shut down the VM {self.domain}"


@dataclass(frozen=True, slots=True)
class DestroyDomain(Forward):
    """No VM of that UUID; absent is success. Its disk is still there."""

    kind: ClassVar[str] = "undefine"
    domain: str
    uuid: UUID
    needs: frozenset[str] = frozenset()

    @property
    def key(self) -> str:
        return f"undefine/{self.domain}"

    def apply(self, world: World) -> Applied:
        world.client.destroy_domain(self.uuid)
        world.client.undefine_domain(self.uuid, snapshots_too=True)
        return Applied.MADE

    def describe(self) -> str:
        return f"remove the VM {self.domain}"


@dataclass(frozen=True, slots=True)
class BackUpDisk(Forward):
    """A compressed copy of a node's disk that stands alone; none of a disk that is gone."""

    kind: ClassVar[str] = "backup"
    domain: str
    disk: Path
    target: Path
    needs: frozenset[str] = frozenset()

    @property
    def key(self) -> str:
        return f"backup/{self.domain}"

    def apply(self, world: World) -> Applied:
        if self.target.exists() or not self.disk.exists():
            return Applied.KEPT
        world.disks.back_up(self.disk, self.target)
        return Applied.MADE

    def describe(self) -> str:
        return f"back up the disk of {self.domain} to {self.target}"


@dataclass(frozen=True, slots=True)
class RemoveDisk(Forward):
    """No disk of that node."""

    kind: ClassVar[str] = "remove-disk"
    cluster: str
    cluster_id: UUID
    node: str
    needs: frozenset[str] = frozenset()

    @property
    def key(self) -> str:
        return f"remove-disk/{self.cluster}-{self.node}"

    def apply(self, world: World) -> Applied:
        world.disks.remove_disk(self.cluster, self.cluster_id, self.node)
        return Applied.MADE

    def describe(self) -> str:
        return f"remove the disk of {self.node}"


@dataclass(frozen=True, slots=True)
class RemoveDiskDirectory(Forward):
    """No directory for the disks of that cluster."""

    kind: ClassVar[str] = "remove-disks"
    cluster: str
    cluster_id: UUID
    needs: frozenset[str] = frozenset()

    @property
    def key(self) -> str:
        return f"remove-disks/{self.cluster}"

    def apply(self, world: World) -> Applied:
        world.disks.remove_cluster_directory(self.cluster, self.cluster_id)
        return Applied.MADE

    def describe(self) -> str:
        return f"remove the disk directory of {self.cluster}"


@dataclass(frozen=True, slots=True)
class RemoveNetwork(Forward):
    """No network of that UUID, unless a VM that is not ours uses it: then it is left, and said."""

    kind: ClassVar[str] = "remove-network"
    name: str
    uuid: UUID
    needs: frozenset[str] = frozenset()

    @property
    def key(self) -> str:
        return f"remove-network/{self.name}"

    def apply(self, world: World) -> Applied:
        network = world.client.find_network(self.uuid)
        users = [one.name for one in world.client.list_domains() if uses_network(one.xml, network)]
        if users:
            raise HostError(
                f"the network {self.name} is used by VMs that are not of this cluster",
                details=", ".join(users),
                hint="detach them, and destroy again",
            )
        world.client.destroy_network(self.uuid)
        world.client.undefine_network(self.uuid)
        return Applied.MADE

    def describe(self) -> str:
        return f"remove the network {self.name}"
