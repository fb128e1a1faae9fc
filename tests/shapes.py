"""VMs and networks that the tests render: one plain one of each, and changes to it."""

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from uuid import UUID

from ai_how.libvirt_client.facts import Mark, Owner
from ai_how.libvirt_client.host_devices import PciAddress
from ai_how.libvirt_client.network_xml import NetworkHost
from ai_how.vm_management.networks.definition import ForwardMode, NetworkDefinition
from ai_how.vm_management.nodes.domain_definition import (
    Accel,
    CpuDefinition,
    CpuFeature,
    CpuMode,
    CpuTopology,
    DirectKernel,
    DiskCache,
    DomainDefinition,
    MemoryBacking,
    NumaBinding,
    NumaCell,
    VcpuPin,
    VirtioFsShare,
)

OWNER = Owner(1000, Path("/home/me/.local/state/ai-how"))
CLUSTER = UUID("3b7c1f0e-7f0e-4c56-9a35-0a4c4ea1f001")
STORAGE = Path("/srv/ai-how/storage")

CONTROLLER = DomainDefinition(
    mark=Mark("demo", CLUSTER, "controller", OWNER),
    name="demo-controller",
    uuid=UUID("3b7c1f0e-7f0e-4c56-9a35-0a4c4ea1f010"),
    genid=UUID("3b7c1f0e-7f0e-4c56-9a35-0a4c4ea1f011"),
    title="controller of the cluster demo",
    memory_mib=1024,
    vcpus=1,
    accel=Accel.TCG,
    cpu=CpuDefinition(CpuMode.MAXIMUM, CpuTopology(1, 1, 1)),
    disk=STORAGE / "disks/demo/controller.qcow2",
    backing_chain=(STORAGE / "bases/0011223344.qcow2",),
    network="demo",
    mac="52:54:aa:00:00:01",
    console_log=Path("/home/me/.local/state/ai-how/demo/console/controller.log"),
    boot=DirectKernel(
        kernel=Path("/home/me/images/0011223344/vmlinuz"),
        initrd=Path("/home/me/images/0011223344/initrd"),
        cmdline="root=/dev/vda rw console=ttyS0",
    ),
)

COMPUTE = replace(
    CONTROLLER,
    mark=Mark("demo", CLUSTER, "compute-01", OWNER),
    name="demo-compute-01",
    uuid=UUID("3b7c1f0e-7f0e-4c56-9a35-0a4c4ea1f020"),
    genid=UUID("3b7c1f0e-7f0e-4c56-9a35-0a4c4ea1f021"),
    title="compute-01 of the cluster demo",
    disk=STORAGE / "disks/demo/compute-01.qcow2",
    console_log=Path("/home/me/.local/state/ai-how/demo/console/compute-01.log"),
    mac="52:54:aa:00:00:02",
)

COMPUTE_KVM = replace(
    COMPUTE,
    accel=Accel.KVM,
    vcpus=4,
    memory_mib=4096,
    cpu=CpuDefinition(
        CpuMode.HOST_PASSTHROUGH,
        CpuTopology(1, 2, 2),
        features=(CpuFeature("vmx", is_required=True), CpuFeature("avx512f", is_required=False)),
        numa=(NumaCell("0-1", 2048), NumaCell("2-3", 2048)),
    ),
    pins=tuple(VcpuPin(vcpu, str(vcpu + 4)) for vcpu in range(4)),
    memory_backing=MemoryBacking(hugepage_kib=2048),
)

COMPUTE_GPU = replace(
    COMPUTE_KVM,
    pins=(),
    memory_backing=MemoryBacking(is_memfd=True, is_shared=True),
    pci_devices=(PciAddress.parse("0000:65:00.0"), PciAddress.parse("0000:65:00.1")),
    vfs=(PciAddress.parse("0000:5e:00.4"),),
    mdevs=(UUID("c2177883-f1bb-47f0-914d-32a22e3a8804"),),
    shares=(VirtioFsShare(Path("/srv/data"), "data"), VirtioFsShare(Path("/opt/sw"), "sw")),
    has_balloon=False,
)

CARD, ITS_SOUND = PciAddress.parse("0000:65:00.0"), PciAddress.parse("0000:65:00.1")
COMPUTE_CARD = replace(
    COMPUTE_KVM,
    cpu=CpuDefinition(
        CpuMode.CUSTOM, CpuTopology(1, 4, 1), model="Skylake-Server", has_host_address_bits=True
    ),
    pins=tuple(VcpuPin(vcpu, str(vcpu + 12)) for vcpu in range(4)),
    numa=NumaBinding(1, is_strict=False),
    pci_devices=(CARD, ITS_SOUND),
    pci_window_gib=64,
    has_balloon=False,
    rom_file=Path("/srv/roms/card.rom"),
    graphics=(CARD,),
)
COMPUTE_CARD_STRICT = replace(
    COMPUTE_CARD,
    numa=NumaBinding(1, is_strict=True),
    memory_backing=MemoryBacking(),
    rom_file=None,
    hides_roms=True,
)

COMPUTE_SHARES = replace(
    COMPUTE,
    memory_backing=MemoryBacking(is_memfd=True, is_shared=True),
    shares=(
        VirtioFsShare(
            Path("/home/me/project"), "project", Path("/etc/libvirt/hooks/ai-how-share-login-rw")
        ),
    ),
)

COMPUTE_FIRMWARE = replace(
    COMPUTE,
    boot=None,
    cpu=CpuDefinition(CpuMode.CUSTOM, CpuTopology(1, 1, 1), model="qemu64"),
    disk_cache=DiskCache.WRITEBACK,
    backing_chain=(STORAGE / "bases/warm.qcow2", STORAGE / "bases/0011223344.qcow2"),
)
COMPUTE_UEFI = replace(
    COMPUTE_FIRMWARE,
    is_uefi=True,
    has_screen=True,
    nvram=STORAGE / "preparing/nvram.fd",
    seed=STORAGE / "preparing/seed.iso",
)

DOMAINS = {
    "controller-tcg": CONTROLLER,
    "compute-tcg": COMPUTE,
    "compute-kvm-pinned-hugepages-numa": COMPUTE_KVM,
    "compute-kvm-gpu-vgpu-virtiofs": COMPUTE_GPU,
    "compute-kvm-card": COMPUTE_CARD,
    "compute-kvm-card-strict": COMPUTE_CARD_STRICT,
    "compute-firmware": COMPUTE_FIRMWARE,
    "compute-uefi": COMPUTE_UEFI,
    "compute-tcg-served-share": COMPUTE_SHARES,
}

NETWORK = NetworkDefinition(
    name="demo",
    uuid=UUID("3b7c1f0e-7f0e-4c56-9a35-0a4c4ea1f002"),
    mark=Mark("demo", CLUSTER, "", OWNER),
    bridge="ah0123456789",
    subnet=IPv4Network("10.11.12.0/24"),
    gateway=IPv4Address("10.11.12.1"),
    domain="demo.internal",
    hosts=(
        NetworkHost("52:54:aa:00:00:01", "controller", IPv4Address("10.11.12.10")),
        NetworkHost("52:54:aa:00:00:02", "compute-01", IPv4Address("10.11.12.11")),
    ),
)

NETWORKS = {
    "network-nat": NETWORK,
    "network-open-mtu": replace(NETWORK, mode=ForwardMode.OPEN, mtu=9000),
    "network-isolated": replace(NETWORK, mode=ForwardMode.ISOLATED, mark=Mark("demo", CLUSTER, "")),
}
