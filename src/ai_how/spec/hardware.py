"""What the virtual hardware shall be: processors, memory, devices, shared directories."""

from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ai_how.spec import fields


class Spec(BaseModel):
    """Frozen; unknown keys are errors; a key without a value counts as not given."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    @model_validator(mode="before")
    @classmethod
    def _drop_empty(cls, value: Any) -> Any:  # noqa: ANN401  before validation it may be anything
        if not isinstance(value, dict):
            return value
        known = {info.alias or name for name, info in cls.model_fields.items()}
        return {key: v for key, v in value.items() if v is not None or key not in known}


class CpuTopologySpec(Spec):
    """Applies to the nodes whose `cpu_cores` it multiplies out to."""

    sockets: Annotated[int, Field(ge=1, le=64, description="Sockets.", examples=[1])]
    cores: Annotated[int, Field(ge=1, le=512, description="Cores per socket.", examples=[1])]
    threads: Annotated[int, Field(ge=1, le=8, description="Threads per core.", examples=[1])]

    @property
    def cpus(self) -> int:
        return self.sockets * self.cores * self.threads


class NumaTopologySpec(Spec):
    """Applies to the nodes whose processors and memory it fits; memory is split evenly."""

    nodes: Annotated[
        int, Field(ge=1, le=8, description="NUMA nodes that a guest sees.", examples=[1])
    ] = 1
    memory_per_node: Annotated[
        int | None,
        Field(
            ge=256,
            description="Memory of each NUMA node in MiB; nodes x this is the guest's memory. "
            "Default: an even split.",
            examples=[1024],
        ),
    ] = None


class PerformanceSpec(Spec):
    enable_hugepages: Annotated[
        bool,
        Field(description="Back the guests' memory with the host's huge pages.", examples=[False]),
    ] = False
    hugepage_size: Annotated[
        Literal["2M", "1G"],
        Field(description="Size of the huge pages: 2M or 1G.", examples=["2M"]),
    ] = "2M"
    cpu_pinning: Annotated[
        bool, Field(description="Pin each vCPU to a CPU of the host.", examples=[False])
    ] = False
    memory_backing: Annotated[
        Literal["default", "hugepages", "memfd"],
        Field(
            description="default, hugepages (the same as enable_hugepages), or memfd (sharable).",
            examples=["default"],
        ),
    ] = "default"

    @property
    def wants_hugepages(self) -> bool:
        return self.enable_hugepages or self.memory_backing == "hugepages"


class AccelerationSpec(Spec):
    enable_kvm: Annotated[
        bool,
        Field(
            description="Use KVM where it really works; where it does not, or with false, emulate.",
            examples=[True],
        ),
    ] = True
    enable_nested: Annotated[
        bool, Field(description="Let guests run virtual machines themselves.", examples=[False])
    ] = False
    cpu_model: Annotated[
        fields.CpuModel | None,
        Field(
            description="host, host-passthrough, host-model, maximum, qemu64, or another "
            "model that QEMU knows. Default: the best that works.",
            examples=["maximum"],
        ),
    ] = None
    cpu_features: Annotated[
        tuple[fields.CpuFeature, ...],
        Field(description="CPU features to require (+name) or take away (-name).", examples=[[]]),
    ] = ()
    numa_topology: Annotated[
        NumaTopologySpec | None, Field(description="NUMA nodes inside the guests.")
    ] = None
    cpu_topology: Annotated[
        CpuTopologySpec | None,
        Field(description="Layout of a guest's vCPUs. Default: one socket, no threads."),
    ] = None
    performance: Annotated[
        PerformanceSpec, Field(description="Huge pages, pinning, memory backing.")
    ] = PerformanceSpec.model_construct()


class HardwareSpec(Spec):
    acceleration: Annotated[
        AccelerationSpec, Field(description="Processors and how they are run.")
    ] = AccelerationSpec.model_construct()


class VirtioFsMount(Spec):
    """A directory of the host, shared with a guest by virtiofs."""

    tag: Annotated[
        fields.MountTag, Field(description="Name of the share, unique per node.", examples=["data"])
    ]
    host_path: Annotated[
        fields.AbsolutePath, Field(description="Directory on the host.", examples=["/srv/data"])
    ]
    mount_point: Annotated[
        fields.MountPoint, Field(description="Where the guest mounts it.", examples=["/data"])
    ]
    readonly: Annotated[
        bool, Field(description="Mount it read-only in the guest.", examples=[False])
    ] = False
    owner: Annotated[
        fields.AccountName | None,
        Field(description="Owner of the mount point (default: as on the host).", examples=["hpc"]),
    ] = None
    group: Annotated[
        fields.AccountName | None,
        Field(description="Group of the mount point (default: as on the host).", examples=["hpc"]),
    ] = None
    mode: Annotated[
        fields.FileMode | None,
        Field(description="Mode of the mount point (default: as on the host).", examples=["0755"]),
    ] = None
    options: Annotated[
        fields.MountOptions,
        Field(description="Options of the mount, as for mount(8).", examples=["rw,relatime"]),
    ] = ""

    @property
    def is_read_only(self) -> bool:
        return "ro" in self.mount_options.split(",")

    @property
    def mount_options(self) -> str:
        """What fstab gets: `options`, with `ro` in force where the share is read-only."""
        words = [word for word in self.options.split(",") if word]
        if self.readonly:
            words = [word for word in words if word not in ("rw", "ro")] + ["ro"]
        return ",".join(words) or "defaults"


class PcieDevice(Spec):
    """A PCI device of the host that a guest gets for itself."""

    pci_address: Annotated[
        fields.PciAddress,
        Field(description="Address on the host, as in `lspci -D`.", examples=["0000:65:00.0"]),
    ]
    device_type: Annotated[
        Literal["gpu", "audio", "network", "storage", "other"],
        Field(description="gpu, audio, network, storage or other.", examples=["gpu"]),
    ]
    vendor_id: Annotated[
        fields.PciId | None,
        Field(description="Vendor that the device must have.", examples=["10de"]),
    ] = None
    device_id: Annotated[
        fields.PciId | None,
        Field(description="Device number that it must have.", examples=["2684"]),
    ] = None
    iommu_group: Annotated[
        int | None, Field(ge=0, description="IOMMU group that it must be in.", examples=[1])
    ] = None


class PciePassthroughSpec(Spec):
    enabled: Annotated[
        bool, Field(description="Whether the devices are passed through.", examples=[False])
    ] = False
    devices: Annotated[
        tuple[PcieDevice, ...],
        Field(description="Devices; a GPU before its audio function."),
    ] = ()


class VgpuSpec(Spec):
    mdev_uuid: Annotated[
        UUID,
        Field(
            description="A mediated device that exists on the host (mdevctl list).",
            examples=["c2177883-f1bb-47f0-914d-32a22e3a8804"],
        ),
    ]
