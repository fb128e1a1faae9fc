"""How a cluster's status is laid out for people."""

from typing import TYPE_CHECKING

from ai_how import console

if TYPE_CHECKING:
    from ai_how.plan.step import Plan
    from ai_how.vm_management.hpc_status import ClusterStatus, NodeStatus

COLUMNS = ("node", "VM", "address", "vCPU", "memory", "disk", "agent", "SLURM", "reason")
GIB = 1024  # in MiB


def show_start(cluster: str, plan: "Plan", took_s: float, *, is_json: bool, dry_run: bool) -> None:
    """What a start did, or would do."""
    if is_json:
        steps = [{"key": step.key, "what": step.describe()} for step in plan.steps]
        console.show_json(
            {
                "cluster": cluster,
                "seconds": round(took_s, 3),
                "dry_run": dry_run,
                "boot_limit": plan.limit.most if plan.limit else None,
                "steps": steps,
            }
        )
    elif not plan.steps:
        console.show_line(f"{cluster} is up: nothing to do")
    elif dry_run:
        _show_plan(plan)
    else:
        console.show_line(f"{cluster} is ready after {took_s:.1f} s")
        console.show_line("log in: ai-how hpc ssh controller")


def _show_plan(plan: "Plan") -> None:
    for step in plan.steps:
        console.show_line(f"{step.key}: {step.describe()}")
    if limit := plan.limit:
        nodes = f"at most {limit.most} of {len(limit.stretches)} nodes"
        console.show_line(f"{nodes} boot at the same time (start.boot_limit)")


def show_status(seen: "ClusterStatus") -> None:
    """A headline, a line for each node, and what SLURM could not be asked."""
    from ai_how.vm_management.hpc_status import describe_impostor

    word = "ready" if seen.is_ready else "not ready"
    console.show_line(
        f"{seen.name}: {word}, on {seen.host}, network {seen.subnet} ({seen.network})"
    )
    console.show_table(COLUMNS, [_row(node) for node in seen.nodes])
    for problem in seen.network_problems:
        console.show_line(f"network: {problem}")
    for node in seen.nodes:
        for problem in node.problems:
            console.show_line(f"{node.name}: {problem}")
    for name in seen.impostors:
        console.show_warning(describe_impostor(name))
    if seen.slurm_trouble:
        console.show_line(f"SLURM was not asked: {seen.slurm_trouble}")


def stages_line(node: "NodeStatus") -> str:
    """The seconds of each stage of a node's last bring-up."""
    from ai_how.vm_management.timing import STAGES

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
