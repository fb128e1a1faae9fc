"""A session with one libvirt: reopens broken connections, and repeats reads."""

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self, TypeVar
from uuid import UUID

import libvirt

from ai_how.errors import ConnectionLostError, LibvirtError, LimitError
from ai_how.libvirt_client.connection import (
    BusyError,
    Connection,
    NotSentError,
    Opener,
    silent,
    translate,
)
from ai_how.libvirt_client.facts import DomainEvent, EventKind
from ai_how.libvirt_client.names import Names
from ai_how.libvirt_client.uri import LibvirtUri
from ai_how.waiting import Deadline, call_with_timeout

# libvirt waits this long for a guest's job lock before it says OPERATION_TIMEOUT.
JOB_LOCK_S = 30

# How often a call is repeated over a new connection, after its connection broke.
REPEATS = 3

# A healthy daemon answers in milliseconds. After one that did not answer for the whole patience, a
# new connection gets only this time, and after a failure there is a pause of the same length.
ALIVE_WITHIN_S = 5

# How long a call may wait for other calls that are answered, however slowly.
TURN_S = 300

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 1.0

OnEvent = Callable[[DomainEvent], None]
T = TypeVar("T")


class Subscription:
    """Delivers events until it is closed."""

    def __init__(self, on_event: OnEvent, forget: Callable[["Subscription"], None]) -> None:
        self.on_event = on_event
        self._forget = forget

    def close(self) -> None:
        """No event after this, except one already on its way. Safe to repeat."""
        self._forget(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self.close()


class Session:
    """Calls to one libvirt. Connects at the first call, and again after the connection broke.

    Once a call has its turn it ends within its time, which includes reconnecting and repeating.
    `is_kept`: the daemon is restarted when it ends, so it is waited for.
    """

    def __init__(
        self,
        uri: LibvirtUri,
        opener: Opener,
        *,
        patience_s: float,
        max_calls: int,
        is_kept: bool = False,
        names: Names | None = None,
    ) -> None:
        self._names = names or Names()
        self._uri = uri
        self._opener = opener
        self._patience_s = patience_s
        self._max_calls = max_calls
        self._opening = threading.Lock()
        self._wire: Connection | None = None
        self._is_kept = is_kept
        # Whether to wait for the daemon: it was there, and has not been silent for the whole
        # patience since.
        self._is_coming_back = is_kept
        # No attempt to connect until then: the daemon was silent a moment ago.
        self._silence: Deadline | None = None
        self._subscriptions: tuple[Subscription, ...] = ()
        self._subscribing = threading.Lock()
        self._pause = threading.Event()

    def read(
        self, what: str, ask: Callable[[libvirt.virConnect], T], *, timeout_s: float | None = None
    ) -> T:
        """The result of `ask`, which is repeated if the connection breaks."""
        return self._call(what, ask, timeout_s=timeout_s or self._patience_s, repeats=REPEATS)

    def change(
        self, what: str, ask: Callable[[libvirt.virConnect], T], *, timeout_s: float | None = None
    ) -> T:
        """Like `read`, with the extra time that a change may wait for a guest's job lock."""
        return self.read(what, ask, timeout_s=timeout_s or self._patience_s + JOB_LOCK_S)

    def once(
        self, what: str, ask: Callable[[libvirt.virConnect], T], *, timeout_s: float | None = None
    ) -> T:
        """The result of `ask`, called once: ConnectionLostError if the answer is lost."""
        allowed_s = timeout_s or self._patience_s + JOB_LOCK_S
        return self._call(what, ask, timeout_s=allowed_s, repeats=0)

    def is_alive(self) -> bool:
        """Whether the daemon answers now. Does not wait for a lost one."""
        within_s = min(self._patience_s, ALIVE_WITHIN_S)
        try:
            wire = self._connected(Deadline.after(within_s), is_patient=False)
            return wire.answers(within_s)
        except (LibvirtError, LimitError):
            return False

    def subscribe(self, on_event: OnEvent) -> Subscription:
        """Pass each event of any VM to `on_event`, over this connection and later ones.

        `on_event` runs in libvirt's event loop: it must be quick, not raise, and not call libvirt
        (a queue's `put` is intended). Events are lost while there is no connection.
        """
        subscription = Subscription(on_event, self._forget)
        with self._subscribing:
            self._subscriptions = (*self._subscriptions, subscription)
        try:
            self.read("watching for events", lambda raw: raw.getLibVersion())
        except (LibvirtError, LimitError):
            subscription.close()
            raise
        return subscription

    def close(self, *, within_s: float = 2.0) -> None:
        """Close the connection, waiting a little for its end. A later call reopens it."""
        with self._opening:
            wire, self._wire = self._wire, None
            self._is_coming_back = self._is_kept
            self._silence = None
        if wire and (closing := wire.close()).is_alive():
            closing.join(within_s)

    def _call(
        self, what: str, ask: Callable[[libvirt.virConnect], T], *, timeout_s: float, repeats: int
    ) -> T:
        try:
            answer = self._call_by_uuid(what, ask, timeout_s=timeout_s, repeats=repeats)
        except LibvirtError as error:
            self._names.tell(error)
            raise
        self._names.learn_from(answer)
        return answer

    def _call_by_uuid(
        self, what: str, ask: Callable[[libvirt.virConnect], T], *, timeout_s: float, repeats: int
    ) -> T:
        patience, over = Deadline.after(self._patience_s), Deadline.after(timeout_s)
        pauses_s = FIRST_PAUSE_S
        turns = REPEATS
        while True:
            # The wait for a turn may have been long: enough time for one attempt is left.
            left_s = min(timeout_s, max(over.remaining_s, ALIVE_WITHIN_S))
            wire = self._connected(Deadline.after(left_s).sooner_of(self._patience_s))
            try:
                return wire.call(what, ask, timeout_s=left_s, slot_timeout_s=TURN_S)
            except NotSentError:
                turns -= 1
                if turns < 0:
                    raise
            except ConnectionLostError as error:
                wire.close()
                repeats -= 1
                # Without a code the daemon was silent: it would be silent again.
                if error.code is None or repeats < 0:
                    raise
            except BusyError:
                if patience.has_passed or over.has_passed:
                    raise
            self._pause.wait(pauses_s)
            pauses_s = min(2 * pauses_s, LONGEST_PAUSE_S)

    def _connected(self, deadline: Deadline, *, is_patient: bool = True) -> Connection:
        """The existing connection, or a new one; one caller opens it, the others wait."""
        if not self._opening.acquire(timeout=deadline.remaining_s):
            raise silent("opening a connection", self._patience_s, self._uri)
        try:
            if self._wire is None or not self._wire.is_open:
                if self._wire:
                    self._wire.close()
                self._wire = self._opened(deadline, is_patient=is_patient)
            return self._wire
        finally:
            self._opening.release()

    def _opened(self, deadline: Deadline, *, is_patient: bool) -> Connection:
        if self._silence and is_patient:
            if not self._silence.has_passed:
                raise silent("opening a connection", self._patience_s, self._uri)
            deadline = deadline.sooner_of(ALIVE_WITHIN_S)
        pauses_s = FIRST_PAUSE_S
        refusal: ConnectionLostError | None = None
        while True:
            try:
                wire = self._open(deadline)
            except ConnectionLostError as error:
                if error.code is not None:
                    refusal = error
                elif is_patient and refusal is None:
                    self._silence = Deadline.after(min(self._patience_s, ALIVE_WITHIN_S))
                # No attempt is made without time for an answer.
                if not (is_patient and self._is_coming_back) or deadline.remaining_s <= pauses_s:
                    self._is_coming_back = self._is_coming_back and not is_patient
                    # The last attempt may have been too short for a refusal.
                    raise (refusal or error) from None
                self._pause.wait(pauses_s)
                pauses_s = min(2 * pauses_s, LONGEST_PAUSE_S)
            else:
                self._is_coming_back, self._silence = True, None
                return wire

    def _open(self, deadline: Deadline) -> Connection:
        def work() -> Connection:
            wire = Connection(self._opener(self._uri), self._uri, self._max_calls)
            try:
                wire.watch(self._on_lifecycle, self._on_agent)
            except libvirt.libvirtError:
                wire.close()
                raise
            return wire

        try:
            return call_with_timeout(work, deadline.remaining_s)
        except TimeoutError:
            raise silent("opening a connection", self._patience_s, self._uri) from None
        except libvirt.libvirtError as error:
            raise translate(error, "opening a connection", self._uri) from None

    def _forget(self, subscription: Subscription) -> None:
        with self._subscribing:
            kept = [other for other in self._subscriptions if other is not subscription]
            self._subscriptions = tuple(kept)

    def _on_lifecycle(self, domain: libvirt.virDomain, number: int, detail: int) -> None:
        self._publish(domain, EventKind.of_lifecycle(number), detail)

    def _on_agent(self, domain: libvirt.virDomain, number: int, detail: int) -> None:
        self._publish(domain, EventKind.of_agent(number), detail)

    def _publish(self, domain: libvirt.virDomain, kind: EventKind, detail: int) -> None:
        event = DomainEvent(UUID(domain.UUIDString()), kind, detail)
        for subscription in self._subscriptions:
            subscription.on_event(event)
