"""Jobs of the cluster."""

import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass

from ai_how.api.results import CommandResult, CommandTimeoutError
from ai_how.errors import GuestError

Runner = Callable[..., CommandResult]

# SLURM forgets a job five minutes after its end (MinJobAge); who waits asks once a second. A job
# array has a line for each task.
_WAIT = """\
while states=$(squeue --noheader --jobs "$1" --states all --format %T 2>/dev/null); do
    case " $(echo $states) " in
        *" PENDING "* | *" CONFIGURING "* | *" RUNNING "* | *" COMPLETING "*) sleep 1 ;;
        *" SUSPENDED "* | *" STOPPED "* | *" REQUEUE"* | *" RESIZING "*) sleep 1 ;;
        *" SIGNALING "* | *" STAGE_OUT "*) sleep 1 ;;
        *) break ;;
    esac
done
scontrol show job "$1"
"""


@dataclass(frozen=True, slots=True)
class JobResult:
    """How a job ended."""

    id: int
    state: str
    """SLURM's word: COMPLETED, FAILED, TIMEOUT, CANCELLED, OUT_OF_MEMORY, NODE_FAIL, …"""
    returncode: int
    """The exit code of its script; 128 plus the number of the signal that ended it."""
    reason: str | None
    nodes: str

    @property
    def is_completed(self) -> bool:
        return self.state == "COMPLETED"


@dataclass(frozen=True, slots=True)
class Job:
    """A job that was submitted."""

    id: int
    run: Runner
    """Runs a command on the controller."""

    @property
    def state(self) -> str:
        """SLURM's word. Raises GuestError if SLURM does not know the job (any longer)."""
        return self._show()["JobState"]

    @property
    def output(self) -> str:
        """What it has written to its output file so far; empty before it runs."""
        return self._read(self._show()["StdOut"])

    @property
    def errors(self) -> str:
        """What it has written to its error file, which is the output file unless it was set."""
        return self._read(self._show()["StdErr"])

    def wait(self, timeout: float | None = None) -> JobResult:
        """Wait for its end; the result of an array is that of the first task that did not complete.

        Raises CommandTimeoutError after `timeout` seconds; the job goes on.
        """
        try:
            told = self.run(["sh", "-c", _WAIT, "wait", str(self.id)], timeout=timeout)
        except CommandTimeoutError as error:
            raise CommandTimeoutError(f"job {self.id} has not ended in {timeout:g} s") from error
        self._fields(told)
        tasks = [read_fields(one) for one in told.stdout.split("\n\n") if "JobState=" in one]
        fields = next((one for one in tasks if one["JobState"] != "COMPLETED"), tasks[0])
        code, _, signal = fields["ExitCode"].partition(":")
        return JobResult(
            id=self.id,
            state=fields["JobState"],
            returncode=128 + int(signal) if int(signal or 0) else int(code),
            reason=None if fields["Reason"] == "None" else fields["Reason"],
            nodes=fields.get("NodeList", ""),
        )

    def cancel(self) -> None:
        """Cancel it; one that has ended stays as it ended."""
        self.run(["scancel", str(self.id)]).check()

    def _show(self) -> dict[str, str]:
        return self._fields(self.run(["scontrol", "show", "job", str(self.id)]))

    def _fields(self, told: CommandResult) -> dict[str, str]:
        if told.returncode != 0 or "JobState=" not in told.stdout:
            raise GuestError(
                f"SLURM does not know job {self.id}", details=told.stderr.strip()[-2000:] or None
            )
        return read_fields(told.stdout)

    def _read(self, path: str) -> str:
        name = shlex.quote(path)
        return self.run(f"[ ! -e {name} ] || cat {name}").check().stdout


# A path has a line of its own and may have spaces; of the others a line has several.
_LINE = re.compile(r"^\s+(StdOut|StdErr|StdIn|Command|WorkDir)=(.*)$", re.MULTILINE)
_FIELD = re.compile(r"(?:^|\s)(\w+)=(\S*)")


def read_fields(text: str) -> dict[str, str]:
    """The fields of `scontrol show job`, by their names."""
    return dict(_FIELD.findall(_LINE.sub("", text))) | dict(_LINE.findall(text))
