"""Only this module starts programs: run one to its end, start a daemon, or exec one."""

import logging
import os
import shlex
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, NoReturn

from ai_how.errors import ToolError
from ai_how.limits import begin, find_told_limit, no_larger_file

logger = logging.getLogger(__name__)

# An ordinary user's PATH lacks the sbin directories, where libvirtd, mke2fs and ip live.
SBIN = ("/usr/local/sbin", "/usr/sbin", "/sbin")

LONGEST_LINE = 1 << 16
_TAIL_LINES = 40
_BOUNDED_PAUSE_S = 0.02
_END_S = 1.0

Argument = str | Path
Daemon = subprocess.Popen[bytes]


@dataclass(frozen=True, slots=True)
class Completed:
    """The result of a program."""

    returncode: int
    stdout: str
    stderr: str


def search_path() -> str:
    """The PATH for our programs: the user's own, then sbin.

    Without relative entries, whose meaning depends on the current directory; for root also without
    directories in which another user could put a program.
    """
    asked = os.environ.get("PATH", os.defpath).split(os.pathsep)
    trusts = _roots_alone if _is_real_root() else os.path.isabs
    return os.pathsep.join(entry for entry in (*asked, *SBIN) if trusts(entry))


def find_tool(name: str) -> Path | None:
    """The absolute path of a program, or None where it is not installed."""
    found = shutil.which(name, path=search_path())
    return Path(found) if found else None


def get_tool(name: str, *, package: str | None = None) -> Path:
    """The absolute path of a program. Raises ToolError with the command that installs it."""
    if found := find_tool(name):
        return found
    raise ToolError(
        f"{name} is not installed", hint=f"sudo apt-get install {package}" if package else None
    )


def dying_with_us(argv: Sequence[Argument], *, by: str = "KILL") -> list[Argument]:
    """The command that runs `argv` and is killed, `by` a signal, as soon as we end in any way.

    Otherwise a program of a killed run would keep writing while the next run removes its files. It
    must be started by a thread that waits for its end: the kernel kills it when that thread ends.
    """
    setpriv = get_tool("setpriv", package="util-linux")
    # If we have ended before the kernel knows, it cannot kill the program: then it is not started.
    begin = '[ "$PPID" = "$0" ] && exec "$@"'
    return [setpriv, "--pdeathsig", by, "sh", "-c", begin, str(os.getpid()), *argv]


def child_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of our children: without variables that change what they load or ask."""
    dropped = ("LIBVIRT_", "VIRSH_", "PYTHON", "LD_PRELOAD", "LD_AUDIT")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(dropped)}
    return kept | {"PATH": search_path(), "LC_ALL": "C.UTF-8"} | dict(extra or {})


def run(
    argv: Sequence[Argument],
    *,
    stdin: str | None = None,
    timeout_s: float | None = None,
    check: bool = True,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    preexec: Callable[[], None] | None = None,
) -> Completed:
    """Run a program to its end and return its output.

    Raises ToolError if it is not installed, does not end within `timeout_s`, or (with `check`) does
    not exit with 0; the details then have the end of its stderr.
    """
    words = [os.fspath(word) for word in argv]
    logger.debug("$ %s", shlex.join(words))
    try:
        done = begin(
            lambda: subprocess.run(
                words,
                input=stdin,
                stdin=subprocess.DEVNULL if stdin is None else None,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=timeout_s,
                check=False,
                env=child_environment(env),
                cwd=cwd,
                preexec_fn=preexec,
            )
        )
    except FileNotFoundError as error:
        raise ToolError(f"{words[0]} is not installed", details=str(error)) from error
    except subprocess.TimeoutExpired as error:
        raise ToolError(
            f"{Path(words[0]).name} did not end within {timeout_s:g} s", details=shlex.join(words)
        ) from error
    if done.returncode == -signal.SIGXFSZ:
        raise no_larger_file()
    if check and done.returncode != 0:
        _refuse_limited(done.returncode, done.stderr)
        raise ToolError(
            f"{Path(words[0]).name} failed (exit code {done.returncode})",
            details=f"{shlex.join(words)}\n{(done.stderr or done.stdout).strip()[-2000:]}",
        )
    return Completed(done.returncode, done.stdout, done.stderr)


def run_lines(
    argv: Sequence[Argument],
    *,
    env: Mapping[str, str] | None = None,
    is_whole_env: bool = False,
    on_line: Callable[[str], None],
) -> None:
    """Run a program to its end; pass each line of its output to `on_line` as it comes.

    With `is_whole_env` it gets the variables of `env` and none of ours. Raises ToolError with the
    last lines if it does not exit with 0.
    """
    words = [os.fspath(word) for word in argv]
    logger.debug("$ %s", shlex.join(words))
    tail: list[str] = []
    popen = partial(
        subprocess.Popen,
        words,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=dict(env or {}) if is_whole_env else child_environment(env),
    )
    with begin(popen) as child:
        try:
            for line in _kept(child.stdout, tail):
                on_line(line)
        except BaseException:
            # SIGTERM would be ignored by unshare(1), and by whatever is PID 1 of a namespace.
            child.kill()
            raise
    if child.returncode != 0:
        _refuse_limited(child.returncode, "\n".join(tail))
        raise ToolError(
            f"{Path(words[0]).name} failed (exit code {child.returncode})", details="\n".join(tail)
        )


def run_with_order(
    argv: Sequence[Argument], *, order: str, on_line: Callable[[str], None]
) -> list[str]:
    """Run a program to its end; pass each line of its output to `on_line` as it comes.

    It gets `order` and a line break on its standard input, which is closed when we end, in whatever
    way, and when `on_line` raises: then it must end too. It is in a session of its own, so that
    Ctrl-C does not reach it before us. Returns its last lines.
    """
    words = [os.fspath(word) for word in argv]
    logger.debug("$ %s", shlex.join(words))
    popen = partial(
        subprocess.Popen,
        words,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
        env=child_environment(),
    )
    tail: list[str] = []
    with begin(popen) as child:
        if child.stdin:
            child.stdin.write(f"{order}\n")
            child.stdin.flush()
        for line in _kept(child.stdout, tail):
            on_line(line)
    return tail


def _kept(output: IO[str] | None, tail: list[str]) -> Iterator[str]:
    """The lines of an output without their ends; the last ones are kept in `tail`."""
    for raw in _pieces(output):
        tail[:-_TAIL_LINES] = []
        tail.append(raw.rstrip())
        yield raw.rstrip()


def _pieces(output: IO[str] | None) -> Iterator[str]:
    """The lines of an output; one without an end, which would fill our memory, in pieces."""
    while output and (piece := output.readline(LONGEST_LINE)):
        yield piece


def run_bounded(argv: Sequence[Argument], *, timeout_s: float, most_bytes: int) -> Completed:
    """Run a program that may hang or never stop printing; stderr is not kept.

    It is killed with its children when `timeout_s` have passed or it printed more than
    `most_bytes`, and left behind if the kernel does not end it (a driver that hangs). Raises
    ToolError for either, and if it is not installed.
    """
    words = [os.fspath(word) for word in argv]
    logger.debug("$ %s", shlex.join(words))
    name = Path(words[0]).name
    with os.fdopen(os.memfd_create("answer"), "w+b") as out:
        try:
            child = begin(
                lambda: subprocess.Popen(
                    words,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=subprocess.DEVNULL,
                    env=child_environment(),
                    start_new_session=True,
                )
            )
        except OSError as error:
            raise ToolError(f"{name} cannot be started", details=str(error)) from error
        until = time.monotonic() + timeout_s
        try:
            # Not reaped yet, its number belongs to nobody else when its group is killed.
            while os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                if os.fstat(out.fileno()).st_size > most_bytes:
                    raise ToolError(f"{name} printed more than {most_bytes} bytes")
                if time.monotonic() >= until:
                    raise ToolError(f"{name} did not answer within {timeout_s:.1f} s")
                time.sleep(_BOUNDED_PAUSE_S)
        finally:
            _end_group(child)
        if os.fstat(out.fileno()).st_size > most_bytes:
            raise ToolError(f"{name} printed more than {most_bytes} bytes")
        out.seek(0)
        return Completed(child.returncode, out.read().decode(errors="replace"), "")


def _end_group(child: subprocess.Popen[bytes]) -> None:
    """Kill a session's processes; one that the kernel cannot end is not waited for."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    try:
        child.wait(timeout=_END_S)
    except subprocess.TimeoutExpired:
        logger.warning("%s cannot be killed: it waits for the kernel", child.pid)
        child.returncode = -signal.SIGKILL  # else Python warns of it, whenever we end


def start_piped(
    argv: Sequence[Argument], *, errors: int = subprocess.DEVNULL, is_apart: bool = False
) -> subprocess.Popen[bytes]:
    """Start a program that answers on its standard output, by pipes; `errors` gets its errors.

    Its pipes are closed, and it is waited for, by its `with` block. If it `is_apart`, signals of
    our terminal are not for it.
    """
    words = [os.fspath(word) for word in argv]
    return begin(
        lambda: subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            stderr=errors,
            start_new_session=is_apart,
            env=child_environment(),
        )
    )


def run_on_terminal(argv: Sequence[Argument]) -> int:
    """Run a program on our own terminal; its exit code, or -N if signal N ended it.

    It gets SIGTERM if we are interrupted, in whatever way.
    """
    words = [os.fspath(word) for word in dying_with_us(argv, by="TERM")]
    with begin(lambda: subprocess.Popen(words, env=child_environment())) as child:
        try:
            return child.wait()
        except BaseException:
            child.terminate()
            raise


def start_daemon(
    argv: Sequence[Argument],
    *,
    log: Path,
    env: Mapping[str, str] | None = None,
    stdin: int = subprocess.DEVNULL,
    pass_fds: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """Start a program that outlives us: in its own session, output to `log`.

    `stdin` is a descriptor that becomes its standard input; it also inherits `pass_fds`.
    """
    words = [os.fspath(word) for word in argv]
    with _opened_log(log) as out:
        return begin(
            lambda: subprocess.Popen(
                words,
                stdin=stdin,
                stdout=out,
                stderr=out,
                start_new_session=True,
                pass_fds=pass_fds,
                env=child_environment(env),
            )
        )


def start_detached(
    argv: Sequence[Argument], *, log: Path, stdin: int, env: Mapping[str, str] | None = None
) -> None:
    """Start a program in `/` and a session of its own: output to `log`, input from `stdin`."""
    setsid = get_tool("setsid", package="util-linux")
    words = [os.fspath(word) for word in (setsid, "--fork", *argv)]
    with _opened_log(log) as out:
        start = partial(subprocess.run, words, stdin=stdin, stdout=out, stderr=out, cwd="/")
        done = begin(lambda: start(env=child_environment(env), check=False))
    if done.returncode != 0:
        said = log.read_text(errors="replace").strip()[-2000:]
        _refuse_limited(done.returncode, said)
        raise ToolError(f"{Path(words[2]).name} could not be started", details=said or None)


def become(argv: Sequence[Argument], *, env: Mapping[str, str] | None = None) -> NoReturn:
    """Replace this process by a program on the user's own terminal."""
    words = [os.fspath(word) for word in argv]
    os.execvpe(words[0], words, child_environment(env))  # noqa: S606  that is its purpose


def _refuse_limited(returncode: int, said: str) -> None:
    """Raises LimitError if a program failed by a limit that it inherited from us."""
    if returncode == -signal.SIGXFSZ:
        raise no_larger_file()
    if limit := find_told_limit(said):
        raise limit


def _opened_log(path: Path) -> IO[bytes]:
    """A private file to append to, whatever the umask."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.fdopen(os.open(path, flags, 0o600), "ab")


def _is_real_root() -> bool:
    """Whether we are root outside user namespaces: in one, `/` belongs to nobody."""
    return os.geteuid() == 0 and Path("/").stat().st_uid == 0


def _roots_alone(entry: str) -> bool:
    """Whether only root can change an absolute directory and those above it."""
    if not Path(entry).is_absolute():
        return False
    try:
        places = {Path(os.path.normpath(entry)), Path(entry).resolve()}
        return all(_is_roots(place, may_be_sticky=False) for place in places) and all(
            _is_roots(above, may_be_sticky=True) for place in places for above in place.parents
        )
    except (OSError, RuntimeError):
        return False  # no program can be started from there either


def _is_roots(directory: Path, *, may_be_sticky: bool) -> bool:
    seen = directory.stat()
    # In a sticky directory, /tmp for one, nobody can replace what is not theirs.
    is_open = seen.st_mode & stat.S_IWOTH and not (may_be_sticky and seen.st_mode & stat.S_ISVTX)
    return seen.st_uid == 0 and not is_open
