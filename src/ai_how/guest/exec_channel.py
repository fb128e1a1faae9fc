"""A program in a guest whose bytes are carried both ways by the agent, without a network.

The other end is `exec_helper`, which runs in the guest; it describes the frames and files between
the two. This end asks the agent again where an answer was lost: a read has its offset, and a frame
that comes twice has no second effect.
"""

import base64
import secrets
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.resources import files
from typing import TypeVar

from ai_how.errors import (
    AgentUnresponsiveError,
    AiHowError,
    ConnectionLostError,
    GuestError,
    InterruptedRunError,
    ProgramTimeoutError,
)
from ai_how.guest.agent import ASK_TIMEOUT_S, GuestAgent, bytes_of, number_of
from ai_how.guest.agent_files import MOST_READ, GuestFiles
from ai_how.guest.exec_frames import Frame, Frames, encode
from ai_how.guest.exec_parts import SEGMENT
from ai_how.limits import start_thread
from ai_how.waiting import Deadline

# After this time without a word of ours, the helper ends the program.
LEASE_S = 120.0
BEAT_S = 10.0
# A short program has ended by then, and costs no more questions.
ATTACH_AFTER_S = 0.6
SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 0.02, 0.3
PAUSE_GROWTH = 1.1  # so an end is seen a tenth later than it is there; a question takes some 2 ms
LOOK_S = 5.0
# An interrupted program gets two seconds until it is killed.
END_S = 9.0
LEAVE_S = 3.0
# With the helper (19 KB) it fits into the pipe of its standard input: the agent writes all of that
# at once, and answers nobody for half a minute where it cannot (qemu-ga 10.0 in a guest).
HEAD_BYTES = 32 * 1024
SENT_BYTES = 128 * 1024
# Of half the pipe of frames, for frames without data; the other half is for what is sent again.
SPARE_BYTES = 16 * 1024
RUN = "/run"

Sink = Callable[[bytes, bool], bool]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Input:
    """What the program reads: the first bytes, and how to read more.

    `more` blocks, and gives b"" at the end; None if `head` is all.
    """

    head: bytes = b""
    more: Callable[[int], bytes] | None = None


class ExecChannel:
    """One program in a guest. `run` is called once; other methods are its parts."""

    def __init__(
        self,
        agent: GuestAgent,
        given: Input,
        sink: Sink,
        *,
        base: str = RUN,
        lease_s: float = LEASE_S,
        attach_after_s: float = ATTACH_AFTER_S,
        longest_pause_s: float = LONGEST_PAUSE_S,
    ) -> None:
        """`sink` gets each piece of output and whether it is of stderr.

        It returns whether that output still has a reader; if not, the program's writes to it fail.
        While there is no output, the agent is asked every `longest_pause_s`.
        """
        self._agent, self._files = agent, GuestFiles(agent)
        self._given, self._sink = given, sink
        self._lease_s, self._base = lease_s, base
        self._attach_after_s = 0.0 if given.more else attach_after_s
        self._longest_pause_s = longest_pause_s
        self._token = secrets.token_hex(8)
        self._directory = f"{base}/ai-how-exec-{self._token}"
        self._asking = threading.Lock()
        # No question is waited for longer; of the time-out, then of the end.
        self._limit: Deadline | None = None
        self._news = threading.Condition()
        self._is_over = False
        self._failure: AiHowError | None = None
        self._is_attached = False
        self._control: int | None = None
        self._segment: int | None = None
        self._looked_at = time.monotonic()
        self._is_placed = False
        self._received = self._told = 0
        self._sent = self._consumed = len(given.head)
        self._window = SPARE_BYTES
        self._frames = Frames()
        self._status: int | None = None
        self._pid = -1

    def run(self, argv: Sequence[bytes], *, timeout_s: float | None, shown: str) -> int:
        """Run a program to its end; its exit code, or 128 and the signal that ended it.

        Raises ProgramTimeoutError, which names it as `shown`, after `timeout_s`; GuestError if the
        guest does not comply; ConnectionLostError if libvirt does not come back. Whatever
        ends this early, such as a signal to us, ends all processes of the program.
        """
        self._limit = Deadline.after(timeout_s) if timeout_s is not None else None
        try:
            self._start(argv)
            return self._follow(self._limit, shown)
        except BaseException as error:
            self._end(getattr(error, "number", signal.SIGTERM))
            raise
        finally:
            self._leave()

    def _start(self, argv: Sequence[bytes]) -> None:
        given = self._given
        call = (
            f"main({self._base!r}, {self._token!r}, {list(argv)!r}, {given.head!r}, "
            f"{given.more is None}, {self._lease_s!r})\n"
        )
        source = _helper_source() + call.encode()
        arguments = {
            "path": "/usr/bin/python3",
            "arg": ["-I", "-S", "-"],
            "capture-output": True,
            "input-data": base64.b64encode(source).decode("ascii"),
        }
        answer = self._agent.ask("guest-exec", arguments, self._deadline())
        self._pid = number_of(answer, "pid", int)

    def _follow(self, until: Deadline | None, shown: str) -> int:
        """Pass on what comes, until the program has ended."""
        attach_at = time.monotonic() + self._attach_after_s
        pause_s = SHORTEST_PAUSE_S
        while self._status is None:
            if self._failure:
                raise self._failure
            if until and until.has_passed:
                raise ProgramTimeoutError(
                    f"timed out waiting for the end of {shown} in {self._agent.name}"
                )
            if not self._is_attached and time.monotonic() >= attach_at and self._attach():
                pause_s = SHORTEST_PAUSE_S  # the helper is up: an answer is near
            if self._step():
                pause_s = SHORTEST_PAUSE_S
                continue
            self._wait(min(pause_s, until.remaining_s if until else pause_s))
            pause_s = min(PAUSE_GROWTH * pause_s, self._longest_pause_s)
        return self._status

    def stop(self) -> None:
        """Have `run`, in another thread, end the program and raise InterruptedRunError."""
        with self._news:
            self._failure = InterruptedRunError("stopped")
            self._news.notify_all()

    def _step(self) -> bool:
        """One question to the agent; whether it brought anything."""
        data = self._repeated(self._read) if self._is_attached else b""
        if data:
            self._take(data)
            return True
        if self._segment is None or time.monotonic() - self._looked_at > LOOK_S:
            # Not attached, or too late to be, or the helper has died.
            self._look_for_end()
        return False

    def _take(self, data: bytes) -> None:
        for frame in self._frames.feed(data):
            self._obey(frame)
        if self._status is None and self._received - self._told >= SEGMENT:
            self._send("A", self._received.to_bytes(8, "big"))
            self._told = self._received

    def _obey(self, frame: Frame) -> None:
        if frame.kind in "OE":
            is_error = frame.kind == "E"
            if not self._sink(frame.payload, is_error) and self._is_attached:
                self._send("N", frame.kind.encode())
        elif frame.kind in "CSW":
            with self._news:
                if frame.kind == "W":
                    self._window = max(self._window, frame.number // 2 - SPARE_BYTES)
                elif frame.kind == "C":
                    self._consumed = max(self._consumed, frame.number)
                else:
                    self._is_over = True
                self._news.notify_all()
        else:
            self._status = frame.payload[0]

    def _attach(self) -> bool:
        """Open the way to the helper, and begin to hand over the input; whether it is there."""
        with suppress(GuestError, ConnectionLostError), self._turn() as deadline:
            self._control = self._files.open(f"{self._directory}/control", "r+", deadline)
        if self._control is None:
            return False
        self._is_attached = True
        self._send("H")
        start_thread(self._beat, name="exec-beat")
        if self._given.more:
            start_thread(self._hand_over, name="exec-input")
        return True

    def _look_for_end(self) -> None:
        """The frames of a program that ended before we attached, if it did.

        Raises GuestError if the helper has ended without having told the program's end.
        """
        self._looked_at = time.monotonic()
        seen = self._repeated(
            lambda deadline: self._agent.ask("guest-exec-status", {"pid": self._pid}, deadline)
        )
        if not number_of(seen, "exited", bool):
            return
        self._is_attached = False
        if not self._received:
            self._take(bytes_of(seen, "out-data"))
        if self._status is None:
            said = bytes_of(seen, "err-data").decode("utf-8", "replace")
            raise GuestError(
                f"what ran the program in {self._agent.name} has ended, and so has the program",
                details=said.strip()[-2000:] or None,
            )

    def _read(self, deadline: Deadline) -> bytes:
        """The next bytes of the helper's files; b"" if there are none yet."""
        offset = self._received % SEGMENT
        if self._segment is None:
            path = f"{self._directory}/{self._received // SEGMENT}"
            try:
                self._segment = self._files.open(path, "r", deadline)
            except AgentUnresponsiveError:
                raise
            except GuestError:
                return b""  # not written yet
            self._is_placed = offset == 0
        if not self._is_placed:
            self._files.seek(self._segment, offset, deadline)
        self._is_placed = False
        most = min(MOST_READ, SEGMENT - offset)
        data = self._files.read(self._segment, most, deadline)
        self._is_placed = True
        self._received += len(data)
        if len(data) == SEGMENT - offset:
            handle, self._segment = self._segment, None
            with suppress(GuestError, ConnectionLostError):
                self._files.close(handle, deadline)
        return data

    def _send(self, kind: str, payload: bytes = b"") -> None:
        data = encode(kind, payload)

        def write(deadline: Deadline) -> None:
            if self._control is None:
                self._control = self._files.open(f"{self._directory}/control", "r+", deadline)
            self._files.write(self._control, data, deadline)

        self._repeated(write)

    def _deadline(self) -> Deadline:
        """Of one question."""
        longest = Deadline.after(ASK_TIMEOUT_S)
        return self._limit.sooner_of(ASK_TIMEOUT_S) if self._limit else longest

    @contextmanager
    def _turn(self) -> Iterator[Deadline]:
        """The right to ask the agent. Raises AgentUnresponsiveError if others wait for too long."""
        deadline = self._deadline()
        if not self._asking.acquire(timeout=deadline.remaining_s):
            raise AgentUnresponsiveError(f"the agent of {self._agent.name} does not answer")
        try:
            yield deadline
        finally:
            self._asking.release()

    def _repeated(self, ask: Callable[[Deadline], T]) -> T:
        """The result of `ask`, which is repeated while answers are lost, or files were closed.

        A new agent does not know the files that the one before had open.
        """
        until = Deadline.after(self._lease_s)
        has_failed = False
        lost: AiHowError | None = None
        while True:
            try:
                with self._turn() as deadline:
                    return ask(deadline)
            except (AgentUnresponsiveError, ConnectionLostError) as error:
                lost = error
                if until.has_passed or (self._limit and self._limit.has_passed):
                    raise
            except GuestError:
                if has_failed:
                    if lost:  # the agent tells the end of a program once
                        raise lost from None
                    raise
                has_failed = True
                self._segment = self._control = None
            time.sleep(SHORTEST_PAUSE_S)

    def _wait(self, seconds: float) -> None:
        with self._news:
            self._news.wait(seconds)

    def _beat(self) -> None:
        """Tell the helper that we live."""
        while not self._is_over_in(BEAT_S * self._lease_s / LEASE_S):
            with suppress(GuestError, ConnectionLostError):
                self._send("B")

    def _is_over_in(self, seconds: float) -> bool:
        with self._news:
            return self._news.wait_for(lambda: self._status is not None, seconds)

    def _hand_over(self) -> None:
        """Send the input, as far as the program takes it."""
        more = self._given.more
        try:
            while more and (room := self._room()):
                data = more(room)
                if not data:
                    self._send("F")
                    return
                self._send("D", self._sent.to_bytes(8, "big") + data)
                with self._news:
                    self._sent += len(data)
                    self._news.notify_all()
        except AiHowError as error:
            self._failure = error

    def _room(self) -> int:
        """How much may be sent; waits until that is not 0, and is 0 if nothing is wanted."""

        def room() -> int:
            return min(SENT_BYTES, self._window - (self._sent - self._consumed))

        with self._news:
            self._news.wait_for(lambda: self._is_over or self._status is not None or room() > 0)
            return 0 if self._is_over or self._status is not None else room()

    def _end(self, number: int) -> None:
        """End all processes of the program, and pass on what they say at their end."""
        self._limit = until = Deadline.after(END_S)
        is_sent = False
        with suppress(AiHowError):
            while self._pid >= 0 and self._status is None and not until.has_passed:
                if not self._is_attached:
                    self._attach()
                if self._is_attached and not is_sent:
                    self._send("K", bytes([number]))
                    is_sent = True
                if not self._step():
                    self._wait(SHORTEST_PAUSE_S)

    def _leave(self) -> None:
        """Let the helper remove its files, and close ours. A helper that lives ends the program."""
        with self._news:
            self._is_over = True
            self._status = -1 if self._status is None else self._status
            self._news.notify_all()
        handles = [one for one in (self._segment, self._control) if one is not None]
        if not self._is_attached or self._control is None:
            return
        self._limit = Deadline.after(LEAVE_S)
        with suppress(GuestError, ConnectionLostError), self._turn() as deadline:
            self._files.write(self._control, encode("Q"), deadline)
            for handle in handles:
                self._files.close(handle, deadline)
            # The agent forgets a program that has ended once it has told so.
            self._agent.ask("guest-exec-status", {"pid": self._pid}, deadline)


def _helper_source() -> bytes:
    """The text of the helper, in one piece: the guest has nothing of ours to import."""
    here = files("ai_how.guest")
    lines = [
        line
        for name in ("exec_parts.py", "exec_helper.py")
        for line in here.joinpath(name).read_bytes().splitlines(keepends=True)
    ]
    return b"".join(line for line in lines if not line.startswith(b"from ai_how."))
