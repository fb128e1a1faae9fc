"""What each card can give to a VM, and what stands in the way (pure)."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from ai_how.gpu.inventory import NVIDIA_DRIVER, Machine, use_of
from ai_how.gpu.models import Gpu, VgpuWay
from ai_how.gpu.remedies import (
    remove_vfs,
    take_at_boot,
    users_in_the_way,
)
from ai_how.host.checks import Status
from ai_how.host.pci import VFIO, AnyDevice, Obstacle, Reason, find_obstacles

NO_MDEV_SINCE = (6, 8)  # the kernel whose NVIDIA driver has VF types in place of mdev
SRIOV_MANAGE = "/usr/lib/nvidia/sriov-manage"


class What(StrEnum):
    """The forms in which a VM can get a card."""

    WHOLE = "whole"
    VGPU = "vgpu"
    MIG = "mig"


class Answer(StrEnum):
    """`not now` names what to do; `no` is for good."""

    YES = "yes"
    NOT_NOW = "not now"
    NO = "no"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Hurdle:
    """What stands in the way, and the command to paste."""

    text: str
    advice: str | None = None
    reason: Reason | None = None  # of a start that would refuse the card

    @property
    def is_defect(self) -> bool:
        """Whether the host must be changed, not only something be stopped."""
        return self.reason in (Reason.NO_IOMMU, Reason.GROUP)


@dataclass(frozen=True, slots=True)
class Ability:
    """One form of one card."""

    what: What
    answer: Answer
    how: str
    hurdles: tuple[Hurdle, ...] = ()


def abilities_of(gpu: Gpu, machine: Machine) -> tuple[Ability, Ability, Ability]:
    """Whether it can be passed whole, as vGPU, and with MIG in the guest."""
    whole = whole_of(gpu, machine)
    return whole, vgpu_of(gpu, machine), mig_of(gpu, whole)


def whole_of(gpu: Gpu, machine: Machine) -> Ability:
    """Whether a start would accept all functions of the card, and whether it is divided."""
    asked = [AnyDevice(one.address) for one in gpu.functions]
    kinds = [(one.address, one.kind) for one in gpu.functions]
    hides_some = gpu.hides_users or gpu.console is not None
    found = find_obstacles(
        asked,
        machine.devices,
        uplinks=machine.uplinks,
        iommu=machine.iommu,
        uses=use_of(gpu.address, kinds, gpu.users, hides_some=hides_some),
    )
    unknown = _unknown_for_whole(gpu, machine)
    failures = [
        one
        for one in found
        if one.status is Status.FAILURE
        and not (one.reason is Reason.NO_IOMMU and "iommu_group" in unknown)
    ]
    hurdles = tuple(dict.fromkeys(_hurdles_of_whole(gpu, machine, failures)))
    how = f"{_count(len(gpu.functions), 'function')}: {', '.join(_kinds(gpu))}"
    if unknown:
        answer = Answer.NOT_NOW if hurdles else Answer.UNKNOWN
        hurdle = Hurdle(f"not readable: {', '.join(unknown)}")
        return Ability(What.WHOLE, answer, how, (hurdle, *hurdles))
    if hurdles:
        return Ability(What.WHOLE, Answer.NOT_NOW, how, hurdles)
    bound = [one.driver for one in gpu.functions if one.driver not in (None, VFIO)]
    if bound:
        how += f"; detached from {' and '.join(dict.fromkeys(map(str, bound)))} while the VM runs"
    return Ability(What.WHOLE, Answer.YES, how)


def _unknown_for_whole(gpu: Gpu, machine: Machine) -> tuple[str, ...]:
    needed = {"class", "boot_vga", "driver", "iommu_group"}
    seen = [machine.devices[one.address].withheld & needed for one in gpu.functions]
    return tuple(sorted(frozenset().union(*seen)))


def _hurdles_of_whole(gpu: Gpu, machine: Machine, failures: list[Obstacle]) -> Iterator[Hurdle]:
    in_use = [one for one in failures if one.reason is Reason.DRIVER_IN_USE]
    is_boot_display = any(one.reason is Reason.BOOT_DISPLAY for one in failures)
    for one in failures:
        if one.reason is Reason.NO_IOMMU:
            yield Hurdle(one.text, one.advice, one.reason)
        elif one.reason is Reason.GROUP:
            yield _shared_group(gpu, machine.devices[one.address].iommu_group)
        elif one.reason is Reason.BOOT_DISPLAY:
            advice = "choose another card as the primary display in the firmware's set-up"
            yield Hurdle(one.text, advice, one.reason)
        elif one.reason not in (Reason.DRIVER_IN_USE, Reason.OPENED):
            yield Hurdle(f"{one.address}: {one.text}", one.advice, one.reason)
    if gpu.sriov.vfs:
        text = f"it is divided into {_count(len(gpu.sriov.vfs), 'VF')}"
        yield Hurdle(text, remove_vfs(gpu, SRIOV_MANAGE))
    for uuid in gpu.mdev_uuids:
        yield Hurdle(f"the mediated device {uuid} is on it", f"sudo mdevctl stop --uuid {uuid}")
    if is_boot_display:
        return  # whoever uses it goes on doing so: the host keeps the card
    for text, advice in users_in_the_way(gpu.users):
        yield Hurdle(text, advice, Reason.OPENED)
    yield from _driver_in_use(gpu, machine, in_use)


def _driver_in_use(gpu: Gpu, machine: Machine, in_use: list[Obstacle]) -> Iterator[Hurdle]:
    """What keeps the host's drivers from a card that is used, or may be by users that are hidden.

    The count of a driver's users is for all its cards.
    """
    functions = [machine.devices[one.address] for one in gpu.functions]
    drivers = [one.driver for one in functions if one.driver_users and one.driver != VFIO]
    if drivers and (in_use or gpu.users):
        named = " and ".join(dict.fromkeys(map(str, drivers)))
        text = f"its driver {named} is in use: give the card to {VFIO} at boot"
        advice = take_at_boot(gpu, machine.devices, is_debian=machine.has_initramfs_tools)
        yield Hurdle(text, advice, Reason.DRIVER_IN_USE)
    if in_use and gpu.console:
        text = f"the kernel's console {gpu.console} may be on it"
        yield Hurdle(text, f"echo 0 | sudo tee /sys/class/vtconsole/{gpu.console}/bind")
    if in_use and gpu.hides_users:
        text = "processes of other users may have it open: they cannot be seen"
        yield Hurdle(text, advice=f"sudo ai-how gpu explain {gpu.address}")


def _shared_group(gpu: Gpu, group: int | None) -> Hurdle:
    blocking = [one for one in gpu.neighbours if one.blocks_group and one.iommu_group == group]
    named = ", ".join(f"{one.address} ({one.name})" for one in blocking)
    text = f"its IOMMU group also has {named}: another slot, or ACS in the firmware, separates them"
    advice = f"ls /sys/kernel/iommu_groups/{group}/devices"
    return Hurdle(text, advice, Reason.GROUP)


def vgpu_of(gpu: Gpu, machine: Machine) -> Ability:
    """By which way parts of the card can be had: mdev, mdev on VFs, types of VFs, or plain VFs."""
    vfs = gpu.sriov.vfs
    match gpu.vgpu_way:
        case VgpuWay.MDEV:
            how = f"mdev: {_count(len(gpu.mdev_types), 'type')}"
            free = any(kind.available for kind in gpu.mdev_types)
            return _offered(gpu, how, is_free=free)
        case VgpuWay.MDEV_ON_VF:
            how = f"mdev on {_count(len(vfs), 'VF')}"
            free = any(kind.available for vf in vfs for kind in vf.mdev_types)
            return _offered(gpu, how, is_free=free)
        case VgpuWay.VF_TYPE:
            # On these there is no mdev that `vgpu.mdev_uuid` of a file could name.
            how = f"by a type for one of {_count(len(vfs), 'VF')}; there is no mdev"
            return _offered(gpu, how, is_free=any(vf.creatable_types for vf in vfs))
        case VgpuWay.VF:
            return Ability(What.VGPU, Answer.YES, f"each of {_count(len(vfs), 'VF')} is a device")
        case None:
            return _nothing_offered(gpu, machine)


def _offered(gpu: Gpu, how: str, *, is_free: bool) -> Ability:
    if is_free:
        return Ability(What.VGPU, Answer.YES, how)
    hurdle = Hurdle("no instance of any type is free", None)
    if gpu.unknown:
        return Ability(What.VGPU, Answer.UNKNOWN, how, (hurdle,))
    return Ability(What.VGPU, Answer.NOT_NOW, how, (hurdle,))


def _nothing_offered(gpu: Gpu, machine: Machine) -> Ability:
    if {"sriov_totalvfs", "mdev_supported_types"} & set(gpu.unknown):
        hurdle = Hurdle(f"not readable: {', '.join(gpu.unknown)}")
        return Ability(What.VGPU, Answer.UNKNOWN, "not known", (hurdle,))
    if gpu.is_geforce:
        text = (
            "NVIDIA's driver offers no vGPU on a GeForce, and from Ampere on signed firmware has "
            "SR-IOV switched off: it can only be passed whole"
        )
        return Ability(What.VGPU, Answer.NO, "a GeForce has none", (Hurdle(text),))
    if gpu.is_nvidia:
        return _nvidia_without_types(gpu, machine)
    if not gpu.sriov.total_vfs:
        return Ability(What.VGPU, Answer.NO, "it has neither mdev types nor SR-IOV")
    text = f"it has no VFs yet; it can have {gpu.sriov.total_vfs}"
    advice = f"echo 1 | sudo tee /sys/bus/pci/devices/{gpu.address}/sriov_numvfs"
    return Ability(What.VGPU, Answer.NOT_NOW, "by SR-IOV", (Hurdle(text, advice),))


def _nvidia_without_types(gpu: Gpu, machine: Machine) -> Ability:
    total = gpu.sriov.total_vfs or 0
    how = f"SR-IOV with up to {_count(total, 'VF')}" if total else "if NVIDIA supports this card"
    if gpu.driver != NVIDIA_DRIVER or not machine.has_vgpu_driver:
        bound = gpu.driver or "none"
        text = f"it takes NVIDIA's licensed vGPU driver for hosts; its driver now is {bound}"
        if gpu.driver == NVIDIA_DRIVER:
            text = "the host's NVIDIA driver is not the licensed vGPU driver for hosts"
        answer = Answer.NOT_NOW if total else Answer.UNKNOWN
        return Ability(What.VGPU, answer, how, (Hurdle(text),))
    if total and not gpu.sriov.vfs:
        hurdle = Hurdle("its VFs are not made", f"sudo {SRIOV_MANAGE} -e {gpu.address}")
        return Ability(What.VGPU, Answer.NOT_NOW, how, (hurdle,))
    if machine.kernel and machine.kernel >= NO_MDEV_SINCE and total:
        text = (
            "from Linux 6.8 on NVIDIA's driver has no mdev, and here it offers no types of VFs: "
            "that of vGPU 17 or later does"
        )
        return Ability(What.VGPU, Answer.NOT_NOW, how, (Hurdle(text, "nvidia-smi vgpu -s"),))
    hurdle = Hurdle("the vGPU driver offers no types", "sudo journalctl -b -u nvidia-vgpud")
    return Ability(What.VGPU, Answer.NOT_NOW, how, (hurdle,))


def mig_of(gpu: Gpu, whole: Ability) -> Ability:
    """A MIG slice is no PCI device: the guest gets the whole card and divides it."""
    if gpu.can_mig is None:
        return Ability(What.MIG, Answer.UNKNOWN, "the model is not known")
    if not gpu.can_mig:
        return Ability(What.MIG, Answer.NO, "it has none")
    how = "in the guest that has the whole card"
    if whole.answer is Answer.YES:
        return Ability(What.MIG, Answer.YES, how)
    hurdle = Hurdle("it cannot be passed whole now" if whole.hurdles else "whole: unknown")
    return Ability(What.MIG, whole.answer, how, (hurdle,))


def _kinds(gpu: Gpu) -> list[str]:
    return [one.kind.value for one in gpu.functions]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
