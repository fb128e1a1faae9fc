"""The dashboard's page in Debian's Chromium, from its own server: what is wrong is written down.

A console error, a violation of the CSP and a request to anywhere else fail the test.
"""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Route, sync_playwright

from ai_how.dashboard import server
from ai_how.dashboard.app import Settings
from ai_how.dashboard.clusters import Clusters
from ai_how.dashboard.guard import Keys, Place
from ai_how.limits import start_thread

CHROMIUM = "/usr/bin/chromium"
ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE_MS = 120_000
REAL_SERVER = server._Server


class Served:
    """The page's server in this process, on a port of its own; it can end and come again."""

    def __init__(self, clusters: Clusters, *, has_console: bool = True) -> None:
        self._clusters = clusters
        self._keys = Keys()
        self._has_console = has_console
        self._socket = server.listen("127.0.0.1", 0)
        self.port = self._socket.getsockname()[1]
        self._running: Any = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}/#token={self._keys.token}"

    def start(self) -> None:
        if self._socket.fileno() < 0:
            self._socket = server.listen("127.0.0.1", self.port)
        ready = threading.Event()

        class Recorded(REAL_SERVER):
            async def main_loop(recorded) -> None:  # noqa: N805
                self._running, self._loop = recorded, asyncio.get_running_loop()
                await super().main_loop()

        def run() -> None:
            settings = Settings(
                place=Place(self.port),
                keys=self._keys,
                version="0.0.0",
                has_console=self._has_console,
            )
            with pytest.MonkeyPatch.context() as patch:
                # Only the main thread has signals.
                patch.setattr(server, "SIGNALS", ())
                patch.setattr(server, "_Server", Recorded)
                server.serve(self._socket, self._clusters, settings, ready.set)

        self._thread = start_thread(run, name="served")
        assert ready.wait(60)

    def forget_keys(self) -> None:
        """The next start is another server, for which there is another token."""
        self._keys = Keys()

    def stop(self) -> None:
        if self._thread and self._loop:
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._running.end, 15)
            self._thread.join(60)
            assert not self._thread.is_alive()
            self._socket.close()
            self._thread = None


@contextmanager
def served(clusters: Clusters, *, has_console: bool = True) -> Iterator[Served]:
    one = Served(clusters, has_console=has_console)
    one.start()
    try:
        yield one
    finally:
        one.stop()


@contextmanager
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Seen:
    """A page that is open, and what went wrong in it."""

    page: Page
    wrong: list[str] = field(default_factory=list)
    expected: tuple[str, ...] = ()
    """What may stand in the console all the same: the browser's own word of a lost connection."""

    def check(self) -> None:
        assert [one for one in self.wrong if not any(word in one for word in self.expected)] == []

    def text(self, selector: str) -> str:
        return self.page.locator(selector).inner_text()

    def wait(self, script: str, argument: object = None) -> None:
        self.page.wait_for_function(script, arg=argument, timeout=PATIENCE_MS)


@contextmanager
def seen(browser: Browser, address: str, **look: Any) -> Iterator[Seen]:
    """The page at an address, when it shows a cluster; it is checked at the end."""
    look.setdefault("viewport", {"width": 1280, "height": 800})
    context = browser.new_context(**look)
    context.set_default_timeout(PATIENCE_MS)
    try:
        one = Seen(context.new_page())
        watch(one, context, address.partition("#")[0])
        one.page.goto(address)
        yield one
        one.check()
    finally:
        context.close()


def watch(one: Seen, context: BrowserContext, own: str) -> None:
    def pass_on(route: Route) -> None:
        if route.request.url.startswith(own):
            route.continue_()
        else:
            one.wrong.append(f"a request to {route.request.url}")
            route.abort()

    context.route("**/*", pass_on)
    one.page.on(
        "console",
        lambda said: (
            one.wrong.append(f"{said.type}: {said.text}")
            if said.type in ("error", "warning")
            else None
        ),
    )
    one.page.on("pageerror", lambda error: one.wrong.append(f"uncaught: {error}"))
    one.page.on("crash", lambda _: one.wrong.append("the page crashed"))
    # What the CSP stops is told even where the console does not say it.
    one.page.add_init_script(
        "document.addEventListener('securitypolicyviolation', (event) =>"
        " console.error('CSP ' + event.violatedDirective + ' ' + event.blockedURI));"
    )
