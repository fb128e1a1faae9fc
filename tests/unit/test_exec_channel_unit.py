"""`exec` with both of its real ends: only the guest and its agent are this machine."""

import io
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import UUID

import pytest

from ai_how.errors import (
    AgentUnresponsiveError,
    ConnectionLostError,
    GuestError,
    ProgramTimeoutError,
)
from ai_how.guest.agent import GuestAgent
from ai_how.guest.exec_channel import ExecChannel, Input
from local_agent import LocalAgent

ID = UUID("11111111-1111-4111-8111-111111111111")


class Guest:
    """This machine as a guest, and what a program wrote."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.agent = LocalAgent()
        self.out, self.err = io.BytesIO(), io.BytesIO()
        self.has_reader = True

    def sink(self, data: bytes, to_stderr: bool) -> bool:
        (self.err if to_stderr else self.out).write(data)
        return self.has_reader

    def channel(self, given: Input | None = None, **more: float) -> ExecChannel:
        agent = GuestAgent(self.agent, ID, "compute-01")
        return ExecChannel(agent, given or Input(), self.sink, base=str(self.base), **more)

    def run(
        self, line: str, given: Input | None = None, timeout_s: float | None = None, **more: float
    ) -> int:
        argv = [b"/bin/sh", b"-c", line.encode()]
        return self.channel(given, **more).run(argv, timeout_s=timeout_s, shown="it")

    def left(self) -> list[str]:
        return [one.name for one in self.base.iterdir()]


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[Guest]:
    made = Guest(tmp_path / "run")
    made.base.mkdir()
    yield made
    wait_for(lambda: made.left() == [])
    made.agent.end()


def wait_for(is_so: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < until
        time.sleep(0.02)


def reading(data: bytes) -> Input:
    return Input(b"", io.BytesIO(data).read)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_a_short_program_takes_two_questions_and_no_file(guest):
    assert guest.run("printf '\\377\\376\\000'; printf x >&2; exit 3", attach_after_s=60) == 3
    assert (guest.out.getvalue(), guest.err.getvalue()) == (b"\xff\xfe\x00", b"x")
    assert set(guest.agent.asked) <= {"guest-exec", "guest-exec-status"}


def test_an_input_that_is_there_goes_along(guest):
    assert guest.run("cat", Input(b"a\x00\xff\r\n"), attach_after_s=60) == 0
    assert guest.out.getvalue() == b"a\x00\xff\r\n"
    assert set(guest.agent.asked) <= {"guest-exec", "guest-exec-status"}


def test_no_input_is_an_end_of_input(guest):
    assert guest.run("cat; echo end") == 0
    assert guest.out.getvalue() == b"end\n"


def test_megabytes_pass_both_ways_unchanged(guest):
    data = os.urandom(5_000_003)
    assert guest.run("cat", reading(data)) == 0
    assert guest.out.getvalue() == data


def test_a_program_that_reads_nothing_does_not_wait_for_its_input(guest):
    ends = Nothing()
    assert guest.run("sleep 0.1", Input(b"", bytes)) == 0
    assert guest.run("exit 5", Input(b"", ends.read)) == 5
    ends.end.set()


def test_output_without_a_reader_ends_the_program_as_a_closed_pipe_does(guest):
    guest.has_reader = False
    assert guest.run("yes", attach_after_s=0) == 128 + signal.SIGPIPE
    assert len(guest.out.getvalue()) < 8 << 20


@pytest.mark.parametrize(("line", "code"), [("kill -9 $$", 137), ("kill -TERM $$", 143)])
def test_death_by_a_signal_has_its_code(guest, line, code):
    assert guest.run(line) == code


@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [
        (b"no-such-program", 127, b"no-such-program: No such file or directory\n"),
        (b"/etc/passwd", 126, b"/etc/passwd: Permission denied\n"),
    ],
)
def test_a_program_that_cannot_be_run_has_the_code_of_a_shell(guest, argv, code, said):
    assert guest.channel().run([argv], timeout_s=60, shown="it") == code
    assert guest.err.getvalue() == said


def test_arguments_are_bytes(guest):
    argv = [b"printf", b"%s", b"\xff' \"$(x)\n"]
    assert guest.channel().run(argv, timeout_s=60, shown="it") == 0
    assert guest.out.getvalue() == argv[2]


TREE = (
    "(setsid sh -c 'echo $$ > {0}/one; exec sleep 1000' &);"
    " sleep 1000 & echo $! > {0}/two; until [ -s {0}/one ]; do sleep 0.05; done; wait"
)


@pytest.mark.fault("F68", "--timeout, with children in sessions of their own")
def test_a_time_out_ends_all_processes_and_has_a_code_of_its_own(guest, tmp_path):
    with pytest.raises(ProgramTimeoutError, match="timed out waiting for the end of it in comp"):
        guest.run(TREE.format(tmp_path), timeout_s=1.5)
    assert ProgramTimeoutError.exit_code == 124
    pids = [int((tmp_path / one).read_text()) for one in ("one", "two")]
    assert not any(map(is_alive, pids))


class Nothing:
    """A terminal that nobody types at, until `end`."""

    def __init__(self) -> None:
        self.end = threading.Event()

    def read(self, size: int) -> bytes:
        self.end.wait()
        return b""


class Stopped(BaseException):
    number = signal.SIGINT


@pytest.mark.fault("F68", "a signal to the command")
def test_a_signal_to_us_reaches_the_program_whose_last_words_come(guest):
    silence = Nothing()
    write, guest.sink = guest.sink, lambda data, err: write(data, err) and stop_at_begun(guest)
    with pytest.raises(Stopped):
        guest.run(
            "trap 'echo last; exit 1' INT; echo begun; while :; do sleep 0.05; done",
            Input(b"", silence.read),
        )
    silence.end.set()
    assert guest.out.getvalue() == b"begun\nlast\n"


def stop_at_begun(guest: Guest) -> bool:
    if guest.out.getvalue() == b"begun\n":
        raise Stopped
    return True


@pytest.mark.fault("F68", "a program that ignores the signal")
def test_a_program_that_ignores_the_signal_is_killed(guest, tmp_path):
    line = f"trap '' TERM; echo $$ > {tmp_path}/pid; while :; do sleep 0.1; done"
    with pytest.raises(ProgramTimeoutError):
        guest.run(line, timeout_s=1.0)
    assert not is_alive(int((tmp_path / "pid").read_text()))


class Dead(BaseException):
    """We are dead: nothing more is asked."""


@pytest.mark.fault("F68", "the command is killed")
def test_a_program_whose_client_died_is_ended_after_the_lease(guest, tmp_path):
    real = guest.agent.agent_command
    is_dead = threading.Event()

    def ask(uuid, command, timeout_s):
        if is_dead.is_set():
            # A thread that waits to ask again is as good as dead.
            is_main = threading.current_thread() is threading.main_thread()
            raise Dead if is_main else ConnectionLostError("dead")
        if (tmp_path / "two").exists() and (tmp_path / "two").read_text():
            is_dead.set()
        return real(uuid, command, timeout_s)

    guest.agent.agent_command = ask
    with pytest.raises(Dead):
        guest.run(TREE.format(tmp_path), lease_s=3.0)
    pids = [int((tmp_path / one).read_text()) for one in ("one", "two")]
    wait_for(lambda: not any(map(is_alive, pids)) and guest.left() == [])


def test_a_program_that_is_left_in_the_background_goes_on(guest, tmp_path):
    line = f"sleep 1000 & echo $! > {tmp_path}/pid; echo started"
    assert guest.run(line) == 0
    assert guest.out.getvalue() == b"started\n"
    pid = int((tmp_path / "pid").read_text())
    assert is_alive(pid)
    os.kill(pid, signal.SIGKILL)


@pytest.mark.fault("F68", "answers that are lost, an agent that restarts")
@pytest.mark.parametrize("error", [ConnectionLostError, AgentUnresponsiveError])
def test_lost_answers_lose_and_double_nothing(guest, error):
    real, count = guest.agent.agent_command, [0]

    def ask(uuid, command, timeout_s):
        answer = real(uuid, command, timeout_s)
        count[0] += 1
        if count[0] > 3 and count[0] % 3 == 0:
            raise error("lost")
        if count[0] == 20:
            guest.agent.forget_files()
        return answer

    guest.agent.agent_command = ask
    data = os.urandom(2_500_001)
    assert guest.run("cat", reading(data)) == 0
    assert guest.out.getvalue() == data


@pytest.mark.fault("S22", "an agent that lies to exec")
@pytest.mark.parametrize(
    ("command", "answer"),
    [
        ("guest-exec", {"pid": "1"}),
        ("guest-exec-status", {"exited": True, "out-data": "%%"}),
        ("guest-exec-status", {"exited": True, "out-data": "AAAA" * 4}),
        ("guest-exec-status", {"exited": True}),
        ("guest-file-open", "7"),
        ("guest-file-write", {"count": 1}),
        ("guest-file-read", {"buf-b64": "%"}),
        ("guest-file-read", {"buf-b64": 7}),
        ("guest-file-read", {"buf-b64": "AAAA" * 200_000}),
        ("guest-file-read", {"buf-b64": "//////////8="}),
        ("guest-file-read", []),
    ],
    ids=str,
)
def test_an_agent_that_lies_is_the_guests_failure(guest, command, answer):
    real = guest.agent.agent_command

    def ask(uuid, asked, timeout_s):
        done = real(uuid, asked, timeout_s)
        return answer if asked["execute"] == command else done

    guest.agent.agent_command = ask
    with pytest.raises(GuestError):
        guest.run("exec sleep 1", Input(b"", lambda size: bytes(1)), lease_s=1.0)
