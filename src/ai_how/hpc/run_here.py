"""Runs a command as a job in the files of the current directory: `hpc run`."""

import hashlib
import json
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from types import FrameType
from typing import Any

from ai_how.clusters.cluster_access import client_of
from ai_how.clusters.named_nodes import require_on
from ai_how.errors import AiHowError, GuestError, HostError, InterruptedRunError, SpecError
from ai_how.guest.copied_files import TakenBack, send_content, send_files, take_back
from ai_how.guest.frames import Link, LinkLostError
from ai_how.guest.own_files import IgnoreRules, list_files
from ai_how.guest.ssh import ssh_argv
from ai_how.hpc.guest_file import read_guest_file
from ai_how.hpc.manager import HpcManager
from ai_how.spec.models import HpcSpec
from ai_how.spec.nodes import nodes_of
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
_LONGEST_NAME = 40


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
    terminal: Callable[[Sequence[str]], int] | None = None
    """Runs ssh on our terminal, which the command is to have; None if it has none."""


@dataclass(slots=True)
class Ended:
    """A job that was submitted, and how it ended if that was awaited."""

    job: str
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


@dataclass(frozen=True, slots=True)
class Sink:
    """Where what is heard of a job goes."""

    output: Callable[[str, bytes], None]
    """Its output as it is written: OUTPUT or ERRORS, and a piece of it."""
    news: Callable[[str], None]
    """A line about the job itself."""


def find_shared(hpc: HpcSpec, top: Path) -> PurePosixPath | None:
    """Where all nodes have a directory of ours by virtiofs; None if not all have it."""
    found: set[PurePosixPath | None] = set()
    for node in nodes_of(hpc):
        shares = [one for one in node.virtio_fs_mounts if not one.is_read_only]
        inside = [one for one in shares if top.is_relative_to(Path(one.host_path).resolve())]
        best = max(inside, key=lambda one: len(str(one.host_path)), default=None)
        found.add(
            PurePosixPath(best.mount_point) / top.relative_to(Path(best.host_path).resolve())
            if best
            else None
        )
    return found.pop() if len(found) == 1 else None


def check_home(hpc: HpcSpec) -> None:
    """Raises SpecError for a cluster whose nodes have no place for the output of a job."""
    if hpc.storage.home != "nfs":
        raise SpecError(
            "the nodes of this cluster share no home, in which the job's output could be",
            hint="ai-how hpc ssh controller srun CMD  # or storage: {home: nfs} in the file",
        )


def check_directory(top: Path) -> None:
    """Raises SpecError for a directory whose files nobody wants to be copied."""
    if top in (Path("/"), Path.home().resolve()):
        raise SpecError(
            f"all files below {top} would be copied to the cluster",
            hint="cd to the directory of the job  # and repeat the command there",
        )


def run_here(manager: HpcManager, job: Job, sink: Sink) -> Ended:
    """Submit a job, or attach to one, and follow it to its end.

    SIGINT and SIGTERM cancel it; a second one leaves it. A job with a terminal ends with its
    connection. Raises LinkLostError if the connection ends first, GuestError if SLURM refuses the
    job, HostError if its end is not known.
    """
    controller = manager.get_state().get_controller()

    def ssh(command: Sequence[str], options: Sequence[str]) -> list[str]:
        return ssh_argv(manager.paths, controller.domain_name, command, options=options)

    python = ["python3", "-S", "-I", "-X", "utf8", "-c", read_guest_file("run-here")]
    link = Link.open(ssh(python, _OPTIONS))
    try:
        run = _Run(link, job, sink, partial(ssh, options=_OF_TERMINAL))
        try:
            return carried_out(run)
        except LinkLostError as error:
            raise _explain(manager, controller, error, run) from error
    finally:
        link.close()


def carried_out(run: "_Run") -> Ended:
    """Carry a run out. Where the guest gave up, its own words are the error."""
    try:
        return run.carry_out()
    except LinkLostError as error:
        if error.last:
            _read(error.last)
        raise


@dataclass(slots=True)
class _Run:
    link: Link
    job: Job
    sink: Sink
    ssh: Callable[[Sequence[str]], list[str]] = list
    """The command that runs one on a terminal of the controller."""
    ended: Ended | None = None
    cancels: bool = False

    def carry_out(self) -> Ended:
        rules = IgnoreRules(self.job.top)
        sent, left_out = self._submit(rules)
        code, frame = None, None
        if self.job.terminal:
            code, frame = self._have_terminal(self.job.terminal)
        _, told = _read(frame or self.link.receive(), "j")
        with self._interrupts():
            self.ended = Ended(told["job"], told["work"], sent=sent, left_out=left_out)
            if self.job.terminal and not self.ended.job:
                self.ended.exit_code = _without_job(code)
                return self.ended
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
            self._take_back(self.ended, rules)
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
                ended.was_cancelled_here = self.cancels and is_cancelled
                return
            why = f" ({value['reason']})" if value["reason"] != "None" else ""
            again = f", restarts: {value['restarts']}" if value["restarts"] else ""
            self.sink.news(f"job {ended.job} is {value['state']}{why}{again}")

    def _take_back(self, ended: Ended, rules: IgnoreRules) -> None:
        _, changes = _read(self.link.receive(), "r")
        suffix = f".job-{ended.job}"
        ended.files = take_back(self.link, self.job.top, changes, rules, suffix=suffix)

    @contextmanager
    def _interrupts(self) -> Iterator[None]:
        """While a job runs, a signal that asks us to end cancels it."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        numbers = (signal.SIGINT, signal.SIGTERM)
        previous = {number: signal.signal(number, self._heard) for number in numbers}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _heard(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        job = self.ended.job if self.ended else "?"
        if self.cancels:
            raise InterruptedRunError(
                f"left job {job}, which is being cancelled",
                hint=f"ai-how hpc ssh controller scancel {job}",
            )
        self.cancels = True
        self.sink.news(f"cancelling job {job}; Ctrl-C does not wait for it")
        self.link.send("x")


def _read(frame: tuple[str, bytes], *kinds: str) -> tuple[str, Any]:
    """The kind and value of a message. Raises GuestError if the guest could not do its part."""
    kind, content = frame
    if kind not in (*kinds, "x"):
        raise GuestError("the controller sent something unexpected", details=repr(kind))
    value = json.loads(content)
    if kind == "x":
        raise _refusal(value)
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
        "terminal": job.terminal is not None,
    }


def directory_name(top: Path) -> str:
    """The name of the copy of a directory: below ~/run on the nodes, one for each path."""
    readable = re.sub(r"[^A-Za-z0-9._]+", "-", top.name).strip("-.")[:_LONGEST_NAME]
    digest = hashlib.sha256(os.fsencode(top)).hexdigest()[:8]
    return f"{readable or 'files'}-{digest}"


def _is_lost(code: int) -> bool:
    """Whether ssh ended like this because its connection did, or was killed."""
    return code == _SSH_LOST or code < 0


def _without_job(code: int | None) -> int | None:
    """The exit code where SLURM made no job. Raises HostError if it was not asked for one."""
    if code is not None and _is_lost(code):
        raise HostError("the connection to the controller was lost before there was a job")
    return code


def _refusal(told: dict[str, Any]) -> AiHowError:
    if "refused" in told:
        return GuestError("SLURM refuses the job", details=told["refused"])
    if "unknown" in told:
        return SpecError(
            f"job {told['unknown']} is not known",
            details="It was not submitted by hpc run, or is one of those that ended long ago.",
            hint="ai-how hpc ssh controller squeue",
        )
    return GuestError("the controller could not do it", details=str(told.get("trouble")))


def _explain(
    manager: HpcManager, controller: NodeState, error: LinkLostError, run: _Run
) -> AiHowError:
    """The error of a connection that ended: the cluster is off, or the job goes on without us.

    A job with a terminal ends.
    """
    place = manager.place()
    if not place.is_up:
        return HostError(f"the cluster {manager.name} is off", hint="ai-how hpc start")
    with client_of(place) as client:
        client.learn(controller.uuid, controller.domain_name)
        require_on(client, controller, manager.kind.name)
    if run.ended is None:
        return HostError("the controller does not answer by ssh", details=error.details)
    lost, number = "the connection to the controller was lost", run.ended.job
    if run.job.terminal:
        return HostError(
            f"{lost}, and its terminal with it: SLURM ends job {number}",
            details=error.details,
            hint=f"ai-how hpc run --attach {number}  # brings its files back",
        )
    return HostError(
        f"{lost}; job {number} goes on",
        details=error.details,
        hint=f"ai-how hpc run --attach {number}",
    )
