"""Whatever our own files hold, and whatever an image claims: a value, or an error of ours."""

import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from fuzzing import answer, bent, json_values, names, soup, spoilt_bytes
from hypothesis import strategies as st
from plan_world import OP_ID, STEP_TYPES, Put
from qcow2_writer import BACKING_FORMAT, DATA_FILE, FEATURE_NAMES, LUKS, Qcow2
from test_state_models import cluster_state

from ai_how.clusters.status import report
from ai_how.errors import AiHowError, HostError, ImageError, StateError
from ai_how.guest.ssh import render_ssh_config
from ai_how.images.qcow2_header import Qcow2Header, find_format, read_header
from ai_how.plan.journal import Journal, JournalContents
from ai_how.plan.records import decode_line, encode_line
from ai_how.plan.step import Applied
from ai_how.state.cluster_state import _checksum, parse_state, read_state, render_state
from ai_how.state.models import ClusterState
from ai_how.state.paths import ClusterPaths, StoragePaths
from ai_how.vm_management.disks.manager import DiskManager

STATE = render_state(cluster_state())
BODY = {key: value for key, value in json.loads(STATE).items() if key != "checksum"}
JSON_PIECES = [
    *(
        "{",
        "}",
        "[",
        "]",
        ":",
        ",",
        '"',
        "\\",
        "null",
        "true",
        "-",
        "0",
        "1e999",
        "NaN",
        "Infinity",
    ),
    *(
        '"name":',
        '"name":1,"name":2',
        '"schema_version":99',
        '"checksum":"sha256:',
        "\\ud800",
        "\0",
    ),
    *("9" * 5000, "[" * 2000, '{"a":' * 2000, "\ufeff", "\n", " ", '"lineage"', STATE[:400], STATE),
]


def sealed(body: object) -> bytes:
    """A body as a state file whose checksum is right."""
    if isinstance(body, dict):
        body = {**body, "checksum": _checksum(body)}
    return json.dumps(body).encode()


@pytest.fixture
def read_file(fuzz):
    """Puts bytes where a cluster's state is, and reads it as a verb does."""
    paths = ClusterPaths(fuzz.scratch / "demo")
    paths.root.mkdir()
    disks = DiskManager(StoragePaths(fuzz.scratch / "storage"))

    def check(data: bytes) -> None:
        paths.state.write_bytes(data)
        state = answer(read_state, paths)
        if isinstance(state, AiHowError):
            assert isinstance(state, StateError)
            assert paths.state.read_bytes() == data
            return
        assert parse_state(render_state(state).encode()) == state
        use(state, paths, disks)

    return check


def use(state: ClusterState, paths: ClusterPaths, disks: DiskManager) -> None:
    """What the verbs do with a state before they ask libvirt."""
    report(state, {}, datetime.now(UTC))
    render_ssh_config(state, paths, [])
    assert not isinstance(answer(disks.is_claimed, state.name, state.lineage), OSError)
    for node in state.nodes:
        assert paths.host_key(node.name).parent == paths.secrets
        assert paths.console_log(node.name).parent == paths.console
        path = answer(disks._disk, state.name, node.name)
        assert isinstance(path, HostError) or path.parent == disks.storage.cluster(state.name)


@pytest.mark.fault("F15", "fuzzed bytes of a state file")
def test_any_bytes_are_a_state_or_refused(fuzz, read_file):
    bytes_ = spoilt_bytes(STATE.encode()) | st.binary() | soup(JSON_PIECES).map(str.encode)
    huge = b'{"a":"' + b"x" * (17 << 20) + b'"}'
    fuzz(
        read_file, bytes_, b"", b"\xef\xbb\xbf" + STATE.encode(), b"\0" * 4096, huge, b"[" * 999999
    )


@pytest.mark.fault("F15", "fuzzed values in a state file with a good checksum")
@pytest.mark.fault("S02", "fuzzed names in a state file with a good checksum")
def test_any_values_are_a_state_or_refused(fuzz, read_file):
    named = st.builds(lambda name: {**BODY, "name": name}, names)
    nodes = st.builds(lambda name: {**BODY, "nodes": [{**BODY["nodes"][0], "name": name}]}, names)
    bodies = bent(BODY, times=2) | named | nodes | json_values
    untrue = {**BODY, "network": {**BODY["network"], "subnet": True}}
    known = [BODY, {**BODY, "serial": 10**4299}, untrue]
    fuzz(read_file, bodies.map(sealed), *map(sealed, known))


def whole_records(fuzz) -> list[dict[str, object]]:
    """A journal with a record of every kind."""
    path = fuzz.scratch / "whole.jsonl"
    note = {"serial": 1, "only": ["compute-01"]}
    with Journal.create(path, verb="start", op_id=OP_ID, cluster="demo", note=note) as journal:
        journal.intent([Put("a"), Put("b", ("a",))])
        journal.done({"a": Applied.MADE, "b": Applied.KEPT})
        journal.intent([Put("c"), Put("d")])
        journal.failed({"c": HostError("c broke")})
        journal.undone(["d"])
        journal._append_record("end", "2026-01-01T00:00:00+00:00", [""])
    return [decode_line(line) for line in path.read_bytes().splitlines(keepends=True)]


@pytest.fixture
def read_journal(fuzz):
    """Puts bytes where a journal is, and reads and continues it as a verb does."""
    path = fuzz.scratch / "journal.jsonl"

    def check(data: bytes) -> None:
        path.write_bytes(data)
        seen = answer(Journal.read, path, STEP_TYPES)
        if seen is None or isinstance(seen, StateError):
            assert path.read_bytes() == data
            return
        assert isinstance(seen, JournalContents)
        f"{seen.verb} {seen.pid} {seen.started_at:%F %T %Z} {seen.note.get('serial')}"
        assert {step.key for step in seen.remaining} <= {step.key for step in seen.begun}
        with Journal.reopen(seen) as journal:
            journal.undone([step.key for step in seen.remaining])
        assert Journal.read(path, STEP_TYPES).remaining == ()

    return check


@pytest.mark.fault("F15", "fuzzed bytes of a journal")
def test_any_bytes_are_a_journal_or_refused(fuzz, read_journal):
    whole = b"".join(map(encode_line, whole_records(fuzz)))
    noise = st.binary(max_size=300) | soup(JSON_PIECES).map(str.encode)
    tails = st.builds(bytes.__add__, st.just(whole), noise)
    fuzz(read_journal, spoilt_bytes(whole) | noise | tails, whole, b"", b"\0" * 4096)


@pytest.mark.fault("F15", "fuzzed records of a journal with good checksums")
def test_any_records_are_a_journal_or_refused(fuzz, read_journal):
    whole = whole_records(fuzz)

    def lines(records: object) -> bytes:
        try:
            return b"".join(map(encode_line, records if isinstance(records, list) else [records]))
        except ValueError:  # NaN: no record of ours can hold one
            return encode_line(whole[0])

    fuzz(read_journal, bent(whole).map(lines), lines(whole))


numbers = st.sampled_from([0, 1, 2, 3, 7, 8, 9, 21, 22, 64, 104, 112, 512, 2**16, 2**20, 2**31])
numbers |= st.integers(0, 2**32 - 1)
offsets = numbers | st.sampled_from([2**53, 2**63, 2**64 - 1]) | st.integers(0, 2**64 - 1)
kinds = st.sampled_from([0, BACKING_FORMAT, DATA_FILE, LUKS, FEATURE_NAMES]) | numbers
heads = st.fixed_dictionaries(
    {},
    optional={
        "version": st.integers(0, 4) | numbers,
        "virtual_bytes": offsets,
        "cluster_bits": st.integers(0, 24) | numbers,
        "crypt_method": numbers,
        "l1_entries": numbers,
        "l1_offset": offsets,
        "refcount_offset": offsets,
        "refcount_clusters": numbers,
        "snapshots": numbers,
        "incompatible": offsets,
        "refcount_order": numbers,
        "header_bytes": st.sampled_from([0, 72, 96, 104, 105, 112, 65528, 65544]) | numbers,
        "compression": st.none() | st.integers(0, 255),
        "extensions": st.lists(st.tuples(kinds, st.binary(max_size=20)), max_size=70),
        "backing_file": st.sampled_from([b"/etc/passwd", b"json:{}", b"a\n", b"\xff"])
        | st.binary(),
        "backing_offset": offsets,
    },
)


@pytest.fixture
def read_image(fuzz):
    """Reads bytes as an image, in every way that we do."""
    path = fuzz.scratch / "image"

    def check(data: bytes) -> None:
        path.write_bytes(data)
        find_format(path)
        header = answer(read_header, path)
        if isinstance(header, Qcow2Header):
            assert header.backing_file is None
            assert 0 < header.virtual_size_bytes <= 8 << 40
        else:
            assert isinstance(header, ImageError)
        overlay = answer(read_header, path, allow_backing=True)
        assert isinstance(overlay, Qcow2Header | ImageError)
        if isinstance(overlay, Qcow2Header) and overlay.backing_file:
            assert isinstance(header, ImageError)
            assert overlay.backing_file.isprintable()

    return check


SMALL = Qcow2(
    cluster_bits=9, virtual_bytes=1 << 15, l1_entries=1, l1_offset=3 << 9, refcount_offset=1 << 9
)


def bent_image(fields: dict[str, object]) -> bytes:
    """A file of four clusters, whatever its header claims."""
    return replace(SMALL, **fields).head().ljust(4 << 9, b"\0")


@pytest.mark.fault("S07", "fuzzed bytes of images")
def test_any_bytes_are_an_image_or_refused(fuzz, read_image):
    plain = Qcow2(cluster_bits=9).render()
    chained = Qcow2(
        cluster_bits=9,
        extensions=[(BACKING_FORMAT, b"qcow2"), (FEATURE_NAMES, bytes(48))],
        backing_file=b"/base.qcow2",
    ).render()
    spoilt = st.sampled_from([plain, chained]).flatmap(spoilt_bytes)
    noise = st.binary() | st.binary().map(b"QFI\xfb\0\0\0\3".__add__)
    fuzz(read_image, spoilt | noise, b"", plain, chained, b"# " * 40_000, b"\n" * 70_000)


@pytest.mark.fault("S04", "fuzzed qcow2 headers")
@pytest.mark.fault("S05", "fuzzed qcow2 headers")
@pytest.mark.fault("S06", "fuzzed qcow2 headers")
@pytest.mark.fault("S07", "fuzzed qcow2 headers")
def test_any_header_is_an_image_or_refused(fuzz, read_image):
    fuzz(read_image, heads.map(bent_image), bent_image({}))
