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
from enum import Enum, auto
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
from ai_how.state.lock import read_holder
from ai_how.state.models import NodeState

OUTPUT, ERRORS = "o", "e"
# A connection whose other end is gone is noticed after a minute.
_OPTIONS = ("-T", "-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=4")
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

    SIGINT and SIGTERM cancel it; a second one leaves it. Raises GuestError if SLURM refuses the
    job, HostError if the connection ends first, or if its files cannot be written here.
    """
    controller = manager.get_state().get_controller()
    argv = ssh_argv(
        manager.paths,
        controller.domain_name,
        ["python3", "-S", "-I", "-X", "utf8", "-c", read_guest_file("run-here")],
        options=_OPTIONS,
    )
    run = _Run(Link.open(argv), job, sink)
    try:
        return carried_out(run)
    except LinkLostError as error:
        raise _explain(manager, controller, error, run.ended) from error


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
    ended: Ended | None = None
    phase: _Phase = _Phase.SUBMITTING

    def carry_out(self) -> Ended:
        rules = IgnoreRules(self.job.top)
        sent, left_out = self._submit(rules)
        _, told = _read(self.link.receive(), "j")
        self.ended = Ended(told["job"], told["work"], sent=sent, left_out=left_out)
        self.phase = _Phase.FOLLOWING if self.job.follows else _Phase.ENDING
        if self.job.attach is None:
            self.link.send("k")
        if not self.job.follows:
            return self.ended
        self._follow(self.ended)
        is_of_here = told.get("origin", str(self.job.top)) == str(self.job.top)
        if self.job.shared is None and is_of_here:
            self.phase = _Phase.FETCHING
            self._take_back(self.ended, rules)
        self.phase = _Phase.ENDING
        return self.ended

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
        suffix, top = f".job-{ended.job}", self.job.top
        try:
            ended.files = take_back(self.link, top, changes, rules, suffix=suffix)
        except OSError as error:
            raise HostError(
                f"job {ended.job} is over, but not all of its files can be written here",
                details=f"{error.filename or top}: {error.strerror}",
                hint=f"ai-how hpc run --attach {ended.job}",
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
                self._answer(self.ended.job)
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

    def _answer(self, job: str) -> None:
        if self.phase is _Phase.FOLLOWING:
            self.phase = _Phase.CANCELLING
            self.sink.news(f"cancelling job {job}; Ctrl-C does not wait for it")
            self.link.send("x")
        elif self.phase is _Phase.CANCELLING:
            raise InterruptedRunError(
                f"left job {job}, which is being cancelled",
                hint=f"ai-how hpc ssh controller scancel {job}",
            )
        elif self.phase is _Phase.FETCHING:
            raise InterruptedRunError(
                f"job {job} is over, but not all of its files have come",
                hint=f"ai-how hpc run --attach {job}",
            )


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
    }


def directory_name(top: Path) -> str:
    """The name of the copy of a directory: below ~/run on the nodes, one for each path."""
    readable = re.sub(r"[^A-Za-z0-9._]+", "-", top.name).strip("-.")[:_LONGEST_NAME]
    digest = hashlib.sha256(os.fsencode(top)).hexdigest()[:8]
    return f"{readable or 'files'}-{digest}"


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
    manager: HpcManager, controller: NodeState, error: LinkLostError, ended: Ended | None
) -> AiHowError:
    """The error of a connection that ended: what became of the cluster, and so of the job."""
    state, doing = manager.find_state(), read_holder(manager.paths.lock) or ""
    is_other = state is None or state.get_controller().uuid != controller.uuid
    if is_other or doing.endswith("destroy"):
        with_it = f", and job {ended.job} with it" if ended else ""
        return HostError(f"the cluster {manager.name} was destroyed{with_it}")
    off = _find_off(manager, controller)
    if ended is None:
        return off or HostError("the controller does not answer by ssh", details=error.details)
    job = ended.job
    if off:
        return HostError(
            off.brief,
            details=f"SLURM goes on with job {job}, or begins it again, when it is up.\n"
            f"--attach {job} follows it then.",
            hint="ai-how hpc start",
        )
    return HostError(
        f"the connection to the controller was lost; job {job} goes on",
        details=error.details,
        hint=f"ai-how hpc run --attach {job}",
    )


def _find_off(manager: HpcManager, controller: NodeState) -> HostError | None:
    """Why the controller cannot be reached; None if it is on, and stays so."""
    doing = read_holder(manager.paths.lock) or ""
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
