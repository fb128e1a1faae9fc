"""The server of the page: on a loopback address, for its own user, until it is told to end."""

import asyncio
import errno
import logging
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import ip_address

import uvicorn
from uvicorn.protocols.websockets.wsproto_impl import WSProtocol

from ai_how.dashboard.app import Settings, make_app
from ai_how.dashboard.clusters import Clusters
from ai_how.dashboard.connection import Connection
from ai_how.dashboard.feeds import Hub
from ai_how.errors import HostError, SpecError

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
HIGHEST_PORT = 65535
LONGEST_HEAD = 16 * 1024
LONGEST_MESSAGE = 64 * 1024
KEEP_ALIVE_S = 30.0
# What the kernel may hold of what a page does not read; it would hold some MiB.
SEND_BUFFER = 256 * 1024
LAST_WORDS_S = 0.1


def listen(address: str, port: int) -> socket.socket:
    """A socket that listens there; port 0 is any free one.

    Raises SpecError for an address that other hosts reach, HostError if the port is taken.
    """
    if not 0 <= port <= HIGHEST_PORT:
        raise SpecError(f"{port} is no port")
    asked = "127.0.0.1" if address == "localhost" else address.strip("[]")
    if asked not in ("127.0.0.1", "::1"):
        raise SpecError(
            f"the page is served on 127.0.0.1 or ::1 only, not on {address}: {_why_not(asked)}",
            hint="ssh -L PORT:127.0.0.1:PORT HOST  # on the other machine, with the page's port",
        )
    family = socket.AF_INET6 if ":" in asked else socket.AF_INET
    line = socket.socket(family, socket.SOCK_STREAM)
    try:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        line.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        line.bind((asked, port))
        line.listen(128)
    except OSError as error:
        line.close()
        if error.errno == errno.EADDRINUSE:
            raise HostError(
                f"port {port} of {asked} is in use",
                hint=f"ss -ltnp 'sport = {port}'  # or without --port: any free one",
            ) from None
        raise HostError(f"cannot listen on port {port} of {asked}: {error.strerror}") from None
    return line


def serve(
    line: socket.socket, clusters: Clusters, settings: Settings, on_ready: Callable[[], None]
) -> int:
    """Serve until a signal asks to end; its number. `on_ready` is called once it answers."""
    return asyncio.run(_serve(line, clusters, settings, on_ready))


async def _serve(
    line: socket.socket, clusters: Clusters, settings: Settings, on_ready: Callable[[], None]
) -> int:
    app, hub = make_app(clusters, settings)
    logging.getLogger("uvicorn").setLevel(logging.ERROR)  # it warns of each bad request
    config = uvicorn.Config(
        app,
        http=Connection,
        ws=WSProtocol,
        ws_max_size=LONGEST_MESSAGE,
        ws_per_message_deflate=False,
        loop="asyncio",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        timeout_keep_alive=int(KEEP_ALIVE_S),
        timeout_graceful_shutdown=1,
        h11_max_incomplete_event_size=LONGEST_HEAD,
    )
    server = _Server(config, hub, on_ready)
    await hub.begin()
    watched = asyncio.create_task(hub.run())
    with _signals_heard(server):
        try:
            await server.serve(sockets=[line])
        finally:
            hub.close()
            watched.cancel()
            await asyncio.wait({watched})
    return server.ended_by


class _Server(uvicorn.Server):
    """uvicorn's, without a tick ten times a second, and without mercy for slow readers."""

    def __init__(self, config: uvicorn.Config, hub: Hub, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._hub, self._on_ready = hub, on_ready
        self._is_over = asyncio.Event()
        self.ended_by = 0

    def end(self, number: int) -> None:
        self.ended_by = self.ended_by or number
        self._is_over.set()

    async def main_loop(self) -> None:
        self._on_ready()
        await self._is_over.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        logging.getLogger("uvicorn").setLevel(logging.CRITICAL)  # what is cut short is meant to be
        self._hub.close()
        await asyncio.sleep(LAST_WORDS_S)
        for one in list(self.server_state.connections):
            one.transport.abort()
        for task in list(self.server_state.tasks):
            task.cancel()
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextmanager
def _signals_heard(server: _Server) -> Iterator[None]:
    """A signal ends the server at once, and the next one the process."""
    loop = asyncio.get_running_loop()
    heard = [one for one in SIGNALS if signal.getsignal(one) is not signal.SIG_IGN]

    def end(number: int) -> None:
        if server.ended_by:
            os._exit(128 + number)
        server.end(number)

    for number in heard:
        loop.add_signal_handler(number, end, number)
    try:
        yield
    finally:
        for number in heard:
            loop.remove_signal_handler(number)


def _why_not(address: str) -> str:
    try:
        is_loopback = ip_address(address).is_loopback
    except ValueError:
        return "it is no address"
    return "a page goes by these two names" if is_loopback else "other hosts reach it"
