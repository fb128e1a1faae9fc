"""The steps that create and remove disks, their base images and directories."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar
from uuid import UUID

from ai_how.errors import OwnershipError
from ai_how.plan.step import Applied, ForwardStep, KeyedStep
from ai_how.vm_management.context import PlanContext
from ai_how.vm_management.saved_machines.store import SavedMachineRef
from ai_how.vm_management.steps.subjects import ClusterStep, DomainStep


@dataclass(frozen=True, slots=True)
class PlaceBase(KeyedStep):
    """Place a base image. All clusters share it, so undo does not remove it."""

    kind: ClassVar[str] = "base"
    digest: str

    @property
    def subject(self) -> str:
        return self.digest[:12]

    @property
    def needs(self) -> frozenset[str]:
        return frozenset()

    def apply(self, context: PlanContext) -> Applied:
        image = context.images[self.digest]
        context.disks.ensure_base(image)
        context.disks.ensure_kernel(image)
        return Applied.MADE

    def revert(self, context: PlanContext) -> None:
        """Does nothing: the image is removed with the last cluster that uses it."""

    def describe(self) -> str:
        return f"place the image {self.digest[:12]}"


@dataclass(frozen=True, slots=True)
class ClaimDirectory(ClusterStep):
    """Create the directory of the cluster's disks, with a marker file."""

    kind: ClassVar[str] = "disks"
    cluster_id: UUID

    @property
    def needs(self) -> frozenset[str]:
        return frozenset()

    def apply(self, context: PlanContext) -> Applied:
        return context.disks.claim_directory(self.cluster, self.cluster_id)

    def revert(self, context: PlanContext) -> None:
        try:
            context.disks.is_claimed(self.cluster, self.cluster_id)
        except OwnershipError:
            return  # the directory is another cluster's
        # Fails while a disk is left in it; the next command then undoes both.
        context.disks.remove_cluster_directory(self.cluster, self.cluster_id)

    def describe(self) -> str:
        return f"create a directory for the disks of {self.cluster}"


@dataclass(frozen=True, slots=True)
class CreateOverlay(KeyedStep):
    """Create a node's disk, a qcow2 overlay on its base image.

    With `saved` it is a copy of the saved VM's disk, unless that saved VM is gone by then.
    """

    kind: ClassVar[str] = "disk"
    cluster: str
    cluster_id: UUID
    node: str
    base: Path
    size_gib: int
    needs: frozenset[str] = frozenset()
    saved: SavedMachineRef | None = None

    @property
    def subject(self) -> str:
        return f"{self.cluster}-{self.node}"

    def apply(self, context: PlanContext) -> Applied:
        machine = self.saved and self.saved.find(context)
        return context.disks.create_overlay(
            self.cluster,
            self.cluster_id,
            self.node,
            base=self.base,
            size_gib=self.size_gib,
            saved=machine.disk if machine else None,
        )

    def revert(self, context: PlanContext) -> None:
        context.disks.remove_disk(self.cluster, self.cluster_id, self.node, base=self.base)

    def describe(self) -> str:
        return f"create a disk of {self.size_gib} GiB for {self.node}"


@dataclass(frozen=True, slots=True)
class GrowDisk(KeyedStep):
    """Grow the disk of a node that is off; its file system grows at the next boot."""

    kind: ClassVar[str] = "grow"
    cluster: str
    node: str
    disk: Path
    size_gib: int

    @property
    def subject(self) -> str:
        return f"{self.cluster}-{self.node}"

    @property
    def needs(self) -> frozenset[str]:
        return frozenset()

    def apply(self, context: PlanContext) -> Applied:
        context.disks.resize(self.disk, self.size_gib)
        return Applied.MADE

    def revert(self, context: PlanContext) -> None:
        """Does nothing: shrinking a disk could lose data."""

    def describe(self) -> str:
        return f"grow the disk of {self.node} to {self.size_gib} GiB"


@dataclass(frozen=True, slots=True)
class BackUpDisk(ForwardStep, DomainStep):
    """Back up a node's disk to one compressed qcow2 without a backing file; skip a missing disk."""

    kind: ClassVar[str] = "backup"
    disk: Path
    target: Path
    needs: frozenset[str] = frozenset()

    def apply(self, context: PlanContext) -> Applied:
        if self.target.exists() or not self.disk.exists():
            return Applied.KEPT
        context.disks.back_up(self.disk, self.target)
        return Applied.MADE

    def describe(self) -> str:
        return f"back up the disk of {self.domain} to {self.target}"


@dataclass(frozen=True, slots=True)
class RemoveDisk(ForwardStep):
    """Remove a node's disk."""

    kind: ClassVar[str] = "remove-disk"
    cluster: str
    cluster_id: UUID
    node: str
    needs: frozenset[str] = frozenset()

    @property
    def subject(self) -> str:
        return f"{self.cluster}-{self.node}"

    def apply(self, context: PlanContext) -> Applied:
        context.disks.remove_disk(self.cluster, self.cluster_id, self.node)
        return Applied.MADE

    def describe(self) -> str:
        return f"remove the disk of {self.node}"


@dataclass(frozen=True, slots=True)
class RemoveDiskDirectory(ForwardStep, ClusterStep):
    """Remove the directory of the cluster's disks."""

    kind: ClassVar[str] = "remove-disks"
    cluster_id: UUID
    needs: frozenset[str] = frozenset()

    def apply(self, context: PlanContext) -> Applied:
        context.disks.remove_cluster_directory(self.cluster, self.cluster_id)
        return Applied.MADE

    def describe(self) -> str:
        return f"remove the disk directory of {self.cluster}"
