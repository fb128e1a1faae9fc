"""SLURM's steps, for nodes that start, stop, or ended unexpectedly."""

import shlex
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import ClassVar
from uuid import UUID

from ai_how.clusters.workload import describe_drained
from ai_how.errors import (
    AiHowError,
    ConnectionLostError,
    DeadlineError,
    GuestError,
    InterruptedRunError,
)
from ai_how.guest.agent import GuestAgent
from ai_how.hpc.jobs import (
    SlurmJob,
    close_script,
    describe_jobs,
    drop_script,
    end_script,
    jobs_script,
    lost_script,
    off_script,
    open_words,
    read_jobs,
)
from ai_how.hpc.workload import SINFO, read_sinfo
from ai_how.plan.step import Applied, ForwardStep
from ai_how.vm_management.context import PlanContext
from ai_how.vm_management.steps.guest import retry_if_connection_lost
from ai_how.vm_management.steps.subjects import ClusterStep, DomainStep
from ai_how.waiting import Deadline

SLURM_S = 60.0
JOBS_END_S = 120.0
LOOK_S = 5.0


@dataclass(frozen=True, slots=True)
class MarkOff(ForwardStep, ClusterStep):
    """Mark nodes that are off as down in SLURM.

    `nodes` were drained by us. `drained` were drained by a user, and keep their reason.
    """

    kind: ClassVar[str] = "slurm-off"
    controller: UUID
    nodes: tuple[str, ...]
    needs: frozenset[str] = frozenset()
    drained: tuple[tuple[str, str], ...] = ()

    def apply(self, context: PlanContext) -> Applied:
        """If SLURM does not answer, the next start undrains the nodes instead."""
        try:
            _run(context.agent(self.controller, "controller"), off_script(self.nodes, self.drained))
        except AiHowError:
            return Applied.KEPT
        return Applied.MADE

    def describe(self) -> str:
        names = (*self.nodes, *(name for name, _ in self.drained))
        return f"tell SLURM that {', '.join(names)} {'are' if len(names) > 1 else 'is'} off"


@dataclass(frozen=True, slots=True)
class TellLost(ClusterStep):
    """SLURM knows that the jobs on nodes that ended unexpectedly are lost.

    `draining` are nodes that a user drained. `closed` are nodes that a stop of ours drained: with
    another reason they would look drained by a user. `is_restarted` means that SLURM itself was
    off: the nodes may be back by then and run other jobs, so only jobs from before the boot of the
    controller are lost.
    """

    kind: ClassVar[str] = "slurm-lost"
    controller: UUID
    nodes: tuple[str, ...]
    draining: tuple[str, ...] = ()
    is_restarted: bool = False
    needs: frozenset[str] = frozenset()
    closed: tuple[str, ...] = ()

    def apply(self, context: PlanContext) -> Applied:
        """If SLURM does not answer, that is no failure: a later step waits for it."""
        agent = context.agent(self.controller, "controller")
        try:
            self._tell(context, agent)
        except AiHowError:
            return Applied.KEPT
        return Applied.MADE

    def revert(self, context: PlanContext) -> None:
        """Nothing to undo: the nodes had ended, and return to service when they register."""

    def describe(self) -> str:
        return f"tell SLURM that {', '.join(self.nodes)} ended"

    def _tell(self, context: PlanContext, agent: GuestAgent) -> None:
        listed = jobs_script(self.nodes)
        if self.is_restarted:
            within_s = context.timeouts.slurm_s
            # Limited in the guest too, where nothing else would end it.
            wait = f"timeout {within_s:.0f} /usr/lib/ai-how/wait-for-port controller 6817"
            begin = f"{wait} || exit; cat /proc/uptime; date +%s; "
            answer = _run(agent, begin + listed, within_s + SLURM_S, context)
            booted_s = _read_boot_s(answer)
            lost = [job for job in read_jobs(answer) if job.started_s < booted_s]
            words = drop_script(lost)
        else:
            lost = read_jobs(_run(agent, listed))
            words = "; ".join(
                [
                    *([off_script(self.closed, ())] if self.closed else []),
                    *([lost_script(others)] if (others := self._others) else []),
                    *([drop_script(lost)] if self.draining and lost else []),
                ]
            )
        for line in describe_jobs(lost, "the VM of its node ended"):
            context.warn(line)
        if words:
            _run(agent, words)

    @property
    def _others(self) -> list[str]:
        return [name for name in self.nodes if name not in (*self.draining, *self.closed)]


def wait_for_jobs(
    context: PlanContext,
    controller: UUID,
    nodes: Sequence[str],
    closed: Collection[str],
    limit_s: float,
) -> None:
    """Drain these nodes; wait until their jobs have ended, or the limit has passed.

    Nodes in `closed` are already drained by a user, and stay so. Raises InterruptedRunError if the
    run is interrupted. After that, and after any failure, the nodes accept jobs again.
    """
    agent = context.agent(controller, "controller")
    ours = [name for name in nodes if name not in closed]
    try:
        if ours:
            _check(agent, close_script(ours))
        is_over = _wait_until_free(context, agent, nodes, Deadline.after(limit_s))
    except BaseException:
        _open(context, agent, ours)
        raise
    if not is_over:
        is_open = _open(context, agent, ours)
        raise InterruptedRunError(
            "stop was interrupted while it waited for jobs",
            details=f"accepting jobs again: {', '.join(ours)}" if is_open else None,
        )


def _open(context: PlanContext, agent: GuestAgent, nodes: Sequence[str]) -> bool:
    """Undrain these nodes, or warn how to do so. Returns whether any accept jobs now."""
    if not nodes:
        return False
    words = open_words(nodes)
    try:
        done = agent.run(words, Deadline.after(SLURM_S))
    except AiHowError:
        done = None
    if done is None or done.exit_code != 0:
        remedy = f"ai-how hpc exec controller -- {shlex.join(words)}"
        context.warn(f"{', '.join(nodes)} may still be drained; to undrain them: {remedy}")
        return False
    return True


def _wait_until_free(
    context: PlanContext, agent: GuestAgent, nodes: Sequence[str], deadline: Deadline
) -> bool:
    """Wait until no job is left or the limit has passed; False if the run was interrupted."""
    told = 0
    while (jobs := _jobs_of(agent, nodes)) != []:
        if jobs and len(jobs) != told:
            told = len(jobs)
            context.warn(f"waiting for {', '.join(map(str, jobs))}")
        if deadline.has_passed:
            context.warn("the time limit of the wait has passed")
            return True
        if context.stop.wait(deadline.sooner_of(LOOK_S).remaining_s):
            return False
    return True


def _jobs_of(agent: GuestAgent, nodes: Sequence[str]) -> list[SlurmJob] | None:
    """The jobs on these nodes; None if SLURM did not answer."""
    try:
        return read_jobs(_check(agent, jobs_script(nodes)))
    except (GuestError, ConnectionLostError, DeadlineError):
        return None


def _read_boot_s(text: str) -> float:
    """The boot time of a guest, from the first lines of `text`: its /proc/uptime, then its time."""
    try:
        uptime, now, *_ = text.splitlines()
        return int(now) - float(uptime.split()[0])
    except (ValueError, IndexError) as error:
        raise GuestError("the controller did not report its boot time") from error


def _check(agent: GuestAgent, script: str) -> str:
    done = agent.run(["/bin/sh", "-c", script], Deadline.after(SLURM_S))
    if done.exit_code != 0:
        raise GuestError("SLURM rejected a command", details=done.errors.strip() or None)
    return done.output


def _run(
    agent: GuestAgent, script: str, within_s: float = SLURM_S, context: PlanContext | None = None
) -> str:
    words = ["/bin/sh", "-c", script]
    return agent.run(words, Deadline.after(within_s), stop=context.stop if context else None).output


@dataclass(frozen=True, slots=True)
class CloseSlurm(ForwardStep, ClusterStep):
    """Drain nodes that will be off; requeue their jobs if possible, and end the others.

    Nodes in `drained` were drained by a user, and keep their state and reason.
    """

    kind: ClassVar[str] = "slurm"
    controller: UUID
    nodes: tuple[str, ...]
    needs: frozenset[str] = frozenset()
    drained: tuple[str, ...] = ()

    def apply(self, context: PlanContext) -> Applied:
        """A SLURM that does not answer must not prevent a stop, so that is no failure."""
        agent = context.agent(self.controller, "controller")
        closed = [name for name in self.nodes if name not in self.drained]
        first = [close_script(closed)] if closed else []
        script = "; ".join([*first, jobs_script(self.nodes)])
        try:
            answer = agent.run(["/bin/sh", "-c", script], Deadline.after(SLURM_S))
            if jobs := read_jobs(answer.output):
                for line in describe_jobs(jobs, "its node is stopped"):
                    context.warn(line)
                script = end_script(jobs, self.nodes)
                agent.run(["/bin/sh", "-c", script], Deadline.after(JOBS_END_S))
        except AiHowError:
            return Applied.KEPT
        return Applied.MADE

    def describe(self) -> str:
        return f"tell SLURM that {', '.join(self.nodes)} will be off"


# SLURM's time limits are in minutes, so a shorter sleep costs a job nothing.
SHORTEST_SLEEP_S = 30.0
WAKE_S = 120.0


@dataclass(frozen=True, slots=True)
class StepClock(DomainStep):
    """Set the clock of a node that slept.

    On the controller, extend the time limits of jobs first.
    """

    kind: ClassVar[str] = "clock"
    node: str
    uuid: UUID
    is_controller: bool
    needs: frozenset[str] = frozenset()

    def apply(self, context: PlanContext) -> Applied:
        agent = context.agent(self.uuid, self.node)

        def step() -> None:
            slept_s = (time.time_ns() - agent.read_clock_ns()) / 1e9
            if self.is_controller and slept_s > SHORTEST_SLEEP_S:
                # Before the clock is set: slurmctld would end jobs whose time limit has passed.
                minutes = str(-int(-slept_s // 60))
                words = ["/usr/lib/ai-how/wake", minutes]
                agent.run(words, Deadline.after(WAKE_S), stop=context.stop)
            agent.set_clock(time.time_ns())

        retry_if_connection_lost(step)
        return Applied.MADE

    def revert(self, context: PlanContext) -> None:
        """Nothing to undo: the clock is right."""

    def describe(self) -> str:
        return f"set the clock of {self.node}"


@dataclass(frozen=True, slots=True)
class AwaitReady(ClusterStep):
    """Wait until SLURM can use every node, and a job has run on each.

    If a plan has several, one for each partition, `cluster` is `<cluster>/<partition>`.
    """

    kind: ClassVar[str] = "ready"
    controller: UUID
    nodes: tuple[str, ...]
    partition: str
    home: str
    needs: frozenset[str] = frozenset()
    gpu_nodes: tuple[str, ...] = ()
    """Those of the nodes whose job gets a GPU."""

    @property
    def key(self) -> str:
        return f"{self.kind}/{self.cluster}"

    @property
    def subject(self) -> str:
        return self.cluster.removesuffix(f"/{self.partition}")

    @property
    def stage(self) -> str:
        return "idle"

    def apply(self, context: PlanContext) -> Applied:
        agent = context.agent(self.controller, "controller")
        deadline = Deadline.after(context.timeouts.ready_s)
        try:
            others = [name for name in self.nodes if name not in self.gpu_nodes]
            for nodes in (others, self.gpu_nodes):
                if nodes:
                    self._await(context, agent, nodes, deadline)
        except DeadlineError as error:
            if context.stop.is_set():
                raise
            why = agent.run(["sinfo", "-N", "-a", "-o", "%N %T %E"], Deadline.after(30)).output
            raise GuestError(
                f"SLURM did not have {', '.join(self.nodes)} ready in time",
                details=why.strip()[-2000:] or None,
                hint="ai-how hpc logs controller",
            ) from error
        return Applied.MADE

    def _await(
        self,
        context: PlanContext,
        agent: GuestAgent,
        nodes: Sequence[str],
        deadline: Deadline,
        *,
        is_again: bool = False,
    ) -> None:
        """Wait for all nodes. Undrain those that we drained; warn of those that a user drained."""
        # All nodes have GPUs, or none has. srun takes this variable as it does --gres.
        gpu = ["/usr/bin/env", "SLURM_GRES=gpu:1"] if nodes[0] in self.gpu_nodes else []
        words = [*gpu, "/usr/lib/ai-how/ready", self.home, self.partition, *nodes]
        ran = retry_if_connection_lost(
            lambda: agent.check(words, deadline, stop=context.stop)
        ).split()
        silent = [name for name in nodes if name not in ran]
        if not silent:
            return
        asked = [*SINFO, "-n", ",".join(silent)]
        seen = read_sinfo(retry_if_connection_lost(lambda: agent.run(asked, deadline)).output)
        for name in silent:
            if name in seen and seen[name].is_drained:
                context.warn(describe_drained(seen[name]))
        if closed := [name for name in silent if name in seen and seen[name].is_closed_by_us]:
            agent.check(open_words(closed), deadline)
            if not is_again:
                self._await(context, agent, closed, deadline, is_again=True)

    def revert(self, context: PlanContext) -> None:
        """Nothing was changed."""

    def describe(self) -> str:
        return f"wait until SLURM has {', '.join(self.nodes)}, and run a job on each"
