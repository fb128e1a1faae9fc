"""The output of a program on a node, a line at a time, while it runs."""

import queue
from collections.abc import Generator, Iterator, Sequence

from ai_how.errors import AiHowError, GuestError
from ai_how.guest.agent import GuestAgent
from ai_how.guest.exec_channel import ExecChannel, Input
from ai_how.limits import start_thread

# How often a program that says nothing is asked; after the second time without us it is ended.
ASK_S, LEASE_S = 0.7, 60.0
TICK_S, LEAVE_S = 0.2, 3.0
# A line that does not end must not fill our memory.
LONGEST_LINE = 64 * 1024
_MOST_SAID = 2000


def follow_program(agent: GuestAgent, words: Sequence[str], shown: str) -> Generator[str | None]:
    """The lines of its standard output; None where there is nothing new for a moment.

    The program is ended with the generator. Raises GuestError, with what it said, if it fails.
    """
    news: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    said = bytearray()
    ended: list[int | AiHowError] = []

    def take(data: bytes, to_stderr: bool) -> bool:  # noqa: FBT001  the form of a sink
        if to_stderr:
            said.extend(data[: max(0, _MOST_SAID - len(said))])
        else:
            news.put(data)
        return True

    channel = ExecChannel(
        agent, Input(), take, lease_s=LEASE_S, attach_after_s=0.0, longest_pause_s=ASK_S
    )

    def run() -> None:
        argv = [word.encode("utf-8", "surrogateescape") for word in words]
        try:
            ended.append(channel.run(argv, timeout_s=None, shown=shown))
        except AiHowError as error:
            ended.append(error)
        finally:
            news.put(None)

    thread = start_thread(run, name=f"lines-{agent.name}")
    try:
        yield from _lines(news)
    finally:
        channel.stop()
        thread.join(LEAVE_S)
    for end in ended:
        if isinstance(end, AiHowError):
            raise end
        if end != 0:
            raise GuestError(
                f"{shown} failed in {agent.name} (exit code {end})",
                details=said.decode("utf-8", "replace").strip() or None,
            )


def _lines(news: "queue.SimpleQueue[bytes | None]") -> Iterator[str | None]:
    """Whole lines, and at the end what is left of one."""
    left = b""
    while True:
        try:
            data = news.get(timeout=TICK_S)
        except queue.Empty:
            yield None
            continue
        if data is None:
            break
        *lines, left = (left + data).split(b"\n")
        if len(left) > LONGEST_LINE:
            lines, left = [*lines, left], b""
        yield from map(_decoded, lines)
    if left:
        yield _decoded(left)


def _decoded(line: bytes) -> str:
    """A line as a terminal would leave it: what a progress bar wrote last."""
    return line.decode("utf-8", "replace").rstrip("\r").rpartition("\r")[2]
