"""`/metrics` of the dashboard: all clusters of the user on one page."""

import asyncio
import time

from starlette.requests import Request
from starlette.responses import Response

from ai_how.dashboard.feeds import Hub, Watched
from ai_how.dashboard.metrics import Seen, render_metrics
from ai_how.errors import AiHowError


class MetricsRoute:
    """Answers for each cluster of the hub; one that does not answer in time is left out."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    async def answer(self, request: Request) -> Response:
        found = await asyncio.gather(*(self._see(one) for one in self._hub.watched))
        seen = [one for one in found if one]
        accept = ",".join(request.headers.getlist("accept"))
        body, kind = render_metrics(seen, now=time.time(), accept=accept)
        return Response(body, headers={"Content-Type": kind})

    async def _see(self, one: Watched) -> Seen | None:
        name = one.known.name
        self._hub.touch(name)

        def look() -> Seen:
            snapshot = one.link.get().snapshot()
            return Seen(snapshot=snapshot, starts=tuple(self._hub.clusters.starts(name)))

        try:
            return await self._hub.work.do(look)
        except (AiHowError, OSError, TimeoutError):
            return None
