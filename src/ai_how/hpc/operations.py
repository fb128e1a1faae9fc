"""What a person asks SLURM for about one job or node: end, hold, drain; its script and output.

Nothing goes through a shell. Ids, users and names come from SLURM, where jobs have a hand in them:
they are checked before they are words of a command.
"""

import re
from collections.abc import Generator, Sequence
from dataclasses import dataclass

from ai_how.clusters.cluster_access import ClusterAccess
from ai_how.clusters.followed_program import follow_program
from ai_how.clusters.named_nodes import get_named
from ai_how.errors import GuestError, HostError, SpecError, StateError
from ai_how.guest.agent import GuestAgent
from ai_how.guest.serial_log import one_line
from ai_how.monitoring.model import Job
from ai_how.state.models import NodeState
from ai_how.waiting import Deadline

ASK_S = 60.0
# Of the output of a job, the end.
OUTPUT_BYTES = 256 * 1024
LONGEST_REASON = 200
_NUMBER = re.compile(r"[0-9]{1,10}")
# squeue's: a task `4_3`, those that wait of an array `4_[5-9,12]`, a part of a heterogeneous job.
_SHOWN = re.compile(r"[0-9]{1,10}(?:_(?:[0-9]{1,9}|\[[0-9,:-]{1,400}\])|\+[0-9]{1,6})?")
_MOST_AT_ONCE = re.compile(r"%[0-9]+(?=\]$)")
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@-]{0,63}")
_PATH = re.compile(r"/[^\x00-\x1f\x7f]{1,4000}")


@dataclass(frozen=True, slots=True)
class Operations:
    """Each method blocks until SLURM has answered, and raises AiHowError if it refuses."""

    access: ClusterAccess

    def cancel(self, job: Job) -> None:
        self._tell(["scancel", "--", job_word(job)])

    def hold(self, job: Job) -> None:
        """Held as by its user, who can release it, too."""
        self._tell(["scontrol", "uhold", job_word(job)])

    def release(self, job: Job) -> None:
        self._tell(["scontrol", "release", job_word(job)])

    def drain(self, node: str, reason: str) -> None:
        words = [f"nodename={self._node_word(node)}", "state=drain"]
        self._tell(["scontrol", "update", *words, f"reason={reason_word(reason)}"])

    def resume(self, node: str) -> None:
        words = [f"nodename={self._node_word(node)}", "state=resume"]
        self._tell(["scontrol", "update", *words])

    def script(self, job: Job) -> Generator[str | None]:
        """The lines of the batch script."""
        number = number_word(job)
        with self.access.agent_of(self._controller()) as agent:
            argv = ["scontrol", "write", "batch_script", number, "-"]
            done = agent.run(argv, Deadline.after(ASK_S))
        # It exits with 0 where there is no such job.
        if done.exit_code != 0 or not done.output:
            raise GuestError(
                f"SLURM gives no script of job {one_line(job.shown_id)}",
                details=one_line(done.errors or done.output) or None,
                hint="a job of srun or salloc has none",
            )
        yield from done.output.splitlines()

    def output(self, job: Job) -> Generator[str | None]:
        """The end of its standard output, then what is added while it runs.

        Read as its user, on the node that writes it while the job runs, else on the controller.
        """
        path, user = output_path(job), _checked(_USER, job.user, "user")
        words = ["runuser", "-u", user, "--", "tail", "-c", str(OUTPUT_BYTES)]
        goes_on = not job.has_ended
        words += ["-F"] if goes_on else []
        failure: HostError | None = None
        for node in self._readers(job):
            try:
                with self.access.agent_of(node) as agent:
                    read = follow_program if goes_on else _read_once
                    yield from read(agent, [*words, "--", path], "tail")
            except HostError as error:
                failure = failure or error
            else:
                return
        if failure is not None:
            raise GuestError(
                f"the output of job {one_line(job.shown_id)} cannot be read",
                details=one_line(failure.details or failure.brief),
                hint=f"ai-how hpc ssh -- ls -l {one_line(path)}" if " " not in path else None,
            )

    def _readers(self, job: Job) -> list[NodeState]:
        """The nodes that may have its output, the best first."""
        state, controller = self.access.get_state(), self._controller()
        first = state.find_node(job.nodes[0]) if job.nodes else None
        if first is None or first.name == controller.name:
            return [controller]
        return [first, controller] if job.is_running else [controller, first]

    def _controller(self) -> NodeState:
        controller = self.access.get_state().find_controller()
        if controller is None:
            raise StateError(f"{self.access.name} has no controller", hint="ai-how hpc recover")
        return controller

    def _node_word(self, name: str) -> str:
        """The name of a node, which the cluster must have."""
        return get_named(self.access.get_state(), name).name

    def _tell(self, words: Sequence[str]) -> None:
        """Run a command of SLURM's on the controller."""
        controller = self._controller()
        with self.access.agent_of(controller) as agent:
            done = agent.run(words, Deadline.after(ASK_S))
        # scancel of 22.05 to 24.11 says what it could not do, and exits with 0.
        said = (done.errors or ("" if done.exit_code == 0 else done.output)).strip()
        if done.exit_code != 0 or said.startswith(("scancel: error", "slurm_")):
            raise HostError(f"{words[0]} refused", details=one_line(said) or None)


def _read_once(agent: GuestAgent, words: Sequence[str], shown: str) -> Generator[str | None]:
    """The lines of a program that ends at once: without a helper in the guest."""
    done = agent.run(words, Deadline.after(ASK_S), shown=shown)
    if done.exit_code != 0:
        raise GuestError(f"{shown} failed in {agent.name}", details=done.errors.strip() or None)
    yield from done.output.splitlines()


def number_word(job: Job) -> str:
    """SLURM's own number of a job."""
    return _checked(_NUMBER, job.id, "number")


def job_word(job: Job) -> str:
    """A job for scancel and scontrol; of an array only the tasks that are meant.

    The number of the last task is that of its array, and would mean all of them.
    """
    return _checked(_SHOWN, _MOST_AT_ONCE.sub("", job.shown_id), "id")


def reason_word(reason: str) -> str:
    """Why a node is drained, as one line."""
    plain = " ".join(reason.split())
    if not plain or len(plain) > LONGEST_REASON or not plain.isprintable():
        raise SpecError(f"a reason is one line of up to {LONGEST_REASON} characters")
    return plain


def output_path(job: Job) -> str:
    """Where its standard output goes."""
    path = job.output or ""
    if path and not path.startswith("/") and job.work_directory:
        path = f"{job.work_directory}/{path}"
    if not path or path == "/dev/null":
        shown = one_line(job.shown_id)
        raise HostError(f"the output of job {shown} goes to no file that SLURM knows")
    return _checked(_PATH, path, "output")


def _checked(pattern: re.Pattern[str], text: str, what: str) -> str:
    if not pattern.fullmatch(text):
        raise GuestError(f"SLURM gave no {what} that can be used: {one_line(text)}")
    return text
