"""A file of ours is written whole or not at all."""

import errno
import os
import signal
import stat

import pytest

from ai_how.errors import HostError, StateError
from ai_how.state.files import replaced_atomically, sweep_drafts


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "file"
    file.write_text("old")
    return file


def names(path):
    return sorted(entry.name for entry in path.parent.iterdir())


def write_half(path):
    with replaced_atomically(path) as draft:
        draft.write_text("half")
        raise HostError("changed my mind")


def test_the_new_content_takes_the_place_of_the_old(path):
    with replaced_atomically(path) as draft:
        draft.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert names(path) == ["file"]


@pytest.mark.fault("S13", "a file while it is written")
def test_what_it_writes_is_for_our_eyes_only_from_the_start(path):
    with replaced_atomically(path) as draft:
        assert draft.stat().st_mode & 0o777 == 0o600
        draft.write_text("new")
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_block_that_fails_leaves_the_old_content_alone(path):
    with pytest.raises(HostError, match="changed my mind"):
        write_half(path)
    assert path.read_text() == "old"
    assert names(path) == ["file"]


@pytest.mark.fault("F13", "os.open, fsync and replace refuse")
@pytest.mark.parametrize("call", ["open", "fsync", "replace"])
@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EACCES])
def test_a_disk_that_refuses_leaves_the_old_content_and_is_told(path, monkeypatch, call, number):
    calls = []

    def refuse(*args, **kwargs):
        calls.append(args)
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, refuse)
        with pytest.raises(StateError) as caught, replaced_atomically(path) as draft:
            draft.write_text("new")
    assert caught.value.brief == f"{path} could not be written: {os.strerror(number)}"
    assert caught.value.hint == f"df -h {path.parent}"
    assert len(calls) == 1, "what failed is not tried again"
    assert path.read_text() == "old"
    assert names(path) == ["file"]


def test_the_content_is_synced_before_the_name_and_the_name_before_we_go_on(path, monkeypatch):
    order = []
    real_fsync, real_replace = os.fsync, os.replace

    def fsync(descriptor):
        kind = "directory" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "content"
        order.append(f"sync {kind}")
        real_fsync(descriptor)

    def replace(*names):
        order.append("replace")
        real_replace(*names)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    with replaced_atomically(path) as draft:
        draft.write_text("new")
    assert order == ["sync content", "replace", "sync directory"]


@pytest.mark.fault("F12", "the draft of a killed run")
def test_drafts_of_killed_runs_are_swept_and_nothing_else(path):
    found = [".file.0a1b2c3d.draft", ".file2.0a1b2c3d.draft", "file.draft", ".file.x"]
    for name in found:
        (path.parent / name).touch()
    sweep_drafts(path)
    assert names(path) == sorted(["file", *found[1:]])


@pytest.mark.fault("F12", "SIGKILL before and after each call")
@pytest.mark.parametrize("call", ["open", "fsync", "replace", "close"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_at_any_call_there_is_the_old_or_the_new(path, call, when):
    nth = 0
    while _dies_at(path, call, nth, when):
        assert path.read_text() in ("old", "new")
        with replaced_atomically(path) as draft:
            draft.write_text("old")
        assert names(path) == ["file"]
        nth += 1
    assert nth >= 1


def _dies_at(path, call: str, nth: int, when: str) -> bool:
    """Whether a child that writes is killed before or after its nth such call."""
    child = os.fork()
    if child == 0:
        try:
            _kill_at(call, nth, when)
            with replaced_atomically(path) as draft:
                draft.write_text("new")
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def _kill_at(call: str, nth: int, when: str) -> None:
    real, count = getattr(os, call), 0

    def counting(*args, **kwargs):
        nonlocal count
        is_it, count = count == nth, count + 1
        if is_it and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = real(*args, **kwargs)
        if is_it:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(os, call, counting)
