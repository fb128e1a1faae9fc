"""Turns imported images into images that the nodes of a cluster can boot."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ai_how.clusters.cleanup import host_up
from ai_how.clusters.kind import ClusterSection
from ai_how.clusters.outside import outside_by
from ai_how.clusters.preflight.node_images import choose_accel
from ai_how.clusters.preflight.subnet_choice import choose_free_subnet
from ai_how.errors import HostError
from ai_how.guest.outside_files import OutsideFiles
from ai_how.host.capacity_checks import CapacityRequest, require_capacity
from ai_how.host.facts import read_cpu, read_resources
from ai_how.host.place import HypervisorHost
from ai_how.host.uefi import require_uefi
from ai_how.host.uplink import Relays
from ai_how.images.boot_loader import BLOCKS, find_firmware
from ai_how.images.build import Watcher
from ai_how.images.manifest import Image
from ai_how.images.qemu_img import read_start
from ai_how.images.store import ImageStore
from ai_how.libvirt_client.client import LibvirtClient
from ai_how.spec.images import Firmware
from ai_how.state.lock import held_lock
from ai_how.state.paths import Roots
from ai_how.vm_management.disks.manager import DiskManager
from ai_how.vm_management.disks.space import GIB
from ai_how.vm_management.nodes.domain_definition import Accel
from ai_how.vm_management.preparing.drafts import PREPARING_ID, end_vm, preparing_draft
from ai_how.vm_management.preparing.vm import (
    ADDED_GIB,
    MEMORY_MIB,
    Helpers,
    PreparingVm,
    make_disk,
    run_preparation,
    start_network,
)

_VCPUS = 2
_LOCK_WAIT_S = 60


@dataclass(frozen=True, slots=True)
class ImagePreparer:
    """Prepares imported images on the host of a cluster, each in a VM that boots it once."""

    section: ClusterSection
    place: HypervisorHost
    roots: Roots
    warn: Callable[[str], None]

    def prepare(self, image: Image, watch: Watcher) -> Image:
        """The image of ours that is made of an imported one. Takes minutes.

        Whatever happens, neither the VM nor its network nor a half-made image is left.
        """
        place, roots = self.place, self.roots
        if not place.runs_guests:
            raise HostError(
                f"{place.asked} runs no VMs, so the image {image.name} cannot be prepared"
            )
        firmware = self._find_firmware(image)
        if firmware == "uefi":
            require_uefi(Path("/"))
        self._require_room(image)
        with (
            host_up(place, roots, self.warn),
            LibvirtClient(place.uri, is_kept=place.is_kept) as client,
            preparing_draft(place.storage, client) as draft,
        ):
            accel, warning = choose_accel(self.section.hardware, place, roots)
            if warning:
                self.warn(warning)
            try:
                vm = self._start(image, draft, client, accel, firmware)
                return run_preparation(vm, self._helpers(vm, client), watch)
            finally:
                end_vm(draft, client)

    def _find_firmware(self, image: Image) -> Firmware:
        """The one that the user said, or the one by which its disk seems to boot."""
        if image.manifest.firmware:
            return image.manifest.firmware
        with ImageStore(self.roots.images).draft() as draft:
            return find_firmware(read_start(image.disk, blocks=BLOCKS, scratch=draft / "start"))

    def _start(
        self, image: Image, draft: Path, client: LibvirtClient, accel: Accel, firmware: Firmware
    ) -> PreparingVm:
        cpu = read_cpu(Path("/"))
        doing = f"prepare the image {image.name}"
        with held_lock(self.roots.host_lock, doing=doing, wait_s=_LOCK_WAIT_S):
            vm = PreparingVm(
                image=image,
                draft=draft,
                subnet=choose_free_subnet(PREPARING_ID, self.roots, self.place, client),
                accel=accel,
                cpu_model=self.section.hardware.acceleration.cpu_model,
                vcpus=min(_VCPUS, cpu.count if cpu else 1),
                firmware=firmware,
                base=self.place.storage.base(image.digest),
            )
            make_disk(vm, DiskManager(self.place.storage))
            start_network(vm, client)
        return vm

    def _helpers(self, vm: PreparingVm, client: LibvirtClient) -> Helpers:
        return Helpers(
            store=ImageStore(self.roots.images),
            client=client,
            proxy=self.place.ssh_proxy(self.roots),
            outside=self._outside(vm),
            uplink_trouble=self.place.uplink_trouble,
        )

    def _outside(self, vm: PreparingVm) -> OutsideFiles:
        """What this host has to reach the outside."""
        outside = outside_by(vm.gateway, self.section, self.place, [str(vm.subnet)])
        if self.place.embedded:
            self.place.embedded.ensure_uplink(Relays(str(vm.gateway), outside.relays))
        return outside.files

    def _require_room(self, image: Image) -> None:
        cost = CapacityRequest(
            vms=1,
            vcpus=1,
            memory_mib=MEMORY_MIB,
            # What is added, and the copy in the store, which is not compressed as most images are.
            disk_bytes=ADDED_GIB * GIB + 3 * image.disk.stat().st_size,
            disk_directory=self.place.storage.root,
            hugepage_kib=None,
        )
        facts = read_resources(directories=(cost.disk_directory,))
        require_capacity(cost, facts, refused=f"the image {image.name} cannot be prepared")
