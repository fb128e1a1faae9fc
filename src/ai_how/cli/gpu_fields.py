"""What `gpu explain` prints of a card, by the names of its lines."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ai_how.gpu.inventory import Machine
    from ai_how.gpu.models import Function, Gpu, Link, MdevType, User, VirtualFunction
    from ai_how.gpu.report import Card

KIB, UNITS = 1024, ("bytes", "KiB", "MiB", "GiB", "TiB")
MOST_LINES = 8  # of VFs and types; --json has all


def fields_of(card: "Card", machine: "Machine") -> dict[str, object]:
    """The lines; those that do not apply to the card are left out."""
    gpu = card.gpu
    chip = f" ({gpu.chip})" if gpu.chip else ""
    told: dict[str, object] = {
        "card": f"{gpu.name}{chip}",
        "functions": [_function(one, gpu.iommu_group) for one in gpu.functions],
        "IOMMU group": list(_group(gpu)),
        "display": _display(gpu),
        "used by": [_user(one) for one in gpu.users] or _nobody(gpu),
        "NUMA node": gpu.numa_node,
        "memory": None if gpu.memory_mib is None else f"{gpu.memory_mib} MiB",
        "BARs": ", ".join(f"{bar.number}: {_size(bar.size_bytes)}" for bar in gpu.bars) or None,
        "link": _link(gpu.link),
    }
    if gpu.sriov.total_vfs or gpu.sriov.vfs:
        most = "an unknown number" if gpu.sriov.total_vfs is None else gpu.sriov.total_vfs
        head = f"{len(gpu.sriov.vfs)} of {most} VFs"
        told["SR-IOV"] = [head, *_cut([_vf(one) for one in gpu.sriov.vfs])]
    if gpu.mdev_types:
        told["mdev types"] = _cut([_mdev_type(one) for one in gpu.mdev_types])
    if mig := gpu.mig:
        change = ", another mode after a reset" if mig.is_pending else ""
        state = f"{'on' if mig.is_enabled else 'off'} on the host{change}"
        sizes = [f"{one.name}: {one.free} of {one.total} free" for one in mig.profiles]
        told["MIG"] = [f"{state}, {mig.instances} instances", *_cut(sizes)]
    if gpu.is_nvidia and machine.smi_trouble:
        told["nvidia-smi"] = machine.smi_trouble
    if card.defined_in:
        told["defined in"] = list(card.defined_in)
    if gpu.unknown:
        told["unreadable"] = ", ".join(gpu.unknown)
    return told


def _function(one: "Function", group: int | None) -> str:
    other = "" if one.iommu_group == group else f", IOMMU group {one.iommu_group}"
    return f"{one.address} {one.kind.value} {_ids(one)}, driver {one.driver or 'none'}{other}"


def _ids(one: "Function") -> str:
    return f"{one.vendor_id or '????'}:{one.device_id or '????'}"


def _group(gpu: "Gpu") -> "Iterator[str]":
    if gpu.iommu_group is None:
        yield "unknown" if "iommu_group" in gpu.unknown else "none"
        return
    yield f"{gpu.iommu_group}{', also with' if gpu.neighbours else ', its own'}"
    for one in gpu.neighbours:
        kind = "bridge, in nobody's way" if not one.blocks_group else one.name
        yield f"{one.address} {kind}"


def _display(gpu: "Gpu") -> str:
    boot = {True: "the host booted with it", False: "not the boot display", None: "unknown"}
    monitors = f"; monitor on {', '.join(gpu.monitors)}" if gpu.monitors else ""
    return f"{boot[gpu.is_boot_display]}{monitors}"


def _user(user: "User") -> str:
    kind = "" if user.kind.value == "process" else f", {user.kind.value}"
    where = f" {user.container.runtime} {user.container.name}" if user.container else ""
    return f"{user.command} (pid {user.pid}{kind}{where}): {', '.join(user.nodes)}"


def _nobody(gpu: "Gpu") -> str:
    return "nobody that can be seen without root" if gpu.hides_users else "nobody"


def _link(link: "Link") -> str | None:
    now = _speed(link.speed_gt_s, link.width)
    most = _speed(link.max_speed_gt_s, link.max_width)
    return f"{now or 'unknown'}, up to {most}" if most else now


def _speed(speed: float | None, width: int | None) -> str | None:
    words = [f"{speed:g} GT/s"] if speed is not None else []
    return " ".join([*words, *([f"x{width}"] if width is not None else [])]) or None


def _vf(vf: "VirtualFunction") -> str:
    told = [f"{vf.address}", f"driver {vf.driver or 'none'}"]
    if vf.current_type:
        told.append(f"vGPU type {vf.current_type}")
    told += [f"{one.id} {one.name}" for one in (vf.creatable_types or ())[:1]]
    if vf.creatable_types and len(vf.creatable_types) > 1:
        told.append(f"and {len(vf.creatable_types) - 1} more types")
    if vf.mdev_types:
        told.append(f"{len(vf.mdev_types)} mdev types")
    return ", ".join(told)


def _mdev_type(kind: "MdevType") -> str:
    free = "?" if kind.available is None else kind.available
    made = f", {len(kind.uuids)} made" if kind.uuids else ""
    return f"{kind.id} ({kind.name or '?'}): {free} free{made}"


def _cut(lines: list[str]) -> list[str]:
    more = len(lines) - MOST_LINES
    return lines if more <= 0 else [*lines[:MOST_LINES], f"and {more} more (--json)"]


def _size(count: int) -> str:
    number, unit = float(count), 0
    while number >= KIB and unit < len(UNITS) - 1:
        number, unit = number / KIB, unit + 1
    return f"{number:g} {UNITS[unit]}"
