"""The corners of a save and of a lock: names that are taken, calls that fail, descriptors left."""

import errno
import fcntl
import os
from pathlib import Path

import pytest

from ai_how.errors import HostError, LockedError, StateError
from ai_how.state.files import (
    NEW_FILE,
    fsync_directory,
    read_file,
    replaced_atomically,
    sweep_drafts,
    write_all,
)
from ai_how.state.lock import held_lock


def open_descriptors() -> list[str]:
    """What this process has open, by name."""
    descriptors = Path("/proc/self/fd").iterdir()
    return sorted(str(one.readlink()) for one in descriptors if one.is_symlink())


def refusing(number: int, real=None):
    """A call that does its work, where it is given one, and then fails."""

    def refuse(*args, **kwargs):
        if real:
            real(*args, **kwargs)
        raise OSError(number, os.strerror(number))

    return refuse


@pytest.fixture
def path(tmp_path) -> Path:
    file = tmp_path / "file"
    file.write_text("old")
    return file


def test_a_new_file_is_new_and_can_be_written(path):
    for taken in (path, path.with_name("link"), path.with_name("dangling")):
        if taken != path:
            taken.symlink_to(path if taken.name == "link" else path.with_name("absent"))
        with pytest.raises(FileExistsError):
            os.open(taken, NEW_FILE, 0o600)
    descriptor = os.open(path.with_name("new"), NEW_FILE, 0o600)
    assert os.write(descriptor, b"x") == 1
    os.close(descriptor)
    assert path.read_text() == "old"


def test_only_a_directory_is_synced_as_one(path):
    fsync_directory(path.parent)
    with pytest.raises(NotADirectoryError):
        fsync_directory(path)


def test_every_byte_is_written_however_few_a_call_takes(path, monkeypatch):
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, data[:3]))
    descriptor = os.open(path, os.O_WRONLY | os.O_TRUNC)
    write_all(descriptor, b"0123456789")
    os.close(descriptor)
    assert path.read_bytes() == b"0123456789"


def test_a_file_is_read_whole_or_as_far_as_asked_and_never_through_a_link(path):
    assert read_file(path) == b"old"
    assert read_file(path, largest=2) == b"ol"
    assert read_file(path, largest=0) == b""
    link = path.with_name("link")
    link.symlink_to(path)
    with pytest.raises(OSError, match="symbolic links"):
        read_file(link)


def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(path):
    path.unlink()
    os.mkfifo(path)
    assert read_file(path) == b""


@pytest.mark.fault("S19", "a link put in the place of a draft")
def test_a_draft_that_became_a_link_is_not_put_in_place(path):
    elsewhere = path.with_name("elsewhere")
    elsewhere.write_text("theirs")

    def swap() -> None:
        with replaced_atomically(path) as draft:
            draft.unlink()
            draft.symlink_to(elsewhere)

    with pytest.raises(StateError, match="symbolic links"):
        swap()
    assert path.read_text() == "old"
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["elsewhere", "file"]


def test_a_draft_that_cannot_be_removed_hides_no_other_failure(path, monkeypatch):
    def write(what: str) -> None:
        with replaced_atomically(path) as draft:
            draft.write_text(what)
            if what == "half":
                raise HostError("changed my mind")

    monkeypatch.setattr(os, "unlink", refusing(errno.EROFS))
    with pytest.raises(HostError, match="changed my mind"):
        write("half")
    assert path.read_text() == "old"


def test_a_draft_that_another_sweeps_as_well_is_no_failure(path, monkeypatch):
    draft = path.with_name(".file.0a1b2c3d.draft")
    draft.touch()
    real = os.unlink
    monkeypatch.setattr(os, "unlink", lambda name: (real(name), real(name)))
    sweep_drafts(path)
    assert not draft.exists()


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_a_draft_has_the_mode_that_was_asked_for(path, umask):
    former = os.umask(umask)
    try:
        with replaced_atomically(path, mode=0o640) as draft:
            assert draft.stat().st_mode & 0o777 == 0o640 & ~umask
        with replaced_atomically(path) as draft:
            assert draft.stat().st_mode & 0o777 == 0o600
    finally:
        os.umask(former)


def test_a_save_leaves_no_descriptor_open(path, monkeypatch):
    before = open_descriptors()
    with replaced_atomically(path) as draft:
        draft.write_text("new")
    assert read_file(path) == b"new"
    monkeypatch.setattr(os, "fsync", refusing(errno.EIO))
    with pytest.raises(StateError, match="Input/output error"), replaced_atomically(path):
        pass
    assert open_descriptors() == before


@pytest.fixture
def lock(tmp_path) -> Path:
    return tmp_path / "demo" / "lock"


def test_a_lock_and_those_who_lose_it_leave_no_descriptor_open(lock):
    before = open_descriptors()
    with held_lock(lock, doing="first"):
        assert open_descriptors() == sorted([*before, str(lock)])
        with pytest.raises(LockedError), held_lock(lock, doing="second"):
            pass
        assert open_descriptors() == sorted([*before, str(lock)])
    assert open_descriptors() == before


def test_a_file_that_was_removed_before_it_was_locked_is_not_kept_open(lock, monkeypatch):
    real, locked = fcntl.flock, []

    def flock(descriptor, operation):
        if len(locked) < 2:
            lock.unlink()
        locked.append(descriptor)
        real(descriptor, operation)

    before = open_descriptors()
    monkeypatch.setattr(fcntl, "flock", flock)
    with held_lock(lock, doing="first"):
        assert len(locked) == 3
        assert open_descriptors() == sorted([*before, str(lock)])


def test_a_loser_that_was_not_told_to_wait_tries_once(lock, monkeypatch):
    real, tries = fcntl.flock, []
    with held_lock(lock, doing="first"):
        monkeypatch.setattr(fcntl, "flock", lambda *words: (tries.append(words[1]), real(*words)))
        with pytest.raises(LockedError, match="first"), held_lock(lock, doing="second"):
            pass
    assert tries == [fcntl.LOCK_EX | fcntl.LOCK_NB]


def test_a_file_system_without_locks_is_told(lock, monkeypatch):
    before = open_descriptors()
    monkeypatch.setattr(fcntl, "flock", refusing(errno.ENOLCK))
    with (
        pytest.raises(HostError, match=f"{lock} cannot be locked: No locks available") as caught,
        held_lock(lock, doing="start"),
    ):
        pass
    assert caught.value.hint == f"ls -ld {lock.parent} {lock}"
    assert open_descriptors() == before


def test_an_interruption_while_locking_is_what_it_is(lock, monkeypatch):
    def flock(*words):
        raise KeyboardInterrupt

    before = open_descriptors()
    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(KeyboardInterrupt), held_lock(lock, doing="start"):
        pass
    assert open_descriptors() == before


def test_on_a_full_disk_the_lock_holds_all_the_same(lock, monkeypatch):
    monkeypatch.setattr(os, "pwrite", refusing(errno.ENOSPC))
    with (
        held_lock(lock, doing="start"),
        pytest.raises(LockedError, match="another run holds"),
        held_lock(lock, doing="stop"),
    ):
        pass
    assert lock.read_text() == ""


def test_a_close_that_fails_gives_the_lock_back(lock, monkeypatch):
    with monkeypatch.context() as patch, held_lock(lock, doing="start"):
        patch.setattr(os, "close", refusing(errno.EIO, os.close))
    with held_lock(lock, doing="stop"):
        pass


def test_the_directory_of_a_lock_is_for_us_alone(lock):
    former = os.umask(0o000)
    try:
        with held_lock(lock, doing="start"):
            assert lock.parent.stat().st_mode & 0o777 == 0o700
            assert lock.stat().st_mode & 0o777 == 0o600
    finally:
        os.umask(former)
