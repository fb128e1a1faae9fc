"""An apt repository of stock_image.py, behind a proxy on this host's loopback."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import urlsplit

from stock_image import REPOSITORY_HOST


@dataclass(slots=True)
class Repository:
    """Where it is, and what was asked of it."""

    directory: Path
    port: int = 0
    asked: list[str] = field(default_factory=list)


@contextmanager
def serving_as_proxy(directory: Path) -> Iterator[Repository]:
    """Serve the repository to whoever asks this proxy for its host, and nothing else."""
    repository = Repository(directory)

    class Handler(SimpleHTTPRequestHandler):
        timeout = 60

        def do_GET(self) -> None:
            repository.asked.append(self.path)
            if urlsplit(self.path).hostname != REPOSITORY_HOST:
                self.send_error(403)
                return
            super().do_GET()

        def translate_path(self, path: str) -> str:
            self.directory = str(directory)
            return super().translate_path(urlsplit(path).path)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        Thread(target=server.serve_forever, daemon=True).start()
        repository.port = server.server_address[1]
        yield repository
        server.shutdown()
