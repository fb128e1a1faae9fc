"""How a cluster was used: sums, efficiency, waiting, gaps, and the page."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from test_docs_json import as_json, assert_documented

from ai_how.cli.hpc_report import _document
from ai_how.monitoring.model import Job
from ai_how.monitoring.usage import UsageReport, report_usage
from ai_how.monitoring.usage_page import describe_end, percent, render_page, span
from made_up_cluster import make_snapshot

DAY = 86400.0
SINCE, UNTIL = 10 * DAY, 11 * DAY


def job(number: int, **values: object) -> Job:
    """A job of one CPU that ran for an hour after a wait of a minute, and used half of both."""
    asked: dict = {
        "id": str(number),
        "shown_id": str(number),
        "name": f"job-{number}",
        "user": "alice",
        "partition": "compute",
        "state": "completed",
        "submitted_at": SINCE + 3600 - 60,
        "started_at": SINCE + 3600,
        "ended_at": SINCE + 7200,
        "nodes": ("compute-01",),
        "cpus": 1,
        "memory_mib": 1000,
        "exit_code": 0,
        "cpu_used_s": 1800.0,
        "memory_peak_mib": 500,
    }
    return Job(**(asked | values))


def report(*jobs: Job, cpus: object = (), allotted: object = ()) -> UsageReport:
    return report_usage("made-up", jobs, cpus, allotted, since=SINCE, until=UNTIL)


def test_a_job_counts_with_its_hours_and_what_it_used():
    total = report(job(1)).total
    assert (total.jobs, total.failed, total.ended) == (1, 0, {"completed": 1})
    assert total.cpu_hours == pytest.approx(1)
    assert total.cpu_efficiency == pytest.approx(0.5)
    assert total.memory_efficiency == pytest.approx(0.5)
    assert (total.wait_median_s, total.wait_max_s) == (60, 60)


def test_only_the_part_in_the_period_counts():
    early = job(1, submitted_at=SINCE - 7200, started_at=SINCE - 1800, ended_at=SINCE + 1800)
    late = job(2, state="running", started_at=UNTIL - 900, ended_at=None, cpu_used_s=None)
    total = report(early, late).total
    assert total.cpu_hours == pytest.approx(0.5 + 0.25)
    assert total.known_hours == pytest.approx(0.5)
    assert total.wait_max_s == UNTIL - 900 - (SINCE + 3540)


@pytest.mark.parametrize(
    "values",
    [
        {"ended_at": SINCE - 1, "started_at": SINCE - 100, "submitted_at": SINCE - 200},
        {"submitted_at": UNTIL, "started_at": UNTIL + 10, "ended_at": UNTIL + 20},
    ],
)
def test_a_job_of_another_time_is_left_out(values):
    assert report(job(1, **values)).total.jobs == 0


def test_what_is_not_known_is_not_guessed():
    total = report(job(1, cpu_used_s=None, memory_peak_mib=None)).total
    assert total.cpu_efficiency is None
    assert total.memory_efficiency is None
    found = report()
    assert (found.utilisation, found.covered_s, found.cpu_hours) == (None, 0, None)


def test_a_job_is_measured_until_it_was_seen_last():
    """What it did between that and its end is not known."""
    seen = job(1, cpu_used_s=900.0, use_seen_at=SINCE + 3600 + 1200)
    assert report(seen).total.cpu_efficiency == pytest.approx(0.75)


def test_a_waiting_job_has_no_hours_and_no_wait_yet():
    waiting = job(1, state="pending", started_at=UNTIL - 60, ended_at=None)
    total = report(waiting).total
    assert (total.jobs, total.cpu_hours, total.wait_max_s) == (1, 0, None)


def test_a_gap_is_no_use_and_no_idleness():
    cpus = [(SINCE + 3600 * hour, None if hour < 6 else 4.0) for hour in range(24)]
    used = [(SINCE + 3600 * hour, None if hour < 6 else 1.0) for hour in range(24)]
    found = report(cpus=cpus, allotted=used)
    assert found.covered_s == 18 * 3600
    assert found.cpu_hours == pytest.approx(72)
    assert found.utilisation == pytest.approx(0.25)


def test_users_and_partitions_are_sorted_by_their_hours():
    jobs = [job(1), job(2, user="bob", cpus=4), job(3, user="carol", partition="debug")]
    found = report(*jobs)
    assert [one.name for one in found.users] == ["bob", "alice", "carol"]
    assert [(one.name, one.jobs) for one in found.partitions] == [("compute", 2), ("debug", 1)]


@pytest.mark.parametrize("state", ["failed", "timeout", "out_of_memory", "node_fail"])
def test_failures_are_named_the_latest_first(state):
    first, last = job(1, state=state), job(2, state=state, ended_at=SINCE + 9000)
    found = report(first, last, job(3), job(4, state="cancelled"))
    assert [line.id for line in found.failures] == ["2", "1"]
    assert found.total.failed == 2


def test_a_job_that_wastes_its_cpus_is_named():
    found = report(job(1, cpu_used_s=10.0, cpus=8), job(2, cpu_used_s=3500.0))
    assert [line.id for line in found.wasteful] == ["1"]


def test_a_made_up_cluster_can_be_reported():
    seen = make_snapshot(nodes=4, jobs=100)
    found = report_usage(
        "made-up", seen.slurm.jobs, (), (), since=seen.at - 6 * 3600, until=seen.at
    )
    assert found.total.jobs == 100
    assert {one.name for one in found.users} == {"alice", "bob", "carol"}
    assert sum(one.jobs for one in found.users) == 100
    assert 0 < found.total.cpu_efficiency < 1


class Page(HTMLParser):
    """What a page is made of."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in {"src", "href"}]
        if tag not in {"meta", "rect", "line", "polygon", "br"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in {"rect", "line", "polygon"}:
            assert self.open.pop() == tag


def test_the_page_needs_nothing_and_runs_nothing():
    cpus = [(SINCE + 3600 * hour, None if hour == 5 else 4.0) for hour in range(24)]
    text = render_page(
        report(job(1), job(2, state="failed", exit_code=3), cpus=cpus, allotted=cpus)
    )
    page = Page(text)
    assert page.open == []
    assert page.links == []
    assert "script" not in page.tags
    assert page.tags.count("svg") == 3
    assert len(re.findall('<polygon class="have"', text)) == 2
    assert "failed, exit code 3" in text


def test_names_in_the_page_are_text():
    hostile = "<script>alert(1)</script>\"'&"
    bad = job(1, name=hostile, user=hostile, partition=hostile, state="failed", reason=hostile)
    page = Page(render_page(replace(report(bad), cluster=hostile)))
    assert page.open == []
    assert "script" not in page.tags


def test_a_report_of_nothing_is_a_page_as_well():
    assert "Nothing was seen of SLURM" in render_page(report())


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "-"), (0, "0 s"), (59, "59 s"), (60, "1 min"), (3700, "1 h 1 min"), (90000, "1 d 1 h")],
)
def test_durations_are_for_people(seconds, text):
    assert span(seconds) == text


def test_an_unknown_share_is_a_question_mark():
    assert (percent(None), percent(0.256)) == ("?", "26 %")


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"state": "failed", "exit_code": 3, "reason": "NonZeroExitCode"}, "failed, exit code 3"),
        ({"state": "failed", "signal": 9, "exit_code": 0}, "failed, signal 9"),
        ({"state": "out_of_memory", "signal": 125, "reason": "OutOfMemory"}, "out of memory"),
        ({"state": "timeout", "exit_code": 0, "reason": "TimeLimit"}, "timeout, TimeLimit"),
    ],
)
def test_how_a_job_failed_is_told_in_words(values, text):
    (line,) = report(job(1, **values)).failures
    assert describe_end(line) == text


def test_a_report_for_programs_is_as_the_page_says():
    """With jobs that are known, and one of which nothing is."""
    cpus = [(SINCE + 3600 * hour, 4.0) for hour in range(24)]
    known = job(1, state="failed", reason="NonZeroExitCode", exit_code=3, signal=9)
    poor = {"cpu_used_s": None, "memory_peak_mib": None, "exit_code": None, "user": "bob"}
    unknown = job(2, state="timeout", submitted_at=None, **poor)
    lazy = job(3, cpus=8, cpu_used_s=10.0)
    rich, bare = report(known, unknown, lazy, cpus=cpus, allotted=cpus), report()
    assert_documented("`hpc report`", *(as_json(_document(one)) for one in (rich, bare)))
    assert as_json(_document(rich))["users"][0]["ended"] == {"failed": 1, "completed": 1}
