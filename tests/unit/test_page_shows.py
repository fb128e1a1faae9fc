"""What the page shows of made-up clusters, in a browser, from its own server."""

import re
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from playwright.sync_api import Browser

from ai_how.monitoring.model import Event, Finding, Snapshot
from made_up_life import MovingLife, ToldClusters
from seen_page import Seen, chromium, seen, served

FINDINGS = (
    Finding(
        id="node-drained",
        severity="warning",
        subject="compute-02",
        text="compute-02 is drained: a test of disks",
        since=time.time() - 600,
        evidence=("scontrol says: State=IDLE+DRAIN",),
        remedy="ai-how hpc check --heal",
        heals=True,
    ),
    Finding(
        id="root-full",
        severity="critical",
        subject="compute-03",
        text="compute-03 has no space left",
        since=time.time() - 60,
    ),
)


UNKNOWN = "\u2013"


def a_life(name: str = "made-up", **what: object) -> MovingLife:
    now = time.time()
    # Three minutes of the last hour are missing.
    gaps = [(now - 1800, now - 1620)]
    events = [Event(at=now - 900, kind="start", subject="cluster", text="the cluster was started")]
    return MovingLife(name=name, gaps=gaps, happened=events, has_gpus=True, **what)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as one:
        yield one


@pytest.fixture(scope="module")
def life() -> MovingLife:
    return a_life(findings=FINDINGS)


@pytest.fixture(scope="module")
def address(life: MovingLife) -> Iterator[str]:
    with served(ToldClusters(life, a_life("other", nodes=1))) as one:
        yield one.address


@pytest.fixture(scope="module")
def opened(browser: Browser, address: str) -> Iterator[Seen]:
    grants = ["clipboard-read", "clipboard-write"]
    with seen(browser, address, permissions=grants) as one:
        one.wait("() => document.querySelectorAll('#jobs-table tbody tr').length > 1")
        yield one


@pytest.fixture
def page(opened: Seen) -> Iterator[Seen]:
    """The one page, as it is at its beginning."""
    yield opened
    opened.page.evaluate(
        """() => {
            document.querySelector('#drawer').close();
            for (const one of document.querySelectorAll('input[type=search]')) {
                one.value = '';
                one.oninput({ target: one });
            }
        }"""
    )
    opened.page.get_by_role("tab", name="made-up").click()
    opened.wait("() => document.querySelector('#cluster-name').textContent === 'made-up'")
    opened.check()


def rows(page: Seen, table: str, column: str) -> list[str]:
    """The cells of a column, from its head."""
    heads = [
        re.sub(r"\s*[▲▼]$", "", one)
        for one in page.page.locator(f"{table} thead th").all_text_contents()
    ]
    place = heads.index(column) + 1
    found = page.page.locator(f"{table} tbody tr > :nth-child({place})").all_text_contents()
    return [one.strip() for one in found]


def snapshot(life: MovingLife) -> Snapshot:
    return life.snapshot()


def test_the_token_does_not_stay_in_the_address(page):
    assert "token" not in page.page.url


def test_the_head_says_what_the_snapshot_has(page, life):
    slurm = snapshot(life).slurm
    summary = " ".join(page.text("#summary").split())
    running = sum(one.is_running for one in slurm.jobs)
    waiting = sum(one.is_waiting for one in slurm.jobs)
    allotted = sum(one.cpus_allotted for one in slurm.nodes)
    assert f"CPUs allotted {allotted} of 12" in summary
    assert f"Jobs running {running}" in summary
    assert f"Jobs waiting {waiting}" in summary
    assert "Storage free 290 GiB of 500 GiB" in summary
    assert "SLURM 24.11.5" in page.text("#cluster-words")


def test_the_tables_have_each_node_and_job(page, life):
    now = snapshot(life)
    assert rows(page, "#nodes-table", "Node") == [one.name for one in now.nodes]
    allotted = [
        f"{one.slurm.cpus_allotted} / {one.slurm.cpus}" if one.slurm else UNKNOWN
        for one in now.nodes
    ]
    assert rows(page, "#nodes-table", "Allotted") == allotted
    shown = dict(
        zip(rows(page, "#jobs-table", "Job"), rows(page, "#jobs-table", "State"), strict=True)
    )
    words = {
        "pending": "◌ waiting",
        "running": "▶ running",
        "completed": "✓ completed",
        "failed": "✕ failed",
    }
    assert shown == {one.shown_id: words[one.state] for one in now.slurm.jobs}


def test_the_efficiency_of_a_job_is_what_it_used_of_what_it_asked_for(page, life):
    memory = dict(
        zip(rows(page, "#jobs-table", "Job"), rows(page, "#jobs-table", "Memory used"), strict=True)
    )
    for job in snapshot(life).slurm.jobs:
        used = job.memory_peak_mib
        assert memory[job.shown_id] == (
            UNKNOWN if used is None else f"{100 * used / job.memory_mib:.0f} %"
        )


def test_a_click_on_a_head_sorts_and_a_filter_leaves_what_fits(page):
    head = page.page.locator("#jobs-table thead button", has_text="Job").first
    head.click()
    page.wait("() => document.querySelector('#jobs-table [aria-sort=ascending]')")
    numbers = [int(one) for one in rows(page, "#jobs-table", "Job")]
    assert numbers == sorted(numbers)
    head.click()
    page.wait("() => document.querySelector('#jobs-table [aria-sort=descending]')")
    assert [int(one) for one in rows(page, "#jobs-table", "Job")] == numbers[::-1]
    page.page.fill("#jobs-filter", "alice failed")
    page.wait("() => document.querySelector('#jobs-count').textContent.includes('of')")
    users, states = rows(page, "#jobs-table", "User"), rows(page, "#jobs-table", "State")
    assert users
    assert set(users) == {"alice"}
    assert {one.split()[-1] for one in states} == {"failed"}


def test_the_picture_has_each_node_with_its_jobs_and_gpus(page, life):
    names = page.page.locator("#picture .node").evaluate_all(
        "all => all.map((one) => one.getAttribute('aria-label'))"
    )
    now = snapshot(life)
    assert {one.split(",")[0] for one in names} == {one.name for one in now.nodes}
    for node in now.nodes:
        mine = [one for one in now.slurm.jobs if one.is_running and node.name in one.nodes]
        words = next(one for one in names if one.startswith(f"{node.name},"))
        assert all(f"{one.shown_id} of {one.user}" in words for one in mine)
        assert mine or "no jobs" in words
    assert page.page.locator("#picture .node text", has_text="G0").count() == 3
    assert page.page.locator("#picture .label").all_inner_texts() != []


def test_health_shows_the_worst_first_with_evidence_and_remedy(page):
    assert page.page.locator("#health .id").all_inner_texts() == ["root-full", "node-drained"]
    assert "State=IDLE+DRAIN" in page.text("#health .evidence")
    assert page.page.locator("#health .remedy code").inner_text() == "ai-how hpc check --heal"


def test_the_remedy_is_copied(page):
    page.page.locator("#health .copy").click()
    page.page.get_by_text("Copied").wait_for()
    assert page.page.evaluate("navigator.clipboard.readText()") == "ai-how hpc check --heal"


def test_a_gap_is_a_gap_in_the_lines(page):
    figure = page.page.locator("#charts .chart").first
    figure.locator("summary").click()
    page.wait(
        "() => [...document.querySelectorAll('#charts .chart:first-child tbody td:nth-child(3)')]"
        ".filter((one) => one.textContent.endsWith('%')).length > 10"
    )
    shown = figure.locator("tbody td:nth-child(3)").all_text_contents()
    # Newest first: known, the gap of half an hour ago, known.
    place = shown.index("gap")
    assert [one for one in shown[:place] if one.endswith("%")]
    assert [one for one in shown[place:] if one.endswith("%")]
    figure.locator("summary").click()


def test_a_range_is_asked_for_and_drawn(page):
    with page.page.expect_request(re.compile(r"series\?.*step=1800")) as asked:
        page.page.locator("#ranges label", has_text="7 d").click()
    since, until = (
        int(re.search(rf"{word}=(\d+)", asked.value.url)[1]) for word in ("since", "until")
    )
    assert 604800 <= until - since <= 604800 + 1800
    page.wait("() => /[a-z]/i.test(document.querySelector('#axis').textContent)")
    page.page.locator("#ranges label", has_text=re.compile("^1 h$")).click()
    page.wait("() => !/[a-z]/i.test(document.querySelector('#axis').textContent)")


def test_jobs_are_bars_by_job_and_by_node(page, life):
    bars = page.page.locator("#gantt .job")
    assert bars.count() == life.count
    by = page.page.locator("label", has_text=re.compile("^By (node|job)$"))
    by.last.click()
    page.wait(
        "() => [...document.querySelectorAll('#gantt text')]"
        ".some((one) => one.textContent.endsWith('mpute-01'))"
    )
    assert bars.count() == life.count
    by.first.click()


def test_an_event_is_a_mark_and_a_line_of_the_list(page):
    page.page.locator("#events li", has_text="the cluster was started").wait_for()
    assert page.page.locator("#event-lane .event").count() == 1


def test_a_node_opens_with_its_journal(page):
    page.page.locator("#nodes-table button", has_text="compute-01").click()
    drawer = page.page.locator("#drawer")
    assert drawer.locator("#drawer-title").inner_text() == "compute-01"
    assert "made-up-compute-01: running (booted)" in drawer.inner_text()
    drawer.get_by_role("button", name="Read the journal").click()
    drawer.locator(".journal p").first.wait_for()
    assert "line 199 of compute-01" in drawer.locator(".journal p").last.inner_text()
    page.wait("() => document.querySelector('#drawer-charts .plot[aria-label*=\"busy: now\"]')")
    page.page.keyboard.press("Escape")
    page.wait("() => !document.querySelector('#drawer').open")


def test_a_job_opens_with_what_it_asked_for(page):
    page.page.locator("#jobs-table button", has_text=re.compile("^12$")).click()
    text = page.text("#drawer-facts")
    assert "1 CPU, 500 MiB, 1 GPU" in text
    assert "of at most 1:00:00" in text


def test_a_console_says_what_the_node_says_and_sends_what_is_typed(page):
    page.page.locator("#nodes-table button", has_text="compute-01").click()
    page.page.get_by_role("button", name="Open the console").click()
    has = "(what) => document.querySelector('#console .xterm-rows')?.textContent.includes(what)"
    page.wait(has, "coloured")
    page.page.keyboard.type("hello")
    page.wait(has, "hello")
    # A colour of 24 bits is a style of its own element, without one in the markup.
    coloured = page.page.locator("#console .xterm-rows span", has_text="coloured").first
    assert coloured.evaluate("(one) => getComputedStyle(one).color") == "rgb(1, 2, 3)"
    page.page.get_by_role("button", name="Close the console").click()
    page.page.locator("#console").wait_for(state="hidden")
    assert page.page.evaluate("Object.hasOwn(document, 'createElement')") is False
    assert page.page.evaluate("document.adoptedStyleSheets.length") == 0


def test_without_the_switch_there_is_no_console(browser):
    clusters = ToldClusters(a_life())
    with served(clusters, has_console=False) as one, seen(browser, one.address) as page:
        page.page.locator("#nodes-table button", has_text="compute-01").click()
        page.page.get_by_role("button", name="Read the journal").wait_for()
        assert page.page.get_by_role("button", name="Open the console").count() == 0


def test_another_cluster_is_another_tab(page):
    page.page.get_by_role("tab", name="other").click()
    page.wait("() => document.querySelector('#cluster-name').textContent === 'other'")
    page.wait("() => document.querySelectorAll('#nodes-table tbody tr').length === 2")
    assert "Nothing is wrong" in page.text("#health")


def test_figures_move_without_a_reload(page, life):
    page.page.wait_for_timeout(1100)
    before = page.text("#live-at")
    life.tell()
    page.wait("(before) => document.querySelector('#live-at').textContent !== before", before)
    assert page.text("#live") == "● Live"


def test_a_busy_verb_and_a_host_that_is_down_are_said(browser):
    life = a_life()
    life.change = lambda now: replace(now, doing="hpc stop", is_up=False)
    with served(ToldClusters(life)) as one, seen(browser, one.address) as page:
        page.page.get_by_text("ai-how hpc stop works on it").wait_for()
        assert "host down" in page.text("#cluster-words")
        assert "The host of the VMs is down" in page.page.locator("#picture").inner_text()
