"""Looks at the nodes of a cluster: for the evidence of a failed start, and for `why`.

All nodes are examined in parallel, each with its own timeout, so a node that hangs does not delay
the others. What was found of it stays.
"""

import re
import shlex
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from ai_how.clusters.diagnosis.kind import Diagnosis, NodeAnswer
from ai_how.clusters.diagnosis.node_evidence import AgentState, NodeEvidence
from ai_how.errors import AgentUnresponsiveError, AiHowError, DeadlineError, GuestError
from ai_how.guest.agent import GuestAgent
from ai_how.guest.journal import journal_words
from ai_how.guest.serial_log import read_console
from ai_how.host.place import HypervisorHost
from ai_how.libvirt_client.client import LibvirtClient
from ai_how.libvirt_client.vm_state import VmState
from ai_how.plan.daemon_pool import DaemonPool
from ai_how.spec.roles import Role
from ai_how.state.models import NodeState
from ai_how.state.paths import ClusterPaths
from ai_how.vm_management.nodes.clocks import read_skew_s
from ai_how.waiting import Deadline, call_with_timeout

T = TypeVar("T")

MAX_THREADS = 64
TAIL_BYTES = 64 * 1024
ROOT_LINES = 50

# Run in busybox: each program that is started takes a third of a second under emulation.
SERVICES = """\
echo '== jobs'; systemctl list-jobs --no-legend
echo '== failed'; systemctl --failed --no-legend --plain
echo '== memory'; free -m
echo '== disks'; df -P -k /
echo '== addresses'; ip -o -4 addr show
"""
JOURNAL = journal_words("-b", "-n", "400", "-o", "short-monotonic")

_SECTION = re.compile(r"^== (\w+)$", re.MULTILINE)
_QEMU_BEGINS = re.compile(r"^.*: starting up libvirt version.*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Limits:
    """How long one node may take, in seconds.

    Emulated, with every core busy, a node takes up to 30 s for all.
    """

    node_s: float = 60.0
    ping_s: float = 10.0
    ask_s: float = 35.0
    """For each program in the guest."""


@dataclass(slots=True)
class Look:
    """The evidence of one node.

    It is filled step by step: what was found stays if the rest hangs.
    """

    node: NodeState
    seen: NodeEvidence
    """Replaced, never modified: a thread that timed out may still write to it."""
    answer: NodeAnswer | None = None
    files: dict[str, str] = field(default_factory=dict)
    """What was read, by the name of a file for it."""
    missing: list[str] = field(default_factory=list)
    """What could not be read, and why."""

    def keep(self, what: str, text: str) -> str:
        self.files[f"{self.node.name}.{what}"] = text
        return text


@dataclass(frozen=True, slots=True, kw_only=True)
class Looker:
    """Looks at nodes through their host, its libvirt and their agents. Changes nothing."""

    client: LibvirtClient
    paths: ClusterPaths
    place: HypervisorHost
    diagnosis: Diagnosis
    limits: Limits = Limits()
    reads_journals: bool = True
    begin_of_console: Callable[[str], int] = lambda _node: 0
    """Where the output of a node begins that counts, in bytes of its serial log."""

    def look_at(self, nodes: Iterable[NodeState]) -> list[Look]:
        """Look at all these nodes. Raises what nobody foresaw, if `note` does not take it."""
        looks, unforeseen = self.try_look_at(nodes)
        if unforeseen:
            raise unforeseen[0]
        return looks

    def try_look_at(self, nodes: Iterable[NodeState]) -> tuple[list[Look], list[BaseException]]:
        """The looks, and the errors that nobody foresaw."""
        looks = [_begin_look(node) for node in nodes]
        given = self._ask_controller(looks)
        with DaemonPool[None](min(MAX_THREADS, len(looks)) or 1) as crew:
            for look in looks:
                work = partial(self._look_at, look, given)
                crew.submit(look.node.name, partial(_within, self.limits.node_s, work, look))
        for look in looks:
            seen = look.seen
            if (
                seen.state is VmState.RUNNING
                and look.answer is None
                and (seen.agent is not AgentState.SILENT)
            ):
                look.seen = replace(seen, agent=AgentState.HANGS)
        return looks, [one.error for one in crew.wait(0) if one.error]

    def _ask_controller(self, looks: Iterable[Look]) -> bytes:
        """The controller's output for the kind's `request`. It may be secret, and is not saved."""
        controller = next((one for one in looks if one.seen.is_controller), None)
        given: list[bytes] = []

        def ask(node: NodeState) -> None:
            if agent := self._find_agent(node):
                words = ["/bin/busybox", "sh", "-c", self.diagnosis.request]
                given.append(agent.run(words, Deadline.after(self.limits.ask_s)).output.encode())

        if controller is not None:
            seconds = self.limits.ping_s + self.limits.ask_s
            _within(seconds, partial(ask, controller.node), controller)
        return given[0] if given else b""

    def _look_at(self, look: Look, given: bytes) -> None:
        node = look.node
        self._read_files(look)
        domain = self.client.find_domain(node.uuid)
        if domain is None:
            look.seen = replace(look.seen, state=VmState.ABSENT)
            return
        look.seen = replace(
            look.seen,
            state=domain.state,
            reason=domain.reason_text,
            has_managed_save=domain.has_managed_save,
        )
        look.keep("xml", domain.xml)
        try:
            agent = self._find_agent(node)
        except AgentUnresponsiveError:
            look.seen = replace(look.seen, agent=AgentState.HANGS)
            raise
        look.seen = replace(look.seen, agent=AgentState.ANSWERS if agent else AgentState.SILENT)
        if agent:
            self._ask_guest(look, agent, given)
        else:
            look.missing.append("its guest agent is not connected")

    def _read_files(self, look: Look) -> None:
        """What lies on this host, whoever answers."""
        node, place = look.node, self.place
        serial, begin = self.paths.console_log(node.name), self.begin_of_console(node.name)
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
            number = _read(look, lambda: find_signal(read_tail(said), node.domain_name))
            look.seen = replace(look.seen, qemu_signal=number)

    def _find_agent(self, node: NodeState) -> GuestAgent | None:
        """The agent of a node, or None. Raises AgentUnresponsiveError if it hangs."""
        if not self.client.is_agent_connected(node.uuid):
            return None
        self.client.agent_command(node.uuid, {"execute": "guest-ping"}, self.limits.ping_s)
        return GuestAgent(self.client, node.uuid, node.name)

    def _ask_guest(self, look: Look, agent: GuestAgent, given: bytes) -> None:
        with suppress(GuestError):
            look.seen = replace(look.seen, skew_s=read_skew_s(agent))
        name, is_controller = look.node.name, look.seen.is_controller
        script = SERVICES + self.diagnosis.script(
            is_controller=is_controller, has_input=bool(given)
        )
        words = ["/bin/busybox", "sh", "-c", script]
        try:
            done = agent.run(words, Deadline.after(self.limits.ask_s), stdin=given)
        except DeadlineError:
            look.seen = replace(look.seen, agent=AgentState.HANGS)
            raise
        sections = read_sections(look.keep("services.log", done.output))
        look.answer = NodeAnswer(name, is_controller, sections)
        look.seen = replace(look.seen, sections=sections)
        if self.reads_journals:
            self._read_journal(look)

    def read_journals(self, looks: Sequence[Look]) -> None:
        """Read the journals of nodes that have answered, all at once."""
        asked = [look for look in looks if look.answer]
        with DaemonPool[None](min(MAX_THREADS, len(asked)) or 1) as crew:
            for look in asked:
                work = partial(self._read_journal, look)
                crew.submit(look.node.name, partial(_within, self.limits.ask_s, work, look))

    def _read_journal(self, look: Look) -> None:
        agent = GuestAgent(self.client, look.node.uuid, look.node.name)
        journal = agent.run(JOURNAL, Deadline.after(self.limits.ask_s)).output
        look.seen = replace(look.seen, journal=look.keep("journal.log", journal))


def _begin_look(node: NodeState) -> Look:
    seen = NodeEvidence(
        name=node.name,
        domain=node.domain_name,
        is_controller=node.role is Role.CONTROLLER,
        ip=node.ip,
        disk=node.disk,
        is_left_off=not node.auto_start,
    )
    return Look(node, seen)


def _within(seconds: float, work: Callable[[], None], look: Look) -> None:
    """Do the work, or abandon it after `seconds`. Errors are noted in `look`."""
    try:
        call_with_timeout(work, seconds)
    except TimeoutError:
        look.missing.append(f"it did not answer within {seconds:g} s")
    except AiHowError as error:
        look.missing.append(error.brief)


def _read(look: Look, read: Callable[[], T]) -> T | None:
    """The result of `read`, or None if it failed; the reason is noted in `look`."""
    try:
        return read()
    except PermissionError as error:
        file = shlex.quote(str(error.filename))
        look.missing.append(f"only root can read it: sudo tail -n {ROOT_LINES} {file}")
    except OSError as error:
        look.missing.append(f"{error.filename}: {error.strerror}")
    return None


def _read_qemu_log(look: Look, log: Path) -> str:
    try:
        return look.keep("qemu.log", _since_begin(read_tail(log)))
    except PermissionError:
        look.seen = replace(look.seen, is_qemu_log_roots=True)
        raise


def read_tail(path: Path) -> str:
    """The end of a file. Raises OSError."""
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, 2) - TAIL_BYTES))
        return file.read().decode("utf-8", "replace")


def _since_begin(log: str) -> str:
    """The part of QEMU's log since its last start."""
    begins = [found.start() for found in _QEMU_BEGINS.finditer(log)]
    return log[begins[-1] :] if begins else log


def find_signal(supervisor_log: str, domain: str) -> int | None:
    """The signal that ended the last QEMU of that VM, by the log of the embedded host."""
    found = re.findall(
        rf"^QEMU of {re.escape(domain)} was killed by signal (\d+)$", supervisor_log, re.MULTILINE
    )
    return int(found[-1]) if found else None


def read_sections(text: str) -> Mapping[str, str]:
    """Parse the output of a script, by the names after `== `."""
    parts = _SECTION.split(text)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def tell_missing(looks: Sequence[Look]) -> tuple[str, ...]:
    """What could not be read of which node, a line each."""
    return tuple(f"{look.node.name}: {why}" for look in looks for why in look.missing)
