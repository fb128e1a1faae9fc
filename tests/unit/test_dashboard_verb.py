"""`hpc dashboard`: what it prints, refuses and opens, and which clusters it shows."""

import json
import os
import shutil
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from cli_runner import Cli
from test_state_models import cluster_state, node

from ai_how.extras import install_command
from ai_how.process import run
from ai_how.state.cluster_state import write_state
from ai_how.state.paths import Roots, default_roots, ensure_private_directory
from ai_how.waiting import Deadline, wait_until
from dashboard_process import PATIENCE_S, Dashboard, dashboard_of

SSH = "ssh -L PORT:127.0.0.1:PORT HOST"


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(tmp_path, monkeypatch, capsys)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A state directory of the test's own."""
    return tmp_path / "state"


@pytest.fixture
def roots(state: Path) -> Roots:
    ensure_private_directory(state)
    return default_roots(state)


def program(state: Path, *words: str | Path) -> list[str | Path]:
    own = [sys.executable, "-m", "ai_how", "--state-dir", state]
    return [*own, "hpc", "dashboard", *words]


@pytest.fixture
def page(state: Path, roots: Roots) -> Iterator[Dashboard]:
    with dashboard_of(program(state)) as made:
        yield made


def remember(roots: Roots, name: str) -> Path:
    """A cluster of one node that is off."""
    paths = roots.cluster(name)
    ensure_private_directory(paths.root)
    write_state(
        paths,
        cluster_state().model_copy(update={"name": name, "nodes": (node("compute-01", 11),)}),
    )
    return paths.root


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_prints_one_address_and_ends_quietly(page: Dashboard, number: int) -> None:
    assert page.url == f"http://127.0.0.1:{page.port}/#token={page.token}"
    assert page.ask("/api/about").value["has_console"] is False
    assert page.ask("/", is_known=False).status == 200
    for address in ("127.0.0.2", *_addresses()):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((address, page.port), timeout=5)
    with closing(page.open_stream()) as stream:
        stream.until("clusters")
        assert page.end(number) == 130
    assert page.process.stdout
    assert page.process.stdout.read().decode() == "Ctrl-C ends it\n"


def test_with_json_the_first_line_is_a_document(state: Path) -> None:
    with dashboard_of(program(state, "--json", "--console")) as page:
        told = {"url": page.url, "port": page.port, "pid": page.process.pid}
        assert json.loads(page.said) == told
        assert page.ask("/api/about").value["has_console"] is True
        assert page.end() == 130
        assert page.process.stdout
        assert page.process.stdout.read() == b""


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("0.0.0.0", "other hosts reach it"),  # noqa: S104  that is the point
        ("192.0.2.1", "other hosts reach it"),
        ("::", "other hosts reach it"),
        ("127.0.0.2", "a page goes by these two names"),
        ("example.org", "it is no address"),
    ],
)
def test_it_listens_on_loopback_alone(cli: Cli, address: str, why: str) -> None:
    ended = cli("hpc", "dashboard", "--address", address)
    assert ended.code == 2
    assert f"127.0.0.1 or ::1 only, not on {address}: {why}" in ended.err
    assert f"hint: {SSH}" in ended.err


def test_it_listens_on_the_loopback_address_of_ipv6(state: Path) -> None:
    with dashboard_of(program(state, "--address", "::1")) as page:
        assert page.url.startswith(f"http://[::1]:{page.port}/#token=")
        with socket.create_connection(("::1", page.port)) as line:
            line.sendall(f"GET / HTTP/1.1\r\nHost: [::1]:{page.port}\r\n\r\n".encode())
            assert line.recv(12) == b"HTTP/1.1 200"


def test_a_port_that_is_taken_is_an_error(cli: Cli) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        ended = cli("hpc", "dashboard", "--port", str(port))
    assert ended.code == 3
    assert f"error: port {port} of 127.0.0.1 is in use" in ended.err
    assert f"hint: ss -ltnp 'sport = {port}'" in ended.err


@pytest.mark.parametrize("port", ["-1", "65536"])
def test_a_number_that_is_no_port_is_refused(cli: Cli, port: str) -> None:
    ended = cli("hpc", "dashboard", "--port", port)
    assert (ended.code, f"{port} is no port" in ended.err) == (2, True)


def test_a_cluster_that_is_named_is_there(cli: Cli) -> None:
    ended = cli("hpc", "dashboard", "--cluster", "no")
    assert (ended.code, "there is no cluster no" in ended.err) == (3, True)


def test_a_cluster_that_is_named_is_shown_first(state: Path, roots: Roots) -> None:
    remember(roots, "mine")
    with dashboard_of(program(state, "--cluster", "mine")) as page:
        assert page.url.endswith(f"/#token={page.token}&cluster=mine")


@pytest.mark.parametrize("missing", ["starlette", "uvicorn", "wsproto"])
def test_without_its_extra_it_says_how_to_install_it(tmp_path: Path, missing: str) -> None:
    lacking = f"import sys; sys.modules[{missing!r}] = None\n"
    code = f"{lacking}from ai_how.cli import main; sys.exit(main(sys.argv[1:]))"
    done = run(
        [sys.executable, "-c", code, "--state-dir", tmp_path, "hpc", "dashboard"],
        check=False,
        timeout_s=PATIENCE_S,
    )
    assert done.returncode == 3
    assert done.stderr == (
        f"error: {missing} is not installed, which the page needs\n"
        f"hint: {install_command('dashboard')}\n"
    )


def test_clusters_are_those_of_the_state_directory(page: Dashboard, roots: Roots) -> None:
    assert page.ask("/api/clusters").value == []
    for name in ("one", "two"):
        remember(roots, name)
    (ensure_private_directory(roots.cluster("broken").root) / "state.json").write_text("{")
    ensure_private_directory(roots.cluster("empty").root)
    (roots.state / "a file").touch()
    _await_clusters(page, "one", "two")
    assert page.ask("/api/clusters").value[0]["nodes"] == ["compute-01"]
    shutil.rmtree(roots.cluster("one").root)
    _await_clusters(page, "two")
    assert page.ask("/api/clusters/one/jobs").status == 404


def test_the_token_is_in_no_log_and_in_no_argument(state: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    words = ["--console", "-vv", "--log-file", log]
    with dashboard_of(program(state, *words)) as page:
        page.log_in("wrong")
        page.log_in(f"{page.token}x")
        bearer = {"Authorization": f"Bearer {page.token}"}
        assert page.ask("/api/about", headers=bearer, is_known=False).status == 200
        assert page.ask("/api/about").status == 200
        page.open_console("/api/clusters/no/nodes/no/console").close()
        arguments = Path(f"/proc/{page.process.pid}/cmdline").read_bytes()
        assert page.end() == 130
    assert log.exists()
    for text in (log.read_bytes(), arguments):
        assert page.token.encode() not in text
        assert page.cookie.partition("=")[2].encode() not in text


@pytest.fixture
def browser(tmp_path: Path) -> Path:
    """The directory of an xdg-open that notes its arguments, and what it was to show."""
    tools = tmp_path / "tools"
    tools.mkdir()
    told = tmp_path / "told"
    script = (
        f'#!/bin/sh\nstat -c %a "$1" > {told}.mode\ncat "$1" > {told}.page\necho "$@" > {told}\n'
    )
    (tools / "xdg-open").write_text(script)
    (tools / "xdg-open").chmod(0o755)
    return tools


def test_a_browser_gets_the_token_by_a_private_file(
    state: Path, tmp_path: Path, browser: Path
) -> None:
    """Other users see the arguments of the browser."""
    told = tmp_path / "told"
    path = f"{browser}:{os.environ['PATH']}"
    with dashboard_of(program(state, "--open"), environment={"PATH": path}) as page:
        wait_until(told.exists, Deadline.after(PATIENCE_S), "the browser")
        shown = Path(wait_until(told.read_text, Deadline.after(PATIENCE_S), "its words").strip())
        assert page.token not in str(shown)
        assert (tmp_path / "told.mode").read_text() == "600\n"
        assert f'content="0; url={page.url}"' in (tmp_path / "told.page").read_text()
        assert page.end() == 130
    assert not shown.exists()


def _await_clusters(page: Dashboard, *names: str) -> None:
    wait_until(
        lambda: [one["name"] for one in page.ask("/api/clusters").value] == list(names),
        Deadline.after(PATIENCE_S),
        f"the clusters {names}",
    )


def _addresses() -> list[str]:
    """Further IPv4 addresses of this host."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as line:
        try:
            line.connect(("192.0.2.1", 9))
        except OSError:
            return []
        return [line.getsockname()[0]]
