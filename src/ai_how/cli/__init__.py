"""The entry point: one try around everything, and an exit code for every way to end."""

import gc
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from ai_how import console
from ai_how.cli.arguments import CommandLine, read_command_line
from ai_how.cli.stopping import Stopped
from ai_how.errors import HostError, InterruptedRunError

# Imports create many permanent objects; collecting garbage among them is slow.
_GC_THRESHOLD = 50_000
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line to its end and return its exit code. Nothing is raised."""
    gc.set_threshold(_GC_THRESHOLD)
    command = read_command_line(sys.argv[1:] if argv is None else argv)
    call = command.as_call(program=None if argv is None else "ai-how")
    with console.guarded_output() as out, _signals_heard(), console.called_as(call):
        code = _open(command)
        out.flush()
        if out.lost is not None:
            lost = HostError(f"cannot write the output: {out.lost.strerror}")
            console.show_error(lost)
            code = code or lost.exit_code
    return code


def _open(command: CommandLine) -> int:
    try:
        from ai_how.cli.app import run  # a failure to load is caught as well

        return run(command.words)
    except (Stopped, KeyboardInterrupt):
        return _tell(InterruptedRunError("interrupted"), command)
    except Exception as error:  # noqa: BLE001  the door: whatever it was, the user gets an answer
        return _tell(error, command)


def _tell(error: Exception, command: CommandLine) -> int:
    """Report the failure in the requested form, and return its exit code."""
    import logging

    from ai_how.cli.failures import as_known  # help needs none of it

    logging.getLogger(__name__).debug("the command failed", exc_info=error)
    report = console.report_of(as_known(error, command))
    if command.is_json:
        console.show_error_json(report)
    else:
        console.show_error(report, verbose=command.is_verbose)
    return report.exit_code


@contextmanager
def _signals_heard() -> Iterator[None]:
    """Treat every signal that asks us to end like Ctrl-C: everything is closed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {
        number: signal.signal(number, _stop)
        for number in _SIGNALS
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _stop(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
    """The first signal closes everything; the next one ends the process at once."""
    for each in _SIGNALS:
        signal.signal(each, signal.SIG_DFL)
    raise Stopped(number)
