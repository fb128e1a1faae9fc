"""How a cluster's status is laid out for people."""

from typing import TYPE_CHECKING

from ai_how import console

if TYPE_CHECKING:
    from ai_how.vm_management.hpc_status import ClusterStatus, NodeStatus

COLUMNS = ("node", "VM", "address", "vCPU", "memory", "disk", "agent", "SLURM", "reason")
GIB = 1024  # in MiB
STAGES = ("disk", "domain", "boot", "agent", "services", "ready")


def show_status(seen: "ClusterStatus") -> None:
    """A headline, a line for each node, and what SLURM could not be asked."""
    word = "ready" if seen.is_ready else "not ready"
    console.show_line(
        f"{seen.name}: {word}, on {seen.host}, network {seen.subnet} ({seen.network})"
    )
    console.show_table(COLUMNS, [_row(node) for node in seen.nodes])
    if seen.slurm_trouble:
        console.show_line(f"SLURM was not asked: {seen.slurm_trouble}")


def stages_line(node: "NodeStatus") -> str:
    """The seconds of each stage of a node's last bring-up."""
    known = [name for name in STAGES if name in node.stages_s]
    return ", ".join(f"{name} {node.stages_s[name]:.1f} s" for name in known) or "no start yet"


def _row(node: "NodeStatus") -> tuple[object, ...]:
    return (
        node.name,
        f"{node.state.value.replace('_', ' ')} ({node.reason})",
        node.ip,
        node.vcpus,
        _used(node.memory_used_mib, node.memory_mib),
        _used(node.disk_used_mib, node.disk_gib * 1024),
        "yes" if node.agent else "no",
        node.slurm or "-",
        node.slurm_reason or "",
    )


def _used(used_mib: int | None, all_mib: int) -> str:
    return f"{_size(used_mib) if used_mib is not None else '?'} of {_size(all_mib)}"


def _size(mib: int) -> str:
    return f"{mib / GIB:.1f} GiB" if mib >= GIB else f"{mib} MiB"
