"""`ai-how hpc run`: a command as a job, in the files of the current directory."""

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ai_how import console
from ai_how.cli.arguments import PASSED
from ai_how.cli.cluster import Cluster, load, named
from ai_how.cli.context import Context, context_of
from ai_how.cli.groups import new_app
from ai_how.cli.hpc_cluster import manager_of
from ai_how.errors import HostError, InterruptedRunError, SpecError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import PurePosixPath

    from ai_how.hpc.manager import HpcManager
    from ai_how.hpc.run_here import Ended, Job
    from ai_how.spec.models import ClusterFile, HpcSpec

app = new_app()

Command = Annotated[
    list[str] | None,
    typer.Argument(metavar="[SBATCH OPTIONS] -- CMD...", help="A program and its arguments."),
]
Detach = Annotated[
    bool, typer.Option("--detach", help="Print the number of the job, and do not wait.")
]
Attach = Annotated[
    str | None,
    typer.Option("--attach", metavar="ID", help="Follow a job that hpc run has submitted."),
]
Pty = Annotated[bool, typer.Option("--pty", help="Give the command a terminal: --pty -- bash.")]
Start = Annotated[bool, typer.Option("--start", help="First start the cluster if it is off.")]
Login = Annotated[
    bool,
    typer.Option(
        "--login",
        help="Run it on the controller itself, not as a job: for srun, sbatch and salloc.",
    ),
]
_MOST_NAMES = 5


@app.command(short_help="Run a command as a job, in the files of the current directory.")
def run(
    ctx: typer.Context,
    command: Command = None,
    cluster: Cluster = None,
    detach: Detach = False,
    attach: Attach = None,
    pty: Pty = False,
    starts: Start = False,
    login: Login = False,
    passed: Annotated[list[str] | None, typer.Option(PASSED, hidden=True)] = None,
) -> None:
    """Run a command as a job, in the files of the current directory; show its output.

    The nodes have the directory by virtiofs if a share of all nodes contains it. Otherwise its
    files are copied, without .git and what .gitignore names, and only those that have changed;
    after the job, the files that it made or changed come back. A file that has changed here as
    well is not overwritten: the job's gets the ending .job-ID.

    Options of sbatch stand in front of -- and are passed on: -N 2, -n 4, -p gpu, --gres=gpu:1 and
    so on. Exceptions are -c and -v, which are options of ai-how. The command runs once, on the
    first node; srun in it runs on all of them. An input that is not a terminal is read to its end
    first, and is that of the command.

    With --login the command runs on the controller: `ai-how hpc run --login -- sbatch job.sh`. What
    jobs of the directory have made until it ends comes back as well.

    Ctrl-C cancels the job, and a second one does not wait for that. If the connection is lost, the
    job goes on. The exit code is that of the command, 128 and the number of the signal if one ended
    it, and 130 after Ctrl-C.

    With --pty the command has your terminal, as with srun --pty; Ctrl-C goes to the command. The
    options are those of salloc. If the connection is lost, the job ends.
    """
    from ai_how.hpc.run_here import Job

    context = context_of(ctx)
    _check_words(command or [], passed or [], attach, detach=detach, login=login)
    if pty:
        excluded = {"--detach": detach, "--attach": attach, "--login": login}
        _check_terminal({**excluded, "--json": context.is_json})
    manager, hpc = _find(context, cluster, starts=starts)
    top = Path.cwd()
    job = Job(
        top=top,
        command=command or [],
        options=passed or [],
        shared=None if attach else _find_shared(hpc, top),
        has_input=not attach and _has_input(),
        follows=not detach,
        attach=attach,
        is_on_login_node=login,
        terminal=_run_on_terminal if pty else None,
    )
    raise typer.Exit(_carry_out(manager, job, is_json=context.is_json))


def _find(context: Context, cluster: str | None, *, starts: bool) -> "tuple[HpcManager, HpcSpec]":
    """The cluster, which is started if that was asked for, and its section of the file."""
    from ai_how.hpc.run_directory import check_home
    from ai_how.spec.nodes import get_hpc

    cluster = named(context, cluster)
    spec, path = load(context, cluster, None)
    hpc = get_hpc(spec)
    check_home(hpc)
    manager = manager_of(context, hpc.name, is_named=bool(cluster))
    if starts:
        _start(context, manager, spec, path)
    return manager, hpc


def _find_shared(hpc: "HpcSpec", top: Path) -> "PurePosixPath | None":
    """Where the nodes have the directory itself; None if its files are copied.

    Raises SpecError for a directory that is not copied.
    """
    from ai_how.hpc.run_directory import check_directory, find_shared

    shared = find_shared(hpc, top)
    if shared is None:
        check_directory(top)
    return shared


def _check_words(
    command: list[str], passed: list[str], attach: str | None, *, detach: bool, login: bool
) -> None:
    """Raises SpecError for words that do not belong together."""
    from ai_how.hpc.sbatch_options import check_options

    if login and (passed or detach or attach):
        raise SpecError(
            "--login takes a command alone",
            details="Options of srun or sbatch follow it, behind --.",
            hint="ai-how hpc run --help",
        )
    check_options(passed)
    if attach is None and not command:
        details = "The command follows -- after options of sbatch." if passed else None
        raise SpecError("no command was given", details=details, hint="ai-how hpc run --help")
    if attach is not None and (command or passed or detach):
        raise SpecError("--attach is for a job that runs already", hint="ai-how hpc run --help")
    if attach is not None and not attach.isdecimal():
        raise SpecError(f"{attach} is not the number of a job", hint="ai-how hpc run --help")


def _check_terminal(others: "Mapping[str, object]") -> None:
    """Raises SpecError if the command cannot have our terminal; `others` has options not for it."""
    for option, is_there in others.items():
        if is_there:
            raise SpecError(f"--pty and {option} exclude each other", hint="ai-how hpc run --help")
    if not os.isatty(0):
        raise SpecError(
            "--pty needs a terminal as standard input", hint="ai-how hpc run -- CMD  # has none"
        )


def _run_on_terminal(argv: "Sequence[str]") -> int:
    from ai_how.console.terminal import kept_modes
    from ai_how.process import run_on_terminal

    with kept_modes():
        return run_on_terminal(argv)


def _has_input() -> bool:
    """Whether our standard input is a pipe or a file: a terminal, or /dev/null, has nothing."""
    mode = os.fstat(0).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode) or stat.S_ISSOCK(mode)


def _start(context: Context, manager: "HpcManager", spec: "ClusterFile", path: Path | None) -> None:
    """Start the cluster, without a word on stdout: that is for the job."""
    from ai_how.cli.cluster_verbs import build_missing_images

    build_missing_images(manager, spec, context)
    plan = manager.start(spec, source=path)
    if plan.steps:
        _tell(f"{manager.name} was started")
        manager.save_for_next_start(spec, plan, source=path)


def _carry_out(manager: "HpcManager", job: "Job", *, is_json: bool) -> int:
    """Run the job, tell what there is to tell of it, and return its exit code."""
    from ai_how.hpc.run_here import ERRORS, OUTPUT, Sink, run_here

    kept = {OUTPUT: bytearray(), ERRORS: bytearray()}

    def pass_on(kind: str, part: bytes) -> None:
        if is_json:
            kept[kind] += part
        else:
            console.pass_on(part, to_stderr=kind == ERRORS)

    ended = run_here(manager, job, Sink(output=pass_on, news=_tell))
    output, errors = (kept[kind].decode(errors="replace") for kind in (OUTPUT, ERRORS))
    if is_json:
        console.show_json(_document(manager.name, ended, output, errors))
    elif not job.follows:
        console.show_line(str(ended.job))
    _tell_files(ended)
    if not job.follows:
        return 0
    if ended.exit_code is None or ended.state not in (None, "COMPLETED", "FAILED", "COMPLETING"):
        words = f"job {ended.job} ended as {ended.state or 'unknown'}"
        words += f" ({ended.reason})" if ended.reason else ""
        words += f" on {ended.nodes}" if ended.nodes not in (None, "", "(null)") else ""
        if ended.exit_code is None and not (is_json or ended.was_cancelled_here):
            raise HostError(words)
        _tell(words)
    if ended.was_cancelled_here:
        return InterruptedRunError.exit_code
    return HostError.exit_code if ended.exit_code is None else ended.exit_code


def _document(cluster: str, ended: "Ended", output: str, errors: str) -> dict[str, object]:
    """The JSON of a run. Without a wait for the job, what is only known at its end is null."""
    files = ended.files
    return {
        "cluster": cluster,
        "job": ended.job,
        "directory": ended.directory,
        "state": ended.state,
        "reason": ended.reason,
        "exit_code": ended.exit_code,
        "output": output,
        "errors": errors,
        "sent": ended.sent,
        "received": files.received if files else [],
        "beside": files.beside if files else {},
    }


def _tell_files(ended: "Ended") -> None:
    """Tell of files that are not where one would look for them."""
    if ended.left_out:
        _tell(f"not copied, as they are no files: {_some(ended.left_out)}")
    if ended.files is None:
        return
    for name, beside in ended.files.beside.items():
        _tell(f"{name} has changed here as well: the job's is {beside}")
    if ignored := ended.files.ignored:
        _tell(f"ignored, and only in {ended.directory} on the nodes: {_some(ignored)}")
    if refused := ended.files.refused:
        _tell(f"not brought back, as they lead out of the directory: {_some(refused)}")


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(names[:_MOST_NAMES]) + more


def _tell(line: str) -> None:
    console.show_note(line)
