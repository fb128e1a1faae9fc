"""The specification of virtual hardware: processors, memory, devices, shared directories."""

from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ai_how.spec import fields


class Spec(BaseModel):
    """Frozen. Unknown keys are errors; a key without a value is treated as absent."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    @model_validator(mode="before")
    @classmethod
    def _drop_empty(cls, value: Any) -> Any:  # noqa: ANN401  before validation it may be anything
        if not isinstance(value, dict):
            return value
        known = {info.alias or name for name, info in cls.model_fields.items()}
        return {key: v for key, v in value.items() if v is not None or key not in known}


class CpuTopologySpec(Spec):
    """Applies to the nodes whose `cpu_cores` equal the product of its fields."""

    sockets: Annotated[int, Field(ge=1, le=64, description="Sockets.", examples=[1])]
    cores: Annotated[int, Field(ge=1, le=512, description="Cores per socket.", examples=[1])]
    threads: Annotated[int, Field(ge=1, le=8, description="Threads per core.", examples=[1])]

    @property
    def cpus(self) -> int:
        return self.sockets * self.cores * self.threads


class NumaTopologySpec(Spec):
    """Applies to the nodes whose vCPUs and memory fit; the memory is split evenly."""

    nodes: Annotated[int, Field(ge=1, le=8, description="NUMA nodes of a guest.", examples=[1])] = 1
    memory_per_node: Annotated[
        int | None,
        Field(
            ge=256,
            description="Memory of each NUMA node in MiB; `nodes` times this is the memory of the "
            "guest. Default: an even split.",
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
        bool, Field(description="Pin each vCPU to its own CPU.", examples=[False])
    ] = False
    memory_backing: Annotated[
        Literal["default", "hugepages", "memfd"],
        Field(
            description="default, hugepages (the same as enable_hugepages), or memfd (shareable).",
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
            description="Use KVM if a test guest boots under it; emulate otherwise, or with false.",
            examples=[True],
        ),
    ] = True
    enable_nested: Annotated[
        bool, Field(description="Let guests run VMs themselves; needs KVM.", examples=[False])
    ] = False
    cpu_model: Annotated[
        fields.CpuModel | None,
        Field(
            description="host, host-passthrough, host-model, maximum, qemu64, or another "
            "QEMU model. Default: the host's CPU under KVM, else a plain one.",
            examples=["maximum"],
        ),
    ] = None
    cpu_features: Annotated[
        tuple[fields.CpuFeature, ...],
        Field(description="CPU features to require (+name) or disable (-name).", examples=[[]]),
    ] = ()
    numa_topology: Annotated[
        NumaTopologySpec | None, Field(description="The NUMA nodes of a guest.")
    ] = None
    cpu_topology: Annotated[
        CpuTopologySpec | None,
        Field(description="The layout of a guest's vCPUs. Default: one socket, no threads."),
    ] = None
    performance: Annotated[
        PerformanceSpec, Field(description="Huge pages, pinning, memory backing.")
    ] = PerformanceSpec.model_construct()


class HardwareSpec(Spec):
    acceleration: Annotated[
        AccelerationSpec, Field(description="Processors, KVM and memory backing.")
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
    readonly: Annotated[bool, Field(description="Share it read-only.", examples=[False])] = False
    owner: Annotated[
        fields.AccountName | None,
        Field(
            description="Owner in the guest: the login account (default), root, or another.",
            examples=["hpc"],
        ),
    ] = None
    group: Annotated[
        fields.AccountName | None,
        Field(description="Group of the mount point (default: the owner's).", examples=["hpc"]),
    ] = None
    mode: Annotated[
        fields.FileMode | None,
        Field(description="Mode of the mount point (default: as on the host).", examples=["0755"]),
    ] = None
    options: Annotated[
        fields.MountOptions,
        Field(description="Mount options, as for mount(8).", examples=["rw,relatime"]),
    ] = ""

    def owner_for(self, login: str) -> str | None:
        """The owner in a guest: an account that no guest has is the `login` account."""
        is_known = self.owner is None or self.owner.isdigit() or self.owner in fields.SYSTEM_USERS
        return self.owner if is_known else login

    @property
    def is_read_only(self) -> bool:
        return "ro" in self.mount_options.split(",")

    @property
    def mount_options(self) -> str:
        """The options in fstab: `options`, with `ro` if the share is read-only."""
        words = [word for word in self.options.split(",") if word]
        if self.readonly:
            words = [word for word in words if word not in ("rw", "ro")] + ["ro"]
        return ",".join(words) or "defaults"


class PcieDevice(Spec):
    """A PCI device of the host that is assigned to one guest."""

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
        Field(description="The required vendor id.", examples=["10de"]),
    ] = None
    device_id: Annotated[
        fields.PciId | None,
        Field(description="The required device id.", examples=["2684"]),
    ] = None
    iommu_group: Annotated[
        int | None, Field(ge=0, description="The required IOMMU group.", examples=[1])
    ] = None


class PciePassthroughSpec(Spec):
    enabled: Annotated[
        bool, Field(description="Whether the devices are passed through.", examples=[False])
    ] = False
    devices: Annotated[
        tuple[PcieDevice, ...],
        Field(description="Devices, a GPU before its audio function."),
    ] = ()


class VgpuSpec(Spec):
    mdev_uuid: Annotated[
        UUID,
        Field(
            description="A mediated device that exists on the host (mdevctl list).",
            examples=["c2177883-f1bb-47f0-914d-32a22e3a8804"],
        ),
    ]
