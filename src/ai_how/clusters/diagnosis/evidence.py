"""Saves the evidence of a failed start before the undo, and finds the cause in it.

All nodes are examined in parallel, each with its own timeout, so a node that hangs does not delay
the others.
"""

import re
import shlex
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TypeVar

from ai_how.clusters.diagnosis.causes import find_cause, find_first_cause
from ai_how.clusters.diagnosis.kind import Diagnosis, NodeAnswer, WorkloadEvidence
from ai_how.clusters.diagnosis.node_evidence import NodeEvidence
from ai_how.errors import AiHowError, GuestError, StepFailure
from ai_how.guest.agent import GuestAgent
from ai_how.guest.journal import journal_words
from ai_how.guest.serial_log import read_console
from ai_how.host.place import HypervisorHost
from ai_how.libvirt_client.vm_state import VmState
from ai_how.plan.daemon_pool import DaemonPool
from ai_how.plan.failures import SavedEvidence, render_errors
from ai_how.plan.step import Plan
from ai_how.spec.nodes import Role
from ai_how.state.models import ClusterState, NodeState
from ai_how.state.paths import ensure_private_directory
from ai_how.vm_management.context import PlanContext
from ai_how.vm_management.nodes.clocks import read_skew_s
from ai_how.waiting import Deadline, call_with_timeout

T = TypeVar("T")

NODE_S = 45.0
"""The limit for one node. Emulated, with every core busy, it takes up to 15 s."""
PING_S = 10.0
ASK_S = 25.0
MAX_THREADS = 64
TAIL_BYTES = 64 * 1024

# Run in busybox: each program that is started takes a third of a second under emulation.
SERVICES = """\
echo '== jobs'; systemctl list-jobs --no-legend
echo '== failed'; systemctl --failed --no-legend --plain
echo '== memory'; free -m
"""
JOURNAL = journal_words("-b", "-n", "400", "-o", "short-monotonic")

_SECTION = re.compile(r"^== (\w+)$", re.MULTILINE)
ROOT_LINES = 50
_QEMU_BEGINS = re.compile(r"^.*: starting up libvirt version.*$", re.MULTILINE)


@dataclass(slots=True)
class _Look:
    """The evidence of one node.

    It is filled step by step: what was found stays if the rest hangs.
    """

    node: NodeState
    seen: NodeEvidence
    """Replaced, never modified: a thread that timed out may still write to it."""
    answer: NodeAnswer | None = None
    files: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)

    def keep(self, what: str, text: str) -> str:
        self.files[f"{self.node.name}.{what}"] = text
        return text


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
    looks = [_begin_look(node) for node in _nodes_of(plan, state)]
    given = _ask_controller(context, looks, kind)
    with DaemonPool[None](min(MAX_THREADS, len(looks)) or 1) as crew:
        for look in looks:
            work = partial(_look_at, context, place, look, kind, given)
            crew.submit(look.node.name, partial(_within, NODE_S, work, look))
    unforeseen = [one.error for one in crew.wait(0) if one.error]
    for look in looks:
        for name, text in tuple(look.files.items()):
            _keep(directory / name, text)
    nodes = [look.seen for look in looks]
    workload = kind.read([look.answer for look in looks if look.answer])
    cause = find_first_cause(failures[0], nodes, workload, kind.awaiting)
    summary = directory / "summary.txt"
    first_line = cause.text if cause else "The cause is not known."
    _keep(summary, "\n".join([first_line, "", *_tell(looks, nodes, workload), ""]))
    if unforeseen:
        raise unforeseen[0]
    return SavedEvidence(
        directory,
        cause.text if cause else None,
        f"less {shlex.quote(str(summary))}",
        cause_id=cause.id if cause else None,
        node=cause.node if cause else None,
    )


def _begin_look(node: NodeState) -> _Look:
    is_controller = node.role is Role.CONTROLLER
    seen = NodeEvidence(name=node.name, domain=node.domain_name, is_controller=is_controller)
    return _Look(node, seen)


def _nodes_of(plan: Plan, state: ClusterState) -> list[NodeState]:
    """The nodes that the plan is about, and the controller, which knows the state of SLURM."""
    subjects = {step.subject for step in plan.steps}
    return [
        node for node in state.nodes if node.domain_name in subjects or node.role is Role.CONTROLLER
    ]


def _ask_controller(context: PlanContext, looks: Iterable[_Look], kind: Diagnosis) -> bytes:
    """The controller's output for the kind's `request`. It may be secret, and is not saved."""
    controller = next((one for one in looks if one.seen.is_controller), None)
    given: list[bytes] = []

    def ask(node: NodeState) -> None:
        if agent := _find_agent(context, node):
            done = agent.run(["/bin/sh", "-c", kind.request], Deadline.after(ASK_S))
            given.append(done.output.encode())

    if controller is not None:
        _within(PING_S + ASK_S, partial(ask, controller.node), controller)
    return given[0] if given else b""


def _within(seconds: float, work: Callable[[], None], look: _Look) -> None:
    """Do the work, or abandon it after `seconds`. Errors are noted in `look`."""
    try:
        call_with_timeout(work, seconds)
    except TimeoutError:
        look.missing.append(f"it did not answer within {seconds:g} s")
    except AiHowError as error:
        look.missing.append(error.brief)


def _look_at(
    context: PlanContext, place: HypervisorHost, look: _Look, kind: Diagnosis, given: bytes
) -> None:
    node = look.node
    serial, begin = context.paths.console_log(node.name), context.console_offsets.get(node.name, 0)
    console = _read(look, lambda: look.keep("console.log", read_console(serial, begin)))
    look.seen = replace(look.seen, console=console)
    if place.qemu_logs:
        log = place.qemu_logs / f"{node.domain_name}.log"
        qemu_log = _read(look, partial(_read_qemu_log, look, log))
        look.seen = replace(look.seen, qemu_log=qemu_log)
    free_bytes = _read(look, lambda: shutil.disk_usage(node.disk.parent).free)
    look.seen = replace(look.seen, disk_directory=node.disk.parent, free_bytes=free_bytes)
    if place.embedded:
        said = place.embedded.paths.supervisor_log
        number = _read(look, lambda: _find_signal(_read_tail(said), node.domain_name))
        look.seen = replace(look.seen, qemu_signal=number)
    domain = context.client.find_domain(node.uuid)
    if domain is None:
        look.seen = replace(look.seen, state=VmState.ABSENT)
        return
    look.seen = replace(look.seen, state=domain.state, reason=domain.reason_text)
    look.keep("xml", domain.xml)
    if agent := _find_agent(context, node):
        _ask_guest(look, agent, kind, given)
    else:
        look.missing.append("its guest agent is not connected")


def _find_agent(context: PlanContext, node: NodeState) -> GuestAgent | None:
    """The agent of a node, or None. Raises AgentUnresponsiveError if it hangs."""
    if not context.client.is_agent_connected(node.uuid):
        return None
    context.client.agent_command(node.uuid, {"execute": "guest-ping"}, PING_S)
    return context.agent(node.uuid, node.name)


def _ask_guest(look: _Look, agent: GuestAgent, kind: Diagnosis, given: bytes) -> None:
    with suppress(GuestError):
        look.seen = replace(look.seen, skew_s=read_skew_s(agent))
    name, is_controller = look.node.name, look.seen.is_controller
    script = SERVICES + kind.script(is_controller=is_controller, has_input=bool(given))
    done = agent.run(["/bin/sh", "-c", script], Deadline.after(ASK_S), stdin=given)
    sections = _sections(look.keep("services.log", done.output))
    look.answer = NodeAnswer(name, is_controller, sections)
    journal = agent.run(JOURNAL, Deadline.after(ASK_S)).output
    look.seen = replace(look.seen, journal=look.keep("journal.log", journal))


def _read(look: _Look, read: Callable[[], T]) -> T | None:
    """The result of `read`, or None if it failed; the reason is noted in `look`."""
    try:
        return read()
    except PermissionError as error:
        file = shlex.quote(str(error.filename))
        look.missing.append(f"only root can read it: sudo tail -n {ROOT_LINES} {file}")
    except OSError as error:
        look.missing.append(f"{error.filename}: {error.strerror}")
    return None


def _read_qemu_log(look: _Look, log: Path) -> str:
    try:
        return look.keep("qemu.log", _since_begin(_read_tail(log)))
    except PermissionError:
        look.seen = replace(look.seen, is_qemu_log_roots=True)
        raise


def _read_tail(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, 2) - TAIL_BYTES))
        return file.read().decode("utf-8", "replace")


def _since_begin(log: str) -> str:
    """The part of QEMU's log since its last start."""
    begins = [found.start() for found in _QEMU_BEGINS.finditer(log)]
    return log[begins[-1] :] if begins else log


def _find_signal(supervisor_log: str, domain: str) -> int | None:
    found = re.findall(
        rf"^QEMU of {re.escape(domain)} was killed by signal (\d+)$", supervisor_log, re.MULTILINE
    )
    return int(found[-1]) if found else None


def _sections(text: str) -> Mapping[str, str]:
    parts = _SECTION.split(text)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def _tell(
    looks: Sequence[_Look], nodes: Sequence[NodeEvidence], workload: WorkloadEvidence
) -> Iterable[str]:
    """One line for each node, then what is missing for it."""
    for look, node in zip(looks, nodes, strict=True):
        cause = find_cause(node, workload)
        reason = f" ({node.reason})" if node.reason else ""
        yield f"{node.domain}: {node.state}{reason}" + (f"; {cause.text}" if cause else "")
        yield from (f"  {missing}" for missing in look.missing)


def _keep(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text)
