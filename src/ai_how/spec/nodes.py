"""The nodes of a spec: expanded groups, names, addresses and total cost."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from uuid import UUID

from ai_how.errors import SpecError
from ai_how.spec.gpus import AskedCards, SimulatedGpusSpec, VgpuProfileSpec
from ai_how.spec.models import (
    ClusterFile,
    ComputeGroupSpec,
    ComputeNodeSpec,
    ControllerSpec,
    CpuTopologySpec,
    HpcSpec,
    NumaTopologySpec,
    PcieDevice,
    VirtioFsMount,
    WorkerGroupSpec,
)
from ai_how.spec.node_hardware import NodeHardwareSpec
from ai_how.spec.roles import Role as Role  # noqa: PLC0414  most take it from here

_CONTROLLER_OFFSET = 10
_FIRST_FREE_OFFSET = 2
_LONGEST_ROOMY_PREFIX = 27
_BY_ITSELF = NodeHardwareSpec()
_NO_NODES = 3  # the network's own address, the gateway and the broadcast


@dataclass(frozen=True, slots=True)
class Node:
    """One requested VM. `name` is its hostname inside the cluster."""

    name: str
    role: Role
    cpu_cores: int
    memory_mib: int
    disk_gib: int
    ip: IPv4Address | None
    auto_start: bool
    base_image: str | None
    virtio_fs_mounts: tuple[VirtioFsMount, ...]
    pcie_devices: tuple[PcieDevice, ...]
    vgpu_mdev_uuid: UUID | None
    gpus: SimulatedGpusSpec | None = None
    cards: AskedCards | None = None
    vgpu: VgpuProfileSpec | None = None
    """The vGPU that is made for it."""
    hardware: NodeHardwareSpec = _BY_ITSELF
    """What goes with its devices of the host."""

    @property
    def has_host_devices(self) -> bool:
        """Whether it asks for devices of the host, whole or a share."""
        return bool(self.pcie_devices or self.vgpu_mdev_uuid or self.cards or self.vgpu)

    def domain_name(self, cluster: str) -> str:
        return f"{cluster}-{self.name}"


@dataclass(frozen=True, slots=True)
class ClusterSize:
    """What a whole cluster may take from its host."""

    vcpus: int
    memory_mib: int
    disk_gib_worst_case: int


def compute_name(number: int) -> str:
    """Numbers count from 1; the name of a node does not change when others are added after it."""
    return f"compute-{number:02d}"


def get_hpc(spec: ClusterFile) -> HpcSpec:
    """Raises SpecError where the file has no SLURM cluster."""
    if spec.clusters.hpc is None:
        raise SpecError(
            "the file has no clusters.hpc", hint="ai-how init  # writes a file that has it"
        )
    return spec.clusters.hpc


def nodes_of(hpc: HpcSpec) -> tuple[Node, ...]:
    """Controller first, then the compute nodes in the order of the file."""
    shares = hpc.storage.virtio_fs.enabled is not False
    image = hpc.base_image_path
    controller = controller_node(Role.CONTROLLER.value, hpc.controller, image, has_shares=shares)
    computes = (
        compute_node(compute_name(number), spec, image, has_shares=shares)
        for number, spec in enumerate(_written_out(hpc.compute_nodes), start=1)
    )
    return (controller, *computes)


def controller_node(
    name: str, spec: ControllerSpec, image: str | None, *, has_shares: bool = True
) -> Node:
    """A node that leads its cluster; `image` is that of nodes that name none."""
    return Node(
        name=name,
        role=Role.CONTROLLER,
        cpu_cores=spec.cpu_cores,
        memory_mib=spec.memory_mib,
        disk_gib=spec.disk_gb,
        ip=spec.ip_address,
        auto_start=True,
        base_image=spec.base_image_path or image,
        virtio_fs_mounts=spec.virtio_fs_mounts if has_shares else (),
        pcie_devices=(),
        vgpu_mdev_uuid=None,
    )


def compute_node(
    name: str, spec: ComputeNodeSpec, image: str | None, *, has_shares: bool = True
) -> Node:
    """A node that runs what users want; `image` is that of nodes that name none."""
    return Node(
        name=name,
        role=Role.COMPUTE,
        cpu_cores=spec.cpu_cores,
        memory_mib=spec.memory_mib,
        disk_gib=spec.disk_gb,
        ip=spec.ip,
        auto_start=spec.auto_start,
        base_image=spec.base_image_path or image,
        virtio_fs_mounts=spec.virtio_fs_mounts if has_shares else (),
        pcie_devices=devices_of(spec),
        vgpu_mdev_uuid=spec.vgpu.mdev_uuid if spec.vgpu else None,
        gpus=spec.gpu.simulated if spec.gpu else None,
        cards=spec.gpu.cards if spec.gpu else None,
        vgpu=spec.gpu.vgpu if spec.gpu else None,
        hardware=spec.hardware or _BY_ITSELF,
    )


def _written_out(entries: Iterable[ComputeNodeSpec]) -> Iterator[ComputeNodeSpec]:
    for entry in entries:
        yield from [entry] * count_of(entry)


def count_of(entry: ComputeNodeSpec) -> int:
    return entry.count if isinstance(entry, ComputeGroupSpec | WorkerGroupSpec) else 1


def devices_of(entry: ComputeNodeSpec) -> tuple[PcieDevice, ...]:
    """The devices that are passed through."""
    passthrough = entry.pcie_passthrough
    return passthrough.devices if passthrough and passthrough.enabled else ()


def cost_of(nodes: Collection[Node]) -> ClusterSize:
    return ClusterSize(
        vcpus=sum(node.cpu_cores for node in nodes),
        memory_mib=sum(node.memory_mib for node in nodes),
        disk_gib_worst_case=sum(node.disk_gib for node in nodes),
    )


def cpu_topology_for(asked: CpuTopologySpec | None, cpu_cores: int) -> CpuTopologySpec | None:
    """The requested topology if it gives the node's number of processors, else None."""
    return asked if asked and asked.cpus == cpu_cores else None


def numa_topology_for(
    asked: NumaTopologySpec | None, cpu_cores: int, memory_mib: int
) -> NumaTopologySpec | None:
    """The requested NUMA nodes if each gets a processor and its share of memory, else None."""
    if asked is None or asked.nodes > cpu_cores:
        return None
    if asked.memory_per_node is None:
        return asked if memory_mib % asked.nodes == 0 else None
    return asked if asked.memory_per_node * asked.nodes == memory_mib else None


def room_in(subnet: IPv4Network) -> int:
    """The number of nodes for which the subnet has addresses."""
    return subnet.num_addresses - _NO_NODES


def longest_prefix_for(node_count: int) -> int:
    """The prefix of the smallest subnet with room for this number of nodes."""
    return 32 - (node_count + _NO_NODES - 1).bit_length()


def gateway_of(subnet: IPv4Network) -> IPv4Address:
    return subnet[1]


def assign_addresses(subnet: IPv4Network, nodes: Iterable[Node]) -> dict[str, IPv4Address]:
    """Each node's address: the requested one, else .10 for the controller, then .11 and so on.

    Addresses above the subnet wrap around to .2, so nodes keep their addresses when others are
    added after them. Subnets with fewer than 32 addresses are filled from .2. The order of `nodes`
    decides. Raises SpecError if they do not fit, or if two nodes want the same address.
    """
    nodes = tuple(nodes)
    asked = {node.name: node.ip for node in nodes if node.ip is not None}
    _check_distinct(asked)
    free = _free_addresses(subnet, taken={gateway_of(subnet), *asked.values()})
    addresses = {}
    for node in nodes:
        address = asked.get(node.name) or next(free, None)
        if address is None:
            raise SpecError(
                f"{subnet} is too small for {len(nodes)} nodes",
                hint="Set network.subnet to a larger range, or to auto.",
            )
        addresses[node.name] = address
    return addresses


def _check_distinct(asked: Mapping[str, IPv4Address]) -> None:
    """The addresses in a file differ, but one of them can belong to an existing node."""
    holders: dict[IPv4Address, str] = {}
    for name, address in asked.items():
        if (other := holders.setdefault(address, name)) != name:
            raise SpecError(
                f"{address} is the address of both {other} and {name}",
                hint=f"Give {name} another ip, or none.",
            )


def _free_addresses(subnet: IPv4Network, taken: set[IPv4Address]) -> Iterator[IPv4Address]:
    is_roomy = subnet.prefixlen <= _LONGEST_ROOMY_PREFIX
    start = _CONTROLLER_OFFSET if is_roomy else _FIRST_FREE_OFFSET
    broadcast = subnet.num_addresses - 1
    for offset in (*range(start, broadcast), *range(_FIRST_FREE_OFFSET, start)):
        if subnet[offset] not in taken:
            yield subnet[offset]
