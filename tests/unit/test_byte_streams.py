"""Input and output of `exec` on our side: bytes as they are, terminals, readers that are gone."""

import fcntl
import os
import pty
import termios
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from ai_how.cli.exec_program import MOST_COLLECTED, Collected, argv_of
from ai_how.console.byte_streams import ByteInput, ByteOutput
from ai_how.errors import HostError


@contextmanager
def in_place_of(number: int, other: int) -> Iterator[None]:
    """Another file as one of the standard descriptors."""
    kept = os.dup(number)
    os.dup2(other, number)
    try:
        yield
    finally:
        os.dup2(kept, number)
        os.close(kept)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """The ends of a pipe; a test may close them."""
    ends = os.pipe()
    inode = os.fstat(ends[0]).st_ino
    yield ends
    for one in ends:
        with suppress(OSError):
            if os.fstat(one).st_ino == inode:
                os.close(one)


def test_bytes_are_written_as_they_are(capfdbinary):
    out = ByteOutput()
    assert out.write(b"\xff\xfe\x00\r\n\x1b[0m", False)
    assert out.write(b"no line end", True)
    assert tuple(capfdbinary.readouterr()) == (b"\xff\xfe\x00\r\n\x1b[0m", b"no line end")


def test_a_reader_that_is_gone_is_told_of(pipe):
    read, write = pipe
    os.close(read)
    with in_place_of(1, write):
        assert not ByteOutput().write(b"x", False)


@pytest.mark.fault("F68", "an output that is full")
def test_an_output_that_is_full_is_an_error():
    told = "cannot write the output: No space left on device"
    with (
        Path("/dev/full").open("wb") as full,
        in_place_of(1, full.fileno()),
        pytest.raises(HostError, match=told),
    ):
        ByteOutput().write(b"x", False)


def test_an_output_that_does_not_block_gets_all_of_it(pipe):
    read, write = pipe
    os.set_blocking(write, False)
    fcntl.fcntl(write, 1031, 4096)
    data = os.urandom(100_000)
    got: list[bytes] = []

    def read_all() -> None:
        while piece := os.read(read, 1000):
            got.append(piece)

    reader = threading.Thread(target=read_all, daemon=True)
    reader.start()
    with in_place_of(1, write):
        assert ByteOutput().write(data, False)
    os.close(write)
    reader.join(60)
    assert b"".join(got) == data


def test_a_terminal_gets_text_without_control_characters(monkeypatch):
    ours, theirs = pty.openpty()
    mode = termios.tcgetattr(theirs)
    mode[1] &= ~termios.OPOST
    termios.tcsetattr(theirs, termios.TCSANOW, mode)
    with os.fdopen(theirs, "w") as terminal, in_place_of(1, theirs):
        monkeypatch.setattr("sys.stdout", terminal)
        out = ByteOutput()
        assert out.write(b"\xc3", False)
        assert out.write(b"\xa4\x1b[31m\n", False)
        assert os.read(ours, 100) == "ä\\x1b[31m\n".encode()
    os.close(ours)


@pytest.mark.parametrize(
    ("prepare", "expected"),
    [
        (os.close, (b"", True)),
        (lambda write: (os.write(write, b"a\x00\xff"), os.close(write)), (b"a\x00\xff", True)),
        (lambda write: os.write(write, b"begun"), (b"begun", False)),
        (lambda write: None, (b"", False)),
    ],
    ids=["nothing", "all of it", "more may come", "nobody writes"],
)
def test_an_input_that_is_there_is_taken_without_waiting(
    pipe, prepare: Callable[[int], object], expected
):
    read, write = pipe
    with in_place_of(0, read):
        prepare(write)
        assert ByteInput().read_head(100, 0.01) == expected


def test_the_rest_of_an_input_is_read_as_it_comes(pipe):
    read, write = pipe
    with in_place_of(0, read):
        given = ByteInput()
        os.write(write, b"abc")
        assert given.read(100) == b"abc"
        os.close(write)
        assert given.read(100) == b""


def test_a_terminal_is_not_read_before_somebody_types():
    ours, theirs = pty.openpty()
    with in_place_of(0, theirs):
        assert ByteInput().read_head(100, 0.01) == (b"", False)
    os.close(ours)
    os.close(theirs)


def test_the_document_has_text_and_base64_of_what_is_none():
    collected = Collected()
    collected.write("a\u00e4\n".encode(), False)
    collected.write(b"\xff\x00", True)
    result = collected.result(3)
    assert (result.exit_code, result.output, result.output_base64) == (3, "a\u00e4\n", None)
    assert (result.errors, result.errors_base64) == ("\N{REPLACEMENT CHARACTER}\x00", "/wA=")


def test_a_document_that_would_be_too_large_is_refused():
    collected = Collected()
    collected.write(bytes(MOST_COLLECTED), False)
    with pytest.raises(HostError, match="the output is larger than 64 MiB"):
        collected.write(b"x", True)


@pytest.mark.parametrize(
    ("command", "argv"),
    [
        (["ls"], [b"ls"]),
        (["ls | wc"], [b"/bin/sh", b"-c", b"ls | wc"]),
        (["printf", "\udcff'"], [b"printf", b"\xff'"]),
    ],
)
def test_one_word_is_a_line_for_a_shell_and_several_are_a_program(command, argv):
    assert argv_of(command) == argv
