"""Turn every failure of a verb into one error with an exit code; a bug saves a report."""

import errno
import os
import platform
import secrets
import shlex
import sys
import tempfile
import time
import traceback
from pathlib import Path

import typer
from typer.exceptions import TyperException

from ai_how import __version__
from ai_how.cli.arguments import CommandLine
from ai_how.errors import AiHowError, HostError, InterruptedRunError, SpecError
from ai_how.limits import find_memory_limit, is_refusal, no_larger_file, no_more_tasks
from ai_how.state.paths import default_roots, ensure_private_directory


class BugError(AiHowError):
    """An unexpected error."""


def as_known(error: BaseException, command: CommandLine) -> BaseException:
    """The same failure as one of our errors; for a bug, with the path of its report."""
    if isinstance(error, AiHowError):
        return error
    if isinstance(error, typer.Abort):
        return InterruptedRunError("interrupted")
    if isinstance(error, TyperException):
        return _wrong_usage(error)
    if isinstance(error, BaseExceptionGroup) and all(_is_ours(one) for one in error.exceptions):
        return error
    if known := _refused_by_system(error):
        return known
    return _bug(error, command)


def _is_ours(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return all(map(_is_ours, error.exceptions))
    return isinstance(error, AiHowError)


def _refused_by_system(error: BaseException) -> HostError | None:
    """The error for a system limit or a failed file operation; None for anything else."""
    if is_refusal(error):
        return no_more_tasks()
    if not isinstance(error, OSError):
        return find_memory_limit() if isinstance(error, MemoryError) else None
    if error.errno == errno.EFBIG:
        return no_larger_file()
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return HostError(
            "too many files are open at once", hint="ulimit -n 1024  # then repeat the command"
        )
    if error.filename is None:
        return _refused_nameless(error)
    place = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else ""
    return HostError(f"{place}: {error.strerror}", hint=f"ls -ld {shlex.quote(place)}")


def _refused_nameless(error: OSError) -> HostError | None:
    """The error for a system call without a path in it; None where it is not known."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
        return HostError(f"a file cannot be written: {error.strerror}", hint="df -h . ~ /tmp")
    if isinstance(error, FileNotFoundError):
        try:
            os.getcwd()  # noqa: PTH109  it says whether there is one
        except FileNotFoundError:
            return HostError("the current directory has been removed", hint="cd  # and repeat it")
    return None


def _wrong_usage(error: TyperException) -> SpecError:
    context = getattr(error, "ctx", None)
    path = context.command_path if context else "ai-how"
    message = error.format_message().removesuffix(".")
    return SpecError(message[:1].lower() + message[1:], hint=f"{path} --help")


def _bug(error: BaseException, command: CommandLine) -> BugError:
    kind = type(error).__name__
    report = _render_report(error, command)
    try:
        directory = ensure_private_directory(default_roots(command.state_dir).crash_reports)
        path = _write_private(directory, report)
    except (OSError, HostError):
        # A state directory that cannot be written may be the cause itself.
        path = _write_private(Path(tempfile.gettempdir()), report)
    return BugError(
        f"this is a bug in ai-how ({kind})",
        details=f"Its report was saved to {path}",
        hint=f"less {shlex.quote(str(path))}",
    )


def _render_report(error: BaseException, command: CommandLine) -> str:
    words = " ".join(map(shlex.quote, ("ai-how", *command.words)))
    where = f"ai-how {__version__}, Python {platform.python_version()}, {platform.platform()}"
    return f"{words}\n{where}\n\n{''.join(traceback.format_exception(error))}"


def _write_private(directory: Path, text: str) -> Path:
    name = f"ai-how-{time.strftime('%Y%m%dT%H%M%S')}-{secrets.token_hex(4)}.txt"
    path = directory / name
    number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(number, "w", encoding=sys.getfilesystemencoding(), errors="replace") as file:
        file.write(text)
    return path
