"""A test that boots machines and fails is run once more, alone; what that may hide is bounded."""

import re
import sys
from pathlib import Path

import pytest

from ai_how.process import Completed, run
from ledger import Ledger, Outcome

ROOT = Path(__file__).resolve().parents[2]
BEGIN = """
import os
import signal
from pathlib import Path

import pytest

SEEN = Path(__file__).with_suffix(".seen")


def is_first(name):
    seen = SEEN.with_suffix(f".{name}")
    was_there = seen.exists()
    seen.touch()
    return not was_there


def nothing_else_runs():
    pids = [path.suffix[5:] for path in SEEN.parent.glob("*.pid-*")]
    SEEN.with_suffix(f".pid-{os.getpid()}").touch()
    return not any(Path(f"/proc/{pid}").exists() for pid in pids if pid != str(os.getpid()))
"""
PASSES = """
def test_that_passes():
    pass
"""
FLAKY = """
@pytest.mark.fault("F01", "it comes and goes")
@pytest.mark.libvirt
def test_flaky(points, tmp_path):
    points(10)
    is_alone = nothing_else_runs()
    (tmp_path / "supervisor.log").write_text("what the host said")
    assert not is_first("flaky"), "the machine was busy"
    assert is_alone
"""
BROKEN = """
@pytest.mark.slurm
def test_broken():
    assert False
"""
UNMARKED = """
def test_without_machines():
    assert not is_first("unmarked")
"""
LEAKS = """
@pytest.fixture
def leaking():
    yield
    assert not is_first("leak"), "left behind"


@pytest.mark.libvirt
def test_leaks(leaking):
    pass
"""
HOST = """
@pytest.fixture(scope="module")
def host():
    assert not is_first("host"), "the host does not come up"
    return "host"


@pytest.mark.libvirt
@pytest.mark.parametrize("number", range(2))
def test_on_a_host(host, number):
    pass
"""
IN_ORDER = """
pytestmark = [pytest.mark.slurm, pytest.mark.in_order]
STARTED = []


def test_starts():
    STARTED.append("cluster")


def test_uses():
    assert STARTED
    assert not is_first("uses")


def test_goes_on():
    assert SEEN.with_suffix(".used").exists() or not is_first("goes on")


def test_destroys():
    assert STARTED
"""
SKIPPED = """
@pytest.mark.fault("F01", "it is not tried")
def test_that_is_skipped():
    pytest.skip("not here")


@pytest.fixture
def absent():
    pytest.skip("not here either")


@pytest.mark.fault("F01", "what it needs is not there")
def test_that_has_no_fixture(absent):
    pass
"""
KILLED = """
@pytest.mark.libvirt
def test_that_ends_pytest():
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def suite(tmp_path):
    """The machinery of script/test, with made-up tests for its two parts."""
    (tmp_path / "conftest.py").write_text((ROOT / "tests" / "conftest.py").read_text())
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\nmarkers =\n libvirt: made\n slurm: made\n fault: made\n in_order: made\n"
    )

    def run_suite(first: str, second: str = PASSES) -> Completed:
        files = [tmp_path / "test_first.py", tmp_path / "test_second.py"]
        for file, text in zip(files, (first, second), strict=True):
            file.write_text(BEGIN + text)
        python = Path(sys.executable).parent
        return run(
            [
                *("env", f"PYTHONPATH={ROOT / 'tests'}", f"PATH={python}:/usr/bin:/bin:/usr/sbin"),
                *(ROOT / "script" / "parts", "--evidence", tmp_path / "evidence"),
                *(files[0].name, "--", files[1].name),
            ],
            cwd=tmp_path,
            check=False,
            timeout_s=300,
        )

    return run_suite


def closing(done: Completed) -> str:
    """What is printed after everything has run."""
    return done.stdout.partition("Fault-test results:")[2]


def test_a_suite_that_passes_says_so_and_leaves_nothing(suite, tmp_path):
    done = suite(PASSES)
    assert done.stdout.splitlines()[-1] == "2 passed, 0 failed, 0 skipped"
    assert done.returncode == 0
    assert not (tmp_path / "evidence").exists()


def test_what_passes_alone_is_printed_with_its_evidence_and_passes(suite):
    done = suite(PASSES + FLAKY, PASSES + LEAKS)
    end = closing(done)
    assert done.returncode == 0, done.stdout
    assert end.splitlines()[-1] == "4 passed, 0 failed, 0 skipped"
    needed = end.partition("needed a second run")[2]
    [flaky, leaking] = [Path(found) for found in re.findall(r"evidence: (\S+)", needed)]
    assert needed.index("test_first.py::test_flaky\n") < needed.index("test_second.py::test_leaks")
    assert "the machine was busy" in (flaky / "call.txt").read_text()
    assert "the machine was busy" in flaky.parent.with_suffix(".log").read_text()
    assert [log.read_text() for log in flaky.rglob("supervisor.log")] == ["what the host said"]
    assert "left behind" in (leaking / "teardown.txt").read_text()
    # The table counts how the tests ended, not how they ended at first.
    assert "10/10 held" in end


def test_what_was_skipped_is_not_counted(suite):
    end = closing(suite(SKIPPED))
    assert end.splitlines()[-1] == "1 passed, 0 failed, 2 skipped"
    assert re.search(r"the command dies +0/0 held +0 of", end)


def test_what_fails_twice_or_boots_no_machine_fails_the_suite(suite):
    done = suite(BROKEN + FLAKY, UNMARKED)
    needed, _, failed = closing(done).partition("failed:")
    assert "test_first.py::test_flaky\n" in needed
    assert "test_first.py::test_broken, also when it was run alone" in failed
    assert "test_second.py::test_without_machines\n" in failed
    assert done.stdout.count("A second run of") == 2
    assert done.stdout.splitlines()[-1] == "1 passed, 2 failed, 0 skipped"
    assert done.returncode == 1


def test_more_than_two_that_needed_it_fail_the_suite(suite):
    """A host that does not come up counts for each of its tests."""
    done = suite(HOST, FLAKY)
    assert "that is more than 2, so the suite fails" in closing(done)
    assert done.stdout.splitlines()[-1] == "3 passed, 0 failed, 0 skipped"
    assert done.returncode == 1


def test_a_file_in_order_is_run_again_from_its_beginning_and_counts_once(suite):
    done = suite(IN_ORDER)
    assert done.stdout.count("A second run of") == 1
    assert "A second run of test_first.py::test_goes_on" in done.stdout
    assert done.stdout.splitlines()[-1] == "5 passed, 0 failed, 0 skipped"
    assert done.returncode == 0


def test_what_ends_pytest_itself_fails_the_suite_at_once(suite):
    done = suite(FLAKY, KILLED)
    why = "a part of the suite ended early: it has not written part-2.json"
    assert why in closing(done)
    assert "A second run of" not in done.stdout
    assert done.returncode == 1


def test_files_that_cannot_be_imported_fail_the_suite(tmp_path):
    run_of = Ledger()
    run_of.tests["test_a"].ended = "passed"
    run_of.keep(tmp_path / "second.json", 2)
    whole = Ledger()
    whole.add_kept(tmp_path / "second.json")
    assert next(iter(whole.verdict())) == "pytest ended with exit code 2 (second.json)"
    assert not whole.has_passed


def test_where_much_is_broken_nothing_is_run_again(tmp_path):
    whole = Ledger()
    for number in range(7):
        assert len(whole.to_run_again()) == number
        whole.tests[f"test_{number}"] = Outcome("failed", again=[f"test_{number}"])
    assert whole.to_run_again() == []
