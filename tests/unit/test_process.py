"""What we start ends with us where it must, also when we are killed."""

import os
import signal
import time
from pathlib import Path

import pytest

from ai_how.errors import ToolError
from ai_how.process import LONGEST_LINE, dying_with_us, run, run_bounded, run_lines
from ai_how.waiting import Deadline, wait_until


def test_a_program_that_dies_with_us_is_gone_when_we_are_killed(tmp_path: Path) -> None:
    told = tmp_path / "pid"
    words = ["sh", "-c", 'echo $$ > "$0.new" && mv "$0.new" "$0" && exec sleep 300', str(told)]
    child = os.fork()
    if child == 0:
        run(dying_with_us(words))
        os._exit(1)
    wait_until(told.exists, Deadline.after(60), "the program")
    program = Path("/proc") / told.read_text().strip()
    comm = program / "comm"
    wait_until(lambda: comm.read_text() == "sleep\n", Deadline.after(60), "the sleep")
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    wait_until(lambda: _is_gone(program), Deadline.after(60), "the end of the program")


def test_a_program_whose_starter_is_gone_already_does_not_begin(tmp_path: Path) -> None:
    argv = dying_with_us(["touch", tmp_path / "begun"])
    orphaned = [str(os.getppid()) if word == str(os.getpid()) else word for word in argv]
    assert run(orphaned, check=False).returncode != 0
    assert not (tmp_path / "begun").exists()


@pytest.mark.parametrize("code", [0, 3])
def test_a_program_that_dies_with_us_ends_as_it_would(code: int) -> None:
    words = ["sh", "-c", 'echo "$0"; exit "$1"', "a b", str(code)]
    done = run(dying_with_us(words), check=False)
    assert (done.returncode, done.stdout) == (code, "a b\n")


def _is_gone(program: Path) -> bool:
    try:
        return " Z " in (program / "stat").read_text() or not program.exists()
    except OSError:
        return True


@pytest.mark.fault("S34", "one line of output without an end")
def test_a_line_without_an_end_comes_in_pieces():
    heard: list[int] = []
    script = "head -c 50000000 /dev/zero | tr '\\0' x; echo; echo end"
    run_lines(["sh", "-c", script], on_line=lambda line: heard.append(len(line)))
    assert max(heard) <= LONGEST_LINE
    assert sum(heard) == 50_000_000 + len("end")
    assert heard[-1] == len("end")


def test_a_program_that_hangs_is_killed_with_its_children(tmp_path: Path) -> None:
    told = tmp_path / "pids"
    script = f"sleep 300 & echo $! $$ > {told}; wait"
    with pytest.raises(ToolError, match=r"^sh did not answer within 0\.5 s$"):
        run_bounded(["sh", "-c", script], timeout_s=0.5, most_bytes=1000)
    for pid in told.read_text().split():
        program = Path("/proc") / pid
        wait_until(lambda program=program: _is_gone(program), Deadline.after(60), "its end")


@pytest.mark.parametrize("script", ["yes", "head -c 100000000 /dev/zero", "head -c 2000 /dev/zero"])
def test_a_program_that_prints_too_much_is_an_error(script: str) -> None:
    begun = time.monotonic()
    with pytest.raises(ToolError, match=r"^sh printed more than 1000 bytes$"):
        run_bounded(["sh", "-c", script], timeout_s=60, most_bytes=1000)
    assert time.monotonic() - begun < 30


def test_a_program_that_the_kernel_does_not_end_is_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that waits in a driver for a card that hangs: no signal reaches it."""
    told = tmp_path / "pid"
    kill = os.kill
    monkeypatch.setattr("os.killpg", lambda _group, _signal: None)
    monkeypatch.setattr("ai_how.process._END_S", 0.1)
    with pytest.raises(ToolError, match=r"^sh did not answer within 0\.5 s$"):
        run_bounded(["sh", "-c", f"echo $$ > {told}; exec sleep 300"], timeout_s=0.5, most_bytes=9)
    pid = int(told.read_text())
    assert not _is_gone(Path("/proc") / str(pid))
    kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def test_what_a_bounded_program_prints_and_its_code_are_returned() -> None:
    done = run_bounded(["sh", "-c", "echo a; echo b >&2; exit 4"], timeout_s=60, most_bytes=9)
    assert (done.returncode, done.stdout, done.stderr) == (4, "a\n", "")
    with pytest.raises(ToolError, match=r"^nowhere cannot be started"):
        run_bounded(["/nowhere"], timeout_s=60, most_bytes=9)
