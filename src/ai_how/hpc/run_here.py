"""Runs a command as a job in the files of the current directory: `hpc run`."""

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import partial
from pathlib import Path, PurePosixPath
from types import FrameType
from typing import Any

from ai_how.clusters.cluster_access import client_of
from ai_how.clusters.named_nodes import require_on
from ai_how.errors import AiHowError, GuestError, HostError, InterruptedRunError
from ai_how.guest.copied_files import TakenBack, send_content, send_files, take_back
from ai_how.guest.frames import Link, LinkLostError
from ai_how.guest.own_files import IgnoreRules, list_files
from ai_how.guest.ssh import ssh_argv
from ai_how.hpc.guest_file import read_guest_file
from ai_how.hpc.manager import HpcManager
from ai_how.hpc.run_directory import directory_name
from ai_how.hpc.run_refusals import refusal
from ai_how.state.lock import read_holder
from ai_how.state.models import NodeState

OUTPUT, ERRORS = "o", "e"
# A connection whose other end is gone is noticed after a minute.
_ALIVE = ("-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=4")
_OPTIONS = ("-T", *_ALIVE)
# Without its words at the end of a session.
_OF_TERMINAL = ("-t", "-o", "LogLevel=ERROR", *_ALIVE)
_SSH_LOST = 255
# Ctrl-C before there is a job ends salloc by its signal, of which ssh would say 255.
_SALLOC = 'trap : INT; salloc "$@"; exit $?'


@dataclass(frozen=True, slots=True)
class Job:
    """What is to run, and in which directory."""

    top: Path
    command: Sequence[str] = ()
    options: Sequence[str] = ()
    shared: PurePosixPath | None = None
    """Where the nodes have the directory itself; None if its files are copied."""
    has_input: bool = False
    """Whether our standard input is that of the job."""
    follows: bool = True
    attach: str | None = None
    """The number of a job that was submitted before."""
    is_on_login_node: bool = False
    """Whether the command itself runs on the controller, rather than as a job."""
    terminal: Callable[[Sequence[str]], int] | None = None
    """Runs ssh on our terminal, which the command is to have; None if it has none."""


@dataclass(slots=True)
class Ended:
    """A job that was submitted, and how it ended if that was awaited.

    Of a command on the login node, `job` and what SLURM says are None.
    """

    job: str | None
    directory: str
    """Where its files are on the nodes."""
    exit_code: int | None = None
    state: str | None = None
    reason: str | None = None
    nodes: str | None = None
    """These three are in SLURM's words; None if it has forgotten the job."""
    was_cancelled_here: bool = False
    """Whether a signal to us did so."""
    sent: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    files: TakenBack | None = None
    """None if there was nothing to bring back: a directory that is shared, or of another job."""

    @property
    def words(self) -> str:
        """What it was, in a message."""
        return "the command" if self.job is None else f"job {self.job}"

    @property
    def again(self) -> str:
        """The options of `hpc run` that bring its files back."""
        return "--login true" if self.job is None else f"--attach {self.job}"


@dataclass(frozen=True, slots=True)
class Sink:
    """Where what is heard of a job goes."""

    output: Callable[[str, bytes], None]
    """Its output as it is written: OUTPUT or ERRORS, and a piece of it."""
    news: Callable[[str], None]
    """A line about the job itself."""


def run_here(manager: HpcManager, job: Job, sink: Sink) -> Ended:
    """Submit a job, or attach to one, and follow it to its end.

    SIGINT and SIGTERM cancel it; a second one leaves it. A job with a terminal ends with its
    connection. Raises GuestError if SLURM refuses the job, HostError if the connection ends first,
    or if its files cannot be written here.
    """
    controller = manager.get_state().get_controller()

    def ssh(command: Sequence[str], options: Sequence[str]) -> list[str]:
        return ssh_argv(manager.paths, controller.domain_name, command, options=options)

    python = ["python3", "-S", "-I", "-X", "utf8", "-c", read_guest_file("run-here")]
    run = _Run(Link.open(ssh(python, _OPTIONS)), job, sink, partial(ssh, options=_OF_TERMINAL))
    try:
        return carried_out(run)
    except LinkLostError as error:
        raise _explain(manager, controller, error, run) from error


def carried_out(run: "_Run") -> Ended:
    """Carry a run out, and end its connection. Where the guest gave up, its words are the error."""
    with run.interrupts():
        try:
            return run.carry_out()
        except LinkLostError as error:
            if error.last:
                _read(error.last)
            raise
        finally:
            run.link.close()


class _Phase(Enum):
    """What a signal means that asks us to end."""

    SUBMITTING = auto()
    """Nothing is submitted: what it means anywhere."""
    FOLLOWING = auto()
    """It cancels the job."""
    CANCELLING = auto()
    """It leaves the job."""
    FETCHING = auto()
    """It leaves the files."""
    ENDING = auto()
    """Nothing: all that is left is to say what the job's number is, or how it ended."""


@dataclass(slots=True)
class _Run:
    link: Link
    job: Job
    sink: Sink
    ssh: Callable[[Sequence[str]], list[str]] = list
    """The command that runs one on a terminal of the controller."""
    ended: Ended | None = None
    phase: _Phase = _Phase.SUBMITTING

    def carry_out(self) -> Ended:
        rules = IgnoreRules(self.job.top)
        sent, left_out = self._submit(rules)
        code, frame = None, None
        if self.job.terminal:
            code, frame = self._have_terminal(self.job.terminal)
        _, told = _read(frame or self.link.receive(), "j")
        self.ended = Ended(told["job"], told["work"], sent=sent, left_out=left_out)
        if self.job.terminal and not self.ended.job:
            self.ended.exit_code = _without_job(code)
            return self.ended
        self.phase = _Phase.FOLLOWING if self.job.follows else _Phase.ENDING
        if self.job.attach is None and not self.job.terminal:
            self.link.send("k")
        if not self.job.follows:
            return self.ended
        self._follow(self.ended)
        if code is not None and _is_lost(code) and self.ended.exit_code != code:
            self.sink.news("the connection to the controller was lost, and its job ended")
            self.ended.exit_code = None
        is_of_here = told.get("origin", str(self.job.top)) == str(self.job.top)
        if self.job.shared is None and is_of_here:
            self.phase = _Phase.FETCHING
            self._take_back(self.ended, rules)
        self.phase = _Phase.ENDING
        return self.ended

    def _have_terminal(
        self, run: Callable[[Sequence[str]], int]
    ) -> tuple[int, tuple[str, bytes] | None]:
        """Have SLURM run the command on our terminal; the exit code of ssh.

        Where the other connection is lost as well, also what it has told before of the job.
        """
        _, told = _read(self.link.receive(), "p")
        name = f"--job-name={PurePosixPath(self.job.command[0]).name}"
        ours = [f"--chdir={told['work']}", "--", told["script"]]
        salloc = ["sh", "-c", _SALLOC, "salloc", name, *self.job.options, *ours]
        code = run(self.ssh(salloc))
        try:
            self.link.send("x" if _is_lost(code) else "k")
        except LinkLostError as error:
            return code, error.last
        return code, None

    def _submit(self, rules: IgnoreRules) -> tuple[list[str], list[str]]:
        job = self.job
        listing = None
        if job.attach is None and job.shared is None:
            listing = list_files(job.top, rules)
        self.link.send_json("q", _request(job))
        sent = send_files(self.link, job.top, listing.entries) if listing else []
        if job.has_input:
            send_content(self.link, os.dup(0))
        return sent, listing.left_out if listing else []

    def _follow(self, ended: Ended) -> None:
        while True:
            frame = self.link.receive()
            if frame[0] in (OUTPUT, ERRORS):
                self.sink.output(*frame)
                continue
            kind, value = _read(frame, "s", "d")
            if kind == "d":
                ended.exit_code, ended.state = value["code"], value["state"]
                ended.reason, ended.nodes = value["reason"], value["nodes"]
                is_cancelled = str(ended.state).startswith("CANCELLED")
                ended.was_cancelled_here = self.phase is _Phase.CANCELLING and is_cancelled
                return
            why = f" ({value['reason']})" if value["reason"] != "None" else ""
            again = f", restarts: {value['restarts']}" if value["restarts"] else ""
            self.sink.news(f"job {ended.job} is {value['state']}{why}{again}")

    def _take_back(self, ended: Ended, rules: IgnoreRules) -> None:
        _, changes = _read(self.link.receive(), "r")
        suffix, top = ".login" if ended.job is None else f".job-{ended.job}", self.job.top
        try:
            ended.files = take_back(self.link, top, changes, rules, suffix=suffix)
        except OSError as error:
            raise HostError(
                f"{ended.words} is over, but not all of its files can be written here",
                details=f"{error.filename or top}: {error.strerror}",
                hint=f"ai-how hpc run {ended.again}",
            ) from error

    @contextmanager
    def interrupts(self) -> Iterator[None]:
        """Answer signals that ask us to end, as long as there is a job."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        former = {
            number: before
            for number in (signal.SIGINT, signal.SIGTERM)
            if (before := signal.getsignal(number)) is not signal.SIG_IGN
        }

        def hear(number: int, frame: FrameType | None) -> None:
            if self.ended:
                self._answer(self.ended)
                return
            before = former[signal.Signals(number)]
            if callable(before):
                before(number, frame)
            else:
                signal.signal(number, before)
                signal.raise_signal(number)

        for number in former:
            signal.signal(number, hear)
        try:
            yield
        finally:
            for number, before in former.items():
                # Who has answered may want the next one to end us at once.
                if signal.getsignal(number) is hear:
                    signal.signal(number, before)

    def _answer(self, ended: Ended) -> None:
        if self.phase is _Phase.FOLLOWING:
            self.phase = _Phase.CANCELLING
            doing = "ending" if ended.job is None else "cancelling"
            self.sink.news(f"{doing} {ended.words}; Ctrl-C does not wait for it")
            self.link.send("x")
        elif self.phase is _Phase.CANCELLING and ended.job is None:
            raise InterruptedRunError("left the command, which is being ended")
        elif self.phase is _Phase.CANCELLING:
            raise InterruptedRunError(
                f"left {ended.words}, which is being cancelled",
                hint=f"ai-how hpc ssh controller scancel {ended.job}",
            )
        elif self.phase is _Phase.FETCHING:
            raise InterruptedRunError(
                f"{ended.words} is over, but not all of its files have come",
                hint=f"ai-how hpc run {ended.again}",
            )


def _read(frame: tuple[str, bytes], *kinds: str) -> tuple[str, Any]:
    """The kind and value of a message. Raises GuestError if the guest could not do its part."""
    kind, content = frame
    if kind not in (*kinds, "x"):
        raise GuestError("the controller sent something unexpected", details=repr(kind))
    value = json.loads(content)
    if kind == "x":
        raise refusal(value)
    return kind, value


def _request(job: Job) -> dict[str, object]:
    return {
        "name": directory_name(job.top),
        "origin": str(job.top),
        "work": str(job.shared) if job.shared else None,
        "command": list(job.command),
        "options": list(job.options),
        "has_input": job.has_input,
        "follow": job.follows,
        "attach": job.attach,
        "login": job.is_on_login_node,
        "terminal": job.terminal is not None,
    }


def _is_lost(code: int) -> bool:
    """Whether ssh ended like this because its connection did, or was killed."""
    return code == _SSH_LOST or code < 0


def _without_job(code: int | None) -> int | None:
    """The exit code where SLURM made no job. Raises HostError if it was not asked for one."""
    if code is not None and _is_lost(code):
        raise HostError("the connection to the controller was lost before there was a job")
    return code


def _explain(
    manager: HpcManager, controller: NodeState, error: LinkLostError, run: _Run
) -> AiHowError:
    """The error of a connection that ended: what became of the cluster, and so of the job.

    A command without a job, and a job with a terminal, end with it.
    """
    ended = run.ended
    state, doing = manager.find_state(), read_holder(manager.paths.lock) or ""
    is_other = state is None or state.get_controller().uuid != controller.uuid
    if is_other or doing.endswith("destroy"):
        with_it = f", and {ended.words} with it" if ended else ""
        return HostError(f"the cluster {manager.name} was destroyed{with_it}")
    off = _find_off(manager, controller, doing)
    if ended is None:
        return off or HostError("the controller does not answer by ssh", details=error.details)
    goes_on = ended.job is not None and not run.job.terminal
    if off:
        details = (
            f"SLURM goes on with {ended.words}, or begins it again, when it is up.\n"
            f"--attach {ended.job} follows it then."
        )
        details = details if goes_on else f"{ended.words} ended with it".capitalize()
        return HostError(off.brief, details=details, hint="ai-how hpc start")
    lost = "the connection to the controller was lost"
    if ended.job is None:
        return HostError(f"{lost}, which ends the command", details=error.details)
    if run.job.terminal:
        return HostError(
            f"{lost}, and its terminal with it: SLURM ends {ended.words}",
            details=error.details,
            hint=f"ai-how hpc run {ended.again}  # brings its files back",
        )
    return HostError(
        f"{lost}; {ended.words} goes on",
        details=error.details,
        hint=f"ai-how hpc run {ended.again}",
    )


def _find_off(manager: HpcManager, controller: NodeState, doing: str) -> HostError | None:
    """Why the controller cannot be reached; None if it is on, and stays so.

    `doing` is what another command does with the cluster.
    """
    if doing.endswith(("start", "stop")):
        return HostError(f"{doing} of {manager.name} is under way", hint="ai-how hpc status")
    place = manager.place()
    if not place.is_up:
        return HostError(f"the cluster {manager.name} is off", hint="ai-how hpc start")
    with client_of(place) as client:
        client.learn(controller.uuid, controller.domain_name)
        try:
            require_on(client, controller, manager.kind.name)
        except HostError as error:
            return error
    return None
