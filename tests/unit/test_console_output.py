"""The voice: nothing from outside is obeyed by a terminal, and no reader that leaves ends a run."""

import dataclasses
import io
import json
import sys
from datetime import UTC, datetime
from enum import StrEnum
from ipaddress import IPv4Network
from pathlib import Path
from uuid import UUID

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai_how import console
from ai_how.console.text import clean, to_jsonable
from ai_how.errors import HostError, PlanFailedError
from ai_how.host.checks import Check, Status
from ai_how.process import run
from ai_how.spec.problems import Problem, Severity

HOSTILE = "vm\x1b]0;owned\a\x9b31m\u202etxt\n\rend"


class Colour(StrEnum):
    RED = "red"


class Model(pydantic.BaseModel):
    subnet: IPv4Network


@dataclasses.dataclass(frozen=True)
class Shape:
    path: Path
    models: tuple[Model, ...]
    colours: frozenset[Colour]


@pytest.mark.fault("S31", "arbitrary text")
@given(st.text(st.characters()))
def test_what_is_cleaned_has_nothing_left_that_a_terminal_obeys(text):
    assert clean(text).isprintable()
    assert all(char.isprintable() or char in "\n\t" for char in clean(text, keep_lines=True))


@pytest.mark.fault("S31", "escapes in every kind of output")
def test_an_escape_sequence_in_a_name_is_seen_and_not_carried_out(capsys):
    console.show_table(("NAME",), [(HOSTILE,)])
    console.show_fields({"name": HOSTILE})
    console.show_line(HOSTILE)
    console.show_warning(HOSTILE)
    console.show_error(HostError(HOSTILE, details=HOSTILE, hint=HOSTILE))
    console.show_checks([Check(HOSTILE, Status.FAILURE, HOSTILE, HOSTILE)])
    console.show_problems([Problem("f", 1, "", HOSTILE)])
    out, err = capsys.readouterr()
    for text in (out, err):
        assert all(char.isprintable() or char == "\n" for char in text)
        assert r"vm\x1b]0;owned\x07\x9b31m\u202etxt\n\rend" in text


def test_a_table_in_a_pipe_keeps_each_row_on_its_line(capsys):
    console.show_table(("NAME", "WHY"), [("x" * 200, "y" * 200), (None, 3)])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines] == [["NAME", "WHY"], ["x" * 200, "y" * 200], ["-", "3"]]


def test_markup_in_a_cell_is_text(capsys):
    console.show_table(("NAME",), [("[red]demo[/red]",)])
    assert "[red]demo[/red]" in capsys.readouterr().out


@pytest.mark.fault("S31", "escapes in JSON")
def test_json_knows_our_types(capsys):
    shape = Shape(
        Path("/tmp/x"), (Model(subnet=IPv4Network("10.0.0.0/24")),), frozenset({Colour.RED})
    )
    console.show_json(
        {
            "shape": shape,
            Colour.RED: UUID(int=1),
            "at": datetime(2026, 1, 1, tzinfo=UTC),
            "never": float("inf"),
            "hostile": HOSTILE,
        }
    )
    text = capsys.readouterr().out
    assert text.isascii()
    assert json.loads(text) == {
        "shape": {"path": "/tmp/x", "models": [{"subnet": "10.0.0.0/24"}], "colours": ["red"]},
        "red": "00000000-0000-0000-0000-000000000001",
        "at": "2026-01-01T00:00:00+00:00",
        "never": None,
        "hostile": HOSTILE,
    }


def test_json_refuses_what_it_does_not_know():
    with pytest.raises(TypeError, match="object cannot be shown as JSON"):
        to_jsonable(object())


def test_an_error_shows_its_details_notes_and_hint(capsys):
    error = PlanFailedError("it failed", details="one\ntwo", hint="try this")
    error.add_note("while applying disk/demo")
    console.show_error(error)
    assert capsys.readouterr().err.splitlines() == [
        "error: it failed",
        "  one",
        "  two",
        "  while applying disk/demo",
        "hint: try this",
    ]


def test_a_group_shows_every_error_in_it_and_a_cause_only_when_asked(capsys):
    inner = HostError("no disk", details="full", hint="df -h")
    inner.__cause__ = OSError(28, "No space left on device")
    group = ExceptionGroup("two failed", [inner, HostError("no network")])
    console.show_error(group)
    brief = capsys.readouterr().err
    assert brief.splitlines() == [
        "error: two failed",
        "  no disk",
        "    full",
        "    hint: df -h",
        "  no network",
    ]
    console.show_error(group, verbose=True)
    assert "    because: OSError: [Errno 28] No space left on device" in capsys.readouterr().err


def test_checks_that_are_ok_give_no_advice_and_others_a_line_to_paste(capsys):
    console.show_checks(
        [
            Check("kvm", Status.OK, "works", "not shown"),
            Check("ksm", Status.HINT, "off", "echo 1"),
            Check("memory", Status.FAILURE, "too little", "free -m"),
        ]
    )
    assert capsys.readouterr().out.splitlines() == [
        "ok       kvm     works",
        "hint     ksm     off",
        "                 echo 1",
        "failure  memory  too little",
        "                 free -m",
    ]


def test_problems_keep_their_place_first_so_that_editors_find_it(capsys):
    console.show_problems(
        [
            Problem("a.yaml", 3, "clusters.hpc", "is wrong"),
            Problem("a.yaml", 4, "", "has no effect", Severity.WARNING),
        ]
    )
    assert capsys.readouterr().err.splitlines() == [
        "a.yaml:3: clusters.hpc: is wrong",
        "warning: a.yaml:4: has no effect",
    ]


def test_only_yes_is_yes(monkeypatch, capsys, tmp_path):
    answers = tmp_path / "answers"
    answers.write_text("y\nYES\nn\n\nyea\n")
    with answers.open() as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        assert [console.confirm("Remove?") for _ in range(6)] == [True, True, *[False] * 4]
    assert capsys.readouterr().err.startswith("Remove? [y/N] ")


def test_nobody_can_be_asked_without_a_terminal(monkeypatch, tmp_path):
    with (tmp_path / "empty").open("w+") as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        assert console.is_terminal() is False


def test_a_silent_bar_says_nothing_and_one_in_a_log_says_each_stage_once(capsys):
    with console.ProgressBar("image", is_silent=True) as bar:
        bar.watch(0.5, "downloading")
    assert capsys.readouterr().out == ""
    with console.ProgressBar("image") as bar:
        for share in (0.1, 0.2):
            bar.watch(share, "downloading")
        bar.watch(0.5, "extracting")
        bar.watch(0.7)
    assert capsys.readouterr().out.splitlines() == [
        "image:  10%  downloading",
        "image:  50%  extracting",
    ]


def test_a_bar_of_a_task_without_work_is_not_drawn(tmp_path):
    program = tmp_path / "program.py"
    program.write_text("from ai_how import console\nwith console.ProgressBar('image'): pass\n")
    assert on_a_terminal(program) == ""


def on_a_terminal(program: Path) -> str:
    command = f"stty cols 70; {sys.executable} {program}"
    return run(["script", "-qec", command, "/dev/null"], env={"TERM": "xterm"}).stdout


def test_on_a_terminal_a_bar_is_drawn_and_errors_are_red(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "from ai_how import console\n"
        "with console.ProgressBar('image') as bar:\n"
        "    bar.watch(0.5, 'downloading\\x1b]0;x')\n"
        "console.show_error(ValueError('no'))\n"
    )
    shown = on_a_terminal(program)
    assert "50 %" in shown
    assert r"downloading\x1b]0;x" in shown
    assert "\x1b[1;31merror: ValueError: no\x1b[0m" in shown


def test_labels_of_a_log_have_colours_on_a_terminal_alone(monkeypatch, capsys):
    def show() -> None:
        console.show_log_line("one", "ai-how hpc start\tand \x1b[31m", number=0)
        console.show_log_line("two", "more", number=1)
        console.show_log_line("", "alone", number=11)

    plain = "one  ai-how hpc start\tand \\x1b[31m\ntwo  more\nalone\n"
    show()
    assert capsys.readouterr().out == plain
    shown = io.StringIO()
    shown.isatty = lambda: True
    monkeypatch.setattr("sys.stdout", shown)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    show()
    assert shown.getvalue() == plain
    monkeypatch.delenv("NO_COLOR")
    show()
    assert shown.getvalue() == plain + (
        "\x1b[36mone  \x1b[0mai-how hpc start\tand \\x1b[31m\n\x1b[33mtwo  \x1b[0mmore\nalone\n"
    )


def test_on_a_terminal_sentences_end_between_words_and_commands_stay_whole(monkeypatch):
    shown = io.StringIO()
    shown.isatty = lambda: True
    monkeypatch.setattr("sys.stdout", shown)
    for name, value in (("COLUMNS", "60"), ("NO_COLOR", "1"), ("TERM", "xterm")):
        monkeypatch.setenv(name, value)
    advice = "sudo sysctl -w net.ipv4.ip_forward=1 net.ipv4.conf.all.forwarding=1"
    found = "IPv4 forwarding is off: guests cannot reach other networks"
    console.show_checks([Check("forwarding", Status.WARNING, found, advice)])
    console.show_fields({"found": [found, ""], "no": None})
    console.show_wrapped(found, indent=4)
    assert shown.getvalue().splitlines() == [
        "warning  forwarding  IPv4 forwarding is off: guests cannot",
        "                     reach other networks",
        f"                     {advice}",
        "found  IPv4 forwarding is off: guests cannot reach other",
        "       networks",
        "       ",
        "no     -",
        "    IPv4 forwarding is off: guests cannot reach other",
        "    networks",
    ]
