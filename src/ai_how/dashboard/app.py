"""The routes of the page and its API. What they answer with is in docs/monitoring.md."""

import json
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from functools import wraps
from typing import TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.types import ASGIApp

from ai_how.dashboard.clusters import Clusters
from ai_how.dashboard.console import ConsoleSocket
from ai_how.dashboard.feeds import Hub, Watched
from ai_how.dashboard.files import Files
from ai_how.dashboard.guard import LOGIN, Guard, Keys, Place, let_in, refused, too_many_guesses
from ai_how.dashboard.metrics_route import MetricsRoute
from ai_how.dashboard.queries import read_lines, read_series, read_span, read_step
from ai_how.dashboard.stream import Stream
from ai_how.errors import AiHowError, SpecError
from ai_how.monitoring.live import Live
from ai_how.monitoring.records import write_snapshot

HOUR_S = 3600.0
MOST_JOBS, MOST_EVENTS = 5000, 5000
MOST_LOGIN_BYTES = 1024
JOURNAL_S = 60.0

T = TypeVar("T")
Handler = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a dashboard is, and who may see it."""

    place: Place
    keys: Keys
    version: str
    has_console: bool = False


def make_app(clusters: Clusters, settings: Settings) -> tuple[ASGIApp, Hub]:
    """The application behind its guard, and its hub, which has to run beside it."""
    hub = Hub(clusters)
    api = _Api(hub, settings)
    files = Files()
    routes: list[BaseRoute] = [
        Route("/", files.page),
        Route("/static/{path:path}", files.file),
        Route(LOGIN, answering(api.login), methods=["POST"]),
        Route("/api/about", answering(api.about)),
        Route("/api/clusters", answering(api.list)),
        Route("/api/clusters/{name}/snapshot", answering(api.snapshot)),
        Route("/api/clusters/{name}/series", answering(api.series)),
        Route("/api/clusters/{name}/jobs", answering(api.jobs)),
        Route("/api/clusters/{name}/events", answering(api.events)),
        Route("/api/clusters/{name}/nodes/{node}/journal", answering(api.journal)),
        Route("/api/stream", Stream(hub), methods=["GET"]),
        Route("/metrics", answering(MetricsRoute(hub).answer)),
    ]
    if settings.has_console:
        path = "/api/clusters/{name}/nodes/{node}/console"
        routes.append(WebSocketRoute(path, ConsoleSocket(hub)))
    app = Starlette(routes=routes, exception_handlers={HTTPException: _say})
    app.router.redirect_slashes = False
    return Guard(app, settings.place, settings.keys), hub


class _Api:
    def __init__(self, hub: Hub, settings: Settings) -> None:
        self._hub, self._settings = hub, settings

    async def login(self, request: Request) -> Response:
        """Exchange the token for a cookie."""
        keys = self._settings.keys
        told = await _read_login(request)
        if not keys.may_guess:
            return too_many_guesses()
        if not keys.is_token(told):
            return refused(401, "this is not the token")
        return let_in(self._settings.place, keys)

    async def about(self, request: Request) -> Response:  # noqa: ARG002
        version, has_console = self._settings.version, self._settings.has_console
        return JSONResponse({"version": version, "has_console": has_console})

    async def list(self, request: Request) -> Response:  # noqa: ARG002
        return JSONResponse(self._hub.listed())

    async def snapshot(self, request: Request) -> Response:
        one = self._watched(request)
        feed = self._hub.touch(one.known.name)
        data = feed.data if feed else None
        if data is None:
            data = await self._ask(one, lambda live: write_snapshot(live.snapshot()))
        return Response(data, media_type="application/json")

    async def series(self, request: Request) -> Response:
        one, asked = self._watched(request), request.query_params
        (name, subject), span = read_series(asked), read_span(asked, default_s=HOUR_S)
        step = read_step(asked, span)
        points = await self._ask(
            one, lambda live: live.series(name, subject, span.since, span.until, step)
        )
        return _json({"points": points, "step": step})

    async def jobs(self, request: Request) -> Response:
        one, span = self._watched(request), read_span(request.query_params, default_s=HOUR_S)
        found = await self._ask(one, lambda live: live.jobs(span.since, span.until))
        shown = [asdict(job) for job in found[-MOST_JOBS:]]
        return _json({"jobs": shown, "is_cut": len(found) > len(shown)})

    async def events(self, request: Request) -> Response:
        one, span = self._watched(request), read_span(request.query_params, default_s=HOUR_S)
        found = await self._ask(one, lambda live: live.events(span.since, span.until))
        shown = [asdict(event) for event in found[-MOST_EVENTS:]]
        return _json({"events": shown, "is_cut": len(found) > len(shown)})

    async def journal(self, request: Request) -> Response:
        known, node = self._watched(request).known, request.path_params["node"]
        lines = read_lines(request.query_params)
        if node not in known.nodes:
            raise HTTPException(404, "there is no such node")
        found = await self._hub.work.do(
            lambda: self._hub.clusters.journal(known.name, node, lines), patience_s=JOURNAL_S
        )
        return _json({"entries": [asdict(entry) for entry in found[-lines:]]})

    def _watched(self, request: Request) -> Watched:
        if found := self._hub.find(request.path_params["name"]):
            return found
        raise HTTPException(404, "there is no such cluster")

    async def _ask(self, one: Watched, question: Callable[[Live], T]) -> T:
        self._hub.touch(one.known.name)
        return await self._hub.work.do(lambda: question(one.link.get()))


def answering(handler: Handler) -> Handler:
    """The handler, with an answer for each error that we understand."""

    @wraps(handler)
    async def answer(request: Request) -> Response:
        try:
            return await handler(request)
        except SpecError as error:
            return refused(400, error.brief, error.hint)
        except AiHowError as error:
            return refused(503, error.brief, error.hint)
        except TimeoutError:
            return refused(504, "there was no answer in time")
        except OSError as error:
            return refused(503, f"the collector does not answer: {error.strerror or error}")

    return answer


async def _read_login(request: Request) -> str:
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > MOST_LOGIN_BYTES:
            raise HTTPException(413, "this is no token")
    try:
        told = json.loads(body)["token"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise HTTPException(400, "a token was expected") from None
    if not isinstance(told, str):
        raise HTTPException(400, "a token was expected")
    return told


def _json(value: object) -> Response:
    """No figure of it is NaN or infinite, which no browser reads."""
    try:
        data = json.dumps(value, allow_nan=False, separators=(",", ":"))
    except ValueError:
        return refused(503, "the collector answered with a figure that is none")
    return Response(data, media_type="application/json")


async def _say(request: Request, error: Exception) -> Response:  # noqa: ARG001
    if not isinstance(error, HTTPException):
        raise error
    answer = refused(error.status_code, error.detail)
    answer.headers.update(error.headers or {})
    return answer
