"""The journal: what it says can be trusted, or it says that it cannot."""

import errno
import json
import os
import zlib
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import ClassVar
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from plan_world import OP_ID, STEP_TYPES, Bench, Put

from ai_how.errors import HostError, StateError
from ai_how.plan.journal import Journal
from ai_how.plan.records import decode_line, encode_line
from ai_how.plan.step import Applied, KeyedStep, Plan


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


@pytest.fixture
def written(bench):
    """A journal with every kind of record but the end."""
    with bench.journal(Plan("start", ())) as journal:
        journal.intent([Put("a"), Put("b", ("a",))])
        journal.done({"a": Applied.MADE})
        journal.done({"b": Applied.KEPT})
        journal.intent([Put("c"), Put("d")])
        journal.failed({"c": HostError("c broke")})
        journal.undone(["d"])
    return bench.journal_path


def read(path: Path):
    return Journal.read(path, STEP_TYPES)


def test_it_tells_who_wrote_it_and_what_is_to_be_undone(written):
    seen = read(written)
    assert (seen.verb, seen.op_id, seen.cluster, seen.pid) == ("start", OP_ID, "demo", os.getpid())
    assert seen.note == {"file": "demo.yaml"}
    assert seen.started_at.tzinfo is not None
    assert seen.begun == (Put("a"), Put("b", ("a",)), Put("c"), Put("d"))
    assert seen.remaining == (Put("c"), Put("a"))
    assert not seen.is_over


def test_it_is_for_our_eyes_only(written):
    assert written.stat().st_mode & 0o777 == 0o600


def test_no_journal_is_nothing_to_undo(tmp_path):
    assert read(tmp_path / "journal.jsonl") is None


def test_a_closed_journal_is_gone(bench):
    with bench.journal(Plan("start", ())) as journal:
        journal.intent([Put("a")])
        journal.close()
    assert read(bench.journal_path) is None


def test_one_that_was_ended_but_not_removed_leaves_nothing_to_undo(written):
    with written.open("ab") as file:
        file.write(encode_line({"end": "2026-01-01T00:00:00+00:00"}))
    seen = read(written)
    assert seen.is_over
    assert seen.remaining == ()


def test_the_journal_of_an_earlier_run_is_never_overwritten(bench, written):
    before = written.read_bytes()
    with pytest.raises(StateError, match="an earlier run was cut short"):
        bench.journal(Plan("start", ()))
    assert written.read_bytes() == before


def test_one_that_died_before_its_first_record_is_replaced(bench):
    bench.journal_path.write_bytes(b'{"crc":"00')
    assert bench.left() is None
    with bench.journal(Plan("stop", ())):
        assert bench.left().verb == "stop"


@pytest.mark.fault("S19", "a link in the journal's place")
def test_it_is_neither_read_nor_written_through_a_link(bench, tmp_path):
    (tmp_path / "elsewhere").write_text("")
    bench.journal_path.symlink_to(tmp_path / "elsewhere")
    refused = "cannot be read: Too many levels of symbolic links"
    with pytest.raises(StateError, match=refused):
        bench.journal(Plan("start", ()))
    with pytest.raises(StateError, match=refused) as caught:
        read(bench.journal_path)
    assert caught.value.hint == f"ls -l {bench.journal_path}"
    assert (tmp_path / "elsewhere").read_text() == ""


def test_an_intent_is_on_disk_before_its_step_is_applied(bench):
    on_disk = {}
    bench.world.on = lambda moment, key: on_disk.setdefault(key, bench.left().begun)
    bench.run(Plan("start", (Put("a"), Put("b", ("a",)))))
    assert on_disk == {"a": (Put("a"),), "b": (Put("a"), Put("b", ("a",)))}


def test_every_record_is_synced(bench, monkeypatch):
    calls = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda descriptor: (calls.append(1), real(descriptor)))
    with bench.journal(Plan("start", ())) as journal:
        assert len(calls) == 2, "the header and the directory"
        journal.intent([Put("a"), Put("b")])
        assert len(calls) == 3
        journal.done({"a": Applied.MADE})
        assert len(calls) == 4
        journal.undone(["a"])
        assert len(calls) == 5


@pytest.mark.fault("F13", "fsync of the journal fails")
def test_nothing_is_written_after_a_failed_sync(bench, monkeypatch):
    with bench.journal(Plan("start", ())) as journal:
        journal.intent([Put("a")])
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", _refuse)
            with pytest.raises(StateError, match=r"could not be written: Input/output error"):
                journal.intent([Put("b")])
        size = bench.journal_path.stat().st_size
        with pytest.raises(StateError, match="could not be written"):
            journal.intent([Put("c")])
    assert bench.journal_path.stat().st_size == size


def _refuse(descriptor: int) -> None:
    raise OSError(errno.EIO, "Input/output error")


def test_a_full_disk_is_told_with_the_way_to_look_at_it(bench, monkeypatch):
    def full(descriptor, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    with bench.journal(Plan("start", ())) as journal:
        monkeypatch.setattr(os, "write", full)
        with pytest.raises(StateError, match="No space left on device") as caught:
            journal.intent([Put("a")])
    assert caught.value.hint == f"df -h {bench.directory}"


def test_one_that_was_left_cannot_be_written(bench):
    journal = bench.journal(Plan("start", ()))
    journal.close_file()
    with pytest.raises(ValueError, match="is closed"):
        journal.intent([Put("a")])


@pytest.mark.fault("F15", "a torn tail of the journal")
@pytest.mark.parametrize("extra", [b"", b"{", b'{"crc":"00000000","record":{}}\n', b"\0" * 4096])
def test_a_torn_tail_does_not_count_and_is_cut_off_before_more_is_written(written, extra):
    whole = written.read_bytes()
    written.write_bytes(whole + extra)
    seen = read(written)
    assert seen.valid_bytes == len(whole)
    with Journal.reopen(seen) as journal:
        journal.undone(["c"])
    assert written.read_bytes().startswith(whole)
    assert read(written).remaining == (Put("a"),)


@pytest.mark.fault("F15", "the journal cut at every byte")
def test_cut_anywhere_it_tells_a_prefix(written, points):
    data = written.read_bytes()
    begun = read(written).begun
    for length in range(len(data)):
        written.write_bytes(data[:length])
        seen = read(written)
        if seen is not None:
            assert seen.begun == begun[: len(seen.begun)]
            assert seen.valid_bytes <= length
        points(1)


@pytest.mark.fault("F15", "every bit of the journal flipped")
def test_a_flipped_bit_anywhere_is_refused_or_costs_only_the_tail(written, points):
    data = written.read_bytes()
    begun = read(written).begun
    last_two = data[:-1].rfind(b"\n", 0, data[:-1].rfind(b"\n"))
    for place in range(len(data)):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[place] ^= 1 << bit
            written.write_bytes(flipped)
            points(1)
            try:
                seen = read(written)
            except StateError:
                continue
            assert place > last_two, "only the end of a journal may be torn"
            assert seen.begun == begun[: len(seen.begun)]


@pytest.mark.fault("F15", "a damaged record in the middle")
def test_damage_in_the_middle_names_the_file_the_line_and_what_to_do(written):
    lines = written.read_bytes().splitlines(keepends=True)
    written.write_bytes(b"".join([*lines[:2], b"rubbish\n", *lines[3:]]))
    with pytest.raises(StateError) as caught:
        read(written)
    assert caught.value.brief == f"the journal {written} is damaged in line 3 of {len(lines)}"
    assert f"mv {written} {written}.damaged" in caught.value.hint


@pytest.mark.fault("F16", "steps and records that are not known")
@pytest.mark.parametrize(
    "record",
    [
        {"intent": [{"kind": "unheard-of", "key": "x", "fields": {}}]},
        {"intent": [{"kind": "put", "key": "x", "fields": {"name": 1, "after": 2}}]},
        {"intent": 7},
        {"novelty": []},
    ],
    ids=["kind", "fields", "shape", "word"],
)
def test_records_of_another_version_are_refused_with_its_number(written, record):
    with written.open("ab") as file:
        file.write(encode_line(record))
    with pytest.raises(StateError, match="from another version of ai-how") as caught:
        read(written)
    assert caught.value.hint.startswith("use ai-how 0.1.0")


@pytest.mark.fault("F16", "a journal of format 2")
def test_a_later_format_is_refused(tmp_path):
    path = tmp_path / "journal.jsonl"
    path.write_bytes(encode_line({"journal": 2, "written_by": "9.9"}))
    with pytest.raises(StateError, match="from another version") as caught:
        read(path)
    assert "its format is 2, this version reads 1" in caught.value.details
    assert caught.value.hint == "use ai-how 9.9, which wrote it"


def test_the_note_is_read_of_whatever_kind_of_cluster_it_is(written):
    with written.open("ab") as file:
        file.write(encode_line({"intent": [{"kind": "unheard-of", "key": "x", "fields": {}}]}))
    assert Journal.read_note(written) == {"file": "demo.yaml"}


def test_there_is_no_note_where_nothing_had_begun(tmp_path):
    path = tmp_path / "journal.jsonl"
    assert Journal.read_note(path) is None
    path.write_bytes(b'{"crc":"00')
    assert Journal.read_note(path) is None


@pytest.mark.fault("F16", "the first record of another version, read for its note")
def test_a_note_of_another_version_is_refused_with_its_number(tmp_path):
    path = tmp_path / "journal.jsonl"
    path.write_bytes(encode_line({"journal": 2, "written_by": "9.9"}))
    with pytest.raises(StateError, match="from another version of ai-how") as caught:
        Journal.read_note(path)
    assert caught.value.hint == "use ai-how 9.9, which wrote it"


@given(st.binary(max_size=200))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
def test_no_bytes_make_the_reader_fail_otherwise(tmp_path, data):
    path = tmp_path / "journal.jsonl"
    path.write_bytes(data)
    with suppress(StateError):
        assert read(path) is None


FINITE = st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | FINITE | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=6,
)


@given(st.dictionaries(st.text(), JSON, max_size=4))
def test_any_record_comes_back_as_it_went(record):
    line = encode_line(record)
    assert line.count(b"\n") == 1
    assert decode_line(line) == record


@given(st.lists(st.dictionaries(st.text(), JSON, max_size=3), max_size=4))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whole_records_that_make_no_sense_are_refused(tmp_path, records):
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b"".join(map(encode_line, records)))
    if not records:
        assert read(path) is None
    else:
        with pytest.raises(StateError, match="from another version"):
            read(path)


def test_it_can_be_read_with_ordinary_tools(written):
    for line in written.read_text().splitlines():
        parsed = json.loads(line)
        text = json.dumps(parsed["record"], sort_keys=True, separators=(",", ":"))
        assert parsed["crc"] == f"{zlib.crc32(text.encode()):08x}"


class Kind(StrEnum):
    DISK = "disk"


@dataclass(frozen=True, slots=True)
class Inner:
    path: Path
    size: int | None = None


@dataclass(frozen=True, slots=True)
class Rich(KeyedStep):
    kind: ClassVar[str] = "rich"
    uuid: UUID
    path: Path
    address: IPv4Address | None
    subnet: IPv4Network
    what: Kind
    inner: Inner
    pairs: tuple[tuple[str, int], ...]
    more: tuple[Inner, ...]
    ratio: float
    is_on: bool
    text: str

    @property
    def subject(self):
        return self.text


@given(
    st.text(), st.floats(allow_nan=False, allow_infinity=False), st.none() | st.ip_addresses(v=4)
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
def test_a_step_comes_back_from_the_journal_as_it_was(tmp_path, text, ratio, address):
    step = Rich(
        uuid4(),
        Path("/var/lib/x.qcow2"),
        address,
        IPv4Network("10.1.0.0/16"),
        Kind.DISK,
        Inner(Path("a"), 3),
        (("a", 1), ("b", 2)),
        (Inner(Path("b")),),
        ratio,
        is_on=True,
        text=text,
    )
    path = tmp_path / "journal.jsonl"
    path.unlink(missing_ok=True)
    with Journal.create(path, verb="start", op_id=OP_ID, cluster="demo", note={}) as journal:
        journal.intent([step])
    assert Journal.read(path, {"rich": Rich}).begun == (step,)
