"""What people's terminals get: colours, narrow ones, dumb ones, other encodings, closed streams."""

import fcntl
import os
import re
import shlex
import struct
import subprocess  # noqa: TID251  it has a terminal of its own
import sys
import termios
from pathlib import Path

import pytest

PROGRAM = [sys.executable, "-m", "ai_how"]
# All that is drawn: a table, checks, an error, a bar, and a start that fails.
DRAWS = """\
from dataclasses import dataclass
from ai_how import console
from ai_how.console.live_nodes import LiveNodes
from ai_how.host.checks import Check, Status
from ai_how.plan.step import Applied

@dataclass(frozen=True)
class Shown:
    key: str
    stage = property(lambda self: self.key.partition("/")[0])
    kind = stage
    subject = property(lambda self: self.key.partition("/")[2])

with console.guarded_output():
    console.show_table(("NAME", "WHY"), [("demo", console.Cell("ready", console.Style.GOOD))])
    console.show_checks([Check("forwarding", Status.FAILURE, "IPv4 forwarding is off", "sysctl")])
    console.show_fields({"embedded host": "down", "one": ["a", "b"]})
    console.show_warning("careful")
    console.show_error(ValueError("no"))
    with console.ProgressBar("image") as bar:
        bar.watch(0.5, "downloading")
    with LiveNodes("demo", ["controller"]) as live:
        for kind in ("disk", "agent"):
            live.begun(Shown(f"{kind}/demo-controller"))
            live.done(Shown(f"{kind}/demo-controller"), Applied.MADE, 1.0)
        live.begun(Shown("services/demo-controller"))
    console.clear_screen()
"""
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


@pytest.fixture
def draws(tmp_path) -> list[str]:
    path = tmp_path / "draws.py"
    path.write_text(DRAWS)
    return [sys.executable, str(path)]


def on_terminal(argv: list[str], *, columns: int = 80, **changes: str | None) -> tuple[int, str]:
    """The exit code, and what a terminal of so many columns is sent; None unsets a variable."""
    usual = {"TERM": "xterm-256color", "LANG": "C.UTF-8"}
    env = {**os.environ, **usual, **changes}
    for name in ("COLUMNS", "LINES", "NO_COLOR", "LC_ALL", "PYTHONIOENCODING", "PYTHONUTF8"):
        if name not in changes:
            env.pop(name, None)
    ours, its = os.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    with subprocess.Popen(  # noqa: S603
        argv,
        stdin=its,
        stdout=its,
        stderr=its,
        env={name: value for name, value in env.items() if value is not None},
    ) as child:
        try:
            os.close(its)
            sent = b"".join(iter(lambda: read_from(ours), b""))
            code = child.wait(60)
        finally:
            os.close(ours)
            child.kill()
    text = sent.decode(changes.get("PYTHONIOENCODING") or "utf-8")
    assert "Traceback" not in text
    return code, text.replace("\r\n", "\n")


def read_from(terminal: int) -> bytes:
    try:
        return os.read(terminal, 1 << 16)
    except OSError:  # its last user has gone
        return b""


def test_an_ordinary_terminal_gets_colours_and_a_table_that_is_redrawn(draws):
    code, text = on_terminal(draws)
    assert code == 0
    assert {"\x1b[1;31m", "\x1b[33m", "\x1b[32m"} <= set(COLOUR.findall(text))
    assert "\x1b[2J" in text


def test_no_color_means_no_colour_and_no_bold_letters_but_redrawn_lines(draws):
    code, text = on_terminal(draws, NO_COLOR="1")
    assert code == 0
    assert COLOUR.findall(text) == []
    assert "\x1b[2K" in text


@pytest.mark.parametrize("term", ["dumb", "unknown", "", None])
def test_a_dumb_terminal_gets_lines_as_a_log_does(draws, term):
    code, text = on_terminal(draws, TERM=term)
    assert code == 0
    assert ESCAPE.findall(text) == []
    lines = text.splitlines()
    assert lines[-3:] == [
        "image:  50%  downloading",
        "controller: disk 1.0 s",
        "controller: agent 1.0 s",
    ]


@pytest.mark.parametrize(
    "locale",
    [
        {"LANG": "C"},
        {"LANG": None},
        {"LC_ALL": "C"},
        {"LC_ALL": "POSIX"},
        {"LC_ALL": "xx_YY.UTF-8"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"PYTHONIOENCODING": "latin-1"},
    ],
    ids=str,
)
def test_no_locale_gets_escapes_in_place_of_our_signs(draws, locale):
    code, text = on_terminal(draws, **locale)
    assert code == 0
    assert "\\u" not in text
    assert "\\x" not in text
    drawn = ESCAPE.sub("", text)
    assert re.search(r"services 0\.\d s(…|\.\.\.)  +(disk|agent) 1\.0 s (·|-) (disk|agent)", drawn)
    assert max(map(len, drawn.splitlines())) <= 80


def test_other_signs_of_a_poor_encoding_are_escaped_and_end_nothing(tmp_path):
    program = "from ai_how import console\nwith console.guarded_output(): console.show_line('ä…')"
    code, text = on_terminal([sys.executable, "-c", program], PYTHONIOENCODING="ascii")
    assert (code, text) == (0, "\\xe4...\n")


def test_a_narrow_terminal_gets_findings_below_their_names(draws):
    _, text = on_terminal(draws, columns=30, NO_COLOR="1")
    assert text.splitlines()[2:9] == [
        "failure  forwarding",
        "  IPv4 forwarding is off",
        "  sysctl",
        "embedded host  down",
        "one            a",
        "               b",
        "warning: careful",
    ]


@pytest.mark.parametrize("columns", [40, 50, 80])
@pytest.mark.parametrize("words", ["--help", "hpc start --help"])
def test_help_is_not_wider_than_its_terminal(words, columns):
    _, text = on_terminal([*PROGRAM, *words.split()], columns=columns)
    wide = [line for line in text.splitlines() if len(line) > columns]
    assert wide == []


@pytest.mark.parametrize(
    "how", ["2>&1 | true", "| (read line; exit 3)", "2>&-", "<&-", "2>/dev/full"]
)
@pytest.mark.parametrize(("verb", "expected"), [("hpc list", 0), ("hpc status", 3)])
def test_a_reader_that_goes_or_a_closed_stream_changes_no_exit_code(verb, expected, how, tmp_path):
    """`less` that is quit is a reader that goes."""
    command = f"{shlex.join(PROGRAM)} --state-dir {shlex.quote(str(tmp_path / 's'))} {verb} {how}"
    code, said = shell(f"{command}; exit ${{PIPESTATUS[0]}}", tmp_path)
    assert code == expected
    assert "Traceback" not in said
    assert "Exception ignored" not in said


def shell(command: str, cwd: Path) -> tuple[int, str]:
    done = subprocess.run(  # noqa: S603
        ["bash", "-c", command],
        cwd=cwd,
        check=False,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=120,
    )
    return done.returncode, done.stdout + done.stderr
