"""The state's backups, its largest size, and what is durable when one is written or removed."""

import errno
import json
import os
from pathlib import Path
from uuid import uuid4

import pytest
from test_state_models import cluster_state

from ai_how.errors import StateError
from ai_how.state.cluster_state import (
    DAMAGED,
    backup_serials,
    read_state,
    remove_state,
    render_state,
    restore_state,
    write_state,
)
from ai_how.state.paths import ClusterPaths

MIB = 1 << 20


@pytest.fixture
def paths(tmp_path) -> ClusterPaths:
    root = tmp_path / "demo"
    root.mkdir(mode=0o700)
    return ClusterPaths(root)


def write_times(paths: ClusterPaths, times: int):
    state = cluster_state()
    for _ in range(times):
        state = write_state(paths, state)
    return state


@pytest.fixture
def order(monkeypatch) -> list[str]:
    """What is synced and removed from now on, by name."""
    told: list[str] = []
    fsync, unlink, replace = os.fsync, os.unlink, os.replace

    def note_fsync(descriptor):
        name = Path(f"/proc/self/fd/{descriptor}").readlink().name
        told.append("sync " + ("draft" if name.endswith(".draft") else name))
        fsync(descriptor)

    def note_unlink(path):
        told.append(f"remove {Path(path).name}")
        unlink(path)

    def note_replace(*names):
        told.append("replace")
        replace(*names)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "unlink", note_unlink)
    monkeypatch.setattr(os, "replace", note_replace)
    return told


def test_a_state_is_written_for_people_as_well(paths):
    write_times(paths, 1)
    text = paths.state.read_text()
    assert text == json.dumps(json.loads(text), indent=2) + "\n"


@pytest.mark.fault("F15", "a state file of exactly the largest size, and one byte more")
def test_sixteen_mebibytes_are_read_and_no_byte_more(paths, points):
    state = write_times(paths, 1)
    text = paths.state.read_bytes()
    paths.state.write_bytes(text.ljust(16 * MIB))
    assert read_state(paths) == state
    paths.state.write_bytes(text.ljust(16 * MIB + 1))
    with pytest.raises(StateError, match="is damaged") as caught:
        read_state(paths)
    assert caught.value.details == f"it is larger than {16 * MIB} bytes"
    points(2)


def test_what_json_does_not_know_replaces_no_state(paths):
    state = write_times(paths, 1)
    before = paths.state.read_bytes()
    first, *others = state.nodes
    spoilt = first.model_copy(update={"stages_s": {"boot": float("nan")}})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_state(paths, state.model_copy(update={"nodes": (spoilt, *others)}))
    assert paths.state.read_bytes() == before


def test_the_backup_is_durable_before_the_state_is_replaced(paths, order):
    write_times(paths, 2)
    assert order[-5:] == ["sync backups", "sync draft", "replace", "sync demo", order[-1]]
    assert order[-1].startswith("remove .state.json.")


@pytest.mark.fault("F16", "a state file that was copied from another cluster")
def test_a_state_of_another_name_is_not_ours(paths):
    paths.state.write_text(render_state(cluster_state(name="other")))
    with pytest.raises(StateError, match="belongs to another cluster") as caught:
        read_state(paths)
    assert caught.value.details == "It is the state of other, not of demo."


@pytest.mark.fault("F16", "a backup of another cluster of the same name")
def test_a_backup_of_another_cluster_is_not_restored(paths):
    write_times(paths, 2)
    before = paths.state.read_bytes()
    other = cluster_state(lineage=uuid4(), serial=1)
    (paths.backups / "1.json").write_text(render_state(other))
    with pytest.raises(StateError, match="belongs to another cluster"):
        restore_state(paths, 1)
    assert paths.state.read_bytes() == before


@pytest.mark.fault("F16", "a backup of a cluster of another kind")
def test_a_backup_of_another_kind_is_not_restored(paths):
    write_times(paths, 2)
    paths.state.unlink()
    with pytest.raises(StateError) as caught:
        restore_state(paths, 1, kind="bare")
    backup = paths.backups / "1.json"
    assert caught.value.brief == f"{backup} is of a cluster of the kind hpc, not bare"
    assert read_state(paths) is None


def test_the_newest_damaged_state_is_the_one_that_is_kept(paths):
    write_times(paths, 2)
    for rubbish in (b"first", b"second"):
        paths.state.write_bytes(rubbish)
        restore_state(paths, 1)
        assert (paths.backups / DAMAGED).read_bytes() == rubbish
        assert read_state(paths) is not None


def test_the_way_back_leads_past_backups_that_are_not_sound_or_not_ours(paths):
    write_times(paths, 5)
    paths.state.write_bytes(b"rubbish")
    (paths.backups / "4.json").write_text(render_state(cluster_state(name="other")))
    (paths.backups / "3.json").write_bytes(b"rubbish")
    with pytest.raises(StateError, match="is damaged") as caught:
        read_state(paths)
    assert str(paths.backups / "2.json") in caught.value.hint
    for serial in (1, 2):
        (paths.backups / f"{serial}.json").unlink()
    with pytest.raises(StateError, match="is damaged") as caught:
        read_state(paths)
    assert caught.value.hint.endswith("# there is no intact backup")


@pytest.mark.fault("F17", "a file in the place of the backups")
def test_backups_that_cannot_be_listed_are_told(paths):
    paths.backups.write_text("")
    with pytest.raises(StateError, match="cannot be read: Not a directory") as caught:
        backup_serials(paths)
    assert caught.value.hint == f"ls -ld {paths.backups}"
    paths.state.write_bytes(b"rubbish")
    with pytest.raises(StateError, match="is damaged") as caught:
        read_state(paths)
    assert caught.value.hint == f"ls -ld {paths.backups}"


def test_a_number_that_is_written_oddly_hinders_no_write(paths):
    state = write_times(paths, 12)
    (paths.backups / "001.json").write_text("{}")
    assert write_state(paths, state).serial == 13
    assert len(backup_serials(paths)) >= 10


def test_a_removal_takes_the_backups_first_and_is_durable_before_it_returns(paths, order):
    write_times(paths, 3)
    (paths.backups / DAMAGED).touch()
    order.clear()
    remove_state(paths)
    assert order == [
        *("remove 1.json", "remove 2.json", f"remove {DAMAGED}", "sync backups"),
        *("remove state.json", "sync demo"),
    ]
    assert list(paths.backups.iterdir()) == []
    assert read_state(paths) is None


def test_a_removal_can_be_repeated_whatever_is_left(paths):
    write_times(paths, 1)
    paths.backups.rmdir()
    remove_state(paths)
    assert read_state(paths) is None
    remove_state(paths)
    paths.root.rmdir()
    remove_state(paths)


def test_a_removal_that_the_disk_refuses_is_told(paths, monkeypatch):
    write_times(paths, 2)

    def refuse(path):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "unlink", refuse)
    with pytest.raises(StateError, match="could not be removed: Read-only file system"):
        remove_state(paths)
    assert read_state(paths) is not None
