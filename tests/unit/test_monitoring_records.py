"""The JSON form of a snapshot."""

import json

import pytest

from ai_how.errors import StateError
from ai_how.monitoring.records import read_snapshot, write_snapshot
from made_up_cluster import make_snapshot


def test_a_snapshot_is_read_as_it_was_written():
    seen = make_snapshot(nodes=3, jobs=5)
    line = write_snapshot(seen)
    assert b"\n" not in line
    assert read_snapshot(line) == seen


def test_what_a_newer_collector_adds_is_left_out():
    record = json.loads(write_snapshot(make_snapshot(nodes=1)))
    record["colour"] = "blue"
    record["nodes"][0]["vm"]["colour"] = "blue"
    assert read_snapshot(json.dumps(record).encode()) == make_snapshot(nodes=1)


@pytest.mark.parametrize("line", [b"", b"{", b"[]", b'{"at": "noon"}', b"\xff"])
def test_something_else_is_refused(line):
    with pytest.raises(StateError, match="no snapshot"):
        read_snapshot(line)
