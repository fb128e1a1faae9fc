"""The files of the page: all that are in the package, by their address, and nothing else."""

import hashlib
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable

from starlette.requests import Request
from starlette.responses import Response

from ai_how.dashboard.guard import refused

TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    "": "text/plain; charset=utf-8",
}
PAGE = "/static/index.html"


@dataclass(frozen=True, slots=True)
class File:
    """A file as it is sent."""

    content: bytes
    type: str
    tag: str


class Files:
    """They are read once, so that a request never names a path of this host."""

    def __init__(self) -> None:
        self._files = dict(_read(files("ai_how.dashboard") / "static", "/static"))

    async def page(self, request: Request) -> Response:
        return self._answer(request, PAGE)

    async def file(self, request: Request) -> Response:
        return self._answer(request, request.url.path)

    def _answer(self, request: Request, address: str) -> Response:
        if (found := self._files.get(address)) is None:
            return refused(404, "there is no such file")
        # A newer version has the same addresses: the browser asks each time, and gets a 304.
        headers = {"ETag": found.tag, "Cache-Control": "no-cache"}
        if found.tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(found.content, headers=headers, media_type=found.type)


def _read(directory: Traversable, address: str) -> list[tuple[str, File]]:
    found: list[tuple[str, File]] = []
    for entry in directory.iterdir() if directory.is_dir() else ():
        name = f"{address}/{entry.name}"
        if entry.is_dir():
            found += _read(entry, name)
        elif kind := TYPES.get(f".{entry.name.rpartition('.')[2]}" if "." in entry.name else ""):
            content = entry.read_bytes()
            found.append((name, File(content, kind, f'"{hashlib.sha256(content).hexdigest()}"')))
    return found
