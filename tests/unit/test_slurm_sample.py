"""What SLURM's own programs printed, of three releases, as one kind of sample."""

import gzip
import json
from pathlib import Path

import pytest

from ai_how.errors import GuestError
from ai_how.hpc.hostlist import expand
from ai_how.hpc.job_times import duration_s
from ai_how.hpc.slurm_json import MOST_BYTES, number, objects_of, text_of, unpacked, words_of
from ai_how.hpc.slurm_sample import (
    read_gpus,
    read_jobs,
    read_nodes,
    read_partitions,
    read_scheduler,
    read_version,
)
from ai_how.monitoring.model import GpuCount, Job

DATA = Path(__file__).parents[1] / "data/slurm"


def jobs_of(release: str) -> dict[str, Job]:
    return {one.shown_id: one for one in read_jobs((DATA / release / "jobs.json").read_text())}


def test_nodes_of_24_11():
    text = (DATA / "24.11/nodes.json").read_text()
    one, two = read_nodes(text)
    assert (one.name, one.states, one.is_working) == ("compute-01", ("idle",), True)
    assert (two.name, two.states, two.cpus_allotted) == ("compute-02", ("mixed",), 1)
    assert (two.cpus, two.memory_mib, two.memory_allotted_mib) == (2, 898, 64)
    assert (one.load, one.reason, one.reason_at) == (0.72, None, None)
    assert one.partitions == ("compute", "debug")
    assert read_version(text) == "24.11.5"


@pytest.mark.parametrize("release", ["22.05", "26.05"])
def test_nodes_with_gpus_a_reason_and_no_slurmd(release):
    text = (DATA / release / "nodes.json").read_text()
    drained, off, _ = read_nodes(text)
    assert (drained.states, drained.is_drained) == (("allocated", "drain"), True)
    assert (drained.reason, drained.reason_user) == ('a "test" of ours', "root")
    assert drained.reason_at == {"22.05": 1796094576, "26.05": 1796095192}[release]
    assert drained.gpus == (GpuCount(type="a100", count=2, allotted=1),)
    assert (off.states, off.is_working) == (("down", "not_responding"), False)
    assert (off.load, off.memory_free_mib, off.booted_at) == (None, None, None)
    assert read_version(text) == {"22.05": "22.05.8", "26.05": "26.05.5"}[release]


def test_jobs_of_24_11():
    jobs = jobs_of("24.11")
    failed, killed = jobs["23"], jobs["24"]
    assert (failed.state, failed.exit_code, failed.signal) == ("failed", 3, None)
    assert (failed.reason, failed.ended_at) == ("NonZeroExitCode", 1796094631)
    assert (killed.state, killed.exit_code, killed.signal) == ("failed", None, 9)
    runs = jobs["25_2"]
    assert (runs.id, runs.state, runs.is_running) == ("30", "running", True)
    assert (runs.nodes, runs.cpus, runs.memory_mib, runs.limit_s) == (("compute-02",), 1, 64, 180)
    assert (runs.started_at, runs.ended_at) == (1796094666, None)
    waits = jobs["29"]
    assert (waits.is_waiting, waits.reason) == (True, "DependencyNeverSatisfied")
    assert (waits.dependency, waits.limit_s, waits.nodes) == ("afterok:28(failed)", None, ())
    assert jobs["28"].state == "cancelled"
    assert jobs["27"].name == 'od"d \\ <b>[31m'
    assert all(one.gpus is None for one in jobs.values())


@pytest.mark.parametrize("release", ["22.05", "26.05"])
def test_jobs_with_gpus_arrays_and_signals(release):
    jobs = jobs_of(release)
    runs = jobs["1"]
    assert (runs.name, runs.user, runs.state, runs.gpus) == ('ru"n', "root", "running", 1)
    assert (runs.nodes, runs.limit_s, runs.ended_at) == (("compute-01",), 300, None)
    assert (jobs["2"].exit_code, jobs["2"].signal, jobs["2"].limit_s) == (3, None, 86400)
    assert (jobs["3"].exit_code, jobs["3"].signal) == (None, 9)
    assert jobs["4_1"].id == "6"
    assert jobs["4_[2-3%1]"].reason == "JobArrayTaskLimit"
    held = jobs["5"]
    assert (held.reason, held.node_count, held.memory_mib, held.gpus) == ("JobHeldUser", 2, 2000, 2)


@pytest.mark.parametrize("release", ["22.05", "24.11", "26.05"])
def test_partitions(release):
    first, second = read_partitions((DATA / release / "partitions.txt").read_text())
    assert (first.name, first.state, first.is_default) == ("compute", "up", True)
    assert first.max_time_s is None
    assert set(first.nodes) >= {"compute-01", "compute-02"}
    assert (second.name, second.is_default) == ("debug", False)
    assert second.max_time_s == (None if release == "24.11" else 5400)


def test_the_scheduler_has_the_same_names_in_all_releases():
    new = read_scheduler((DATA / "24.11/scheduler.json").read_text())
    old = read_scheduler((DATA / "22.05/scheduler.txt").read_text())
    assert new["schedule_cycle_mean"] > 0
    assert old.keys() <= new.keys()
    assert (old["server_thread_count"], old["jobs_submitted"], old["bf_cycle_counter"]) == (3, 7, 1)


def test_a_job_that_ends_is_both():
    (job,) = read_jobs('{"jobs": [{"job_id": 7, "job_state": ["COMPLETED", "COMPLETING"]}]}')
    assert (job.state, job.flags, job.is_running) == ("completing", ("completed",), True)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("compute-[01-03,7]", ("compute-01", "compute-02", "compute-03", "compute-7")),
        ("a,b-[1-2]-x,c", ("a", "b-1-x", "b-2-x", "c")),
        ("r[0-1]n[1-2]", ("r0n1", "r0n2", "r1n1", "r1n2")),
        ("", ()),
        ("odd[", ("odd",)),
    ],
)
def test_hostlists(text, names):
    assert expand(text) == names


def test_a_hostlist_cannot_be_endless():
    assert len(expand("n[0-999999999]")) == 4096
    assert len(expand("n[0-99]m[0-99]k[0-99]")) == 4096


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1-02:03:04", 93784), ("01:30:00", 5400), ("UNLIMITED", None), ("x", None), ("", None)],
)
def test_durations(text, seconds):
    assert duration_s(text) == seconds


@pytest.mark.parametrize(
    ("has", "used", "gpus"),
    [
        ("gpu:2", "gpu:1(IDX:0)", (GpuCount(type="gpu", count=2, allotted=1),)),
        ("gpu:a100:4(S:0-1)", None, (GpuCount(type="a100", count=4, allotted=0),)),
        (
            "gpu:h100:1(S:0),gpu:a100_1g.5gb:7(S:0),shard:8",
            "gpu:a100_1g.5gb:3(IDX:0-2),gpu:h100:0(IDX:N/A)",
            (
                GpuCount(type="a100_1g.5gb", count=7, allotted=3),
                GpuCount(type="h100", count=1, allotted=0),
            ),
        ),
        (None, None, ()),
        ("gpu:x:y", "\x1b[31m", ()),
    ],
)
def test_gpus_of_a_node(has, used, gpus):
    assert read_gpus(has, used) == gpus


@pytest.mark.parametrize(
    ("fields", "gpus"),
    [
        ({"tres_alloc_str": "cpu=1,gres/gpu=3,gres/gpu:a100=2,gres/gpu:h100=1"}, 3),
        ({"tres_req_str": "cpu=1,gres/gpu:a100=2"}, 2),
        ({"tres_per_node": "gres/gpu:a100:2", "node_count": {"set": True, "number": 3}}, 6),
        ({"tres_per_job": "gres/gpu:4"}, 4),
        ({"gres_detail": ["gpu:a100:2(IDX:0-1)", "gpu:a100:1(IDX:0)"]}, 3),
        ({"tres_per_node": "gres/shard:2"}, None),
    ],
)
def test_gpus_of_a_job(fields, gpus):
    text = json.dumps({"jobs": [{"job_id": 1, "job_state": ["RUNNING"], **fields}]})
    assert read_jobs(text)[0].gpus == gpus


LIES = [None, "", "x" * 5000, "\x1b]0;t\x07\n", -1, 1e300, 2**70, True, [], {}, {"number": "1"}]
LIES += [{"set": True, "infinite": False, "number": -5}, [[[]]], {"set": True, "number": {}}]


@pytest.mark.parametrize("lie", LIES, ids=[repr(one)[:20] for one in LIES])
def test_a_lie_in_any_field_harms_nothing_but_that(lie):
    """Every field of a real job and node, one after the other."""
    for kind, read in (("jobs", read_jobs), ("nodes", read_nodes)):
        record = json.loads((DATA / f"24.11/{kind}.json").read_text())[kind][-1]
        for name in record:
            for one in read(json.dumps({kind: [record | {name: lie}]})):
                for value in (getattr(one, field) for field in one.__dataclass_fields__):
                    assert value is None or isinstance(value, str | int | float | bool | tuple)
                    if isinstance(value, str):
                        assert len(value) <= 250
                        assert value.isprintable()
                    elif isinstance(value, int | float):
                        assert 0 <= value <= 2**60


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        '{"jobs": 5}',
        '{"jobs": [',
        '{"jobs": [{"job_id": 1}',
        '{"jobs": [{"job_id": 1} garbage]}',
        '{"jobs": [' + "[" * 100_000,
        '{"jobs": [' + "9" * 5000 + "]}",
    ],
)
def test_what_is_no_answer_is_an_error(text):
    with pytest.raises(GuestError, match="SLURM's answer"):
        read_jobs(text)


def test_the_name_of_a_job_is_not_taken_for_the_list():
    text = json.dumps({"meta": {"x": '"jobs": ['}, "jobs": [{"job_id": 1, "job_state": "RUNNING"}]})
    assert [one.id for one in read_jobs(text)] == ["1"]


def test_no_number_is_none():
    assert number(float("nan")) is None
    assert list(objects_of('{"jobs": [{"a": NaN, "b": Infinity}]}', "jobs")) == [
        {"a": None, "b": None}
    ]
    assert text_of("(null)") is None
    assert words_of("A", ["B", 5, "A"]) == ("a", "b")


def test_a_bomb_is_refused():
    bomb = gzip.compress(b"0" * (MOST_BYTES + 1))
    with pytest.raises(GuestError, match="longer than 32 MiB"):
        unpacked(bomb)
    with pytest.raises(GuestError, match="damaged"):
        unpacked(b"\x1b[31m garbage")


def test_of_too_many_jobs_the_newest_are_kept():
    many = ",".join(f'{{"job_id": {n}, "job_state": "PENDING"}}' for n in range(10_050, 0, -1))
    found = read_jobs(f'{{"jobs": [{many}]}}')
    assert len(found) == 10_000
    assert {int(one.id) for one in found} == set(range(51, 10_051))
