"""The specification of nodes: the controller, compute nodes, workers, and groups of them."""

from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag

from ai_how.spec import fields
from ai_how.spec.gpus import GpuSpec
from ai_how.spec.hardware import PciePassthroughSpec, Spec, VgpuSpec, VirtioFsMount
from ai_how.spec.lists import GROUP, LIST, NODE, POOLS, OneOrList, tag_of_node, tag_of_workers
from ai_how.spec.node_hardware import NodeHardwareSpec

MAX_NODES = 1024


class NodeResources(Spec):
    """The fields of every node."""

    cpu_cores: Annotated[int, Field(ge=1, le=1024, description="vCPUs.", examples=[1])]
    memory_gb: Annotated[
        float,
        Field(
            ge=0.5,
            le=16384,
            allow_inf_nan=False,
            description="Memory in GiB, at least 0.5; fractions are allowed.",
            examples=[1],
        ),
    ]
    disk_gb: Annotated[
        int,
        Field(ge=1, le=65536, description="Disk in GiB, thinly provisioned.", examples=[10]),
    ]
    base_image_path: Annotated[
        fields.ImageReference | None,
        Field(
            description="Image of this node: a name, a path or a URL. Default: the cluster's.",
            examples=["default"],
        ),
    ] = None
    virtio_fs_mounts: Annotated[
        tuple[VirtioFsMount, ...], Field(description="Shared directories of the host.")
    ] = ()

    @property
    def memory_mib(self) -> int:
        return round(self.memory_gb * 1024)


class ControllerSpec(NodeResources):
    """The node that runs slurmctld and serves /home."""

    ip_address: Annotated[
        fields.Address,
        Field(
            description="IPv4 address in the subnet, or DHCP to let ai-how choose one.",
            examples=["DHCP"],
        ),
    ] = None


class ControlPlaneSpec(ControllerSpec):
    """The nodes that run Kubernetes' control plane."""

    count: Annotated[
        int,
        Field(
            ge=1,
            le=3,
            description="One, or three for a cluster that goes on when one of them fails.",
            examples=[1],
        ),
    ] = 1


class ComputeNodeSpec(NodeResources):
    """A node that runs jobs."""

    ip: Annotated[
        fields.Address,
        Field(
            description="IPv4 address in the subnet, or DHCP to let ai-how choose one.",
            examples=["DHCP"],
        ),
    ] = None
    auto_start: Annotated[
        bool,
        Field(
            description="false: the node stays off until a start names it, but is in the cluster.",
            examples=[True],
        ),
    ] = True
    pcie_passthrough: Annotated[
        PciePassthroughSpec | None, Field(description="Devices of the host for this node only.")
    ] = None
    vgpu: Annotated[VgpuSpec | None, Field(description="A share of a GPU for this node.")] = None
    gpu: Annotated[
        GpuSpec | None, Field(description="GPUs of this node: cards of the host, or simulated.")
    ] = None
    hardware: Annotated[
        NodeHardwareSpec | None,
        Field(description="What goes with the devices of the host; chosen by itself if not given."),
    ] = None


class ComputeGroupSpec(ComputeNodeSpec):
    """`count` nodes with the same fields."""

    count: Annotated[
        int, Field(ge=1, le=MAX_NODES, description="The number of nodes.", examples=[2])
    ]


class WorkerNodeSpec(ComputeNodeSpec):
    worker_type: Annotated[
        Literal["cpu", "gpu"] | None, Field(description="cpu or gpu.", examples=["cpu"])
    ] = None


class WorkerGroupSpec(WorkerNodeSpec):
    count: Annotated[
        int, Field(ge=1, le=MAX_NODES, description="The number of nodes.", examples=[1])
    ]


ComputeEntry = Annotated[
    Annotated[ComputeNodeSpec, Tag(NODE)] | Annotated[ComputeGroupSpec, Tag(GROUP)],
    Discriminator(tag_of_node),
]
WorkerEntry = Annotated[
    Annotated[WorkerNodeSpec, Tag(NODE)] | Annotated[WorkerGroupSpec, Tag(GROUP)],
    Discriminator(tag_of_node),
]
WorkerList = Annotated[tuple[WorkerEntry, ...], OneOrList()]
Workers = Annotated[
    Annotated[WorkerList, Tag(LIST)] | Annotated[dict[str, WorkerList], Tag(POOLS)],
    Discriminator(tag_of_workers),
]
