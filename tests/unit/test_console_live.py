"""How a plan is shown: a line per node on a terminal, a line per event in a log."""

import io
import re
import sys
from dataclasses import dataclass

import pytest

from ai_how.console.live_nodes import LiveNodes
from ai_how.hpc.kind import SLURM
from ai_how.plan.step import Applied
from ai_how.plan.time_left import TimeLeft
from ai_how.waiting import Deadline, wait_until


@dataclass(frozen=True)
class Shown:
    """As much of a step as an observer sees."""

    key: str

    @property
    def kind(self) -> str:
        return self.key.partition("/")[0]

    @property
    def subject(self) -> str:
        return self.key.partition("/")[2]

    @property
    def stage(self) -> str:
        return {"domain": "defined", "boot": "booting", "ready": "idle"}.get(self.kind, self.kind)


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.fixture
def open_terminal(monkeypatch):
    """Makes stdout a terminal; called in the test, since pytest has a stdout for each phase."""

    def open_terminal(columns: int = 100) -> Terminal:
        shown = Terminal()
        monkeypatch.setattr(sys, "stdout", shown)
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setenv("NO_COLOR", "1")
        return shown

    return open_terminal


def last_frame(terminal: Terminal) -> list[str]:
    frame = re.sub(r"\x1b\[[0-9?;]*[a-zA-Z]", "", terminal.getvalue().rsplit("\x1b[2K", 1)[-1])
    return [line.rstrip() for line in frame.splitlines() if line.strip()]


def carry_out(live: LiveNodes, *keys: str) -> None:
    for key in keys:
        live.begun(Shown(key))
        live.done(Shown(key), Applied.MADE, 1.25)


def test_a_log_gets_one_line_for_each_step_that_is_over(capsys):
    with LiveNodes("demo", ["controller"]) as live:
        carry_out(live, "network/demo", "base/0123456789ab", "boot/demo-controller")
        live.begun(Shown("agent/demo-controller"))
        live.done(Shown("disk/demo-controller"), Applied.KEPT, 12.3)
        carry_out(live, "ready/demo")
    assert capsys.readouterr().out.splitlines() == [
        "demo: network 1.2 s",
        "demo: image 1.2 s",
        "controller: booting 1.2 s",
        "controller: disk (existed already) 12 s",
        "demo: idle 1.2 s",
    ]


@pytest.mark.parametrize(
    ("key", "line"),
    [
        ("slurm-lost/demo", "demo: report of lost nodes to SLURM 1.2 s"),
        ("slurm-off/demo", "demo: report of nodes off to SLURM 1.2 s"),
        ("undefine/demo-compute-01", "compute-01: removing VM 1.2 s"),
        ("remove-disk/demo-compute-01", "compute-01: removing disk 1.2 s"),
        ("remove-disks/demo", "demo: removing disk directory 1.2 s"),
        ("base/0123456789ab", "demo: image 1.2 s"),
    ],
)
def test_the_words_of_the_journal_are_not_shown(capsys, key, line):
    with LiveNodes("demo", ["compute-01"]) as live:
        carry_out(live, key)
    assert capsys.readouterr().out == f"{line}\n"


def test_no_kind_of_two_words_is_shown(capsys):
    with LiveNodes("demo") as live:
        for kind in SLURM.step_types:
            carry_out(live, f"{kind}/demo")
            live.undoing(Shown(f"{kind}/demo"))
            live.undone(Shown(f"{kind}/demo"))
    shown = capsys.readouterr().out
    assert "-" not in shown
    assert not re.search(r"\b(undefine|base|plug|grow)\b", shown)


def test_a_failure_and_its_undo_are_told(capsys):
    disk, boot = Shown("disk/demo-compute-01"), Shown("boot/demo-compute-01")
    with LiveNodes("demo") as live:
        carry_out(live, disk.key)
        live.begun(boot)
        live.failed(boot, ValueError("no\x1b[31m memory\nsecond line"))
        live.interrupted()
        live.undoing(boot)
        live.undone(boot)
        live.undoing(disk)
        live.undo_failed(disk, OSError("busy"))
    lines = capsys.readouterr().out.splitlines()
    assert [re.sub(r" 0\.\d s", "", line) for line in lines] == [
        "compute-01: disk 1.2 s",
        r"compute-01: booting failed: ValueError: no\x1b[31m memory",
        "interrupted: running steps end, and a start is undone; Ctrl-C again exits at once",
        "compute-01: booting undone",
        "compute-01: disk remains: OSError: busy",
    ]


def test_under_json_nothing_is_said(capsys):
    with LiveNodes("demo", is_silent=True) as live:
        carry_out(live, "disk/demo-controller")
        live.interrupted()
    assert capsys.readouterr().out == ""


def test_a_terminal_shows_a_line_per_node_with_where_it_is_and_what_it_has_passed(open_terminal):
    terminal = open_terminal()
    with LiveNodes("demo", ["controller", "compute-01"]) as live:
        carry_out(live, "network/demo", "disk/demo-controller", "domain/demo-controller")
        live.begun(Shown("boot/demo-controller"))
    name, now, past = last_frame(terminal)[1].split("  ", 2)
    assert re.fullmatch(r"booting 0\.\d s…", now)
    assert (name, past.strip()) == ("controller", "disk 1.2 s · defined 1.2 s")
    assert last_frame(terminal)[0] == "demo        network 1.2 s"
    assert last_frame(terminal)[2] == "compute-01"


def test_a_wait_for_all_nodes_stands_in_every_line(open_terminal):
    terminal = open_terminal()
    with LiveNodes("demo", awaiting={"ready"}) as live:
        carry_out(live, "agent/demo-controller", "agent/demo-compute-01", "ready/demo")
    assert [line.split("  ")[1].strip() for line in last_frame(terminal)] == ["idle 1.2 s"] * 2


def test_a_node_of_a_cluster_with_a_longer_name_is_not_ours(capsys):
    with LiveNodes("demo", ["controller"]) as live:
        carry_out(live, "boot/demo-two-controller")
    assert capsys.readouterr().out == "demo: booting 1.2 s\n"


def test_a_narrow_terminal_cuts_off_the_past_and_not_the_present(open_terminal):
    terminal = open_terminal(columns=40)
    with LiveNodes("demo") as live:
        for kind in ("disk", "domain", "boot", "agent"):
            carry_out(live, f"{kind}/demo-controller")
    assert last_frame(terminal) == ["controller  agent 1.2 s       disk 1.2 …"]


def test_a_cluster_that_is_named_like_a_node_has_a_line_of_its_own(open_terminal):
    terminal = open_terminal()
    with LiveNodes("controller", ["controller", "compute-01"]) as live:
        carry_out(live, "network/controller", "boot/controller-controller")
    assert last_frame(terminal) == [
        "controller  network 1.2 s",
        "controller  booting 1.2 s",
        "compute-01",
    ]


@pytest.mark.parametrize("nodes", [[], ["controller", "compute-01"]])
def test_a_node_keeps_its_whole_name_in_a_cluster_that_begins_like_it(capsys, nodes):
    with LiveNodes("compute", nodes) as live:
        carry_out(live, "disks/compute", "boot/compute-compute-01")
    assert capsys.readouterr().out == "compute: disk directory 1.2 s\ncompute-01: booting 1.2 s\n"


def test_a_terminal_shows_how_long_is_left_while_all_goes_well(open_terminal):
    terminal = open_terminal(columns=40)
    boot = Shown("boot/demo-controller")
    with LiveNodes("demo", ["controller"]) as live:
        live.expected(TimeLeft((10.0, 90.0), 2))
        live.begun(boot)
        wait_until(
            lambda: last_frame(terminal)[:1] == ["about 90 s left"], Deadline.after(30), "a frame"
        )
        live.failed(boot, OSError("no"))
        wait_until(
            lambda: last_frame(terminal)[0].startswith("controller  booting failed"),
            Deadline.after(30),
            "a frame without it",
        )


def test_the_end_shows_no_time_left(open_terminal):
    terminal = open_terminal()
    with LiveNodes("demo", ["controller"]) as live:
        live.expected(TimeLeft((10.0, 90.0), 2))
        carry_out(live, "boot/demo-controller", "agent/demo-controller")
    assert last_frame(terminal) == ["controller  agent 1.2 s       booting 1.2 s"]


def test_a_log_says_nothing_of_the_time_left(capsys):
    with LiveNodes("demo", ["controller"]) as live:
        live.expected(TimeLeft((10.0, 90.0), 2))
        carry_out(live, "boot/demo-controller")
    assert capsys.readouterr().out == "controller: booting 1.2 s\n"


def test_a_plan_without_steps_shows_nothing(open_terminal):
    terminal = open_terminal()
    with LiveNodes("demo", ["controller", "compute-01"]):
        pass
    assert terminal.getvalue() == ""


def test_a_command_that_is_printed_meanwhile_stays_one_line(open_terminal):
    """A terminal wraps it without a line break, so that it can be copied and pasted."""
    terminal = open_terminal(columns=40)
    command = "rm /a/rather/long/path/of/a/file  # and the words of a remark"
    with LiveNodes("demo", ["controller"]) as live:
        live.begun(Shown("boot/demo-controller"))
        sys.stdout.write(f"to solve it: {command}\n")
        live.done(Shown("boot/demo-controller"), Applied.MADE, 1.0)
    assert f"to solve it: {command}\n" in terminal.getvalue()
    assert last_frame(terminal)[-1] == "controller  booting 1.0 s"
