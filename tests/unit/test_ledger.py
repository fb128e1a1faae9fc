"""The fault-test results are true: every point counts, and a failure shows in them."""

from pathlib import Path

from faults import FAMILIES
from ledger import BEGIN, END, Ledger

pytest_plugins = ["pytester"]
TESTS = Path(__file__).resolve().parents[1]
MADE = """
    import pytest

    @pytest.mark.fault("F01", "many points")
    def test_many(points):
        points(40)

    @pytest.mark.fault("F01", "one point")
    @pytest.mark.fault("S01", "one point")
    def test_one(figures):
        figures["rounds"] += 7

    @pytest.mark.fault("F02", "it breaks")
    def test_broken(points):
        points(10)
        assert False

    @pytest.fixture
    def leaking():
        yield
        assert False, "left behind"

    @pytest.mark.fault("F03", "it leaks")
    def test_leaking(leaking):
        pass
"""


def test_points_failures_and_leaks_are_counted(pytester, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(TESTS))
    pytester.makeconftest((TESTS / "conftest.py").read_text())
    pytester.makeini("[pytest]\nmarkers = fault: made\n")
    pytester.makepyfile(MADE)
    page = pytester.path / "page.md"
    page.write_text(f"before\n{BEGIN}\n{END}\nafter\n")
    pytester.runpytest_subprocess("--report", str(page), "-p", "no:cacheprovider")
    lines = page.read_text().splitlines()
    assert any(line.startswith("| F01 | many points | 40 | 40 |") for line in lines)
    assert any(line.startswith("| F01 | one point | 1 | 1 |") for line in lines)
    assert any(line.startswith("| S01 | one point | 1 | 1 |") for line in lines)
    assert any(line.startswith("| F02 | it breaks | 10 | 9 |") for line in lines)
    assert any(line.startswith("| F03 | it leaks | 1 | 0 |") for line in lines)
    assert any(line.startswith("| rounds | 7 |") for line in lines)
    assert (lines[0], lines[-1]) == ("before", "after")


def test_what_a_run_did_not_look_at_stays_with_its_date():
    page = (
        f"{BEGIN}\n"
        "| F01 | old way | 3 | 3 | 2020-01-01 |\n"
        "| F01 | same way | 3 | 3 | 2020-01-01 |\n"
        f"| rounds | 5 | 2020-01-01 |\n{END}\n"
    )
    ledger = Ledger()
    ledger.add("test_a", "F01", "same way", 4, 4)
    ledger.figures["kills"] = 1234
    lines = ledger.renewed(page).splitlines()
    assert "| F01 | old way | 3 | 3 | 2020-01-01 |" in lines
    assert "| rounds | 5 | 2020-01-01 |" in lines
    [same] = [line for line in lines if "same way" in line]
    assert same.startswith("| F01 | same way | 4 | 4 | 20")
    assert not same.endswith("2020-01-01 |")
    assert ledger.renewed("\n".join(lines)).splitlines() == lines


def test_the_closing_table_has_a_line_for_each_family_and_figure():
    ledger = Ledger()
    ledger.add("test_a", "F01", "somehow", 4, 3)
    ledger.figures["leaks found"] = 0
    lines = list(ledger.summary())
    assert len(lines) == len(FAMILIES) + 1
    assert " ".join(lines[0].split()) == "the command dies 3/4 held 1 of 11 faults"
    assert lines[-1].split() == ["leaks", "found", "0"]


def test_runs_that_were_kept_add_up(tmp_path):
    first, second, whole = Ledger(), Ledger(), Ledger()
    first.add("test_a", "F01", "one way", 4, 4)
    first.figures["looks"] += 2
    second.add("test_b", "F01", "one way", 3, 2)
    second.add("test_b", "S01", "other way", 1, 1)
    second.figures["looks"] += 5
    for name, run in (("a.json", first), ("b.json", second)):
        run.keep(tmp_path / name, 0)
        whole.add_kept(tmp_path / name)
    assert (whole.rows["F01", "one way"].points, whole.rows["F01", "one way"].held) == (7, 6)
    assert whole.rows["S01", "other way"].held == 1
    assert whole.figures == {"looks": 7}
