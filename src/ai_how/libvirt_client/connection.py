"""One connection to libvirt: no prompt, a time limit per call, closed in the background.

libvirt's exceptions are translated here, in the thread in which they were raised, and nowhere else.
"""

import logging
import threading
from collections.abc import Callable
from functools import cache
from typing import TypeVar

import libvirt

from ai_how.errors import ConnectionLostError, LibvirtError, LimitError
from ai_how.libvirt_client.error_codes import NO_SUPPORT, Kind, classify
from ai_how.libvirt_client.uri import LibvirtUri
from ai_how.limits import find_told_limit, start_thread
from ai_how.waiting import Deadline, call_with_timeout

# A keepalive is sent every 5 s; after 3 without an answer the connection is closed.
KEEPALIVE_INTERVAL_S = 5
KEEPALIVE_COUNT = 3

logger = logging.getLogger(__name__)

Opener = Callable[[LibvirtUri], libvirt.virConnect]
EventHook = Callable[[libvirt.virDomain, int, int], None]
T = TypeVar("T")

_preparing = threading.Lock()


# How often a waiting call checks whether the connection is still usable.
SLICE_S = 0.2


class NotSentError(ConnectionLostError):
    """The connection was lost before the call: nothing was sent."""


class BusyError(LibvirtError):
    """libvirt did nothing, because another operation is running; a later call may succeed."""


def open_connection(uri: LibvirtUri) -> libvirt.virConnect:
    """Open a connection. Password prompts are refused. Raises libvirtError."""
    prepare_process()
    # The test driver knows no flags. Aliases do not apply to our URIs; this makes it sure.
    flags = 0 if uri.is_test else libvirt.VIR_CONNECT_NO_ALIASES
    credentials = [libvirt.VIR_CRED_AUTHNAME, libvirt.VIR_CRED_PASSPHRASE]
    raw = libvirt.openAuth(uri.for_libvirt, [credentials, _refuse_credentials, None], flags)
    try:
        raw.setKeepAlive(KEEPALIVE_INTERVAL_S, KEEPALIVE_COUNT)
    except libvirt.libvirtError as error:
        if error.get_error_code() != NO_SUPPORT:  # the test driver has no daemon to keep alive
            raise
    return raw


def prepare_process() -> None:
    """Silence libvirt and start its event loop; both are global, and precede any connection.

    The loop runs until the process ends: without it keepalives are not answered. Safe to repeat.
    """
    with _preparing:
        _prepare_once()


class Connection:
    """A connection, and the calls that use it."""

    def __init__(self, raw: libvirt.virConnect, uri: LibvirtUri, max_calls: int) -> None:
        self._raw = raw
        self._uri = uri
        self._max_calls = max_calls
        self._slots = threading.Semaphore(max_calls)
        self._callback_ids: list[int] = []
        self._closing: threading.Thread | None = None
        self._guard = threading.Lock()

    @property
    def is_open(self) -> bool:
        """Whether the socket is open as far as known here; the daemon may still not answer."""
        try:
            return self._closing is None and self._raw.isAlive() == 1
        except libvirt.libvirtError:
            return False

    def call(
        self,
        what: str,
        ask: Callable[[libvirt.virConnect], T],
        *,
        timeout_s: float,
        slot_timeout_s: float,
    ) -> T:
        """The result of `ask`, which runs in its own thread, so that it may hang without us.

        Raises ConnectionLostError with code None if no answer came in time: the operation may still
        happen.
        """
        turn = Deadline.after(slot_timeout_s)
        while not self._slots.acquire(timeout=SLICE_S):
            if self._closing:
                raise self._not_sent(what)
            if turn.has_passed:
                raise silent(what, slot_timeout_s, self._uri)
        logger.debug("libvirt: %s", what)
        try:
            return call_with_timeout(lambda: self._ask(what, ask), timeout_s)
        except TimeoutError:
            raise silent(what, timeout_s, self._uri) from None
        except LimitError:
            self._slots.release()  # the call never began
            raise

    def answers(self, within_s: float) -> bool:
        """Whether the daemon answers. Needs no turn: libvirtd accepts a call more than we send."""
        try:
            call_with_timeout(self._raw.getLibVersion, within_s)
        except (TimeoutError, LimitError, libvirt.libvirtError):
            return False
        return True

    def watch(self, on_lifecycle: EventHook, on_agent: EventHook) -> None:
        """Register callbacks for the events of all domains; they must not call libvirt."""
        for event_id, hook in (
            (libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, on_lifecycle),
            (libvirt.VIR_DOMAIN_EVENT_ID_AGENT_LIFECYCLE, on_agent),
        ):
            self._callback_ids.append(
                self._raw.domainEventRegisterAny(None, event_id, _call_hook, hook)
            )

    def close(self) -> threading.Thread:
        """Accept no more calls; close after the last one, in a thread that need not be joined.

        Safe to repeat.
        """
        with self._guard:
            if self._closing is None:
                self._closing = _begin_closing(self._close)
            return self._closing

    def _ask(self, what: str, ask: Callable[[libvirt.virConnect], T]) -> T:
        try:
            if self._closing:
                raise self._not_sent(what)
            return ask(self._raw)
        except libvirt.libvirtError as error:
            failure = translate(error, what, self._uri)
        finally:
            self._slots.release()
        # Raised here, so that no context or traceback keeps libvirt's objects alive: dropping the
        # last reference is a call to the daemon, and must not hang a caller's thread.
        raise failure

    def _not_sent(self, what: str) -> NotSentError:
        return NotSentError(
            f"no connection to libvirt for {what}", self._uri.for_libvirt, hint=self._uri.remedy
        )

    def _close(self) -> None:
        for _ in range(self._max_calls):
            self._slots.acquire()
        try:
            for callback_id in self._callback_ids:
                self._raw.domainEventDeregisterAny(callback_id)
        except libvirt.libvirtError:
            pass  # the daemon is gone; what was registered here went with the connection
        try:
            self._raw.close()
        except libvirt.libvirtError:
            pass
        finally:
            self._slots.release(self._max_calls)


def translate(error: libvirt.libvirtError, what: str, uri: LibvirtUri) -> LibvirtError:
    """Translate an error of libvirt; `what` is the operation that failed."""
    code = error.get_error_code()
    kind = classify(code, error.get_error_domain(), error.get_int1())
    details = error.get_error_message() or str(error)
    ours: LibvirtError
    if kind is Kind.LOST:
        ours = ConnectionLostError(f"no connection to libvirt for {what}", details, hint=uri.remedy)
    elif kind is Kind.DENIED:
        ours = LibvirtError(f"libvirt does not permit {what}", details, hint=uri.denied_remedy)
    elif kind is Kind.BUSY:
        ours = BusyError(f"libvirt was too busy for {what}", details)
    else:
        ours = LibvirtError(f"{what} failed", details)
    ours.code = code
    if limit := find_told_limit(details):
        ours.brief, ours.hint = f"{ours.brief}: {limit.brief}", limit.hint
    return ours


def silent(what: str, waited_s: float, uri: LibvirtUri) -> ConnectionLostError:
    """The error of a libvirt that does not answer."""
    return ConnectionLostError(
        f"libvirt did not answer within {waited_s:g} s: {what}", uri.for_libvirt, hint=uri.remedy
    )


@cache
def _prepare_once() -> None:
    libvirt.registerErrorHandler(lambda _context, _error: None, None)
    libvirt.virEventRegisterDefaultImpl()
    start_thread(_run_events, name="libvirt-events")


def _begin_closing(close: Callable[[], None]) -> threading.Thread:
    """The closing thread; a dummy if no thread can be started: we end anyway."""
    try:
        return start_thread(close, name="libvirt-close", patience_s=0)
    except LimitError:
        return threading.Thread()


def _run_events() -> None:
    pause = threading.Event()
    while True:
        try:
            libvirt.virEventRunDefaultImpl()
        except libvirt.libvirtError:
            pause.wait(0.1)  # poll(2) failed; the next round may succeed


def _refuse_credentials(_credentials: object, _context: object) -> int:
    return -1


def _call_hook(
    _raw: libvirt.virConnect, domain: libvirt.virDomain, number: int, detail: int, hook: EventHook
) -> None:
    hook(domain, number, detail)
