"""libvirt's own test driver, made to fail: the nth call of a name raises or hangs."""

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import libvirt  # noqa: TID251  the seam of the client is libvirt's own objects

from ai_how.libvirt_client.connection import open_connection
from ai_how.libvirt_client.uri import LibvirtUri

FROM_QEMU = 10
EVERY = 1_000_000


def make_error(
    code: int, domain: int = FROM_QEMU, error_number: int = -1, text: str = "made by a test"
) -> libvirt.libvirtError:
    """What libvirt would raise, with this number."""
    error = libvirt.libvirtError("made by a test")
    text = f"{text} ({code})"
    error.err = (code, domain, text, 2, None, None, None, error_number, -1)
    return error


@dataclass
class Fault:
    """What happens to the calls of one name, from the nth on, so many times."""

    act: Callable[[], None]
    nth: int
    times: int
    is_after: bool


@dataclass
class Script:
    """Which calls go wrong, and which were made. Every connection that it opens shows one world."""

    uri: str
    calls: list[str] = field(default_factory=list)
    opened: int = 0
    is_cut: bool = False
    most_at_once: int = 0
    _at_once: int = 0
    _faults: dict[str, Fault] = field(default_factory=dict)
    _answers: dict[str, Callable[[Any], Any]] = field(default_factory=dict)
    _provided: dict[str, Callable[..., Any]] = field(default_factory=dict)
    _counts: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _hooks: dict[int, tuple[int, Callable[..., None], Any]] = field(default_factory=dict)
    _real: libvirt.virConnect | None = None

    def open(self, uri: LibvirtUri) -> Any:
        self.opened += 1
        self.note("open")
        self.meet("open", is_after=False)
        if self._real is None:
            self._real = open_connection(uri)
            for event_id in (
                libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE,
                libvirt.VIR_DOMAIN_EVENT_ID_AGENT_LIFECYCLE,
            ):
                self._real.domainEventRegisterAny(None, event_id, self._tell, event_id)
        self.is_cut = False
        return Faulty(self._real, self)

    def fail(
        self,
        name: str,
        code: int,
        *,
        domain: int = FROM_QEMU,
        error_number: int = -1,
        nth: int = 1,
        times: int = 1,
        is_after: bool = False,
        text: str = "made by a test",
    ) -> None:
        """From the nth call of `name` on it fails; `is_after`: having done what it was to do."""

        def act() -> None:
            raise make_error(code, domain, error_number, text)

        self._counts[name] = 0
        self._faults[name] = Fault(act, nth, times, is_after)

    @contextmanager
    def hanging(self, name: str) -> Iterator[None]:
        """Calls of `name` do not return while this lasts."""
        released = threading.Event()
        self._counts[name] = 0
        self._faults[name] = Fault(lambda: void(released.wait(30)), 1, EVERY, is_after=False)
        try:
            yield
        finally:
            del self._faults[name]
            released.set()

    def answer(self, name: str, change: Callable[[Any], Any]) -> None:
        """Let `name` return something else than it would."""
        self._answers[name] = change

    def provide(self, name: str, function: Callable[..., Any]) -> None:
        """Have a call that the test driver lacks."""
        self._provided[name] = function

    def meet(self, name: str, *, is_after: bool) -> None:
        fault = self._faults.get(name)
        if fault and fault.is_after == is_after:
            self._counts[name] += 1
            if fault.nth <= self._counts[name] < fault.nth + fault.times:
                fault.act()

    def provided(self, name: str) -> Callable[..., Any] | None:
        return self._provided.get(name)

    def note(self, name: str) -> None:
        with self._lock:
            self.calls.append(name)

    def changed(self, name: str, result: Any) -> Any:
        return self._answers[name](result) if name in self._answers else result

    @contextmanager
    def counted(self) -> Iterator[None]:
        with self._lock:
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            yield
        finally:
            with self._lock:
                self._at_once -= 1

    def add_hook(self, event_id: int, hook: Callable[..., None], opaque: Any) -> int:
        number = len(self._hooks) + 1
        self._hooks = {**self._hooks, number: (event_id, hook, opaque)}
        return number

    def remove_hook(self, number: int) -> None:
        self._hooks = {key: value for key, value in self._hooks.items() if key != number}

    @property
    def hook_count(self) -> int:
        return len(self._hooks)

    def _tell(self, raw: Any, domain: Any, number: int, detail: int, event_id: int) -> None:
        for wanted, hook, opaque in self._hooks.values():
            if wanted == event_id:
                hook(raw, domain, number, detail, opaque)

    def end(self) -> None:
        if self._real:
            for number in list(self._real.domainEventCallbackID):
                self._real.domainEventDeregisterAny(number)
            self._real.close()


class Faulty:
    """One of libvirt's objects, whose calls go through the script."""

    def __init__(self, real: Any, script: Script) -> None:
        self._real = real
        self._script = script

    def close(self) -> int:
        self._script.note("close")
        return 0  # the world outlives its connections, as a daemon's does

    def domainEventRegisterAny(  # noqa: N802
        self, _domain: None, event_id: int, hook: Callable[..., None], opaque: Any
    ) -> int:
        return self._script.add_hook(event_id, hook, opaque)

    def domainEventDeregisterAny(self, number: int) -> None:  # noqa: N802
        self._script.remove_hook(number)

    def isAlive(self) -> int:  # noqa: N802  these are libvirt's names
        return 0 if self._script.is_cut else 1

    def __getattr__(self, name: str) -> Any:
        function = self._script.provided(name) or getattr(self._real, name)

        def call(*arguments: Any) -> Any:
            script = self._script
            script.note(name)
            with script.counted():
                script.meet(name, is_after=False)
                result = function(*[unwrap(argument) for argument in arguments])
                script.meet(name, is_after=True)
            return script.changed(name, wrap(result, script))

        return call


def wrap(value: Any, script: Script) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(wrap(item, script) for item in value)
    is_object = isinstance(value, libvirt.virDomain | libvirt.virNetwork)
    return Faulty(value, script) if is_object else value


def unwrap(value: Any) -> Any:
    if isinstance(value, list):
        return [unwrap(item) for item in value]
    return value._real if isinstance(value, Faulty) else value


def void(_value: object) -> None:
    return None
