"""The state file: old or new, never neither; refused where it is not what was written."""

import errno
import hashlib
import json
import os
import shlex
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_state_models import LINEAGE, cluster_state, node

from ai_how.errors import StateError
from ai_how.process import run
from ai_how.state.cluster_state import (
    LARGEST_BYTES,
    DamagedError,
    backup_serials,
    ensure_lineage,
    parse_state,
    read_state,
    remove_state,
    render_state,
    restore_state,
    write_state,
)
from ai_how.state.paths import ClusterPaths


@pytest.fixture
def paths(tmp_path):
    root = tmp_path / "demo"
    root.mkdir(mode=0o700)
    return ClusterPaths(root)


def written(paths, times=1):
    state = cluster_state()
    for _ in range(times):
        state = write_state(paths, state)
    return state


def test_nothing_is_remembered_of_a_cluster_that_never_was(paths):
    assert read_state(paths) is None
    assert read_state(ClusterPaths(paths.root / "nowhere")) is None


def test_what_was_written_is_read_again(paths):
    state = written(paths)
    assert read_state(paths) == state
    assert state.serial == 1
    assert state.updated_at > state.created_at
    assert paths.state.stat().st_mode & 0o777 == 0o600


def test_each_write_has_a_higher_serial_and_keeps_the_newest_ten_before_it(paths):
    assert written(paths, 14).serial == 14
    assert backup_serials(paths) == tuple(range(4, 14))
    assert restore_state(paths, 5).serial == 15
    assert backup_serials(paths) == tuple(range(5, 15))


def test_a_state_that_does_not_follow_from_the_one_on_disk_is_refused(paths):
    first = written(paths)
    second = write_state(paths, first.model_copy(update={"home": "none"}))
    with pytest.raises(StateError, match="was changed after it was read") as caught:
        write_state(paths, first)
    assert caught.value.details == "its serial is 2; this run read 1"
    assert read_state(paths) == second


@pytest.mark.fault("F16", "another cluster's state written over ours")
def test_another_clusters_state_is_never_overwritten(paths):
    state = written(paths)
    stranger = cluster_state(lineage=uuid4())
    with pytest.raises(StateError, match="the state of demo belongs to another cluster") as caught:
        write_state(paths, stranger)
    assert str(LINEAGE) in caught.value.details
    assert read_state(paths) == state


def test_lineage_is_checked_by_id_not_by_name():
    ensure_lineage(cluster_state(name="renamed"), LINEAGE)
    with pytest.raises(StateError, match="belongs to another cluster"):
        ensure_lineage(cluster_state(), uuid4())


def test_a_backup_copied_over_the_state_reuses_no_serial(paths):
    written(paths, 5)
    run(["install", "-m", "600", paths.backups / "2.json", paths.state])
    state = read_state(paths)
    assert state.serial == 2
    assert write_state(paths, state).serial == 6


@pytest.mark.fault("F15", "the state and its newest backup cut")
def test_a_damaged_state_is_kept_as_it_is_and_the_newest_sound_backup_is_offered(paths):
    written(paths, 4)
    paths.state.write_bytes(b"{")
    (paths.backups / "3.json").write_bytes(b"")
    with pytest.raises(StateError) as caught:
        read_state(paths)
    assert caught.value.brief == f"{paths.state} is damaged"
    assert caught.value.details.startswith("it is not JSON: ")
    assert paths.state.read_bytes() == b"{"
    run(shlex.split(caught.value.hint))
    assert read_state(paths).serial == 2


def test_a_damaged_state_without_a_backup_is_moved_away_by_the_hint(paths):
    written(paths)
    paths.state.write_bytes(b"")
    with pytest.raises(StateError) as caught:
        read_state(paths)
    assert caught.value.hint.startswith(f"mv {paths.state} {paths.state}.damaged")


@pytest.mark.fault("F15", "a save over a damaged state")
def test_a_damaged_state_is_not_overwritten(paths):
    state = written(paths)
    paths.state.write_bytes(b"{}")
    with pytest.raises(StateError, match="is damaged"):
        write_state(paths, state)
    assert paths.state.read_bytes() == b"{}"


@pytest.mark.fault("F15", "a backup restored over a damaged state")
def test_restoring_keeps_the_damaged_state_and_takes_no_serial_twice(paths):
    written(paths, 3)
    paths.state.write_bytes(b"half a st")
    restored = restore_state(paths, 2)
    assert restored.serial == 4, "3 was the damaged one's"
    assert read_state(paths) == restored
    assert (paths.backups / "damaged.json").read_bytes() == b"half a st"


def test_a_restored_state_does_not_say_what_the_nodes_were_told_since(paths):
    write_state(paths, write_state(paths, cluster_state(config_digest="told")))
    assert restore_state(paths, 1).config_digest == ""


def test_restoring_what_is_not_there_names_what_is(paths):
    written(paths, 3)
    with pytest.raises(StateError, match="cluster demo has no backup 7") as caught:
        restore_state(paths, 7)
    assert caught.value.details == "it has: 1, 2"


def test_restoring_a_damaged_backup_changes_nothing(paths):
    state = written(paths, 3)
    (paths.backups / "1.json").write_bytes(b"x")
    with pytest.raises(StateError, match=r"1\.json is damaged"):
        restore_state(paths, 1)
    assert read_state(paths) == state


def test_forgetting_a_cluster_leaves_no_backup_and_is_safe_to_repeat(paths):
    written(paths, 3)
    remove_state(paths)
    remove_state(paths)
    assert read_state(paths) is None
    assert backup_serials(paths) == ()


def _signed(**changes) -> bytes:
    """A state file whose checksum is right, whatever its content."""
    body = {**json.loads(render_state(cluster_state())), **changes}
    del body["checksum"]
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    checksum = "sha256:" + hashlib.sha256(text.encode()).hexdigest()
    return json.dumps({**body, "checksum": checksum}).encode()


@pytest.mark.fault("F16", "schema 2")
def test_a_newer_state_is_refused_with_the_version_that_it_needs(paths):
    paths.state.write_bytes(_signed(schema_version=2, written_by="3.1.0", colour="blue"))
    with pytest.raises(StateError, match=r"written by ai-how 3\.1\.0, which is newer") as caught:
        read_state(paths)
    assert caught.value.details == "its schema is 2, this version knows 1"
    assert caught.value.hint == "use ai-how 3.1.0 or later"


@pytest.mark.fault("F16", "schema 0, unknown fields, a sound checksum")
@pytest.mark.parametrize(
    ("changes", "details"),
    [
        ({"schema_version": 0}, "there is no schema 0"),
        ({"schema_version": "one"}, "schema_version"),
        ({"colour": "blue"}, "colour"),
        ({"nodes": [{"name": "x"}]}, r"nodes\.0\.role"),
        ({"lineage": "\ud800"}, "lineage"),
    ],
    ids=["older", "no number", "extra", "node", "surrogate"],
)
def test_a_state_that_was_signed_but_makes_no_sense_is_damaged(changes, details):
    with pytest.raises(DamagedError, match=details):
        parse_state(_signed(**changes))


@pytest.mark.fault("F15", "NUL, BOM, NaN, twins, deep nesting, huge numbers")
@pytest.mark.parametrize(
    ("text", "details"),
    [
        (b"", "it is not JSON"),
        (b"\0" * 4096, "it is not JSON"),
        (b"\xef\xbb\xbf{}", "it is not JSON"),
        (b"\xff\xfe", "it is not JSON"),
        (b"[]", "it is not a JSON object"),
        (b"{}", "its checksum does not match"),
        (b'{"a": 1, "a": 2}', "a key occurs twice"),
        (b'{"a": NaN}', "NaN is not a number"),
        (b'{"a": -Infinity}', "-Infinity is not a number"),
        (b"[" * 100_000, "it is nested too deeply"),
        (b'{"a":' * 100_000, "it is nested too deeply"),
        (b'{"a": ' + b"9" * 5000 + b"}", "it is not JSON"),
    ],
    ids=lambda value: repr(value)[:24],
)
def test_what_is_no_state_is_refused_with_the_reason(text, details):
    with pytest.raises(DamagedError, match=details):
        parse_state(text)


@pytest.mark.fault("F15", "100 MB")
def test_a_huge_file_is_refused_unread(paths):
    with paths.state.open("wb") as file:
        file.truncate(100 * 1024 * 1024)
    with pytest.raises(StateError, match="is damaged") as caught:
        read_state(paths)
    assert caught.value.details == f"it is larger than {LARGEST_BYTES} bytes"


@pytest.mark.fault("S19", "a link in the state's place")
def test_a_link_or_a_directory_in_its_place_is_refused(paths, tmp_path):
    (tmp_path / "elsewhere").write_text(render_state(cluster_state()))
    paths.state.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StateError, match="cannot be read: Too many levels of symbolic links"):
        read_state(paths)
    paths.state.unlink()
    paths.state.mkdir()
    with pytest.raises(StateError, match="cannot be read: Is a directory"):
        read_state(paths)


@pytest.mark.fault("F15", "the state cut at every byte")
def test_cut_anywhere_it_is_refused(points):
    text = render_state(cluster_state()).rstrip().encode()
    for length in range(len(text)):
        with pytest.raises(DamagedError):
            parse_state(text[:length])
        points(1)


@pytest.mark.fault("F15", "bits of the state flipped at every byte")
def test_a_flipped_bit_is_refused_or_makes_no_difference(points):
    text = render_state(cluster_state()).encode()
    state = parse_state(text)
    for place in range(len(text)):
        for bit in (0, 5):
            flipped = bytearray(text)
            flipped[place] ^= 1 << bit
            points(1)
            try:
                assert parse_state(bytes(flipped)) == state
            except DamagedError:
                continue


@given(st.binary(max_size=300))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
def test_no_bytes_make_the_reader_fail_otherwise(paths, data):
    paths.state.write_bytes(data)
    with pytest.raises(StateError, match="is damaged"):
        read_state(paths)


@given(st.text(max_size=30), st.floats(allow_nan=False, allow_infinity=False))
def test_any_state_comes_back_as_it_was(text, seconds):
    first = node("controller", 10).model_copy(update={"stages_s": {text: seconds}, "mac": text})
    state = cluster_state(nodes=(first,), user=text)
    assert parse_state(render_state(state).encode()) == state


@pytest.mark.parametrize("call", ["fsync", "write", "open", "replace", "link"])
@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EACCES])
def test_a_disk_that_refuses_at_any_call_costs_nothing_that_was_remembered(
    paths, monkeypatch, call, number
):
    state = written(paths, 2)
    real, nth = getattr(os, call), 0
    while True:
        count = 0

        def refuse(*args, **kwargs):
            nonlocal count
            count += 1
            if count == nth + 1:  # noqa: B023  called in this turn
                raise OSError(number, os.strerror(number))
            return real(*args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(os, call, refuse)
            try:
                state = write_state(paths, state)
            except StateError:
                # A name that could not be synced may be the new one already.
                found = read_state(paths)
                assert found == state or found.serial > state.serial
                state = found
        if count <= nth:
            break
        nth += 1
    assert write_state(paths, state) == read_state(paths)
