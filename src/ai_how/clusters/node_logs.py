"""The logs of nodes, read or followed, in the order of time.

A journal is read by journalctl in the node, which a thread for each node starts through the guest
agent. One that is followed goes on at its last entry when the agent, the guest or the host is back.
"""

import heapq
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial

from ai_how.clusters.cluster_access import ClusterAccess, client_of
from ai_how.errors import AiHowError, GuestError, HostError
from ai_how.guest.agent import GuestAgent
from ai_how.guest.exec_channel import ATTACH_AFTER_S, ExecChannel, Input
from ai_how.guest.journal import EntryReader, LogEntry, Wanted, entry_words, find_boot
from ai_how.guest.serial_log import SerialTail
from ai_how.libvirt_client.client import LibvirtClient
from ai_how.limits import start_thread
from ai_how.state.models import NodeState

Note = Callable[[str], None]
Put = Callable[[LogEntry | None], None]

# How often a node that says nothing is asked; an older entry of another node may be that late.
ASK_S, HOLD_S = 0.7, 1.2
# After this time without us, the node ends journalctl.
LEASE_S = 60.0
RETRY_S = 2.0
TICK_S = 0.2
LEAVE_S = 3.0
# What a node without an entry says next is not older than this before we began to follow.
MARGIN = timedelta(minutes=1)
KILLED = 128
_MOST_SAID = 2000


def read_logs(
    access: ClusterAccess, nodes: Sequence[NodeState], wanted: Wanted, note: Note
) -> Iterator[LogEntry]:
    """The entries of the journals, in the order of time.

    A node that does not answer is left out, and told by `note`. Raises HostError if none answers,
    GuestError if a journal cannot be read.
    """
    with _opened(access, nodes) as journals:
        there = [one for one in journals if one.is_connected()]
        for one in journals:
            if one not in there:
                note(f"{one.find_interruption()}; its journal is left out")
        if not there:
            name = nodes[0].name
            raise HostError(
                "no node answers whose journal was asked for",
                hint=f"ai-how {access.kind.name} logs --serial {name}  # the serial console",
            )
        yield from _merged(there, wanted)
        for one in there:
            if one.failure:
                raise one.failure


def follow_logs(
    access: ClusterAccess, nodes: Sequence[NodeState], wanted: Wanted, note: Note
) -> Iterator[LogEntry | None]:
    """The entries of the journals, then new ones as they come, until the nodes are removed.

    None comes where there is nothing new for a moment. What interrupts a journal is told by `note`.
    Raises GuestError if a journal cannot be read, HostError when the nodes are gone.
    """
    begun = datetime.now(UTC) - MARGIN
    later = Wanted(since=max(begun, wanted.since or begun), units=wanted.units)
    # For its place, the last entry is read where none is to be shown.
    first = replace(wanted, lines=1) if wanted.lines == 0 else wanted
    news: queue.SimpleQueue[LogEntry | None] = queue.SimpleQueue()
    with _opened(access, nodes) as journals:
        there = [one for one in journals if one.is_connected()]
        for entry in _merged(there, first):
            if wanted.lines != 0:
                yield entry
        for one in there:
            if one.is_refused and one.failure:
                raise one.failure
        for one in journals:
            one.start(partial(one.follow, later, news.put, note))
        yield from _in_order(news, journals)
    raise HostError(
        f"{access.name} has none of these nodes any more", hint=f"ai-how {access.kind.name} list"
    )


def serial_logs(
    access: ClusterAccess, nodes: Sequence[NodeState], lines: int | None, *, follows: bool
) -> Iterator[LogEntry | None]:
    """The last lines of each serial log, node after node: they have no times.

    If it `follows`, then new lines as they come, and None where there is nothing for a moment.
    Raises HostError if only root can read one.
    """
    tails = {node.name: SerialTail(access.paths.console_log(node.name)) for node in nodes}
    try:
        for name, tail in tails.items():
            found = tail.read() + ([] if follows else tail.rest())
            shown = found if lines is None else found[max(0, len(found) - lines) :]
            yield from (LogEntry(name, line) for line in shown)
        while follows:
            for name, tail in tails.items():
                yield from (LogEntry(name, line) for line in tail.read())
            yield None
    finally:
        for tail in tails.values():
            tail.close()


class _Journal:
    """The journal of one node, which a thread of its own reads."""

    def __init__(self, access: ClusterAccess, client: LibvirtClient, node: NodeState) -> None:
        self._access, self._client, self._node = access, client, node
        self._agent = GuestAgent(client, node.uuid, node.name)
        self._stop, self._ended = threading.Event(), threading.Event()
        self._ended.set()
        self._channel: ExecChannel | None = None
        self._cursor: str | None = None
        self._is_told = False
        self.failure: AiHowError | None = None
        self.is_refused = False
        """Whether journalctl failed by itself: it would again."""

    @property
    def has_ended(self) -> bool:
        return self._ended.is_set()

    def is_connected(self) -> bool:
        return self._client.is_agent_connected(self._node.uuid)

    def start(self, work: Callable[[], None]) -> None:
        """Do one of the two below in a thread."""

        def worked() -> None:
            try:
                work()
            except AiHowError as error:
                self.failure = error
            finally:
                self._ended.set()

        self._ended.clear()
        start_thread(worked, name=f"log-{self._node.name}")

    def stop(self) -> None:
        """Have the thread end what it does, and itself."""
        self._stop.set()
        if channel := self._channel:
            channel.stop()

    def wait(self, seconds: float) -> None:
        """Wait for the end of the thread."""
        self._ended.wait(seconds)

    def read(self, wanted: Wanted, put: Put) -> None:
        """Put all that is wanted, then None."""
        try:
            boot = find_boot(self._agent, wanted.boot) if wanted.boot else wanted.boot
            words = entry_words(wanted, boot=None if boot is None else str(boot))
            entries: list[LogEntry] = []
            take = entries.append if wanted.comes_reversed else put
            self._run(words, take, attach_after_s=ATTACH_AFTER_S, has_boot=bool(boot))
            for entry in reversed(entries):
                self._cursor = entry.cursor
                put(entry)
        finally:
            put(None)

    def follow(self, wanted: Wanted, put: Put, note: Note) -> None:
        """Put what comes after the last entry until `stop`, or until the node is removed."""
        while not self._stop.is_set():
            with suppress(AiHowError):
                if self.is_connected():
                    words = entry_words(wanted, cursor=self._cursor, follows=True)
                    self._run(words, put, attach_after_s=0.0)
            if self._stop.wait(RETRY_S) or not (why := self.find_interruption()):
                return
            if not self._is_told:
                note(f"{why}; its journal goes on where it was when it answers")
            self._is_told = True
            while not self._is_back() and not self._stop.wait(RETRY_S):
                pass

    def find_interruption(self) -> str | None:
        """Why there is nothing of the node, while it is not removed."""
        name = self._node.name
        with suppress(AiHowError):
            if self._is_removed():
                return None
            if not self._access.place().is_up:
                return f"{name} is off"
            seen = self._client.find_domain(self._node.uuid)
            if seen and seen.has_managed_save:
                return f"{name} is suspended"
            if seen and not seen.state.is_on:
                return f"{name} is off"
        return f"{name} did not answer"

    def _is_back(self) -> bool:
        """Whether the node answers, or need not be waited for."""
        with suppress(AiHowError):
            return self._is_removed() or (self._access.place().is_up and self.is_connected())
        return False

    def _is_removed(self) -> bool:
        state = self._access.find_state()
        return state is None or all(one.uuid != self._node.uuid for one in state.nodes)

    def _run(
        self,
        words: Sequence[bytes],
        put: Callable[[LogEntry], None],
        *,
        attach_after_s: float,
        has_boot: bool = False,
    ) -> None:
        """Put the entries that journalctl prints. Raises GuestError if it fails."""
        name, reader, said = self._node.name, EntryReader(self._node.name), bytearray()

        def take(data: bytes, to_stderr: bool) -> bool:  # noqa: FBT001  the form of a sink
            if to_stderr:
                said.extend(data[: _MOST_SAID - len(said)])
                return True
            for entry in reader.feed(data):
                # The one at the cursor was put before.
                if entry.cursor is None or entry.cursor != self._cursor:
                    self._cursor, self._is_told = entry.cursor or self._cursor, False
                    put(entry)
            return True

        self._channel = ExecChannel(
            self._agent,
            Input(),
            take,
            lease_s=LEASE_S,
            attach_after_s=attach_after_s,
            longest_pause_s=ASK_S,
        )
        if self._stop.is_set():
            return
        if (code := self._channel.run(words, timeout_s=None, shown="journalctl")) != 0:
            self.is_refused = code < KILLED
            kind = self._access.kind.name
            raise GuestError(
                f"the journal of {name} cannot be read",
                details=said.decode("utf-8", "replace").strip() or None,
                hint=f"ai-how {kind} exec {name} -- journalctl --list-boots" if has_boot else None,
            )


@contextmanager
def _opened(access: ClusterAccess, nodes: Sequence[NodeState]) -> Iterator[list[_Journal]]:
    """The journals of the nodes. At the end, what runs in the nodes for them is ended."""
    place = access.place()
    if not place.is_up:
        raise HostError(
            f"the nodes of {access.name} are off", hint=f"ai-how {access.kind.name} start"
        )
    with client_of(place) as client:
        for node in nodes:
            client.learn(node.uuid, node.domain_name)
        journals = [_Journal(access, client, node) for node in nodes]
        try:
            yield journals
        finally:
            for one in journals:
                one.stop()
            # A node that does not answer ends journalctl by itself.
            until = time.monotonic() + LEAVE_S
            for one in journals:
                one.wait(max(0.0, until - time.monotonic()))


def _merged(journals: Sequence[_Journal], wanted: Wanted) -> Iterator[LogEntry]:
    """The entries of all journals to their ends, in the order of time."""
    streams = []
    for one in journals:
        entries: queue.SimpleQueue[LogEntry | None] = queue.SimpleQueue()
        one.start(partial(one.read, wanted, entries.put))
        streams.append(iter(entries.get, None))
    for entry in heapq.merge(*streams, key=_time_of):
        if entry:
            yield entry


def _in_order(
    news: "queue.SimpleQueue[LogEntry | None]", journals: Sequence[_Journal]
) -> Iterator[LogEntry | None]:
    """What comes, held back until older entries of other nodes have come; None in between."""
    hold_s = HOLD_S if len(journals) > 1 else 0.0
    held: list[tuple[float, LogEntry]] = []
    while True:
        is_over = all(one.has_ended for one in journals)
        with suppress(queue.Empty):
            while entry := news.get(timeout=0 if is_over else TICK_S):
                held.append((time.monotonic(), entry))
                if held[0][0] + hold_s <= time.monotonic():
                    break
        due = [one for at, one in held if is_over or at + hold_s <= time.monotonic()]
        if due:
            last = max(map(_time_of, due))
            ready = sorted((one for _, one in held if _time_of(one) <= last), key=_time_of)
            held = [(at, one) for at, one in held if _time_of(one) > last]
            yield from ready
        elif is_over:
            return
        else:
            yield None


def _time_of(entry: LogEntry | None) -> datetime:
    return (entry and entry.time) or datetime.fromtimestamp(0, UTC)
