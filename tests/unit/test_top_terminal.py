"""`hpc top` on a terminal: signals, modes, and where it refuses."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess  # noqa: TID251  a program is spoken to while it runs
import sys
import termios
import time
from pathlib import Path

import pytest

from ai_how.cli.hpc_top import INSTALL, check_extra, has_colours, has_unicode
from ai_how.errors import HostError

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
SHOWN = b"made-up ready"[:7]


class Terminal:
    """The program on a pseudo-terminal, whose session it leads."""

    def __init__(self, *words: str, stderr: int | None = None, **env: str) -> None:
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.before = termios.tcgetattr(self.master)
        self.child = subprocess.Popen(  # noqa: S603
            [sys.executable, "-c", PROGRAM, *words],
            stdin=slave,
            stdout=slave,
            stderr=slave if stderr is None else stderr,
            env={**os.environ, "TERM": "xterm-256color", "LANG": "C.UTF-8", **env},
            preexec_fn=_lead,  # noqa: PLW1509  the terminal is to be its own
        )
        os.close(slave)
        self.shown = b""

    def wait_for(self, text: bytes) -> bytes:
        until = time.monotonic() + 60
        while text not in self.shown:
            assert time.monotonic() < until, self.shown
            self.read()
        return self.shown

    def read(self) -> None:
        if select.select([self.master], [], [], 0.1)[0]:
            try:
                self.shown += os.read(self.master, 65536)
            except OSError:
                time.sleep(0.1)  # nobody has the other side open

    def press(self, keys: bytes) -> None:
        os.write(self.master, keys)

    def end(self) -> int:
        """Its exit code, when it has ended by itself."""
        until = time.monotonic() + 60
        while self.child.poll() is None:
            assert time.monotonic() < until, self.shown
            self.read()
        self.read()
        return self.child.returncode

    def close(self) -> None:
        self.child.kill()
        self.child.wait()
        os.close(self.master)


def _lead() -> None:
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@pytest.fixture
def open_terminal():
    opened = []

    def open_terminal(*words: str, **env) -> Terminal:
        opened.append(Terminal(*words, **env))
        return opened[-1]

    yield open_terminal
    for one in opened:
        one.close()


def assert_restored(terminal: Terminal) -> None:
    """The modes are as before; the other screen, the mouse and the cursor are, too."""
    assert termios.tcgetattr(terminal.master) == terminal.before
    for mode in (b"1049", b"1000", b"1003", b"1006", b"2004", b"1004"):
        on, off = b"\x1b[?" + mode + b"h", b"\x1b[?" + mode + b"l"
        assert terminal.shown.rfind(off) > terminal.shown.rfind(on), mode
    assert terminal.shown.rfind(b"\x1b[?25h") > terminal.shown.rfind(b"\x1b[?25l")


def test_q_ends_it_and_leaves_the_terminal_as_it_was(open_terminal):
    terminal = open_terminal()
    terminal.wait_for(b"compute-02")
    terminal.press(b"q")
    assert terminal.end() == 0
    assert_restored(terminal)
    assert terminal.shown.rstrip().endswith(b"ended 0")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_ends_it_and_leaves_the_terminal_as_it_was(open_terminal, number):
    terminal = open_terminal()
    terminal.wait_for(b"compute-02")
    terminal.child.send_signal(number)
    assert terminal.end() == 130
    assert_restored(terminal)
    assert b"Traceback" not in terminal.shown


def test_ctrl_c_ends_it_also_in_a_question(open_terminal):
    terminal = open_terminal()
    terminal.wait_for(b"compute-02")
    terminal.press(b"\tx")
    terminal.wait_for(b"Cancel job 4")
    terminal.press(b"\x03")
    assert terminal.end() == 130
    assert_restored(terminal)


def test_it_ends_when_its_terminal_is_gone(open_terminal):
    terminal = open_terminal()
    terminal.wait_for(b"compute-02")
    os.close(terminal.master)
    terminal.master = os.open(os.devnull, os.O_RDWR)
    terminal.child.wait(60)


def test_ctrl_z_gives_the_terminal_back_and_a_continue_draws_it_anew(open_terminal):
    terminal = open_terminal()
    terminal.wait_for(b"compute-02")
    terminal.press(b"\x1a")
    terminal.wait_for(b"\x1b[?1049l")
    _, status = os.waitpid(terminal.child.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    while select.select([terminal.master], [], [], 0.5)[0]:
        terminal.read()
    assert_restored(terminal)
    terminal.shown = b""
    terminal.child.send_signal(signal.SIGCONT)
    terminal.wait_for(b"compute-02")
    terminal.press(b"q")
    assert terminal.end() == 0
    assert_restored(terminal)


def test_a_resize_is_followed(open_terminal):
    terminal = open_terminal()
    terminal.wait_for(b"compute-02")
    assert b"QCOW2" not in terminal.shown
    fcntl.ioctl(terminal.master, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 200, 0, 0))
    terminal.wait_for(b"QCOW2")


def test_without_colour_no_colour_is_written(open_terminal):
    terminal = open_terminal(NO_COLOR="1")
    terminal.wait_for(b"compute-02")
    terminal.press(b"q")
    assert terminal.end() == 0
    assert not _colours_in(terminal.shown)


@pytest.mark.parametrize("kind", ["linux", "vt100", "screen", "xterm"])
def test_it_can_be_used_on_every_usual_terminal(open_terminal, kind):
    terminal = open_terminal(TERM=kind)
    terminal.wait_for(b"compute-02")
    if kind == "vt100":
        assert not _colours_in(terminal.shown)
    terminal.press(b"q")
    assert terminal.end() == 0


def test_where_the_locale_is_c_only_ascii_is_written(open_terminal):
    terminal = open_terminal(LANG="C", LC_ALL="")
    terminal.wait_for(b"compute-02")
    terminal.press(b"\tx")
    terminal.wait_for(b"Cancel job 4")
    terminal.press(b"nq")
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
    script = "import sys; from ai_how.cli import main; sys.exit(main(sys.argv[1:]))"
    terminal = Terminal.__new__(Terminal)
    terminal.master, slave = pty.openpty()
    terminal.before, terminal.shown = termios.tcgetattr(terminal.master), b""
    words = ["--state-dir", str(tmp_path), "hpc", "top", "--cluster", "nowhere"]
    terminal.child = subprocess.Popen(  # noqa: S603
        [sys.executable, "-c", script, *words],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env={**os.environ, "TERM": "xterm"},
        start_new_session=True,
    )
    os.close(slave)
    try:
        assert terminal.end() == 3
        assert_restored(terminal)
        assert b"there is no cluster nowhere" in terminal.shown
    finally:
        terminal.close()


def test_a_missing_library_is_an_error_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setattr("ai_how.cli.hpc_top.find_spec", lambda _name: None)
    with pytest.raises(HostError, match="Textual, which is not installed") as raised:
        check_extra()
    # We run from a checkout, whose script installs it.
    assert raised.value.hint == str(TESTS.parent / "script/setup")
    monkeypatch.setattr("ai_how.cli.hpc_top.INSTALL_HERE", "nowhere")
    with pytest.raises(HostError) as raised:
        check_extra()
    assert raised.value.hint == INSTALL


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
