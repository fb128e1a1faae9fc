"""The types of the cluster file: every key, with its description.

The descriptions are the text of the file that `ai-how init` writes and of the JSON Schema.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, PrivateAttr

from ai_how.spec import fields
from ai_how.spec.cluster_specs import (
    AccessSpec,
    ClusterSpec,
    MonitoringSpec,
    NetworkSpec,
    StartSpec,
)
from ai_how.spec.expose import ExposedPort
from ai_how.spec.gpus import GpuSpec, SimulatedGpusSpec
from ai_how.spec.hardware import (
    AccelerationSpec,
    CpuTopologySpec,
    HardwareSpec,
    NumaTopologySpec,
    PcieDevice,
    PciePassthroughSpec,
    PerformanceSpec,
    Spec,
    VgpuSpec,
    VirtioFsMount,
)
from ai_how.spec.images import ImageBaseSpec, ImageSpec, image_of
from ai_how.spec.kubernetes import IMAGE, KubernetesConfigSpec
from ai_how.spec.lists import OneOrList, TextOrSection, named
from ai_how.spec.node_specs import (
    ComputeEntry,
    ComputeGroupSpec,
    ComputeNodeSpec,
    ControllerSpec,
    ControlPlaneSpec,
    WorkerGroupSpec,
    WorkerNodeSpec,
    Workers,
)
from ai_how.spec.provision import ProvisionSpec, of_playbook

__all__ = [
    "AccelerationSpec",
    "AccessSpec",
    "BeegfsSpec",
    "CloudSpec",
    "ClusterFile",
    "ClustersSpec",
    "ComputeGroupSpec",
    "ComputeNodeSpec",
    "ControlPlaneSpec",
    "ControllerSpec",
    "CpuTopologySpec",
    "GpuSpec",
    "HardwareSpec",
    "HostSpec",
    "HpcSpec",
    "ImageBaseSpec",
    "ImageSpec",
    "KubernetesConfigSpec",
    "MetadataSpec",
    "MonitoringSpec",
    "NetworkSpec",
    "NumaTopologySpec",
    "PartitionSpec",
    "PcieDevice",
    "PciePassthroughSpec",
    "PerformanceSpec",
    "ProvisionSpec",
    "SimulatedGpusSpec",
    "SlurmConfigSpec",
    "Spec",
    "StartSpec",
    "StorageSpec",
    "VgpuSpec",
    "VirtioFsMount",
    "VirtioFsSpec",
    "WorkerGroupSpec",
    "WorkerNodeSpec",
]


class MetadataSpec(Spec):
    name: Annotated[
        str, Field(max_length=200, description="A name, for people.", examples=["my-cluster"])
    ] = ""
    description: Annotated[
        str, Field(max_length=2000, description="Its purpose.", examples=["A cluster to try"])
    ] = ""


class HostSpec(Spec):
    uri: Annotated[
        fields.HostUri,
        Field(
            description="Where the VMs run: auto (the system's libvirt if you may manage it, else "
            "embedded), embedded (a private libvirt that ai-how starts), qemu:///system, "
            "qemu:///session, or qemu+ssh://user@host/system?keyfile=/path.",
            examples=["auto"],
        ),
    ] = "auto"


class BeegfsSpec(Spec):
    """Only `enabled` is known; other keys are accepted and ignored until BeeGFS is supported."""

    model_config = ConfigDict(extra="allow")

    enabled: Annotated[
        bool,
        Field(description="Not available yet: the shared home is NFS instead.", examples=[False]),
    ] = False


class VirtioFsSpec(Spec):
    enabled: Annotated[
        bool | None,
        Field(
            description="false ignores all virtio_fs_mounts; otherwise they are mounted.",
            examples=[True],
        ),
    ] = None


class StorageSpec(Spec):
    beegfs: Annotated[BeegfsSpec, Field(description="The BeeGFS parallel file system.")] = (
        BeegfsSpec.model_construct()
    )
    virtio_fs: Annotated[
        VirtioFsSpec, Field(description="Directories of the host that are shared with nodes.")
    ] = VirtioFsSpec.model_construct()
    home: Annotated[
        Literal["nfs", "none"],
        Field(
            description="nfs: the controller exports /home to all nodes. "
            "none: each node has its own /home.",
            examples=["nfs"],
        ),
    ] = "nfs"


class PartitionSpec(Spec):
    """A partition; the file may give only its name instead of a section."""

    name: Annotated[fields.PartitionName, Field(description="Its name.", examples=["compute"])]
    nodes: Annotated[
        Annotated[tuple[str, ...], OneOrList()] | None,
        Field(description="Names of compute nodes, or ALL. Default: ALL.", examples=["ALL"]),
    ] = None
    default: Annotated[
        bool, Field(description="Whether jobs that name no partition run here.", examples=[True])
    ] = False
    max_time: Annotated[
        fields.SlurmTime | None,
        Field(description="Time limit of its jobs. Default: max_job_time.", examples=["1:00:00"]),
    ] = None

    @property
    def has_all_nodes(self) -> bool:
        return self.nodes is None or "ALL" in self.nodes


class SlurmConfigSpec(Spec):
    partitions: Annotated[
        tuple[Annotated[PartitionSpec, TextOrSection(named)], ...],
        Field(description="Names, or sections. Default: one partition, `compute`, with all nodes."),
    ] = (PartitionSpec.model_construct(name="compute"),)
    default_partition: Annotated[
        fields.PartitionName | None,
        Field(
            description="The partition of jobs that name none. Default: the first.",
            examples=["compute"],
        ),
    ] = None
    max_job_time: Annotated[
        fields.SlurmTime | None,
        Field(
            description="Time limit of a job, such as 24:00:00 or 7-00. Default: no limit.",
            examples=["24:00:00"],
        ),
    ] = None

    @property
    def default_name(self) -> str:
        """The partition of jobs that name none."""
        marked = [partition.name for partition in self.partitions if partition.default]
        return self.default_partition or (marked or [self.partitions[0].name])[0]


class HpcSpec(ClusterSpec):
    storage: Annotated[StorageSpec, Field(description="Shared storage.")] = (
        StorageSpec.model_construct()
    )
    controller: Annotated[ControllerSpec, Field(description="The controller.")]
    compute_nodes: Annotated[
        Annotated[tuple[ComputeEntry, ...], OneOrList()],
        Field(
            description="The compute nodes compute-01, compute-02, ...: one group with a count, "
            "a list of nodes, or a list of both."
        ),
    ]
    access: Annotated[AccessSpec, Field(description="Who may log in.")] = (
        AccessSpec.model_construct()
    )
    slurm_config: Annotated[SlurmConfigSpec, Field(description="SLURM.")] = (
        SlurmConfigSpec.model_construct()
    )
    start: Annotated[StartSpec, Field(description="How the nodes are started.")] = (
        StartSpec.model_construct()
    )
    monitoring: Annotated[
        MonitoringSpec, Field(description="What is collected of the cluster over time.")
    ] = MonitoringSpec.model_construct()
    provision: Annotated[
        tuple[Annotated[ProvisionSpec, TextOrSection(of_playbook)], ...],
        Field(
            description="Playbooks of Ansible that run when the cluster is ready, in this order: "
            "paths, or sections."
        ),
    ] = ()
    expose: Annotated[
        tuple[ExposedPort, ...],
        Field(description="Ports of nodes that are reached at this host while the cluster is up."),
    ] = ()


class CloudSpec(ClusterSpec):
    """A Kubernetes cluster."""

    base_image_path: Annotated[
        fields.ImageReference | None,
        Field(
            description="Image of the nodes: a name in `images` or in the store, or a path or URL "
            "of an exported image. Default: made from kubernetes_config, as `kubernetes`.",
            examples=[IMAGE],
        ),
    ] = None
    control_plane: Annotated[
        ControlPlaneSpec, Field(description="The node or nodes of the control plane.")
    ]
    worker_nodes: Annotated[
        Workers,
        Field(description="The workers: a group, a list, or pools of these by name (cpu, gpu)."),
    ]
    kubernetes_config: Annotated[KubernetesConfigSpec, Field(description="Kubernetes.")] = (
        KubernetesConfigSpec.model_construct()
    )
    access: Annotated[AccessSpec, Field(description="Who may log in.")] = (
        AccessSpec.model_construct()
    )
    start: Annotated[StartSpec, Field(description="How the nodes are started.")] = (
        StartSpec.model_construct()
    )
    expose: Annotated[
        tuple[ExposedPort, ...],
        Field(description="Ports of nodes that are reached at this host while the cluster is up."),
    ] = ()

    @property
    def monitoring(self) -> MonitoringSpec:
        """Nothing watches a cluster of this kind."""
        return MonitoringSpec()


class ClustersSpec(Spec):
    hpc: Annotated[HpcSpec | None, Field(description="A SLURM cluster.")] = None
    cloud: Annotated[
        CloudSpec | None,
        Field(description="A Kubernetes cluster."),
    ] = None


class ClusterFile(Spec):
    """One cluster file."""

    version: Annotated[
        Literal["1.0"], Field(description="Version of this file's format.", examples=["1.0"])
    ]
    metadata: Annotated[MetadataSpec, Field(description="For people, without effect.")] = (
        MetadataSpec.model_construct()
    )
    global_: Annotated[
        dict[str, Any],
        Field(alias="global", description="Free notes, without effect.", examples=[{}]),
    ] = Field(default_factory=dict, alias="global")
    host: Annotated[HostSpec, Field(description="Where the VMs run.")] = HostSpec.model_construct()
    images: Annotated[
        dict[fields.ImageName, ImageSpec],
        Field(description="Images of your own, by name, for base_image_path.", examples=["mine"]),
    ] = Field(default_factory=dict)
    clusters: Annotated[ClustersSpec, Field(description="The clusters, at least one.")]

    _directory: Path | None = PrivateAttr(default=None)

    @property
    def directory(self) -> Path | None:
        """Where the relative paths of the file begin; None where it was read from no file."""
        return self._directory

    @property
    def all_images(self) -> Mapping[str, ImageSpec]:
        """`images`, and the one that a Kubernetes cluster has by itself, unless it is there."""
        if self.clusters.cloud is None or IMAGE in self.images:
            return self.images
        return {**self.images, IMAGE: image_of(self.clusters.cloud.kubernetes_config)}

    def placed_in(self, directory: Path | None) -> Self:
        """The same file, as if it were in another directory."""
        placed = self.model_copy()
        placed._directory = directory  # noqa: SLF001  a copy of ours
        return placed
