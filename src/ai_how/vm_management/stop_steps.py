"""The steps that take a cluster down: SLURM first, then guests, then what they were made of.

None has anything to revert: a stop or destroy that was cut short is carried on, not undone.
"""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar
from uuid import UUID

from ai_how.errors import AiHowError, DeadlineError, HostError
from ai_how.plan.step import Applied
from ai_how.state.models import VmState
from ai_how.vm_management.world import World
from ai_how.waiting import Deadline, wait_until

ASK_AGAIN_S = 15.0  # an ACPI event that comes before the guest listens is lost
SLURM_S = 60.0


@dataclass(frozen=True, slots=True)
class _Forward:
    """A step that is only ever carried on."""

    def revert(self, world: World) -> None:
        """What was taken down stays down."""


@dataclass(frozen=True, slots=True)
class CloseSlurm(_Forward):
    """SLURM gives these nodes no more jobs, and the ones that run there are told to end."""

    kind: ClassVar[str] = "slurm"
    cluster: str
    controller: UUID
    nodes: tuple[str, ...]
    needs: frozenset[str] = frozenset()

    @property
    def key(self) -> str:
        return f"slurm/{self.cluster}"

    def apply(self, world: World) -> Applied:
        """A SLURM that does not answer must not keep its VMs alive, so that is no failure."""
        names = shlex.quote(",".join(self.nodes))
        script = (
            f"jobs=$(squeue -h -t running -w {names} -o %A); "
            '[ -z "$jobs" ] || scancel --full --signal=TERM $jobs; '
            f"for moment in 1 2 3 4 5 6 7 8 9 10; do "
            f'[ -z "$(squeue -h -t running -w {names} -o %A)" ] && break; sleep 1; done; '
            f"scontrol update nodename={names} state=down reason='stopped by ai-how'"
        )
        agent = world.agent(self.controller, "controller")
        try:
            agent.run(["/bin/sh", "-c", script], Deadline.after(SLURM_S))
        except AiHowError:
            return Applied.KEPT
        return Applied.MADE

    def describe(self) -> str:
        return f"tell SLURM that {', '.join(self.nodes)} will be off"


@dataclass(frozen=True, slots=True)
class ShutDownGuest(_Forward):
    """A VM that is off: asked first, by its agent and by ACPI, and cut off at the deadline."""

    kind: ClassVar[str] = "off"
    domain: str
    uuid: UUID
    needs: frozenset[str] = frozenset()

    @property
    def key(self) -> str:
        return f"off/{self.domain}"

    def apply(self, world: World) -> Applied:
        deadline = Deadline.after(world.patience.shutdown_s)
        while not deadline.has_passed:
            seen = world.client.find_domain(self.uuid)
            if seen is None or not seen.state.is_on:
                return Applied.MADE
            if seen.state is VmState.PAUSED:
                world.client.resume_domain(self.uuid)
            self._ask(world, is_agent_connected=seen.is_agent_connected)
            try:
                wait_until(
                    lambda: self._is_off(world),
                    deadline.sooner_of(ASK_AGAIN_S),
                    f"the end of {self.domain}",
                )
            except DeadlineError:
                continue
        world.client.destroy_domain(self.uuid)
        return Applied.MADE

    def _ask(self, world: World, *, is_agent_connected: bool) -> None:
        """Both ways: an agent may hang, and a guest may not listen to ACPI."""
        try:
            if is_agent_connected:
                world.agent(self.uuid, self.domain).shut_down()
            else:
                world.client.shutdown_domain(self.uuid)
        except AiHowError:
            if not self._is_off(world):
                world.client.shutdown_domain(self.uuid)

    def _is_off(self, world: World) -> bool:
        seen = world.client.find_domain(self.uuid)
        return seen is None or not seen.state.is_on

    def describe(self) -> str:
        return f"shut down the VM {self.domain}"


@dataclass(frozen=True, slots=True)
class DestroyDomain(_Forward):
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
class BackUpDisk(_Forward):
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
class RemoveDisk(_Forward):
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
class RemoveDiskDirectory(_Forward):
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
class RemoveNetwork(_Forward):
    """No network of that UUID, unless a VM that is not ours uses it: then it is left, and said."""

    kind: ClassVar[str] = "remove-network"
    name: str
    uuid: UUID
    needs: frozenset[str] = frozenset()

    @property
    def key(self) -> str:
        return f"remove-network/{self.name}"

    def apply(self, world: World) -> Applied:
        wanted = f"<source network='{self.name}'"
        users = [one.name for one in world.client.list_domains() if wanted in one.xml]
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
