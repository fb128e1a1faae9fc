"""A dashboard in a process of its own, and a client that can be as rude as it likes."""

import http.client
import json
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    RejectConnection,
    Request,
    TextMessage,
)

from ai_how.process import Daemon, start_piped

ROOT = Path(__file__).resolve().parents[1]
MADE_UP = ROOT / "tests" / "made_up_live.py"
PATIENCE_S = 120.0


@dataclass(frozen=True)
class Answer:
    """What the server answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def value(self) -> Any:
        return json.loads(self.body)

    @property
    def cookie(self) -> str:
        """What a browser sends back."""
        return self.headers["set-cookie"].partition(";")[0]


@dataclass
class Dashboard:
    """One that runs."""

    process: Daemon
    url: str
    said: str
    """The line with the address."""
    _cookie: str = field(default="", repr=False)

    @property
    def port(self) -> int:
        return urlsplit(self.url).port or 0

    @property
    def token(self) -> str:
        return parse_qs(urlsplit(self.url).fragment)["token"][0]

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def cookie(self) -> str:
        """That of a browser that has opened the address."""
        if not self._cookie:
            self._cookie = self.log_in(self.token).cookie
        return self._cookie

    def ask(
        self,
        path: str,
        *,
        method: str = "GET",
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        is_known: bool = True,
    ) -> Answer:
        """One request on a connection of its own; `is_known` sends the cookie."""
        line = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        try:
            own = {"Cookie": self.cookie} if is_known else {}
            sent = {**own, **(headers or {})}
            line.putrequest(method, path, skip_host="Host" in sent, skip_accept_encoding=True)
            for name, value in sent.items():
                line.putheader(name, value)
            if body is not None:
                line.putheader("Content-Length", str(len(body)))
            line.endheaders(body)
            got = line.getresponse()
            shown = {name.lower(): value for name, value in got.getheaders()}
            return Answer(got.status, shown, got.read())
        finally:
            line.close()

    def log_in(self, token: object, **headers: str) -> Answer:
        return self.ask(
            "/api/login",
            method="POST",
            body=json.dumps({"token": token}).encode(),
            headers={"Origin": self.origin, **headers},
            is_known=False,
        )

    def open_stream(self, query: str = "", *, receives: int | None = None) -> "Stream":
        return Stream(self._connect(receives), self, query)

    def connect(self) -> socket.socket:
        return self._connect(None)

    def open_console(self, path: str, **headers: str) -> "Console":
        own = {"Origin": self.origin, "Cookie": self.cookie, **headers}
        return Console(self._connect(None), f"127.0.0.1:{self.port}", path, own)

    def memory_mib(self) -> float:
        """What it has now (RSS)."""
        return _status_kib(self.process.pid, "VmRSS") / 1024

    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def open_files(self) -> int:
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    def end(self, number: int = signal.SIGINT) -> int:
        """End it by a signal; its exit code."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE_S)

    def _connect(self, receives: int | None) -> socket.socket:
        line = socket.socket()
        if receives:
            line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receives)
        line.settimeout(PATIENCE_S)
        line.connect(("127.0.0.1", self.port))
        return line


class Stream:
    """An open `/api/stream`."""

    def __init__(self, line: socket.socket, of: Dashboard, query: str) -> None:
        self.line = line
        head = f"GET /api/stream{query} HTTP/1.1\r\nHost: 127.0.0.1:{of.port}\r\n"
        line.sendall(f"{head}Cookie: {of.cookie}\r\n\r\n".encode())
        self._reader = line.makefile("rb")

    def status(self) -> int:
        return int(self._reader.readline().split()[1])

    def events(self) -> Iterator[tuple[str, Any]]:
        """Kind and data of each event, until the stream ends."""
        kind = ""
        for raw in self._reader:
            name, _, text = raw.decode().strip().partition(": ")
            if name == "event":
                kind = text
            elif name == "data":
                yield kind, json.loads(text)

    def until(self, kind: str, *, cluster: str | None = None) -> Any:
        """The data of the next event of this kind."""
        for told, data in self.events():
            if told == kind and (cluster is None or data["cluster"] == cluster):
                return data
        raise EOFError(f"the stream ended without {kind}")

    def close(self) -> None:
        self._reader.close()
        self.line.close()


class Console:
    """A websocket, as a browser opens it."""

    def __init__(
        self, line: socket.socket, host: str, path: str, headers: Mapping[str, str]
    ) -> None:
        self._line, self._peer = line, WSConnection(ConnectionType.CLIENT)
        self._events: list[Any] = []
        own = [(name.encode(), value.encode()) for name, value in headers.items()]
        line.sendall(self._peer.send(Request(host=host, target=path, extra_headers=own)))
        self.opened = self._next()

    @property
    def is_open(self) -> bool:
        return isinstance(self.opened, AcceptConnection)

    @property
    def refusal(self) -> int:
        """The status of one that was refused."""
        assert isinstance(self.opened, RejectConnection), self.opened
        return self.opened.status_code

    def send(self, data: bytes) -> None:
        self._line.sendall(self._peer.send(BytesMessage(data=data)))

    def receive(self) -> Any:
        """The next text or bytes; the event of its end."""
        event = self._next()
        return event.data if isinstance(event, TextMessage | BytesMessage) else event

    def until(self, wanted: bytes) -> bytes:
        """What is received up to some bytes."""
        said = b""
        while wanted not in said:
            piece = self.receive()
            assert not isinstance(piece, CloseConnection), said
            said += piece if isinstance(piece, bytes | bytearray) else b""
        return said

    def close(self) -> None:
        self._line.close()

    def _next(self) -> Any:
        while not self._events:
            data = self._line.recv(1 << 16)
            if not data:
                return None
            self._peer.receive_data(data)
            self._events += self._peer.events()
        return self._events.pop(0)


@contextmanager
def made_up_dashboard(*words: str | Path) -> Iterator[Dashboard]:
    """One of made-up clusters."""
    with dashboard_of([sys.executable, MADE_UP, *words]) as made:
        yield made


@contextmanager
def dashboard_of(
    argv: list[str | Path], *, environment: Mapping[str, str] | None = None
) -> Iterator[Dashboard]:
    """The program that prints the address of its page; ended at last, however the test ends."""
    settings = [f"{name}={value}" for name, value in (environment or {}).items()]
    # A shell that starts the tests in the background has SIGINT ignored, also for us.
    prefix = ["env", "--default-signal=INT", *settings]
    with start_piped([*prefix, *argv]) as process:
        try:
            yield Dashboard(process, *_address_of(process))
        finally:
            process.kill()


def _address_of(process: Daemon) -> tuple[str, str]:
    assert process.stdout
    until = time.monotonic() + PATIENCE_S
    said = b""
    while time.monotonic() < until:
        if not select.select([process.stdout], [], [], 1)[0]:
            continue
        line = process.stdout.readline()
        said += line
        for word in line.decode().replace('"', " ").split():
            if word.startswith("http://"):
                return word, line.decode()
        if not line:
            break
    raise AssertionError(f"it told no address: {said!r}")


def _status_kib(pid: int, name: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))
