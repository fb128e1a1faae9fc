"""Download images: https from the first address to the last redirect, or not at all."""

import http.client
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from ai_how.errors import ImageError
from ai_how.images.copying import Progress, created_file, disk_errors

_CHUNK_BYTES = 1 << 20
_STALLED_S = 60


def download(
    url: str, target: Path, *, max_bytes: int, on_progress: Progress | None = None
) -> None:
    """Download an https address to a new file (0600, on disk). The caller compares the digest."""
    if urlsplit(url).scheme != "https":
        raise ImageError(
            f"{url} is refused: images are downloaded only over https",
            hint=url.replace("http:", "https:", 1),
        )
    with (
        _opened(url) as response,
        disk_errors(target.parent, needed_bytes=response.length),
        created_file(target) as copy,
    ):
        # `length` counts down during the reads; at first it is what the server announced.
        size, done = response.length, 0
        while chunk := _read_chunk(response, url):
            done += len(chunk)
            if done > max_bytes:
                raise ImageError(f"{url} is refused: it is larger than {max_bytes} bytes")
            copy.write(chunk)
            if on_progress and size:
                on_progress(done / size)
        if size is not None and done != size:
            raise ImageError(f"{url} ended after {done} of {size} bytes")


class _HttpsOnly(urllib.request.HTTPRedirectHandler):
    """Follows a redirect only to another https address."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        if urlsplit(newurl).scheme != "https":
            raise ImageError(f"{req.full_url} is refused: it redirects to {newurl}, not to https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


@contextmanager
def _opened(url: str) -> Iterator[http.client.HTTPResponse]:
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPSHandler(context=ssl.create_default_context()),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _HttpsOnly(),
    ):
        opener.add_handler(handler)
    try:
        response = opener.open(url, timeout=_STALLED_S)
    except urllib.error.HTTPError as error:
        error.close()
        raise ImageError(f"{url} could not be downloaded", details=str(error)) from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise ImageError(f"{url} could not be downloaded", details=str(error)) from error
    with response:
        yield response


def _read_chunk(response: http.client.HTTPResponse, url: str) -> bytes:
    try:
        return response.read(_CHUNK_BYTES)
    except (OSError, http.client.HTTPException) as error:
        raise ImageError(f"{url} could not be downloaded", details=str(error)) from error
