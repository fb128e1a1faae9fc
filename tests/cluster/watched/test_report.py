"""A report of use, of real jobs: what SLURM and their processes say of them is in it."""

import csv
import io
import json
import re
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

from ai_how.waiting import Deadline, wait_until
from real_cluster import ASK_S, Cluster

pytestmark = pytest.mark.slurm

CHROMIUM = "/usr/bin/chromium"
SWITCHES = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
BURN_S, REST_S = 25, 35
# It uses one CPU of the two that it asks for, and that for less than half of its time.
BURNS = (
    f"sbatch -J burns -n 2 --wrap \"timeout {BURN_S} sh -c 'while :; do :; done'; sleep {REST_S}\""
)
FAILS = 'sbatch -J fails -p debug --wrap "exit 3"'
SHOWN = re.compile(r"\b(StartTime|EndTime|SubmitTime|JobState)=(\S+)")


@pytest.fixture
def reported(watched: Cluster, tmp_path: Path) -> tuple[Cluster, dict[str, str]]:
    """The cluster after two jobs, while it was watched; and the number of each, by its name."""
    watched.call("hpc", "monitor", "start")
    jobs = {
        name: watched.ssh("controller", line).split()[-1]
        for name, line in (("burns", BURNS), ("fails", FAILS))
    }

    def has_both() -> bool:
        found = json.loads(watched.call("hpc", "report", "--since", "1h", "--json"))
        lines = (*found["wasteful"], *found["failures"])
        return set(jobs.values()) <= {one["id"] for one in lines if one["ended_at"]}

    wait_until(
        has_both, Deadline.after(BURN_S + REST_S + 4 * ASK_S), "the end of both jobs in the report"
    )
    yield watched, jobs
    watched.call("hpc", "monitor", "stop")


def test_a_report_has_what_slurm_and_the_processes_say(reported, tmp_path):
    watched, jobs = reported
    found = json.loads(watched.call("hpc", "report", "--since", "1h", "--json"))
    told = dict(SHOWN.findall(watched.execute("controller", f"scontrol show job {jobs['burns']}")))
    assert told["JobState"] == "COMPLETED"
    seconds = watched.execute(
        "controller",
        f"expr $(date -d {told['EndTime']} +%s) - $(date -d {told['StartTime']} +%s)",
    )
    burnt = next(one for one in found["wasteful"] if one["id"] == jobs["burns"])
    assert burnt["cpu_hours"] == pytest.approx(2 * int(seconds) / 3600, abs=2 * 2 / 3600)
    assert 0.05 < burnt["cpu_efficiency"] < 0.5
    total = found["total"]["cpu_hours"]
    failed = next(one for one in found["failures"] if one["id"] == jobs["fails"])
    assert (failed["exit_code"], failed["partition"]) == (3, "debug")
    assert found["covered_s"] > 0
    assert 0 < found["utilisation"] < 1

    rows = list(csv.DictReader(io.StringIO(watched.call("hpc", "report", "--format", "csv"))))
    by_name = {(row["group"], row["name"]): row for row in rows}
    assert float(by_name["all", "all"]["cpu_hours"]) == pytest.approx(total, abs=0.01)
    assert int(by_name["partition", "debug"]["failed"]) >= 1
    assert "exit code 3" in watched.call("hpc", "report")

    page = tmp_path / "report.html"
    watched.call("hpc", "report", "-o", str(page))
    check_page(page, jobs["fails"])


def check_page(file: Path, failed: str) -> None:
    """A browser shows it without a fault, and asks nobody for anything else."""
    faults, asked = [], []
    with sync_playwright() as player:
        browser = player.chromium.launch(executable_path=CHROMIUM, args=SWITCHES)
        page = browser.new_page()
        page.on("console", lambda line: faults.append(line.text))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(file.as_uri())
        table = page.get_by_role("heading", name="Failed jobs")
        assert table.is_visible()
        assert page.get_by_role("row").filter(has_text=failed).first.is_visible()
        assert page.get_by_role("img").count() == 3
        browser.close()
    assert faults == []
    assert asked == [file.as_uri()]


def test_a_report_needs_no_collector_and_no_cluster_that_is_up(watched):
    """What was kept is read from the database."""
    found = json.loads(watched.call("hpc", "report", "--since", "1h", "--json"))
    assert found["total"]["ended"]["completed"] >= 1
    assert json.loads(watched.call("hpc", "monitor", "status", "--json"))["pid"] is None
