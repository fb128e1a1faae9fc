"""Saves the evidence of a failed start before the undo, and finds the cause in it."""

import shlex
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from ai_how.clusters.diagnosis.causes import find_cause, find_first_cause
from ai_how.clusters.diagnosis.kind import Diagnosis, WorkloadEvidence
from ai_how.clusters.diagnosis.look import Limits, Look, Looker
from ai_how.errors import StepFailure
from ai_how.host.place import HypervisorHost
from ai_how.plan.failures import SavedEvidence, render_errors
from ai_how.plan.step import Plan
from ai_how.spec.roles import Role
from ai_how.state.models import ClusterState, NodeState
from ai_how.state.paths import ensure_private_directory
from ai_how.vm_management.context import PlanContext

LIMITS = Limits()


def save_evidence(
    context: PlanContext,
    state: ClusterState,
    plan: Plan,
    place: HypervisorHost,
    warn: Callable[[str], None],
    failures: Sequence[StepFailure],
    *,
    kind: Diagnosis,
) -> SavedEvidence:
    """Save errors, serial logs, VM definitions, journals and the answers to `kind`, best effort."""
    moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    directory = context.paths.evidence / moment
    ensure_private_directory(context.paths.evidence)
    ensure_private_directory(directory)
    warn(f"saving the evidence of the failure in {directory}")
    _keep(directory / "errors.txt", render_errors(failures))
    looker = Looker(
        client=context.client,
        paths=context.paths,
        place=place,
        diagnosis=kind,
        limits=LIMITS,
        begin_of_console=lambda node: context.console_offsets.get(node, 0),
    )
    looks, unforeseen = looker.try_look_at(_nodes_of(plan, state))
    for look in looks:
        for name, text in tuple(look.files.items()):
            _keep(directory / name, text)
    workload = kind.read([look.answer for look in looks if look.answer])
    cause = find_first_cause(failures[0], [look.seen for look in looks], workload, kind.awaiting)
    summary = directory / "summary.txt"
    first_line = cause.text if cause else "The cause is not known."
    remedy = cause.remedy_of(context.cluster_kind) if cause else ""
    told = [first_line, *([f"Remedy: {remedy}"] if remedy else []), ""]
    _keep(summary, "\n".join([*told, *_tell(looks, workload), ""]))
    if unforeseen:
        raise unforeseen[0]
    return SavedEvidence(
        directory,
        cause.text if cause else None,
        f"less {shlex.quote(str(summary))}",
        cause_id=cause.id if cause else None,
        node=cause.node if cause else None,
        remedy=remedy or None,
    )


def _nodes_of(plan: Plan, state: ClusterState) -> list[NodeState]:
    """The nodes that the plan is about, and the controller, which knows the state of SLURM."""
    subjects = {step.subject for step in plan.steps}
    return [
        node for node in state.nodes if node.domain_name in subjects or node.role is Role.CONTROLLER
    ]


def _tell(looks: Sequence[Look], workload: WorkloadEvidence) -> Iterable[str]:
    """One line for each node, then what is missing for it."""
    for look in looks:
        node = look.seen
        cause = find_cause(node, workload)
        reason = f" ({node.reason})" if node.reason else ""
        yield f"{node.domain}: {node.state}{reason}" + (f"; {cause.text}" if cause else "")
        yield from (f"  {missing}" for missing in look.missing)


def _keep(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text)
