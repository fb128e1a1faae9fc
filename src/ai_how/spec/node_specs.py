"""What a node shall be: the controller, compute nodes, workers, and groups of them."""

from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag

from ai_how.spec import fields
from ai_how.spec.hardware import PciePassthroughSpec, Spec, VgpuSpec, VirtioFsMount
from ai_how.spec.lists import GROUP, LIST, NODE, POOLS, OneOrList, tag_of_node, tag_of_workers

MAX_NODES = 1024


class NodeResources(Spec):
    """What every node has."""

    cpu_cores: Annotated[int, Field(ge=1, le=1024, description="vCPUs.", examples=[1])]
    memory_gb: Annotated[
        float,
        Field(
            ge=0.5,
            le=16384,
            allow_inf_nan=False,
            description="Memory in GiB, 0.5 and up; fractions are fine.",
            examples=[1],
        ),
    ]
    disk_gb: Annotated[
        int,
        Field(
            ge=1, le=65536, description="Disk in GiB; it takes only what is written.", examples=[10]
        ),
    ]
    base_image_path: Annotated[
        fields.ImageReference | None,
        Field(
            description="Image of this node: a path or a stored name. Default: the cluster's.",
            examples=["default"],
        ),
    ] = None
    virtio_fs_mounts: Annotated[
        tuple[VirtioFsMount, ...], Field(description="Directories of the host that it shares.")
    ] = ()

    @property
    def memory_mib(self) -> int:
        return round(self.memory_gb * 1024)


class ControllerSpec(NodeResources):
    """The node that runs slurmctld and serves /home."""

    ip_address: Annotated[
        fields.Address,
        Field(
            description="IPv4 address inside the subnet, or DHCP to have one chosen.",
            examples=["DHCP"],
        ),
    ] = None


class ComputeNodeSpec(NodeResources):
    """A node that runs jobs."""

    ip: Annotated[
        fields.Address,
        Field(
            description="IPv4 address inside the subnet, or DHCP to have one chosen.",
            examples=["DHCP"],
        ),
    ] = None
    auto_start: Annotated[
        bool,
        Field(
            description="false: `hpc start` leaves it off unless it is named. "
            "It stays part of the cluster.",
            examples=[True],
        ),
    ] = True
    pcie_passthrough: Annotated[
        PciePassthroughSpec | None, Field(description="Devices of the host for this node alone.")
    ] = None
    vgpu: Annotated[VgpuSpec | None, Field(description="A share of a GPU for this node.")] = None


class ComputeGroupSpec(ComputeNodeSpec):
    """So many nodes alike."""

    count: Annotated[
        int, Field(ge=1, le=MAX_NODES, description="How many nodes of this kind.", examples=[2])
    ]


class WorkerNodeSpec(ComputeNodeSpec):
    worker_type: Annotated[
        Literal["cpu", "gpu"] | None, Field(description="cpu or gpu.", examples=["cpu"])
    ] = None


class WorkerGroupSpec(WorkerNodeSpec):
    count: Annotated[
        int, Field(ge=1, le=MAX_NODES, description="How many nodes of this kind.", examples=[1])
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
