"""Download images: https from the first address to the last redirect, or not at all."""

import http.client
import shlex
import socket
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
_SERVER_FAILED = 500


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
        if size is not None:
            response.length = size + 1  # else http.client would not read what is too much
        while chunk := _read_chunk(response, url, is_complete=done == size):
            done += len(chunk)
            if size is not None and done > size:
                raise ImageError(
                    f"{url} sent more than the {size} bytes that it announced",
                    hint=f"curl -I {shlex.quote(url)}",
                )
            if done > max_bytes:
                raise ImageError(f"{url} is refused: it is larger than {max_bytes} bytes")
            copy.write(chunk)
            if on_progress and size:
                on_progress(done / size)
        if size is not None and done != size:
            raise ImageError(
                f"{url} ended after {done} of {size} bytes", hint=f"curl -I {shlex.quote(url)}"
            )


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
            fp.close()
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
        raise _refused(url, error) from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _failed(url, error) from error
    with response:
        yield response


def _read_chunk(response: http.client.HTTPResponse, url: str, *, is_complete: bool) -> bytes:
    """The next bytes; none at the end, also where the server does not end the connection."""
    try:
        return response.read1(_CHUNK_BYTES)
    except (OSError, http.client.HTTPException) as error:
        if is_complete:
            return b""
        raise _failed(url, error) from error


def _refused(url: str, error: urllib.error.HTTPError) -> ImageError:
    """What a server answered instead of the file."""
    words = {
        401: "the server wants a password",
        403: "the server does not let you have it",
        404: "the server has no such file",
        410: "the server has it no more",
    }
    told = words.get(error.code, "the server failed" if error.code >= _SERVER_FAILED else "refused")
    return ImageError(
        f"{url} could not be downloaded: {told}",
        details=f"HTTP {error.code} {error.reason}",
        hint=f"curl -I {shlex.quote(url)}",
    )


def _failed(url: str, error: Exception) -> ImageError:
    """Why there is no answer, in plain words, and what would help."""
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    host = urlsplit(url).hostname or ""
    details, hint = str(reason), f"curl -I {shlex.quote(url)}"
    match reason:
        case ssl.SSLCertVerificationError():
            told, hint = _distrusted(host, reason)
        case socket.gaierror():
            told, hint = f"the name {host} cannot be resolved", f"getent hosts {shlex.quote(host)}"
        case ConnectionRefusedError():
            told = f"nothing on {host} accepts the connection"
        case TimeoutError():
            told = f"{host} did not answer for {_STALLED_S} s"
        case http.client.IncompleteRead() | ConnectionError() | ssl.SSLEOFError():
            told = "the connection was cut"
        case ssl.SSLError():
            told = f"{host} does not speak a TLS that this host accepts"
        case _:
            told = "no connection" if isinstance(reason, OSError) else "its answer makes no sense"
    if proxy := _proxy_for(host):
        details += f"\nThe connection goes through the proxy {proxy} (https_proxy)."
    return ImageError(f"{url} could not be downloaded: {told}", details=details, hint=hint)


def _proxy_for(host: str) -> str | None:
    """The proxy that is used for a host, without its password."""
    proxy = urllib.request.getproxies().get("https")
    if proxy is None or urllib.request.proxy_bypass(host):
        return None
    return urlsplit(proxy).netloc.rpartition("@")[2] or "in https_proxy"


def _distrusted(host: str, error: ssl.SSLCertVerificationError) -> tuple[str, str]:
    """What is wrong with a certificate, by OpenSSL's X509_V_ERR_*, and what would help."""
    match error.verify_code:
        case 9:
            return f"the certificate of {host} is not valid yet", "date  # is the clock right?"
        case 10:
            return f"the certificate of {host} has expired", "date  # is the clock right?"
        case 62 | 64:
            return f"{host} has a certificate for another name", f"curl -vI https://{host}/"
        case _:
            hint = "sudo cp CA.crt /usr/local/share/ca-certificates/ && sudo update-ca-certificates"
            why = "  # where a company has a CA of its own: ai-how trusts what the host trusts"
            return f"this host does not trust the certificate of {host}", hint + why
