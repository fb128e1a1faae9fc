"""The layout of a cluster's status."""

import re
from typing import TYPE_CHECKING

import typer

from ai_how import console
from ai_how.cli.kinds import HPC, Kind
from ai_how.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from ai_how.clusters.status import ClusterStatus, NodeStatus, PortStatus
    from ai_how.plan.step import Plan
    from ai_how.provisioning.run import Outcome

GIB = 1024  # in MiB
GAP = 2  # between two columns
Table = dict[str, list[str]]
"""A table by its columns."""
ORDINARY = ("booted", "restored")
"""How a VM was started; omitted if there is little room."""


def show_start(
    cluster: str,
    plan: "Plan",
    took_s: float,
    playbooks: "Sequence[Outcome]" = (),
    *,
    kind: Kind,
    is_json: bool,
    dry_run: bool,
) -> None:
    """Print what a start did, or would do, with its `playbooks`."""
    from ai_how.vm_management.steps.ports import OpenPorts

    if is_json:
        steps = [{"key": step.key, "what": step.describe()} for step in plan.steps]
        console.show_json(
            {
                "cluster": cluster,
                "seconds": round(took_s, 3),
                "dry_run": dry_run,
                "boot_limit": plan.limit.maximum if plan.limit else None,
                "steps": steps,
                "playbooks": playbooks,
            }
        )
    elif dry_run and (plan.steps or playbooks):
        _show_plan(plan)
        show_planned(playbooks)
    elif not plan.steps:
        console.show_line(f"{cluster} is up: nothing to do")
    else:
        console.show_line(f"{cluster} is ready after {took_s:.1f} s")
        console.show_line(f"log in: ai-how {kind.name} ssh {kind.login}")
        if use := kind.words.get("use"):
            console.show_line(f"use it: ai-how {kind.name} {use}")
        for step in plan.steps:
            if isinstance(step, OpenPorts):
                for port in step.ports:
                    console.show_line(f"open: {port}")


def show_planned(playbooks: "Iterable[Outcome]") -> None:
    """Print which playbooks would run."""
    for one in playbooks:
        console.show_line(f"playbook {one.playbook} runs on {', '.join(one.nodes)}")


def _show_plan(plan: "Plan") -> None:
    for step in plan.steps:
        console.show_line(f"{step.key}: {step.describe()}")
    if limit := plan.limit:
        nodes = f"at most {limit.maximum} of {len(limit.segments)} nodes"
        console.show_line(f"{nodes} boot at the same time (start.boot_limit)")


def document_of(seen: "ClusterStatus", kind: Kind) -> dict[str, object]:
    """The status for --json; what the software of the cluster says has its name in the keys."""
    from ai_how.console.text import to_jsonable

    document = dict(to_jsonable(seen))
    if kind == HPC:
        return document
    nodes = [_renamed(one, kind) for one in document["nodes"]]
    return _renamed(document, kind) | {"nodes": nodes}


def _renamed(values: "Mapping[str, object]", kind: Kind) -> dict[str, object]:
    software = kind.words["software"].lower()
    return {re.sub("^slurm", software, name): value for name, value in values.items()}


def show_status(seen: "ClusterStatus", kind: Kind) -> None:
    """Print a headline, a line for each node, and what the cluster's software was not asked."""
    from ai_how.clusters.status import describe_impostor

    word = "ready" if seen.is_ready else "not ready"
    software = kind.words["software"]
    version = f"{software} {seen.slurm_version}, " if seen.slurm_version else ""
    console.show_line(
        f"{seen.name}: {word}, {version}on {seen.host}, network {seen.subnet} ({seen.network})"
        f"{'' if seen.has_uplink or not seen.network_is_active else ', no uplink'}"
    )
    table = _fit(seen.nodes, software, console.width_for_tables())
    console.show_table(list(table), list(zip(*table.values(), strict=True)), is_cut=True)
    for problem in seen.network_problems:
        console.show_line(f"network: {problem}")
    for node in seen.nodes:
        for problem in (*_left_out(node, table, software), *node.problems):
            console.show_line(f"{node.name}: {problem}")
    for port in seen.ports:
        line = _port_line(port)
        if port.is_open:
            console.show_line(line)
        else:
            console.show_line(f"{line}; it is not open; to open it: ai-how {kind.name} start")
    for name in seen.impostors:
        console.show_warning(describe_impostor(name))
    if seen.slurm_trouble:
        console.show_line(f"{software} was not asked: {seen.slurm_trouble}")


def _port_line(port: "PortStatus") -> str:
    from ai_how.host.ports import place_of

    return f"port {place_of(port.address, port.host_port)} -> {port.node}:{port.port}"


def check_can_ask(what: str, *, is_json: bool, hint: str) -> None:
    """Raises SpecError, with a command that does not ask, if nobody can be asked."""
    if not console.is_terminal():
        raise SpecError(f"{what}, but there is no terminal", hint=hint)
    if is_json:
        raise SpecError(f"{what}, but cannot ask with --json", hint=hint)


def confirm_taking(name: str, user: str, kind: Kind, *, is_json: bool) -> None:
    """Ask before a cluster is taken over. Raises SpecError if nobody can be asked."""
    check_can_ask(
        f"recover asks before it takes {name} over",
        is_json=is_json,
        hint=f"ai-how {kind.name} recover --cluster {name} --from-user {user} --force",
    )
    if not console.confirm(f"Take {name} over from {user}? Your next start or destroy acts on it."):
        console.show_line("nothing was taken over")
        raise typer.Exit


def stages_line(node: "NodeStatus") -> str:
    """The seconds of each stage of a node's last bring-up."""
    from ai_how.clusters.stage_times import OTHERS, QUEUE, STAGES

    words = {QUEUE: "waiting for its turn", OTHERS: "waiting for other nodes"}
    known = [name for name in STAGES if name in node.stages_s]
    parts = (f"{words.get(name, name)} {node.stages_s[name]:.1f} s" for name in known)
    return ", ".join(parts) or "no start yet"


def _fit(nodes: "Sequence[NodeStatus]", software: str, width: int) -> "Table":
    """The columns that fit, with a value per node; the last layout is cut."""
    tables = list(_tables(nodes, software))
    return next((table for table in tables if _width(table) <= width), tables[-1])


def _tables(nodes: "Sequence[NodeStatus]", software: str) -> "Iterator[Table]":
    """Ever narrower layouts: shorter figures, then fewer columns."""
    yield _table(nodes, software, _figure)
    table = _table(nodes, software, _short_figure)
    yield table
    for name in ("QEMU", "reason"):
        table = _without(table, name)
        yield table
    yield (table := table | {"VM": [_state(node, is_short=True) for node in nodes]})
    for name in ("agent", "vCPU", "disk", "address"):
        table = _without(table, name)
        yield table


def _table(
    nodes: "Sequence[NodeStatus]",
    software: str,
    figure: "Callable[[int | None, int | None], str]",
) -> "Table":
    gpus = {"GPUs": [_gpus(node) for node in nodes]} if any(node.gpus for node in nodes) else {}
    return {
        "node": [node.name for node in nodes],
        "VM": [_state(node) for node in nodes],
        "address": [str(node.ip) for node in nodes],
        "vCPU": [str(node.vcpus) for node in nodes],
        "memory": [figure(node.guest_memory_used_mib, node.memory_mib) for node in nodes],
        "QEMU": [figure(node.memory_used_mib, None) for node in nodes],
        "disk": [figure(node.disk_used_mib, node.disk_gib * GIB) for node in nodes],
        "agent": ["yes" if node.agent else "no" for node in nodes],
        software: [node.slurm or "-" for node in nodes],
        **gpus,
        "reason": [node.slurm_reason or "" for node in nodes],
    }


def _gpus(node: "NodeStatus") -> str:
    """How many of each type jobs have, of how many."""
    return ", ".join(
        f"{'?' if one.allotted is None else one.allotted}/{one.count} {one.type}"
        for one in node.gpus
    )


def _without(table: "Table", name: str) -> "Table":
    return {column: cells for column, cells in table.items() if column != name}


def _width(table: "Table") -> int:
    return sum(GAP + max(map(len, (name, *cells))) for name, cells in table.items()) - GAP


def _left_out(node: "NodeStatus", table: "Table", software: str) -> "Iterator[str]":
    """The values that lost their column in a narrow table, if they matter."""
    if "reason" not in table and node.slurm_reason:
        yield f"{software} says: {node.slurm_reason}"
    if "agent" not in table and node.state == "running" and not node.agent:
        yield "its guest agent is not connected"


def _state(node: "NodeStatus", *, is_short: bool = False) -> str:
    state = node.state.value.replace("_", " ")
    return state if is_short and node.reason in ORDINARY else f"{state} ({node.reason})"


def _figure(used_mib: int | None, all_mib: int | None) -> str:
    used = "?" if used_mib is None else size_text(used_mib)
    return used if all_mib is None else f"{used} of {size_text(all_mib)}"


def _short_figure(used_mib: int | None, all_mib: int | None) -> str:
    return _figure(used_mib, all_mib).replace(" of ", "/").replace(" MiB", "M").replace(" GiB", "G")


def size_text(mib: int) -> str:
    """An amount of memory or disk, in the unit that suits it."""
    return f"{mib / GIB:.1f} GiB" if mib >= GIB else f"{mib} MiB"
