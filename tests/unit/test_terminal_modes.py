"""A program on our terminal: its exit code, and the modes of the terminal afterwards."""

import os
import pty
import select
import signal
import subprocess  # noqa: TID251  a program is spoken to while it runs
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

# Ours: it runs a program on the terminal, and says how that ended.
OURS = """\
import os, sys
from ai_how.cli.hpc_run import _run_on_terminal
print("ours", os.getpid(), flush=True)
print("ended", _run_on_terminal(sys.argv[1:]), flush=True)
"""
# The shell that a user has called us from keeps the terminal after our end.
SHELL = '"$@"; sleep 600'
RAW = "stty raw -echo; echo raw $$; "


class Terminal:
    """A pseudo-terminal with a program on it."""

    def __init__(self, script: str) -> None:
        self.master, slave = pty.openpty()
        self.before = termios.tcgetattr(self.master)
        self.shell = subprocess.Popen(  # noqa: S603
            [
                "setsid",
                "--ctty",
                "sh",
                "-c",
                SHELL,
                "sh",
                sys.executable,
                "-c",
                OURS,
                "sh",
                "-c",
                script,
            ],
            stdin=slave,
            stdout=slave,
            stderr=slave,
        )
        os.close(slave)
        self.shown = b""

    def wait_for(self, text: bytes, after: bytes = b"") -> None:
        until = time.monotonic() + 60
        while text not in (self.shown.partition(after)[2] if after else self.shown):
            assert time.monotonic() < until, self.shown
            if select.select([self.master], [], [], 0.1)[0]:
                self.shown += os.read(self.master, 4096)

    def pid_after(self, word: bytes) -> int:
        self.wait_for(b"\n", after=word)
        return int(self.shown.partition(word)[2].split()[0])

    def has_its_modes(self) -> bool:
        return termios.tcgetattr(self.master) == self.before


@contextmanager
def terminal(script: str) -> Iterator[Terminal]:
    made = Terminal(script)
    try:
        yield made
    finally:
        os.killpg(made.shell.pid, signal.SIGKILL)
        made.shell.wait()
        os.close(made.master)


def test_the_program_has_the_terminal_and_its_exit_code_is_known():
    with terminal("stty size; tty -s && exit 7") as one:
        one.wait_for(b"ended 7")


@pytest.mark.fault("J02", "whoever has made the terminal raw is killed")
def test_the_modes_are_restored_when_the_program_is_killed():
    with terminal(f"{RAW} kill -9 $$") as one:
        one.wait_for(b"ended -9")
        assert one.has_its_modes()


@pytest.mark.fault("J02", "SIGTERM and SIGKILL to `hpc run --pty`")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_program_gets_sigterm_when_we_end_in_any_way(number):
    """As ssh does at that: it restores the modes."""
    restores = "trap 'stty sane; echo restored; exit' TERM; "
    with terminal(f"{restores} {RAW} while :; do sleep 0.1; done") as one:
        pid = one.pid_after(b"raw ")
        os.kill(one.pid_after(b"ours "), number)
        one.wait_for(b"restored")
        until = time.monotonic() + 60
        while Path(f"/proc/{pid}").exists():
            assert time.monotonic() < until
            time.sleep(0.1)
