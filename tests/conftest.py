"""For all tests: patience, the long run's option, and the ledger of fault-test results."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from evidence_kept import keep_evidence
from ledger import Ledger, Points

# No example fails because the machine is busy.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

LEDGER = pytest.StashKey[Ledger]()
POINTS = pytest.StashKey[Points]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="every example, kill and cycle")
    parser.addoption("--kills", type=int, help="how many random kills of a real start")
    parser.addoption("--report", type=Path, help="write the table of faults into this file")
    parser.addoption("--ledger", type=Path, help="keep the fault-test results here, for one table")
    parser.addoption("--evidence", type=Path, help="keep what is known of each failure here")


def pytest_configure(config: pytest.Config) -> None:
    # A shell's background job, or nohup, had them ignored, which every child would inherit.
    for number, handler in (
        (signal.SIGINT, signal.default_int_handler),
        (signal.SIGTERM, signal.SIG_DFL),
        (signal.SIGHUP, signal.SIG_DFL),
    ):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)
    config.stash[LEDGER] = Ledger()
    # Tests that mean saved machines say so: no other start shall save one behind its back.
    os.environ.setdefault("AI_HOW_NO_WARM", "1")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--long"):
        return
    for item in items:
        if item.get_closest_marker("long"):
            item.add_marker(pytest.mark.skip(reason="--long"))


@pytest.fixture(scope="session")
def is_long(request: pytest.FixtureRequest) -> bool:
    """Whether this run may take hours."""
    return request.config.getoption("--long")


@pytest.fixture
def points(request: pytest.FixtureRequest) -> Points:
    """How many fault points this test stood: `points(86)`; one where it does not say."""
    return request.node.stash.setdefault(POINTS, Points())


@pytest.fixture(scope="session")
def figures(request: pytest.FixtureRequest) -> dict[str, int]:
    """Named figures of the closing table: `figures["fuzz examples"] += 200`."""
    return request.config.stash[LEDGER].figures


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Iterator[pytest.TestReport]:
    report = yield
    outcome = item.config.stash[LEDGER].tests[item.nodeid]
    if report.failed:
        outcome.ended = "failed"
        outcome.again = _second_run(item)
        if directory := item.config.getoption("--evidence"):
            outcome.evidence = str(keep_evidence(item, report, directory))
    elif report.skipped:
        outcome.ended = "skipped"
    # A failed teardown is a leak, so it counts against the test as well.
    is_last = report.when == "teardown" or (report.when == "call" and report.failed)
    if is_last and not item.stash.get(COUNTED, False) and call is not None:
        item.stash[COUNTED] = True
        stood = item.stash.get(POINTS, Points())
        made = 1 if stood.made is None else stood.made
        held = (made if stood.held is None else stood.held) if report.passed else stood.held or 0
        held = held if report.passed else min(held, made - 1)
        # A test that was skipped has shown nothing, though its teardown passes.
        marks = () if outcome.ended == "skipped" else item.iter_markers("fault")
        for mark in marks:
            number, how = mark.args
            item.config.stash[LEDGER].add(item.nodeid, number, how, made, held)
    return report


def _second_run(item: pytest.Item) -> list[str]:
    """What would be run again, were this test: nothing where it boots no machine."""
    if not any(item.get_closest_marker(name) for name in ("libvirt", "slurm")):
        return []
    if not item.get_closest_marker("in_order"):
        return [item.nodeid]
    # It goes on from where those before it in its file have left off.
    ids = [other.nodeid for other in item.session.items if other.path == item.path]
    return ids[: ids.index(item.nodeid) + 1]


COUNTED = pytest.StashKey[bool]()


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, exitstatus: int, config: pytest.Config
) -> None:
    ledger = config.stash[LEDGER]
    if file := config.getoption("--ledger"):
        ledger.keep(file, int(exitstatus))
    if not ledger.rows and not ledger.figures:
        return
    terminalreporter.section("fault-test results")
    for line in ledger.summary():
        terminalreporter.write_line(line)
    if file := config.getoption("--report"):
        file.write_text(ledger.renewed(file.read_text()))
