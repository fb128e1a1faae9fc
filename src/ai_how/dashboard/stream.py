"""The server-sent events of a page, until it is closed."""

import asyncio
from contextlib import suppress

from starlette.datastructures import QueryParams
from starlette.types import Message, Receive, Scope, Send

from ai_how.dashboard.feeds import Hub, Reader
from ai_how.dashboard.guard import refused

MOST_READERS = 24
KEEP_ALIVE_S = 15.0
# A page that takes nothing for so long is dropped; it comes back by itself.
STUCK_S = 30.0
_HEADERS = [(b"content-type", b"text/event-stream"), (b"x-accel-buffering", b"no")]


class Stream:
    """`GET /api/stream`: the events `clusters`, `snapshot`, `event` and `gone`."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._hub.is_closed or self._hub.reader_count >= MOST_READERS:
            await refused(503, f"{MOST_READERS} pages are open")(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
        if scope["method"] == "HEAD":
            await send({"type": "http.response.body", "body": b""})
            return
        reader = self._hub.join(_names_of(scope))
        ended = asyncio.create_task(_await_end(receive, reader))
        try:
            await self._pass_on(reader, send)
        except TimeoutError:
            scope["state"]["abort"]()
        finally:
            self._hub.leave(reader)
            ended.cancel()

    async def _pass_on(self, reader: Reader, send: Send) -> None:
        await _send(send, b"retry: 2000\n\n")
        while not reader.is_closed:
            news = await reader.take(KEEP_ALIVE_S)
            await _send(send, b"".join(map(_event, news)) or b": still here\n\n")
        await _send(send, b"", is_last=True)


def _event(one: tuple[str, bytes]) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (one[0].encode(), one[1])


async def _send(send: Send, body: bytes, *, is_last: bool = False) -> None:
    message: Message = {"type": "http.response.body", "body": body, "more_body": not is_last}
    async with asyncio.timeout(STUCK_S):
        await send(message)


async def _await_end(receive: Receive, reader: Reader) -> None:
    """Close the reader when its page is gone."""
    with suppress(asyncio.CancelledError):
        while (await receive())["type"] != "http.disconnect":
            pass
        reader.close()


def _names_of(scope: Scope) -> frozenset[str] | None:
    """The clusters that are asked for (`?cluster=NAME`, repeated); None for all."""
    return frozenset(QueryParams(scope["query_string"]).getlist("cluster")[:100]) or None
