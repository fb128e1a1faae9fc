"""Feeds a reader hostile input: in a sandbox that nothing leaves, and with a bound on the time.

The strategies bend what is right (a value of a document, a byte of a file, a piece of a text)
rather than make noise alone, since noise is refused at the first look.
"""

import copy
import errno
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ai_how.errors import AiHowError

T = TypeVar("T")

# Half a second on a quiet machine; processor time, too, grows where others use the same core.
LONGEST_S = 5.0

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# Audit events of CPython, with the places of the paths among their arguments.
_CHANGES = {
    "os.mkdir": (0,),
    "os.rename": (0, 1),
    "os.remove": (0,),
    "os.rmdir": (0,),
    "os.link": (1,),
    "os.symlink": (1,),
    "os.chmod": (0,),
    "os.chown": (0,),
    "os.truncate": (0,),
    "os.utime": (0,),
}
_ESCAPES = frozenset(
    ("subprocess.Popen", "os.exec", "os.posix_spawn", "os.fork", "os.system", "socket.connect")
)


class Fuzz:
    """`fuzz(check, strategy)` calls `check` with each example, and fails where one

    raises, takes more than five seconds of processor time, starts a program or opens a
    connection, or changes a file outside `scratch`.
    """

    def __init__(self, root: Path, examples: int) -> None:
        self.examples = examples
        self.scratch = root / "scratch"
        self.home = root / "home"
        for directory in (self.scratch, self.home):
            directory.mkdir()
        self.count = 0
        self.slowest_s = 0.0
        self.slowest: object = None

    def __call__(
        self, check: Callable[[T], None], strategy: st.SearchStrategy[T], *also: T
    ) -> None:
        before = self.count

        def guarded(one: T) -> None:
            took_s = self._took_s(check, one)
            if took_s > LONGEST_S / 2:
                # Once more: what the collector of garbage took is not the example's.
                took_s = min(took_s, self._took_s(check, one))
            self.count += 1
            if took_s > self.slowest_s:
                self.slowest_s, self.slowest = took_s, one
            assert took_s < LONGEST_S

        fed = given(strategy)(guarded)
        for one in also:
            fed = example(one)(fed)
        settings(
            max_examples=self.examples, database=None, suppress_health_check=list(HealthCheck)
        )(fed)()
        assert self.count - before >= self.examples
        assert list(self.home.iterdir()) == []

    def _took_s(self, check: Callable[[T], None], one: T) -> float:
        began = time.process_time()
        with kept_inside(self.scratch):
            check(one)
        return time.process_time() - began


class _Guard:
    """The process has one audit hook for good; it heeds what happens while `inside` is set."""

    inside: Path | None = None
    escapes: list[str]

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.inside is None:
            return
        if event in _ESCAPES:
            self._refuse(f"{event} {arguments[:2]!r:.300}")
        elif event == "open":
            path, _, flags = arguments
            if flags & _WRITING and not isinstance(path, int):
                self._look_at(event, path)
        else:
            for place in _CHANGES.get(event, ()):
                if not isinstance(arguments[place], int):
                    self._look_at(event, arguments[place])

    def _look_at(self, event: str, path: Any) -> None:
        inside, self.inside = self.inside, None
        try:
            real = os.path.realpath(os.fsdecode(path))
            is_inside = Path(real).is_relative_to(inside) or real == os.devnull
        finally:
            self.inside = inside
        if not is_inside:
            self._refuse(f"{event} {path!r}")

    def _refuse(self, what: str) -> None:
        self.escapes.append(what)
        raise PermissionError(errno.EPERM, f"outside of the sandbox: {what}")


_guard = _Guard()
_hooks: list[_Guard] = []


@contextmanager
def kept_inside(directory: Path) -> Iterator[None]:
    """Fails the block where it would change something outside, which it then does not."""
    if not _hooks:
        sys.addaudithook(_guard)
        _hooks.append(_guard)
    _guard.escapes = []
    _guard.inside = directory.resolve()
    try:
        yield
    finally:
        _guard.inside = None
    assert _guard.escapes == []


def answer(call: Callable[..., T], *arguments: Any, **named: Any) -> T | AiHowError:
    """What a call returns, or the error of ours that it raises; any other passes."""
    try:
        return call(*arguments, **named)
    except AiHowError as error:
        return error


# Values that have hurt readers of files, by kind.
NAMES = [
    *("", ".", "..", "../..", "../../etc/passwd", "/etc/passwd", "a/b", "a\\b", "~", "~root"),
    *("-", "-oProxyCommand=id", "--help", "a b", " a", "a\n", "\n", "a\0", "\0", "a\r\nHost x"),
    *("$(id)", "`id`", "${HOME}", "$${", "{{7*7}}", "{% x %}", "%h", "a;id", "a|id", "a'b", 'a"b'),
    *(
        "<x/>",
        "&e;",
        "]]>",
        "#",
        "a#b",
        "\x1b[2J",
        "\u202e",
        "\u2028",
        "\ufeff",
        "\uff41",
        "é",
        "ß",
    ),
    *("A", "DEFAULT", "ALL", "all", "root", "nobody", "con", ".ai-how", "a.part", "lock", "ß"),
    *("a" * 40, "a" * 41, "a" * 255, "a" * 256, "a" * 5000, "/" + "a" * 4096, "xn--a", "0", "1e9"),
]
ODD = [
    *(None, True, False, 0, 1, -1, 2**31, 2**63, 2**64, -(2**63), 10**30, 0.5, 1e300),
    *([], {}, [[]], [{}], {"": None}, [None] * 50, {"a": {"a": {"a": {}}}}),
    *("null", "true", "0x10", "1_000", "1e400", ".nan", "2026-01-01", "10.0.0.0/8", "::1"),
]
names = st.sampled_from(NAMES) | st.text(max_size=12)
joined_names = st.lists(st.sampled_from(NAMES[:60]) | st.just("a"), max_size=4).map("".join)
leaves = st.sampled_from(ODD) | names | st.integers() | st.floats()
json_values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4),
    max_leaves=8,
)


@st.composite
def bent(draw: st.DrawFn, value: Any, *, times: int = 3) -> Any:
    """A document of dicts and lists, a few values replaced, renamed, left out or doubled."""
    document = {"": copy.deepcopy(value)}
    for _ in range(draw(st.integers(1, times))):
        here, key = document, ""
        while isinstance(below := here[key], dict | list) and below and draw(st.integers(0, 4)):
            inside = sorted(below) if isinstance(below, dict) else range(len(below))
            here, key = below, draw(st.sampled_from(list(inside)))
        match draw(st.integers(0, 7)):
            case 0 if here is not document:
                del here[key]
            case 1 if isinstance(here, dict) and here is not document:
                here[draw(names)] = here.pop(key)
            case 2 if isinstance(here, list):
                here.insert(key, here[key])
            case 3 if isinstance(here[key], str):
                at = draw(st.integers(0, len(here[key])))
                here[key] = here[key][:at] + draw(names) + here[key][at:]
            case _:
                here[key] = copy.deepcopy(draw(json_values))
    return document[""]


@st.composite
def spoilt_bytes(draw: st.DrawFn, whole: bytes) -> bytes:
    """A file with a few of its bytes flipped, cut, doubled or overwritten."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        match draw(st.integers(0, 4)):
            case 0:
                data[at : at + 1] = draw(st.binary(max_size=9))
            case 1:
                del data[at:]
            case 2:
                data[at:at] = data[max(0, at - draw(st.integers(0, 64))) : at]
            case 3:
                del data[at : at + draw(st.integers(1, 64))]
            case _:
                data[at : at + 8] = draw(st.sampled_from(WORDS))
    return bytes(data)


WORDS = [bytes(8), b"\xff" * 8, b"\x7f" + b"\xff" * 7, b"\x80" + bytes(7), b"\0" * 7 + b"\1"]


def soup(pieces: Sequence[str], size: int = 40) -> st.SearchStrategy[str]:
    """Text made of the pieces of a language."""
    return st.lists(st.sampled_from(pieces) | st.text(max_size=3), max_size=size).map("".join)


@st.composite
def spoilt_text(draw: st.DrawFn, whole: str, pieces: Sequence[str]) -> str:
    """A text with a few of its parts replaced by pieces of its language, cut or doubled."""
    text = whole
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(text)))
        piece = draw(st.sampled_from(pieces) | names)
        match draw(st.integers(0, 3)):
            case 0:
                text = text[:at] + piece + text[at + draw(st.integers(0, 24)) :]
            case 1:
                text = text[:at]
            case 2:
                text = text[:at] + text[max(0, at - draw(st.integers(0, 400))) :]
            case _:
                text = text[:at] + piece + text[at:]
    return text
