"""The page of a real cluster in a browser: its figures are libvirt's and SLURM's.

AI_HOW_PICTURES=docs/pictures writes the pictures of the docs from the same run.
"""

import json
import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from ai_how.clusters.collecting import find_collector
from ai_how.hpc.manager import HpcManager
from ai_how.libvirt_client.client import LibvirtClient
from ai_how.process import start_daemon
from ai_how.waiting import Deadline, wait_until
from real_cluster import Cluster
from seen_page import Seen, chromium, seen

pytestmark = [pytest.mark.slurm, pytest.mark.long]
PATIENCE_S = 300.0
CLUSTER = "hpc"
# Two CPUs of one node, of which it uses one, for a while.
JOB = "sbatch -J page-job -n 2 -t 10 --wrap \"timeout 60 sh -c 'while :; do :; done'; exit 0\""


@pytest.fixture
def address(watched: Cluster, tmp_path: Path) -> Iterator[str]:
    """`hpc dashboard` in a process of its own."""
    log = tmp_path / "dashboard.log"
    child = start_daemon([*watched.argv, "--json", "hpc", "dashboard"], log=log)

    def told() -> str | None:
        with suppress(ValueError):
            return str(json.loads(log.read_text())["url"])
        return None

    try:
        yield wait_until(told, Deadline.after(PATIENCE_S), "the address of the page")
    finally:
        child.send_signal(signal.SIGINT)
        child.wait(60)
        watched.call("hpc", "monitor", "stop")


def await_page(page: Seen, is_so: str, what: object = None) -> None:
    page.page.wait_for_function(is_so, arg=what, timeout=PATIENCE_S * 1000)


def cells(page: Seen, table: str, row: str) -> dict[str, str]:
    """A row of a table, by the heads of its columns."""
    return page.page.evaluate(
        """([table, row]) => {
            const heads = [...document.querySelectorAll(`${table} thead th button`)]
                .map((one) => one.firstChild.data);
            const found = [...document.querySelectorAll(`${table} tbody tr`)]
                .find((one) => one.firstChild.textContent === row);
            return found
                ? Object.fromEntries(heads.map((head, at) =>
                    [head, found.children[at].textContent]))
                : {};
        }""",
        [table, row],
    )


def mib(text: str) -> float:
    """The figure of a cell."""
    figure, unit = text.split()
    return float(figure) * {"B": 2**-20, "KiB": 2**-10, "MiB": 1, "GiB": 2**10}[unit]


# A guest may be late on a busy machine: that is a gap of its own source alone.
ALL_ANSWER = """() => ['libvirt', 'disks', 'slurm'].every((name) =>
    [...document.querySelectorAll('#sources li')].some((one) =>
        one.querySelector('.source-name').textContent === name
        && one.querySelector('.source-state').classList.contains('good')))"""
# An emulated guest tells of its memory minutes after its boot.
ALL_TELL = """() => {
    const at = [...document.querySelectorAll('#nodes-table thead th button')]
        .findIndex((one) => one.firstChild.data === 'Memory used');
    const rows = [...document.querySelectorAll('#nodes-table tbody tr')];
    const cells = rows.map((one) => one.children[at].textContent);
    return cells.length > 0 && cells.every((one) => !one.startsWith('\u2013'));
}"""


def take(page: Seen, name: str, tmp_path: Path, selector: str | None = None) -> None:
    """A picture for the docs, if they are asked for; it is made in any case."""
    target = Path(os.environ.get("AI_HOW_PICTURES", tmp_path))
    target.mkdir(parents=True, exist_ok=True)
    path = target / f"{name}.png"
    if selector:
        page.page.locator(selector).screenshot(path=path)
    else:
        page.page.screenshot(path=path)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_the_figures_are_those_of_libvirt_and_slurm(watched, address, tmp_path):
    with chromium() as browser, seen(browser, address, color_scheme="light") as page:
        await_page(page, ALL_ANSWER)
        await_page(page, ALL_TELL)
        manager = HpcManager(roots=watched.roots, name=CLUSTER)
        with LibvirtClient(watched.host.uri) as client:
            for node in manager.get_state().nodes:
                row = cells(page, "#nodes-table", node.name)
                info = client.get_domain(node.uuid)
                stats = client.bulk_stats([node.uuid], timeout_s=60)[node.uuid]
                assert row["CPUs busy"].endswith(f"/ {info.vcpus}"), row
                used = (stats["balloon.available"] - stats["balloon.usable"]) / 1024
                assert mib(row["Memory used"].split(" / ")[0]) == pytest.approx(used, rel=0.2)
                assert mib(row["Disk on host"]) == pytest.approx(
                    stats["block.0.physical"] / 2**20, rel=0.05
                )
        shown = watched.execute("controller", "sinfo -h -N -o '%N %T %C'").split("\n")
        for line in filter(None, shown):
            name, state, cpus = line.split()
            row = cells(page, "#nodes-table", name)
            allotted, _, _, total = cpus.split("/")
            assert row["Allotted"] == f"{allotted} / {total}"
            assert state in row["State"]
        version = watched.execute("controller", "sinfo --version").split()[-1]
        assert f"SLURM {version}" in page.text("#cluster-words")
        take(page, "dashboard", tmp_path)


@pytest.mark.long
def test_a_job_appears_runs_and_ends_on_the_open_page(watched, address, tmp_path):
    with chromium() as browser, seen(browser, address, color_scheme="dark") as page:
        await_page(page, ALL_ANSWER)
        number = watched.ssh("controller", JOB).split()[-1]
        state = (
            "([id, word]) => [...document.querySelectorAll('#jobs-table tbody tr')].some((one) =>"
        )
        state += " one.firstChild.textContent === id && one.textContent.includes(word))"
        await_page(page, state, [number, "running"])
        told = watched.execute("controller", f"squeue -h -j {number} -o '%N %C %u'").split()
        row = cells(page, "#jobs-table", number)
        assert [row["Nodes"], row["CPUs"], row["User"]] == told
        words = page.page.locator(f"#picture [data-roving='{told[0]}']").get_attribute("aria-label")
        assert f"{number} of {told[2]}" in str(words)
        take(page, "dashboard-dark", tmp_path)
        await_page(page, state, [number, "completed"])
        record = watched.execute("controller", f"scontrol show job {number}")
        begun, ended = (re.search(rf"{one}=(\S+)", record)[1] for one in ("StartTime", "EndTime"))
        seconds = int(
            watched.execute("controller", f"expr $(date -d {ended} +%s) - $(date -d {begun} +%s)")
        )
        minutes, rest = cells(page, "#jobs-table", number)["Ran"].split(":")
        assert int(minutes) * 60 + int(rest) == seconds


@pytest.mark.long  # test_dashboard_of_cluster.py kills it under the stream of a page
@pytest.mark.fault("M01", "killed under an open page, with a real cluster")
def test_the_collector_is_killed_under_an_open_page(watched, address):
    with chromium() as browser, seen(browser, address) as page:
        await_page(page, ALL_ANSWER)
        first = find_collector(watched.paths)
        assert first is not None
        os.kill(first.pid, signal.SIGKILL)
        killed_at = time.time()
        await_page(page, "() => document.querySelector('#live').textContent !== '● Live'")
        newer = "(at) => Number(document.querySelector('#live-at').dataset.at) > at"
        await_page(page, newer, killed_at)
        await_page(page, ALL_ANSWER)
        second = find_collector(watched.paths)
        assert second is not None
        assert second.pid != first.pid
