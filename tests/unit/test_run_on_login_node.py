"""`hpc run --login` with its real other end, here: a command beside the jobs of its directory."""

import os
import signal
import time
from pathlib import Path

import pytest
from test_run_from_here import World, world

from ai_how.errors import InterruptedRunError
from ai_how.guest.own_files import IgnoreRules
from ai_how.hpc.run_here import ERRORS, OUTPUT, Job, Sink, _Run
from ai_how.waiting import Deadline, wait_until

__all__ = ["world"]


def login(world: World, *command: str, **asked):
    return world.run(*command, is_on_login_node=True, **asked)


def test_a_command_has_the_files_its_output_its_exit_code_and_gives_back(world):
    (world.here / "job.sh").write_text("#!/bin/sh\necho from the job\n")
    ended = login(world, "sh", "-c", "cat job.sh; echo no >&2; echo r > r; exit 9", "x", "a b")
    assert (ended.exit_code, ended.job, ended.state) == (9, None, None)
    assert world.heard == {OUTPUT: b"#!/bin/sh\necho from the job\n", ERRORS: b"no\n"}
    assert (ended.sent, ended.files.received) == (["job.sh"], ["r"])
    assert (world.here / "r").read_text() == "r\n"
    assert not (world.tools / "script").exists(), "it is no job"


def test_words_arrive_unchanged(world):
    words = ["a b", "", "*", "$HOME", "-x", "--", "'\"\n"]
    login(world, "printf", "%s|", *words)
    assert world.heard[OUTPUT] == b"".join(f"{word}|".encode() for word in words)


def test_an_input_is_that_of_the_command(world, monkeypatch):
    reading, writing = os.pipe()
    os.write(writing, b"given\xff" * 3)
    os.close(writing)
    before = os.dup(0)
    os.dup2(reading, 0)
    try:
        login(world, "cat", has_input=True)
    finally:
        os.dup2(before, 0)
        for number in (before, reading):
            os.close(number)
    assert world.heard[OUTPUT] == b"given\xff" * 3
    login(world, "cat")
    assert world.heard[OUTPUT] == b"given\xff" * 3, "without one there is none"


def test_a_command_that_is_not_there_or_that_a_signal_ends_has_the_code_of_a_shell(world):
    assert login(world, "no-such-command").exit_code == 127
    assert world.heard[ERRORS] == b"no-such-command: No such file or directory\n"
    assert login(world, "sh", "-c", "kill -SEGV $$").exit_code == 128 + signal.SIGSEGV


def test_what_is_left_in_the_background_is_not_waited_for(world):
    begun = time.monotonic()
    assert login(world, "sh", "-c", "sleep 60 & echo $!").exit_code == 0
    assert time.monotonic() - begun < 50, "it waited for the background"
    os.kill(int(world.heard[OUTPUT]), signal.SIGKILL)


def test_the_first_signal_ends_the_command_and_the_second_leaves(world):
    world.on_output = lambda: os.kill(os.getpid(), signal.SIGINT)
    ended = login(world, "sh", "-c", "echo begun; exec sleep 60")
    assert ended.exit_code == 128 + signal.SIGTERM
    assert world.news == ["ending the command; Ctrl-C does not wait for it"]

    def twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)

    world.on_output = twice
    with pytest.raises(InterruptedRunError, match="left the command"):
        login(world, "sh", "-c", "trap '' TERM; echo begun; sleep 3")


@pytest.mark.fault("J01", "the connection of a command on the login node ends")
def test_a_command_ends_with_its_connection(world):
    link = world.link()
    command = ["sh", "-c", "echo $$ > pid; exec sleep 60"]
    job = Job(top=world.here, command=command, is_on_login_node=True)
    run = _Run(link, job, Sink(world._hear, print))
    run._submit(IgnoreRules(world.here))
    link.receive()
    link.send("k")
    noted = world.copy / "pid"
    wait_until(lambda: noted.exists() and noted.read_text(), Deadline.after(60), "the command")
    link.child.stdin.close()
    link.child.wait()
    link.close()
    own = Path("/proc", noted.read_text().strip())
    wait_until(lambda: not own.exists(), Deadline.after(60), "its end")


def test_what_a_job_writes_meanwhile_comes_back_each_time_and_is_never_overwritten(world):
    """A file that came back half-written is not sent again over the job's."""
    wait = 'while [ ! -e "$TOOLS/go" ]; do sleep 0.05; done'
    job = f"echo one >> log; touch begun; {wait}; echo two >> log; touch done-now"
    world.run("sh", "-c", f"exec >> log; {job}", follows=False)
    wait_until((world.copy / "begun").exists, Deadline.after(60), "the job")
    assert "log" in login(world, "true").files.received
    assert (world.here / "log").read_text() == "one\n"
    inode = (world.copy / "log").stat().st_ino
    assert login(world, "true").sent == []
    (world.tools / "go").touch()
    wait_until((world.copy / "done-now").exists, Deadline.after(60), "the end of the job")
    again = login(world, "true")
    assert (again.sent, "log" in again.files.received) == ([], True)
    assert (world.here / "log").read_text() == "one\ntwo\n"
    assert (world.copy / "log").stat().st_ino == inode
    (world.here / "log").write_text("ours\n")
    assert login(world, "cat", "log").sent == ["log"]
    assert world.heard[OUTPUT].endswith(b"ours\n"), "what is changed here is sent"


def test_what_changed_here_while_it_ran_is_kept_and_theirs_is_beside_it(world):
    (world.here / "same").write_text("before")
    world.on_output = lambda: (world.here / "same").write_text("ours, changed")
    ended = login(world, "sh", "-c", "echo theirs > same; echo begun; sleep 1")
    assert ended.files.beside == {"same": "same.login"}
    assert (world.here / "same").read_text() == "ours, changed"
    assert (world.here / "same.login").read_text() == "theirs\n"
