"""What a failed start leaves for people to read, saved before it is undone, and what it shows.

All nodes are looked at at once, each within a time of its own: one that hangs costs no other's.
"""

import re
import shlex
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from ai_how.clusters.diagnosis.causes import (
    ACCEPTED,
    Failure,
    NodeEvidence,
    find_cause,
    find_first_cause,
)
from ai_how.clusters.workload import NodeReadiness
from ai_how.errors import AiHowError, GuestError
from ai_how.guest.agent import GuestAgent
from ai_how.guest.journal import journal_words
from ai_how.guest.serial_log import read_console
from ai_how.host.place import HypervisorHost
from ai_how.hpc.workload import read_sinfo
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

NODE_S = 45.0
"""All of one node; emulated, and with every core busy, it takes up to 15."""
PING_S = 10.0
ASK_S = 25.0
MAX_THREADS = 64
TAIL_BYTES = 64 * 1024

# busybox, as each program takes a third of a second under emulation; SLURM's own wait a minute.
CREDENTIAL = "exec munge -n"
SERVICES = f"""\
echo '== jobs'; systemctl list-jobs --no-legend
echo '== failed'; systemctl --failed --no-legend --plain
echo '== memory'; free -m
echo '== munge'; unmunge -n 2>&1 && echo {ACCEPTED}
"""
SLURM = """\
echo '== sinfo'; timeout 8 sinfo -h -N -a -o '%N|%T|%E' 2>&1
echo '== nodes'; timeout 8 scontrol show node 2>&1
"""
JOURNAL = journal_words("-b", "-n", "400", "-o", "short-monotonic")

_SECTION = re.compile(r"^== (\w+)$", re.MULTILINE)
_STEP = re.compile(r"while applying (\S+)")
ROOT_LINES = 50
_QEMU_BEGINS = re.compile(r"^.*: starting up libvirt version.*$", re.MULTILINE)


@dataclass(slots=True)
class _Look:
    """One node's part; filled bit by bit, so that what is there counts where the rest hangs."""

    node: NodeState
    seen: dict[str, object] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)

    def keep(self, what: str, text: str) -> str:
        self.files[f"{self.node.name}.{what}"] = text
        return text


def save_evidence(
    world: PlanContext,
    state: ClusterState,
    plan: Plan,
    place: HypervisorHost,
    say: Callable[[str], None],
    errors: Sequence[BaseException],
) -> SavedEvidence:
    """Keep errors, serial logs, VM definitions, journals and SLURM's view, as far as can be had."""
    moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    directory = world.paths.evidence / moment
    ensure_private_directory(world.paths.evidence)
    ensure_private_directory(directory)
    say(f"saving the evidence of the failure in {directory}")
    _keep(directory / "errors.txt", render_errors(errors))
    looks = [_Look(node) for node in _nodes_of(plan, state)]
    credential = _ask_for_credential(world, looks)
    with DaemonPool[None](min(MAX_THREADS, len(looks)) or 1) as crew:
        for look in looks:
            work = partial(_look_at, world, place, look, credential)
            crew.submit(look.node.name, partial(_within, NODE_S, work, look))
    unforeseen = [one.error for one in crew.wait(0) if one.error]
    for look in looks:
        for name, text in tuple(look.files.items()):
            _keep(directory / name, text)
    nodes = _put_together(looks)
    cause = find_first_cause(_failure_of(errors), nodes)
    summary = directory / "summary.txt"
    _keep(summary, "\n".join([cause or "The cause is not known.", "", *_tell(looks, nodes), ""]))
    if unforeseen:
        raise unforeseen[0]
    return SavedEvidence(directory, cause, f"less {shlex.quote(str(summary))}")


def _nodes_of(plan: Plan, state: ClusterState) -> list[NodeState]:
    """The nodes that the plan is about, and the controller, who knows what SLURM thinks."""
    subjects = {step.key.partition("/")[2] for step in plan.steps}
    return [
        node for node in state.nodes if node.domain_name in subjects or node.role is Role.CONTROLLER
    ]


def _ask_for_credential(world: PlanContext, looks: Iterable[_Look]) -> bytes | None:
    """What the controller's munge signs; each node is asked to check it, and nobody keeps it."""
    controller = next((one for one in looks if one.node.role is Role.CONTROLLER), None)
    if controller is None:
        return None

    def ask() -> None:
        agent = _find_agent(world, controller.node)
        if agent:
            done = agent.run(["/bin/sh", "-c", CREDENTIAL], Deadline.after(ASK_S))
            controller.seen["credential"] = done.output.encode()

    _within(PING_S + ASK_S, ask, controller)
    found = controller.seen.pop("credential", None)
    return found if isinstance(found, bytes) and found else None


def _within(seconds: float, work: Callable[[], None], look: _Look) -> None:
    """Do it, or leave it behind when the time is over; what went wrong is noted."""
    try:
        call_with_timeout(work, seconds)
    except TimeoutError:
        look.missing.append(f"it did not answer within {seconds:g} s")
    except AiHowError as error:
        look.missing.append(error.brief)


def _look_at(
    world: PlanContext, place: HypervisorHost, look: _Look, credential: bytes | None
) -> None:
    node = look.node
    serial, begin = world.paths.console_log(node.name), world.console_ends.get(node.name, 0)
    _read(look, "console", lambda: look.keep("console.log", read_console(serial, begin)))
    if place.qemu_logs:
        log = place.qemu_logs / f"{node.domain_name}.log"
        look.seen["is_qemu_log_roots"] = not _read(
            look, "qemu_log", lambda: look.keep("qemu.log", _since_begin(_read_tail(log)))
        )
    look.seen["disk_directory"] = node.disk.parent
    _read(look, "free_bytes", lambda: shutil.disk_usage(node.disk.parent).free)
    if place.embedded:
        log = place.embedded.paths.supervisor_log
        _read(look, "qemu_signal", lambda: _find_signal(_read_tail(log), node.domain_name))
    domain = world.client.find_domain(node.uuid)
    look.seen["state"] = domain.state if domain else VmState.ABSENT
    if domain is None:
        return
    look.seen["reason"] = domain.reason_text
    look.keep("xml", domain.xml)
    if agent := _find_agent(world, node):
        _ask_guest(look, agent, credential)
    else:
        look.missing.append("its guest agent is not there")


def _find_agent(world: PlanContext, node: NodeState) -> GuestAgent | None:
    """A node's agent, where it answers soon. Raises AgentUnresponsiveError where it hangs."""
    if not world.client.is_agent_connected(node.uuid):
        return None
    world.client.agent_command(node.uuid, {"execute": "guest-ping"}, PING_S)
    return world.agent(node.uuid, node.name)


def _ask_guest(look: _Look, agent: GuestAgent, credential: bytes | None) -> None:
    with suppress(GuestError):
        look.seen["skew_s"] = read_skew_s(agent)
    is_controller = look.node.role is Role.CONTROLLER
    script = SERVICES + SLURM if is_controller else SERVICES
    done = agent.run(["/bin/sh", "-c", script], Deadline.after(ASK_S), stdin=credential or b"")
    look.keep("services.log", done.output)
    sections = _sections(done.output)
    look.seen["jobs"] = sections.get("jobs")
    if credential:
        look.seen["munge"] = sections.get("munge")
    if is_controller:
        look.seen["sinfo"] = sections.get("sinfo", "")
    look.seen["journal"] = look.keep(
        "journal.log", agent.run(JOURNAL, Deadline.after(ASK_S)).output
    )


def _read(look: _Look, what: str, read: Callable[[], object]) -> bool:
    """Read it, and say whether we may; what could not be had is noted."""
    try:
        look.seen[what] = read()
    except PermissionError as error:
        file = shlex.quote(str(error.filename))
        look.missing.append(f"for root alone: sudo tail -n {ROOT_LINES} {file}")
        return False
    except OSError as error:
        look.missing.append(f"{error.filename}: {error.strerror}")
    return True


def _read_tail(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, 2) - TAIL_BYTES))
        return file.read().decode("utf-8", "replace")


def _since_begin(log: str) -> str:
    """Of QEMU's log what belongs to its last start."""
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


def _put_together(looks: Sequence[_Look]) -> list[NodeEvidence]:
    """What each node showed, with what SLURM says of it."""
    sinfo = next((str(one.seen["sinfo"]) for one in looks if "sinfo" in one.seen), None)
    slurm = read_sinfo(sinfo) if sinfo is not None else {}
    trouble = sinfo if sinfo is not None and not slurm else None
    return [_node_seen(look, slurm, trouble) for look in looks]


def _node_seen(
    look: _Look, slurm: Mapping[str, NodeReadiness], trouble: str | None
) -> NodeEvidence:
    known = {name: value for name, value in dict(look.seen).items() if name != "sinfo"}
    is_controller = look.node.role is Role.CONTROLLER
    return NodeEvidence(
        name=look.node.name,
        domain=look.node.domain_name,
        is_controller=is_controller,
        slurm=slurm.get(look.node.name),
        slurm_trouble=trouble if is_controller else None,
        **known,  # type: ignore[arg-type]  # filled in _look_at, under the names of its fields
    )


def _failure_of(errors: Sequence[BaseException]) -> Failure:
    """The first error: of which step, and with what details."""
    first = errors[0]
    notes = "\n".join(getattr(first, "__notes__", []))
    step = _STEP.search(notes)
    details = first.details if isinstance(first, AiHowError) else None
    return Failure(step[1] if step else "", details or "")


def _tell(looks: Sequence[_Look], nodes: Sequence[NodeEvidence]) -> Iterable[str]:
    """One line a node, and what could not be had of it."""
    for look, node in zip(looks, nodes, strict=True):
        cause = find_cause(node)
        reason = f" ({node.reason})" if node.reason else ""
        yield f"{node.domain}: {node.state}{reason}" + (f"; {cause.text}" if cause else "")
        yield from (f"  {missing}" for missing in look.missing)


def _keep(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text)
