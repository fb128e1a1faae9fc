"""Serves `/metrics`, and the pages of exporters in the nodes, to Prometheus. Reads only.

docs/monitoring.md says who can read it.
"""

import re
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hmac import compare_digest
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol
from urllib.parse import unquote

from ai_how.dashboard.metrics import TEXT, Seen, render_metrics
from ai_how.errors import AiHowError

AT_ONCE = 32
"""Requests that are answered at the same time; others wait in the kernel's queue."""
SILENCE_S = 10.0
FRESH_S = 1.0
"""Scrapers that ask within so short a time share one look."""
PLAIN = "text/plain; charset=utf-8"
EXPORTERS = {"": 9100, "dcgm": 9400}
"""By the last part of the path: the ports of node_exporter and of NVIDIA's DCGM exporter."""


_HOST = re.compile(r"(?P<name>\[[^\]]*\]|[^:\[\]]*)(:\d*)?")


class Pages(Protocol):
    """What is served. Both may block, be called by several threads, and raise AiHowError."""

    def see(self) -> Sequence[Seen]: ...

    def ask_node(self, node: str, port: int) -> bytes | None:
        """The page `/metrics` at a port of a node; None if there is no such node."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Readers:
    """Who may read."""

    token: str | None = field(default=None, repr=False)
    hosts: frozenset[str] | None = None
    """The names by which the server may be called, without port; None: any.

    A page of another site, whose name was made to lead here, has another one.
    """


class MetricsServer(ThreadingHTTPServer):
    """Answers on a socket that listens already, until `shutdown`."""

    daemon_threads = True
    block_on_close = False

    def __init__(
        self,
        line: socket.socket,
        pages: Pages,
        readers: Readers,
        now: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(line.getsockname()[:2], _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = line
        self.pages, self.readers, self.now = pages, readers, now
        self._free = threading.BoundedSemaphore(AT_ONCE)
        self._looking = threading.Lock()
        self._seen: tuple[float, Sequence[Seen]] | None = None

    def see(self) -> Sequence[Seen]:
        """What is seen, at most `FRESH_S` old."""
        with self._looking:
            if self._seen is None or time.monotonic() - self._seen[0] > FRESH_S:
                seen = self.pages.see()
                self._seen = (time.monotonic(), seen)
            return self._seen[1]

    def process_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401
        self._free.acquire()
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # no thread can be started: the scraper has to try again
            self._free.release()
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:  # noqa: ANN401
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401
        """A client that went away is no news."""


class _Handler(BaseHTTPRequestHandler):
    server: MetricsServer
    timeout = SILENCE_S
    server_version, sys_version = "ai-how", ""

    def do_GET(self) -> None:
        status, kind, body = self._answer()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        if status == 401:  # noqa: PLR2004
            self.send_header("WWW-Authenticate", "Bearer")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_GET  # noqa: N815  http.server finds it by this name

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """A scrape every few seconds is no news."""

    def _answer(self) -> tuple[int, str, bytes]:
        if refusal := self._refuse():
            return refusal
        path = self.path.partition("?")[0]
        try:
            if path == "/metrics":
                body, kind = render_metrics(
                    self.server.see(),
                    now=self.server.now(),
                    accept=",".join(self.headers.get_all("Accept", [])),
                )
                return 200, kind, body
            if path.startswith("/metrics/nodes/"):
                return self._ask_node(path.removeprefix("/metrics/nodes/"))
        except AiHowError as error:
            return 503, PLAIN, f"{error.brief}\n".encode(errors="replace")
        return 404, PLAIN, b"there is /metrics, and /metrics/nodes/NODE\n"

    def _ask_node(self, rest: str) -> tuple[int, str, bytes]:
        node, _, exporter = rest.partition("/")
        if exporter in EXPORTERS:
            page = self.server.pages.ask_node(unquote(node), EXPORTERS[exporter])
            if page is not None:
                return 200, TEXT, page
        return 404, PLAIN, b"there is no such node\n"

    def _refuse(self) -> tuple[int, str, bytes] | None:
        readers = self.server.readers
        if readers.hosts is not None and self._host() not in readers.hosts:
            return 403, PLAIN, b"this server has another name\n"
        if readers.token is None:
            return None
        scheme, _, told = self.headers.get("Authorization", "").partition(" ")
        is_right = compare_digest(told.strip().encode(errors="replace"), readers.token.encode())
        if scheme.lower() == "bearer" and is_right:
            return None
        return 401, PLAIN, b"a bearer token is needed\n"

    def _host(self) -> str:
        """The name by which it was called; empty if that is none."""
        found = _HOST.fullmatch(self.headers.get("Host", "").lower())
        return found["name"] if found else ""
