"""Who may ask: the page that this server sent, in a browser of its user, and nobody else.

It stands before every route. docs/monitoring.md says against what.
"""

import secrets
import time
from collections import deque
from dataclasses import dataclass, field
from hmac import compare_digest

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; img-src 'self'; font-src 'self'; manifest-src 'none'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=(), payment=(), usb=()",
}
LOGIN = "/api/login"
READS = ("GET", "HEAD")
# Wrong tokens, of whomever, in a minute; then even the right one has to wait.
MOST_GUESSES, GUESSES_S = 10, 60.0


@dataclass(slots=True)
class Keys:
    """The token of the URL, and what the cookie has in its place. Both end with the process."""

    token: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    session: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    _wrong: deque[float] = field(default_factory=lambda: deque(maxlen=MOST_GUESSES), repr=False)

    @property
    def may_guess(self) -> bool:
        oldest = self._wrong[0] if len(self._wrong) == MOST_GUESSES else None
        return oldest is None or time.monotonic() - oldest > GUESSES_S

    def is_token(self, told: str) -> bool:
        """Whether it is the token, in a time that says nothing about it. A wrong one counts."""
        is_right = _are_equal(told, self.token)
        if not is_right:
            self._wrong.append(time.monotonic())
        return is_right

    def is_session(self, told: str) -> bool:
        return _are_equal(told, self.session)


@dataclass(frozen=True, slots=True)
class Place:
    """Where the server listens, by all names that it answers to."""

    port: int

    @property
    def hosts(self) -> tuple[str, ...]:
        names = ("127.0.0.1", "localhost", "[::1]")
        bare = names if self.port == 80 else ()  # noqa: PLR2004  browsers leave it out
        return (*(f"{name}:{self.port}" for name in names), *bare)

    @property
    def cookie(self) -> str:
        """Its name: a browser sends the cookies of 127.0.0.1 to every port."""
        return f"ai_how_{self.port}"


class Guard:
    """Passes on what may pass, with the headers that every answer has."""

    def __init__(self, app: ASGIApp, place: Place, keys: Keys) -> None:
        self._app, self._place, self._keys = app, place, keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_private = not _is_public(scope["path"])

        async def send_guarded(message: Message) -> None:
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                headers = MutableHeaders(scope=message)
                headers.update(HEADERS)
                if is_private or message["status"] >= 400:  # noqa: PLR2004
                    headers["Cache-Control"] = "no-store"
            await send(message)

        if (refusal := self._refuse(scope)) is None:
            await self._app(scope, receive, send_guarded)
        elif scope["type"] == "websocket":
            await receive()
            await send_guarded({"type": "websocket.close", "code": 1008})
        else:
            await refusal(scope, receive, send_guarded)

    def _refuse(self, scope: Scope) -> Response | None:
        """Why it may not pass; None if it may."""
        headers, path = Headers(scope=scope), scope["path"]
        is_read = scope["type"] == "http" and scope["method"] in READS
        host = headers.get("host", "").lower()
        if host not in self._place.hosts:
            port = self._place.port
            return refused(
                403,
                f"this server is 127.0.0.1:{port}, and no other name of it is accepted",
                f"from another machine: ssh -L {port}:127.0.0.1:{port} HOST",
            )
        if not self._is_own(headers, host, is_read=is_read, is_public=_is_public(path)):
            return refused(403, "only the page of this server may ask this")
        if _is_public(path) or (path == LOGIN and not is_read):
            return None
        return self._refuse_stranger(headers)

    def _is_own(self, headers: Headers, host: str, *, is_read: bool, is_public: bool) -> bool:
        """Whether no other site is behind it. Other ports of this host are other sites."""
        origin, site = headers.get("origin"), headers.get("sec-fetch-site")
        if is_read and is_public:  # a link somewhere may lead to the page
            return True
        if site not in (None, "same-origin", "none"):
            return False
        return is_read if origin is None else origin.lower() == f"http://{host}"

    def _refuse_stranger(self, headers: Headers) -> Response | None:
        bearer = headers.get("authorization", "")
        if bearer.lower().startswith("bearer "):
            if not self._keys.may_guess:
                return too_many_guesses()
            is_known = self._keys.is_token(bearer[7:].strip())
        else:
            is_known = any(
                self._keys.is_session(one)
                for one in _values_of(headers.getlist("cookie"), self._place.cookie)
            )
        if is_known:
            return None
        return refused(401, "open the address that ai-how printed: it has the token")


def refused(status: int, brief: str, hint: str | None = None) -> Response:
    """An error in the form of all errors."""
    return JSONResponse({"error": {"brief": brief, "hint": hint}}, status)


def too_many_guesses() -> Response:
    return refused(429, f"too many wrong tokens: wait for {GUESSES_S:.0f} s")


def let_in(place: Place, keys: Keys) -> Response:
    """The answer to the right token: from now on the browser is known by a cookie."""
    answer = Response(status_code=204)
    answer.set_cookie(place.cookie, keys.session, httponly=True, samesite="strict", path="/")
    return answer


def _is_public(path: str) -> bool:
    """Files of the package, the same for all; they have no secrets."""
    return path == "/" or path.startswith("/static/") or path == "/favicon.ico"


def _are_equal(told: str, secret: str) -> bool:
    return compare_digest(told.encode("utf-8", "replace"), secret.encode())


def _values_of(headers: list[str], name: str) -> list[str]:
    """The values of a cookie; a server on another port could have set a second one."""
    found = []
    for header in headers:
        for part in header.split(";"):
            key, _, value = part.strip().partition("=")
            if key == name:
                found.append(value.strip('"'))
    return found[:8]
