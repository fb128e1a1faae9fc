"""Who gets anything from the dashboard: against a real server in a process of its own."""

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from ai_how.dashboard.connection import uid_of_peer
from ai_how.process import get_tool, run
from dashboard_process import Dashboard, made_up_dashboard

CONSOLE = "/api/clusters/made-up/nodes/compute-01/console"
PRIVATE = [
    "/api/about",
    "/api/clusters",
    "/api/stream",
    "/api/clusters/made-up/snapshot",
    "/api/clusters/made-up/series?name=cpu&subject=host",
    "/api/clusters/made-up/jobs",
    "/api/clusters/made-up/events",
    "/api/clusters/made-up/nodes/compute-01/journal",
    CONSOLE,
    "/metrics",
    "/api/nothing",
    "/nothing",
]
ODD: list[object] = [7, None, True, ["x"], {"x": 1}]
SECRETS = [b"made-up", b"compute-01", b"10.1.0.0"]


@pytest.fixture(scope="module")
def page() -> Iterator[Dashboard]:
    with made_up_dashboard() as made:
        yield made


@pytest.fixture
def fresh() -> Iterator[Dashboard]:
    """One of the test's own: what it does to it is no other test's trouble."""
    with made_up_dashboard() as made:
        yield made


@pytest.mark.parametrize("path", PRIVATE)
def test_without_the_cookie_nothing_is_told(page: Dashboard, path: str) -> None:
    got = page.ask(path, is_known=False)
    assert got.status == 401
    assert not [one for one in SECRETS if one in got.body]


def test_the_token_is_exchanged_for_a_cookie_that_scripts_and_other_sites_do_not_get(
    page: Dashboard,
) -> None:
    got = page.log_in(page.token)
    assert (got.status, got.body) == (204, b"")
    cookie = got.headers["set-cookie"]
    assert {one.strip().lower() for one in cookie.split(";")[1:]} == {
        "httponly",
        "path=/",
        "samesite=strict",
    }
    # It does not say the token, and the page works with it as often as it is loaded.
    assert page.token not in cookie
    for _ in range(2):
        assert page.ask("/api/about", headers={"Cookie": got.cookie}).status == 200


def test_an_address_works_in_a_second_browser(page: Dashboard) -> None:
    cookies = {page.log_in(page.token).cookie for _ in range(2)}
    for cookie in cookies:
        assert page.ask("/api/about", headers={"Cookie": cookie}).status == 200


def test_a_wrong_token_gets_nothing(fresh: Dashboard) -> None:
    wrong = ["", "x", "0" * 43, "é", "\ud800", fresh.token[:-1], f"{fresh.token} "]
    for token, status in [*((one, 401) for one in wrong), *((one, 400) for one in ODD)]:
        got = fresh.log_in(token)
        assert (got.status, "set-cookie" in got.headers) == (status, False), token
    for body in (b"", b"[]", b"{", b"\xff", b"[" * 1000, b'{"token": "x"} x'):
        got = fresh.ask("/api/login", method="POST", body=body, headers={"Origin": fresh.origin})
        assert got.status == 400
    long = b'{"token": "%s"}' % (b"x" * 100_000)
    got = fresh.ask("/api/login", method="POST", body=long, headers={"Origin": fresh.origin})
    assert got.status == 413


def test_whoever_guesses_has_to_wait_and_who_is_in_goes_on(fresh: Dashboard) -> None:
    cookie = fresh.cookie
    bearer = {"Authorization": "Bearer wrong"}
    seen = [fresh.log_in("guess").status for _ in range(5)]
    seen += [fresh.ask("/api/about", headers=bearer, is_known=False).status for _ in range(5)]
    assert seen == [401] * 10
    assert fresh.log_in("guess").status == 429
    assert fresh.log_in(fresh.token).status == 429
    assert fresh.ask("/api/about", headers=bearer, is_known=False).status == 429
    assert fresh.ask("/api/about", headers={"Cookie": cookie}).status == 200


def test_a_program_may_send_the_token_itself(page: Dashboard) -> None:
    told = {"Authorization": f"Bearer {page.token}"}
    assert page.ask("/api/about", headers=told, is_known=False).status == 200


def test_two_dashboards_do_not_know_each_others_cookies(page: Dashboard, fresh: Dashboard) -> None:
    mine, other = page.cookie, fresh.cookie
    assert mine.partition("=")[0] != other.partition("=")[0]
    # A browser sends both to both.
    both = {"Cookie": f"{other}; {mine}"}
    assert page.ask("/api/about", headers=both).status == 200
    assert fresh.ask("/api/about", headers=both).status == 200
    renamed = f"{mine.partition('=')[0]}={other.partition('=')[2]}"
    assert page.ask("/api/about", headers={"Cookie": renamed}).status == 401
    # One that another server has set under our name does not lock its user out.
    name = mine.partition("=")[0]
    planted = {"Cookie": f"{name}=planted; {mine}"}
    assert page.ask("/api/about", headers=planted).status == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:{port}",
        "127.0.0.1.evil.example:{port}",
        "127.0.0.1:{port}.evil.example",
        "localhost.evil.example:{port}",
        "127.0.0.1@evil.example:{port}",
        "127.0.0.1",
        "127.0.0.1:1",
        "127.0.0.2:{port}",
        "0.0.0.0:{port}",
        "[::2]:{port}",
        "",
    ],
)
@pytest.mark.parametrize("path", ["/", "/api/about", "/static/page.css"])
def test_a_name_that_was_bound_to_this_host_gets_nothing(
    page: Dashboard, host: str, path: str
) -> None:
    got = page.ask(path, headers={"Host": host.format(port=page.port)})
    assert got.status == 403
    assert got.value["error"]["hint"] == (
        f"from another machine: ssh -L {page.port}:127.0.0.1:{page.port} HOST"
    )


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "LOCALHOST", "[::1]"])
def test_its_own_names_are_known(page: Dashboard, name: str) -> None:
    assert page.ask("/api/about", headers={"Host": f"{name}:{page.port}"}).status == 200


@pytest.mark.parametrize("site", ["cross-site", "same-site", "nonsense"])
@pytest.mark.parametrize("path", ["/api/about", "/api/stream", "/metrics"])
def test_the_page_of_another_site_or_port_gets_nothing(
    page: Dashboard, site: str, path: str
) -> None:
    assert page.ask(path, headers={"Sec-Fetch-Site": site}).status == 403


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://127.0.0.1:1", "https://127.0.0.1:{port}", ""]
)
def test_another_origin_gets_nothing(page: Dashboard, origin: str) -> None:
    told = origin.format(port=page.port)
    assert page.ask("/api/about", headers={"Origin": told}).status == 403
    assert page.log_in(page.token, Origin=told).status == 403
    with closing(page.open_console(CONSOLE, Origin=told)) as console:
        assert console.refusal == 403


def test_what_is_no_read_has_an_origin(page: Dashboard) -> None:
    got = page.ask("/api/login", method="POST", body=b"{}", is_known=False)
    assert got.status == 403


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_another_site_cannot_use_the_console_of_a_browser_that_is_in(
    page: Dashboard, site: str
) -> None:
    """Browsers do send cookies with websockets to other ports of this host."""
    with closing(page.open_console(CONSOLE, **{"Sec-Fetch-Site": site})) as console:
        assert console.refusal == 403


def test_a_link_to_the_page_may_be_anywhere(page: Dashboard) -> None:
    """Its files are the same for all, and nothing of the user's is in them."""
    told = {"Sec-Fetch-Site": "cross-site"}
    assert page.ask("/static/nothing.js", headers=told, is_known=False).status == 404


@pytest.mark.parametrize("method", ["OPTIONS", "GET", "POST"])
def test_no_other_origin_is_ever_invited(page: Dashboard, method: str) -> None:
    asked = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    for path in ("/", "/api/about", "/api/login"):
        got = page.ask(path, method=method, headers=asked)
        assert not [name for name in got.headers if name.startswith("access-control")]


@pytest.mark.parametrize(
    ("path", "status"),
    [("/api/about", 200), ("/static/nothing", 404), ("/api/clusters/no/jobs", 404)],
)
def test_every_answer_says_what_a_browser_may_do_with_it(
    page: Dashboard, path: str, status: int
) -> None:
    got = page.ask(path)
    assert got.status == status
    policy = dict(one.strip().partition(" ")[::2] for one in _policy(got.headers))
    assert policy == {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "connect-src": "'self'",
        "img-src": "'self'",
        "font-src": "'self'",
        "manifest-src": "'none'",
        "frame-ancestors": "'none'",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    told = {
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cross-origin-opener-policy": "same-origin",
        "cross-origin-resource-policy": "same-origin",
        "cache-control": "no-store",
    }
    assert {name: got.headers.get(name) for name in told} == told
    assert "server" not in got.headers


def test_refusals_have_the_same_headers(page: Dashboard) -> None:
    for got in (
        page.ask("/api/about", is_known=False),
        page.ask("/", headers={"Host": "evil.example"}),
        page.ask("/", method="DELETE"),
    ):
        assert "default-src 'none'" in got.headers["content-security-policy"]
        assert got.headers["cache-control"] == "no-store"


def test_the_token_is_nowhere_but_in_the_address(page: Dashboard) -> None:
    assert page.ask("/api/about").status == 200
    place = Path(f"/proc/{page.process.pid}")
    for name in ("cmdline", "environ"):
        assert page.token.encode() not in (place / name).read_bytes()
    assert len(page.token) >= 43  # 256 bits


ASKS = """
import socket, sys
with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as line:
    line.sendall(b"GET /api/about HTTP/1.1\\r\\nHost: 127.0.0.1:" + sys.argv[1].encode()
        + b"\\r\\nCookie: " + sys.argv[2].encode() + b"\\r\\nConnection: close\\r\\n\\r\\n")
    try:
        print(line.recv(12).decode() or "closed")
    except ConnectionResetError:
        print("closed")
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_another_user_of_the_host_gets_nothing_even_with_the_cookie(page: Dashboard) -> None:
    """Another user's server on another port gets the cookie from the browser."""
    setpriv = get_tool("setpriv", package="util-linux")
    said = {}
    for who, prefix in {
        "root": [],
        "nobody": [setpriv, "--reuid=65534", "--regid=65534", "--clear-groups"],
    }.items():
        argv: list[str | Path] = [
            *prefix,
            _python_of_all(),
            "-I",
            "-c",
            ASKS,
            str(page.port),
            page.cookie,
        ]
        said[who] = run(argv, timeout_s=60).stdout.strip()
    assert said == {"root": "HTTP/1.1 200", "nobody": "closed"}


def _python_of_all() -> str:
    """A Python that another user can run, too."""
    return str(Path(sys.executable).resolve())


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_the_kernel_tells_whose_a_connection_is(address: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        server = socket.create_server((address, 0), family=family)
    except OSError:
        pytest.skip(f"this host has no {address}")
    with server, socket.create_connection(server.getsockname()[:2]) as client:
        with server.accept()[0] as line:
            assert uid_of_peer(line.getpeername(), line.getsockname()) == os.geteuid()
            ends = line.getpeername(), line.getsockname()
        client.close()
        with pytest.raises(LookupError):
            uid_of_peer(*ends)


def _policy(headers: "dict[str, str] | object") -> list[str]:
    assert isinstance(headers, dict)
    return str(headers["content-security-policy"]).split(";")
