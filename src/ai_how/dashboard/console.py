"""The serial console of a node in the page: a websocket with binary frames, both ways."""

import asyncio
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from ai_how.dashboard.feeds import Hub
from ai_how.errors import AiHowError
from ai_how.limits import start_thread
from ai_how.waiting import call_in_thread

if TYPE_CHECKING:
    from ai_how.dashboard.clusters import Line

MOST_CONSOLES = 8
PIECE = 4096
# In bytes, of UTF-8: a closing frame has 125.
MOST_OF_REASON = 60
NOT_THERE, TOO_MANY, FAILED, OVER = 4404, 4429, 4503, 1000


class ConsoleSocket:
    """Attaches a websocket to a node's serial line until either of them ends."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._open = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        socket = WebSocket(scope, receive, send)
        name, node = socket.path_params["name"], socket.path_params["node"]
        found = self._hub.find(name)
        await socket.accept()
        if found is None or node not in found.known.nodes:
            await socket.close(NOT_THERE, "there is no such node")
        elif self._open >= MOST_CONSOLES:
            await socket.close(TOO_MANY, f"{MOST_CONSOLES} consoles are open")
        else:
            self._open += 1
            try:
                await _Session(self._hub, socket, name, node).run()
            finally:
                self._open -= 1


class _Session:
    """One console. Its thread opens the line, and reads it to its end."""

    def __init__(self, hub: Hub, socket: WebSocket, name: str, node: str) -> None:
        self._hub, self._socket, self._name, self._node = hub, socket, name, node
        self._loop = asyncio.get_running_loop()
        self._line: Line | None = None
        self._opened = asyncio.Event()
        self._over = asyncio.Event()
        self._why = ""
        self._is_over = False

    async def run(self) -> None:
        start_thread(self._read, name=f"console-{self._node}")
        heard = asyncio.create_task(self._listen())
        heard.add_done_callback(lambda _task: self._over.set())
        try:
            await self._over.wait()
        finally:
            # The thread sets the line, then looks at this; so one of us two closes it.
            self._is_over = True
            if line := self._line:
                start_thread(line.close, name=f"console-{self._node}-close")
            heard.cancel()
            await asyncio.wait({heard})
        if heard.cancelled():
            with suppress(RuntimeError, WebSocketDisconnect):
                why = self._why[:MOST_OF_REASON]
                await self._socket.close(FAILED if why else OVER, why)

    async def _listen(self) -> None:
        """Pass on what is typed, a piece at a time, until the page is gone."""
        await self._opened.wait()
        line = self._line
        with suppress(RuntimeError, WebSocketDisconnect):
            await self._socket.send_json({"kind": "serial", "node": self._node})
            while line:
                message = await self._socket.receive()
                if message["type"] == "websocket.disconnect":
                    return
                data = message.get("bytes") or (message.get("text") or "").encode()
                try:
                    await asyncio.wrap_future(
                        call_in_thread(partial(line.send, data), name="console-send")
                    )
                except AiHowError:
                    return

    def _read(self) -> None:
        """In the thread: pass on what the line says, as fast as the page takes it."""
        why = ""
        try:
            with self._hub.clusters.console(self._name, self._node) as line:
                self._line = line
                self._hub.call(self._opened.set)
                while not self._is_over and (data := line.recv(PIECE)):
                    sent = self._socket.send_bytes(data)
                    asyncio.run_coroutine_threadsafe(sent, self._loop).result()
        except AiHowError as error:
            why = error.brief
        except (OSError, RuntimeError, WebSocketDisconnect) as error:
            why = type(error).__name__
        self._hub.call(self._end, why)

    def _end(self, why: str) -> None:
        self._why = why
        self._over.set()
