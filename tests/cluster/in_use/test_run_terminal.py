"""`hpc run --pty` on a real cluster and a real pseudo-terminal."""

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess  # noqa: TID251  a program is spoken to while it runs
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ai_how.process import child_environment
from ai_how.waiting import Deadline, wait_until
from real_cluster import Cluster

pytestmark = [pytest.mark.slurm, pytest.mark.long]

DEADLINE_S = 600


class Terminal:
    """`hpc run --pty` of a shell, in a directory, on a terminal of its own."""

    def __init__(self, used: Cluster, here: Path, *options: str) -> None:
        self.master, slave = pty.openpty()
        self.resize(40, 100)
        self.before = termios.tcgetattr(self.master)
        run = [*used.argv, "-c", str(used.file), "hpc", "run", *options, "--pty", "--"]
        # A shell has the terminal before and after, as that of a user.
        script = '"$@"; echo "over $?"; sleep 600'
        self.shell = subprocess.Popen(  # noqa: S603
            ["setsid", "--ctty", "sh", "-c", script, "sh", *run, "bash", "--norc"],
            cwd=here,
            env=child_environment(used.env),
            stdin=slave,
            stdout=slave,
            stderr=slave,
        )
        os.close(slave)
        self.shown = ""
        self.answered = 0

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def wait_for(self, text: str) -> None:
        until = time.monotonic() + DEADLINE_S
        while text not in self.shown:
            assert time.monotonic() < until, self.shown
            if select.select([self.master], [], [], 0.5)[0]:
                self.shown += os.read(self.master, 65536).decode(errors="replace")

    def type(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    def ask(self, line: str) -> str:
        """What a line of the shell prints."""
        self.answered += 1
        begun = len(self.shown)
        # The echo of what is typed has not the sum.
        self.type(f"{line}; echo end-$((41 + {self.answered}))\n")
        self.wait_for(f"end-{41 + self.answered}")
        return self.shown[begun:]

    def ssh(self) -> int:
        """The ssh that has the terminal."""
        found = subprocess.run(  # noqa: S603
            ["ps", "--no-headers", "-o", "pid", "-s", str(self.shell.pid)],
            capture_output=True,
            text=True,
            check=True,
        )
        [pid] = [
            pid
            for pid in map(int, found.stdout.split())
            if b"\0-t\0" in Path(f"/proc/{pid}/cmdline").read_bytes()
        ]
        return pid


@contextmanager
def shell(used: Cluster, here: Path, *options: str) -> Iterator[Terminal]:
    made = Terminal(used, here, *options)
    try:
        made.wait_for("$ ")
        yield made
    finally:
        os.killpg(made.shell.pid, signal.SIGKILL)
        made.shell.wait()
        os.close(made.master)


@pytest.fixture
def here(tmp_path: Path) -> Path:
    directory = tmp_path / "my work"
    directory.mkdir()
    (directory / "a").write_text("hello\n")
    return directory


def wait_for_no_jobs(used: Cluster) -> None:
    wait_until(
        lambda: used.ssh("controller", "squeue -h -o %A") == "",
        Deadline.after(DEADLINE_S),
        "the end of the jobs",
    )


def test_a_shell_has_the_files_and_the_terminal_of_the_user(used: Cluster, here: Path):
    with shell(used, here, "-N", "2") as one:
        shown = one.ask("cat a; hostname; stty size; tty")
        assert "hello" in shown
        assert "compute-01" in shown
        assert "40 100" in shown
        assert "/dev/pts/" in shown
        one.resize(24, 66)
        wait_until(
            lambda: "24 66" in one.ask("stty size"), Deadline.after(DEADLINE_S), "the new size"
        )
        shown = one.ask("srun hostname")
        assert {"compute-01", "compute-02"} <= set(shown.split())
        one.type("echo asleep-$((1 + 1)); sleep 98765\n")
        one.wait_for("asleep-2")
        one.type("\x03")
        assert "rc 130" in one.ask("echo rc $?; echo made > b")
        one.type("exit 7\n")
        one.wait_for("over 7")
        assert termios.tcgetattr(one.master) == one.before
    assert (here / "b").read_text() == "made\n"
    wait_for_no_jobs(used)


@pytest.mark.fault("J01", "SIGKILL to the ssh of a terminal of a real job")
def test_a_lost_terminal_ends_the_job_and_its_files_come_back(used: Cluster, here: Path):
    with shell(used, here) as one:
        one.ask("echo made > b")
        os.kill(one.ssh(), signal.SIGKILL)
        one.wait_for("over 3")
        assert "the connection to the controller was lost, and its job ended" in one.shown
        assert termios.tcgetattr(one.master) == one.before
    assert (here / "b").read_text() == "made\n"
    wait_for_no_jobs(used)
