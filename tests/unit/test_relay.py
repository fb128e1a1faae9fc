"""The way of ssh to a guest says so when nobody answers there."""

import socket
import sys

import pytest

from ai_how.host import relay
from ai_how.process import run

# The relay as ssh runs it, with a Ctrl-C half a second later.
INTERRUPTED = """
import _thread, runpy, threading
threading.Timer(0.5, _thread.interrupt_main).start()
runpy.run_module("ai_how.host.relay", run_name="__main__")
"""


@pytest.fixture
def closed_port(monkeypatch):
    """A port at which nobody listens, and little patience."""
    monkeypatch.setattr(relay, "SILENCE_S", 0.1)
    monkeypatch.setattr(relay, "PATIENCE_S", 1.0)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken


def test_a_node_that_does_not_answer_is_told_once_and_then_given_up(closed_port, capsys):
    with pytest.raises(ConnectionRefusedError):
        relay.connect(*closed_port.getsockname())
    assert capsys.readouterr().err == (
        "ai-how: 127.0.0.1 does not answer; waiting for it up to 1 s "
        "(is the node on? see the status of its cluster)\n"
    )


def test_a_node_that_answers_is_connected_in_silence(closed_port, capsys):
    closed_port.listen()
    relay.connect(*closed_port.getsockname()).close()
    assert capsys.readouterr().err == ""


def test_a_wait_that_is_interrupted_ends_without_a_traceback():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        words = map(str, taken.getsockname())
        program = [sys.executable, "-c", INTERRUPTED, *words]
        ended = run(program, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "")
