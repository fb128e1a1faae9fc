"""One run at a time, decided by the kernel and told to people."""

import fcntl
import os
import signal
import sys
import threading
import time
from contextlib import contextmanager

import pytest

from ai_how.errors import HostError, LockedError
from ai_how.process import run, start_daemon
from ai_how.state.lock import held_lock

HOLDER = """
import sys, time
from pathlib import Path
from ai_how.state.lock import held_lock
with held_lock(Path(sys.argv[1]), doing="hpc start demo"):
    print("held", flush=True)
    time.sleep(60)
"""

ADDER = """
import sys, time
from pathlib import Path
from ai_how.state.lock import held_lock
counter = Path(sys.argv[2])
for _ in range(10):
    with held_lock(Path(sys.argv[1]), doing="count", wait_s=120):
        seen = int(counter.read_text())
        time.sleep(0.001)
        counter.write_text(str(seen + 1))
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "demo" / "lock"


@contextmanager
def holder(path, tmp_path):
    """Another process that holds the lock."""
    log = tmp_path / "holder.log"
    child = start_daemon([sys.executable, "-c", HOLDER, path], log=log)
    try:
        deadline = time.monotonic() + 60
        while "held" not in log.read_text():
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.01)
        yield child
    finally:
        child.kill()
        child.wait()


def assert_free(path):
    with held_lock(path, doing="look"):
        pass


def test_it_is_free_again_after_the_block_and_names_nobody(path):
    with held_lock(path, doing="start"):
        pass
    assert path.read_text() == ""
    assert path.stat().st_mode & 0o777 == 0o600
    assert_free(path)


def test_it_is_free_again_after_a_block_that_failed(path):
    with pytest.raises(HostError, match="no"), held_lock(path, doing="start"):
        raise HostError("no")
    assert_free(path)


def test_the_loser_is_told_who_holds_it_since_when_and_doing_what(path, tmp_path):
    with holder(path, tmp_path) as child:
        with pytest.raises(LockedError) as caught, held_lock(path, doing="hpc stop"):
            pass
        year = time.strftime("%Y", time.gmtime())
        brief = caught.value.brief
        assert brief.startswith(f"hpc start demo is under way in process {child.pid}, since {year}")
        assert caught.value.exit_code == 6
        assert caught.value.details == f"It holds {path}."
        assert caught.value.hint == f"ps -fp {child.pid}"


@pytest.mark.fault("F10", "SIGSTOP to the holder")
def test_a_stopped_holder_keeps_it(path, tmp_path):
    with holder(path, tmp_path) as child:
        os.kill(child.pid, signal.SIGSTOP)
        with pytest.raises(LockedError, match=f"process {child.pid}"), held_lock(path, doing="x"):
            pass


@pytest.mark.fault("F19", "SIGKILL to the holder")
def test_a_killed_holder_holds_nothing_whatever_the_file_says(path, tmp_path):
    with holder(path, tmp_path) as child:
        child.kill()
        child.wait()
        assert f'"pid": {child.pid}' in path.read_text()
        assert_free(path)


@pytest.mark.fault("F19", "the pid of another process in the file")
def test_a_pid_in_the_file_is_not_a_lock(path):
    path.parent.mkdir()
    path.write_text('{"pid": 1, "since": "2020-01-01", "doing": "start"}')
    assert_free(path)


def test_it_waits_for_as_long_as_it_was_told(path):
    done, held = threading.Event(), threading.Event()
    release = threading.Timer(0.2, done.set)

    def hold():
        with held_lock(path, doing="first"):
            held.set()
            done.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(60)
    began_at = time.monotonic()
    with (
        pytest.raises(LockedError, match="first is under way"),
        held_lock(path, doing="second", wait_s=0.1),
    ):
        pass
    assert 0.1 <= time.monotonic() - began_at < 20
    release.start()
    with held_lock(path, doing="second", wait_s=60):
        assert done.is_set()
    thread.join()
    release.join()


@pytest.mark.fault("F19", "the file removed while it is held")
def test_a_lock_file_that_was_removed_is_not_believed(path):
    with held_lock(path, doing="first"):
        path.unlink()
        with held_lock(path, doing="second"):
            assert "second" in path.read_text()
    assert_free(path)


@pytest.mark.fault("F19", "the file removed before it is locked")
def test_a_file_removed_between_opening_and_locking_is_not_the_lock(path, monkeypatch):
    real, locked = fcntl.flock, []

    def flock(descriptor, operation):
        if not locked:
            path.unlink()
        locked.append(descriptor)
        real(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    with held_lock(path, doing="first"):
        assert len(locked) == 2
        with pytest.raises(LockedError, match="first"), held_lock(path, doing="second"):
            pass


def test_processes_take_turns(path, tmp_path):
    counter = tmp_path / "counter"
    counter.write_text("0")
    children = [
        start_daemon([sys.executable, "-c", ADDER, path, counter], log=tmp_path / f"{n}.log")
        for n in range(4)
    ]
    assert [child.wait(timeout=120) for child in children] == [0] * 4
    assert counter.read_text() == "40"


def test_a_child_process_does_not_inherit_it(path):
    with held_lock(path, doing="start"):
        listing = run(["ls", "-l", "/proc/self/fd"]).stdout
    assert str(path) not in listing


@pytest.mark.fault("S19", "a link in the lock's place")
def test_a_link_in_its_place_is_refused(path, tmp_path):
    path.parent.mkdir()
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(HostError, match="cannot be locked") as caught, held_lock(path, doing="x"):
        pass
    assert caught.value.hint == f"ls -ld {path.parent} {path}"
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": null}', "\udcff"])
def test_a_holder_that_has_not_named_itself_is_another_run(path, content):
    with held_lock(path, doing="start"):
        path.write_text(content, errors="surrogateescape")
        with pytest.raises(LockedError, match="another run holds"), held_lock(path, doing="stop"):
            pass
