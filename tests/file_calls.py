"""Lets a child do something under strace: to see its file-system calls, or to break one of them."""

import ctypes
import os
import re
import select
import signal
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from ai_how.errors import AiHowError
from ai_how.process import get_tool, start_daemon
from ai_how.waiting import Deadline, wait_until

# All calls that take a path or a descriptor; of these, some only move memory or wait.
CALLS = "%file,%desc"
NOT_FILES = ("mmap", "select", "pselect6")

DONE, REFUSED, BROKEN = 0, 3, 1
_PR_SET_PTRACER, _ANY = 0x59616D61, ctypes.c_ulong(-1)


@dataclass(frozen=True, slots=True)
class Call:
    """One system call: its arguments as strace writes them, its texts decoded."""

    name: str
    arguments: tuple[str, ...]
    result: int | None
    """None where the caller was killed in it."""
    error: str
    """How it failed, in strace's words."""

    @property
    def is_injected(self) -> bool:
        return "INJECTED" in self.error

    @property
    def texts(self) -> tuple[bytes, ...]:
        """The texts among the arguments, and the paths of the descriptors among them."""
        found = re.findall(r'["<]((?:\\x[0-9a-f]{2})*)[">]', ", ".join(self.arguments))
        return tuple(bytes.fromhex(text.replace("\\x", "")) for text in found)


@dataclass(frozen=True, slots=True)
class Traced:
    """How a child ended, and the calls that it made."""

    code: int | None
    """DONE, REFUSED with an error of ours, BROKEN by another, or None: killed."""
    error: str
    calls: tuple[Call, ...]

    @property
    def injected(self) -> Call | None:
        return next((call for call in self.calls if call.is_injected), None)


def trace(act: Callable[[], object], directory: Path, *, inject: str = "") -> Traced:
    """Let a child do `act`, and break the call that `inject` (of strace) tells of.

    Its logs are in `directory`, which is not where `act` works.
    """
    log, words, told = (directory / name for name in ("calls", "strace", "error"))
    for path in (log, words, told):
        path.unlink(missing_ok=True)
    ready, go = os.pipe()
    child = os.fork()
    if child == 0:
        _be_traced(act, ready, told)
    strace = get_tool("strace", package="strace")
    options = ["-y", "-xx", "-s", "10000000", "-e", f"trace={CALLS}"]
    options += ["-e", f"inject={inject}"] if inject else []
    tracer = start_daemon([strace, "-p", str(child), "-o", log, *options], log=words)
    try:
        wait_until(
            lambda: b"attached" in words.read_bytes() or tracer.poll() is not None,
            Deadline.after(60),
            "strace",
            interval_s=0.002,
        )
        assert tracer.poll() is None, words.read_text()
        os.write(go, b"!")
        _, status = os.waitpid(child, 0)
    except BaseException:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        raise
    finally:
        os.close(ready)
        os.close(go)
        tracer.wait(60)
    error = told.read_text() if told.exists() else ""
    code = None if os.WIFSIGNALED(status) else os.waitstatus_to_exitcode(status)
    return Traced(code, error, tuple(_parse(log.read_text())))


def _be_traced(act: Callable[[], object], ready: int, told: Path) -> NoReturn:
    """How it went is said by the exit code, so that no call of ours is left to be broken."""
    code = BROKEN
    try:
        # Where only a parent may trace (Yama), let the tracer do it.
        ctypes.CDLL(None).prctl(_PR_SET_PTRACER, _ANY, 0, 0, 0)
        signal.alarm(120)
        # Until we are traced, by a call that is not, so that it is not counted either.
        select.select([ready], [], [])
        act()
        code = DONE
    except AiHowError as error:
        code = REFUSED
        with suppress(OSError):
            told.write_text(f"{type(error).__name__}: {error}")
    # Whatever else it is, it is a bug, and its text is for whoever looks for it.
    except BaseException:  # noqa: BLE001
        with suppress(OSError):
            told.write_text(traceback.format_exc())
    finally:
        os._exit(code)


def _parse(log: str) -> Sequence[Call]:
    """Every call in the log; ValueError for a line that is none."""
    calls = []
    for line in log.splitlines():
        if line.startswith(("+++", "---", *NOT_FILES, "strace: ")):
            continue
        if not (found := re.fullmatch(r"(\w+)\((.*)\)\s+= (-?\d+|\?)(.*)", line)):
            if found := re.fullmatch(r"(\w+)\((.*) <unfinished \.\.\.>\)?.*", line):
                calls.append(Call(found[1], tuple(found[2].split(", ")), None, ""))
                continue
            raise ValueError(f"not understood: {line[:300]}")
        result = None if found[3] == "?" else int(found[3])
        arguments = tuple(found[2].split(", "))
        calls.append(Call(found[1], arguments, result, found[4]))
    return calls
