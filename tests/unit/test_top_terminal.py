"""`hpc top` on a terminal: signals, modes, and where it refuses."""

import fcntl
import os
import re
import select
import signal
import struct
import subprocess  # noqa: TID251  a program is spoken to while it runs
import sys
import termios
from pathlib import Path

import pytest

from ai_how.cli.hpc_top import check_extra, has_colours, has_unicode
from ai_how.errors import HostError
from own_terminal import Terminal

TESTS = Path(__file__).parents[1]
PROGRAM = f"""\
import sys, time
sys.path.insert(0, {str(TESTS)!r})
from ai_how.cli import hpc_top
from made_up_cluster import make_snapshot
from made_up_feed import Feed, MadeUpSource
feed = Feed(make_snapshot(jobs=8, at=time.time()))
hpc_top.ClusterSource = lambda find: MadeUpSource(feed)
from ai_how.cli import main
code = main(["hpc", "top", "--cluster", "made-up", *sys.argv[1:]])
print("ended", code, flush=True)
sys.exit(code)
"""


@pytest.fixture
def open_terminal():
    opened = []

    def open_terminal(*words: str, **env) -> Terminal:
        opened.append(Terminal([sys.executable, "-c", PROGRAM, *words], **env))
        return opened[-1]

    yield open_terminal
    for one in opened:
        one.close()


def test_q_ends_it_and_leaves_the_terminal_as_it_was(open_terminal):
    terminal = open_terminal()
    terminal.wait_for(b"compute-02")
    terminal.press("q")
    assert terminal.end() == 0
    terminal.assert_restored()
    assert terminal.shown.rstrip().endswith(b"ended 0")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_ends_it_and_leaves_the_terminal_as_it_was(open_terminal, number):
    terminal = open_terminal()
    terminal.wait_for(b"compute-02")
    terminal.child.send_signal(number)
    assert terminal.end() == 130
    terminal.assert_restored()
    assert b"Traceback" not in terminal.shown


def test_ctrl_c_ends_it_also_in_a_question(open_terminal):
    terminal = open_terminal()
    terminal.wait_for(b"compute-02")
    terminal.press("\tx")
    terminal.wait_for(b"Cancel job 4")
    terminal.press("\x03")
    assert terminal.end() == 130
    terminal.assert_restored()


def test_it_ends_when_its_terminal_is_gone(open_terminal):
    terminal = open_terminal()
    terminal.wait_for(b"compute-02")
    os.close(terminal.master)
    terminal.master = os.open(os.devnull, os.O_RDWR)
    terminal.child.wait(60)


def test_it_ends_when_its_terminal_is_gone_also_after_a_continue_without_a_stop(open_terminal):
    terminal = open_terminal()
    terminal.wait_for(b"compute-02")
    for _ in range(3):
        terminal.shown = b""
        terminal.child.send_signal(signal.SIGCONT)
        terminal.wait_for(b"compute-02")
    os.close(terminal.master)
    terminal.master = os.open(os.devnull, os.O_RDWR)
    terminal.child.wait(60)


def test_a_continue_without_a_stop_leaves_one_reader_of_the_keys(open_terminal):
    terminal = open_terminal()
    terminal.wait_for(b"compute-02")
    terminal.child.send_signal(signal.SIGCONT)
    terminal.wait_for(b"\x1b[?1049l")
    terminal.press("q")
    assert terminal.end() == 0
    terminal.assert_restored()


def test_continues_at_any_moment_harm_nothing(open_terminal):
    terminal = open_terminal()
    terminal.wait_for(b"compute-02")
    for _ in range(40):
        terminal.child.send_signal(signal.SIGCONT)
        terminal.read()
    # A stop throws away what was typed and not read.
    while terminal.child.poll() is None:
        terminal.press("q")
        terminal.read()
    assert terminal.end() == 0
    terminal.assert_restored()


def test_ctrl_z_gives_the_terminal_back_and_a_continue_draws_it_anew(open_terminal):
    terminal = open_terminal()
    terminal.wait_for(b"compute-02")
    terminal.press("\x1a")
    terminal.wait_for(b"\x1b[?1049l")
    _, status = os.waitpid(terminal.child.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    while select.select([terminal.master], [], [], 0.5)[0]:
        terminal.read()
    terminal.assert_restored()
    terminal.shown = b""
    terminal.child.send_signal(signal.SIGCONT)
    terminal.wait_for(b"compute-02")
    terminal.press("q")
    assert terminal.end() == 0
    terminal.assert_restored()


def test_a_resize_is_followed(open_terminal):
    terminal = open_terminal()
    terminal.wait_for(b"compute-02")
    assert b"QCOW2" not in terminal.shown
    fcntl.ioctl(terminal.master, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 200, 0, 0))
    terminal.wait_for(b"QCOW2")


def test_without_colour_no_colour_is_written(open_terminal):
    terminal = open_terminal(NO_COLOR="1")
    terminal.wait_for(b"compute-02")
    terminal.press("q")
    assert terminal.end() == 0
    assert not _colours_in(terminal.shown)


@pytest.mark.parametrize("kind", ["linux", "vt100", "screen", "xterm"])
def test_it_can_be_used_on_every_usual_terminal(open_terminal, kind):
    terminal = open_terminal(TERM=kind)
    terminal.wait_for(b"compute-02")
    if kind == "vt100":
        assert not _colours_in(terminal.shown)
    terminal.press("q")
    assert terminal.end() == 0


def test_where_the_locale_is_c_only_ascii_is_written(open_terminal):
    terminal = open_terminal(LANG="C", LC_ALL="")
    terminal.wait_for(b"compute-02")
    terminal.press("\tx")
    terminal.wait_for(b"Cancel job 4")
    terminal.press("nq")
    assert terminal.end() == 0
    assert terminal.shown.isascii()


def test_no_mouse_is_asked_for_where_it_is_not_wanted(open_terminal):
    terminal = open_terminal("--no-mouse")
    terminal.wait_for(b"compute-02")
    assert b"\x1b[?1003h" not in terminal.shown


@pytest.mark.parametrize("kind", ["dumb", "", "unknown"])
def test_a_terminal_that_cannot_draw_gets_a_hint(open_terminal, kind):
    terminal = open_terminal(TERM=kind)
    assert terminal.end() == 2
    assert b"hpc top cannot draw on this terminal" in terminal.shown
    assert b"hpc status --watch" in terminal.shown
    assert b"\x1b[?1049h" not in terminal.shown


def test_without_a_terminal_it_refuses_with_a_hint(run_ai_how):
    done = run_ai_how("hpc", "top", "--cluster", "x")
    assert done.returncode == 2
    assert "hpc top needs a terminal" in done.stderr
    assert re.search(r"^hint: .* hpc status$", done.stderr, re.MULTILINE)


@pytest.fixture
def run_ai_how(tmp_path):
    def run_ai_how(*words: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "ai_how", "--state-dir", str(tmp_path), *words]
        return subprocess.run(  # noqa: S603
            argv, check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60
        )

    return run_ai_how


def test_a_cluster_that_is_not_there_is_an_ordinary_error(tmp_path):
    words = ["--state-dir", str(tmp_path), "hpc", "top", "--cluster", "nowhere"]
    terminal = Terminal([sys.executable, "-m", "ai_how", *words])
    try:
        assert terminal.end() == 3
        terminal.assert_restored()
        assert b"there is no cluster nowhere" in terminal.shown
    finally:
        terminal.close()


def test_a_missing_library_is_an_error_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setattr("ai_how.cli.hpc_top.find_spec", lambda _name: None)
    with pytest.raises(HostError, match="Textual, which is not installed") as raised:
        check_extra()
    assert raised.value.hint == f"{sys.executable} -m pip install 'textual>=8'"


@pytest.mark.parametrize(
    ("environ", "has"),
    [
        ({"LANG": "C.UTF-8"}, True),
        ({"LANG": "de_DE.utf8"}, True),
        ({"LANG": "C"}, False),
        ({}, False),
        ({"LANG": "C", "LC_CTYPE": "C.UTF-8"}, False),
        ({"LC_CTYPE": "C.UTF-8"}, False),
        ({"LANG": "en_US.UTF-8", "LC_CTYPE": "C.UTF-8"}, True),
        ({"LC_ALL": "C.UTF-8"}, True),
        ({"LC_ALL": "POSIX", "LANG": "en_US.UTF-8"}, False),
        ({"LANG": "de_DE.ISO-8859-1"}, False),
    ],
)
def test_whether_the_terminal_shows_more_than_ascii(environ, has):
    assert has_unicode(environ) is has


@pytest.mark.parametrize(
    ("environ", "has"),
    [
        ({"TERM": "xterm"}, True),
        ({"TERM": "xterm", "NO_COLOR": ""}, True),
        ({"TERM": "xterm", "NO_COLOR": "1"}, False),
        ({"TERM": "vt220"}, False),
        ({"TERM": "linux"}, True),
    ],
)
def test_whether_colours_are_used(environ, has):
    assert has_colours(environ) is has


def _colours_in(shown: bytes) -> set[str]:
    """The codes of colours that were written, besides those of the terminal's own."""
    codes = set()
    for piece in shown.decode("utf-8", "replace").split("\x1b[")[1:]:
        words, end, _ = piece.partition("m")
        if end and all(char.isdigit() or char == ";" for char in words):
            codes |= {word for word in words.split(";") if word}
    return {code for code in codes if (code[:1] in "349" and len(code) > 1) or code[:2] == "10"} - {
        "39",
        "49",
    }
