"""Commands of the API on a node: here its shell runs the very line, without ssh between."""

import os
import signal
import subprocess  # noqa: TID251  its input is closed while it runs
import time
from pathlib import Path

import pytest

from ai_how.api.tied import run_tied, tied_words
from ai_how.process import Completed

LARGE = "".join(f"{number}\n" for number in range(200_000))


def call(words: list[str], given: str = "", timeout_s: float | None = None) -> Completed:
    done = run_tied(tied_words(words, len(given.encode()), timeout_s), given.encode(), 60)
    assert done is not None
    return done


def test_input_output_and_exit_code_are_those_of_the_command():
    done = call(["sh", "-c", "cat; echo two >&2; exit 7"], "one \u00fc\n")
    assert (done.returncode, done.stdout, done.stderr) == (7, "one \u00fc\n", "two\n")
    assert call(["printf", "%s.", "a b", "$HOME", "'"]).stdout == "a b.$HOME.'."
    assert call(["cat"]).stdout == ""
    assert call(["cat"], LARGE).stdout == LARGE
    assert call(["true"], LARGE).returncode == 0


def test_death_by_a_signal_and_a_time_out_have_their_codes_and_nothing_is_said():
    done = call(["sh", "-c", "kill -SEGV $$"])
    assert (done.returncode, done.stderr) == (128 + signal.SIGSEGV, "")
    done = call(["sleep", "60"], timeout_s=0.2)
    assert (done.returncode, done.stderr) == (124, "")


@pytest.mark.fault("F68", "the connection of a command of the API ends")
@pytest.mark.parametrize("given", ["", "input\n"])
def test_a_command_ends_with_its_connection(given, tmp_path: Path):
    pid = tmp_path / "pid"
    words = ["sh", "-c", f"sleep 600 & echo $! > {pid}; wait"]
    argv = tied_words(words, len(given), None)
    with subprocess.Popen(argv, stdin=subprocess.PIPE) as child:  # noqa: S603
        child.stdin.write(given.encode())
        child.stdin.flush()
        wait_for(lambda: pid.exists() and pid.read_text())
        child.stdin.close()
        assert child.wait(60) == 128 + signal.SIGTERM
    wait_for(lambda: not is_alive(int(pid.read_text())))


def test_what_takes_too_long_on_this_side_is_killed():
    assert run_tied(["sleep", "60"], b"", 0.1) is None
    assert run_tied(["sh", "-c", "exec > /dev/null; sleep 60"], b"", 0.1) is None


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def wait_for(is_so) -> None:
    until = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < until
        time.sleep(0.02)
