"""The dashboard's server under more than a page asks: bounded, and there for the page."""

import http.client
import socket
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing

import pytest

from ai_how.dashboard.connection import MOST_CONNECTIONS
from ai_how.dashboard.feeds import MOST_EVENTS, Reader
from ai_how.dashboard.stream import MOST_READERS
from ai_how.waiting import Deadline, wait_until
from dashboard_process import PATIENCE_S, Dashboard, made_up_dashboard

REQUESTS, AT_ONCE = 10_000, 8
# What the allocator keeps after a burst; a leak of 1 KiB a request would be 10 MiB.
LEEWAY_MIB = 6.0
DEAR = [
    ("/api/clusters/made-up/snapshot", 200),
    ("/api/clusters/made-up/series?name=cpu&subject=host&since=-3600&step=10", 200),
    ("/api/clusters/made-up/jobs", 200),
]
PATHS = [
    ("/api/about", 200),
    ("/api/clusters", 200),
    ("/api/clusters/no/jobs", 404),
    ("/api/clusters/made-up/series?name=cpu&subject=host&step=nan", 400),
    ("/static/nothing", 404),
    (f"/nothing/{'x' * 3000}", 404),
]


@pytest.fixture
def page() -> Iterator[Dashboard]:
    with made_up_dashboard("--patience", "2") as made:
        yield made


def test_ten_thousand_requests_are_answered_and_nothing_of_them_stays(
    page: Dashboard, figures: dict[str, int]
) -> None:
    _ask_often(page, 1000)  # what is loaded late, and the arenas of its threads
    before, files = page.memory_mib(), page.open_files()
    used = page.cpu_s()
    seen = _ask_often(page, REQUESTS)
    assert sum(seen.values()) == REQUESTS
    wrong = {key: count for key, count in seen.items() if key[0] != key[1]}
    assert wrong == {}
    assert page.memory_mib() - before < LEEWAY_MIB
    wait_until(lambda: page.open_files() <= files, Deadline.after(PATIENCE_S), "closed connections")
    figures["dashboard: KiB more after 10,000 requests"] = int(1024 * (page.memory_mib() - before))
    figures["dashboard: µs of CPU a request"] = int(1e6 * (page.cpu_s() - used) / REQUESTS)


def _ask_often(page: Dashboard, count: int) -> Counter[tuple[int, int]]:
    """Each status with the one that was expected, by some clients that keep their connections."""
    headers = {"Cookie": page.cookie}

    def ask(number: int) -> Counter[tuple[int, int]]:
        seen: Counter[tuple[int, int]] = Counter()
        line = http.client.HTTPConnection("127.0.0.1", page.port, timeout=PATIENCE_S)
        with closing(line):
            for step in range(count // AT_ONCE):
                paths = DEAR if step % 20 == 0 else PATHS
                path, wanted = paths[(step // 20 + step + number) % len(paths)]
                line.request("GET", path, headers=headers)
                answer = line.getresponse()
                answer.read()
                seen[answer.status, wanted] += 1
        return seen

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return sum(pool.map(ask, range(AT_ONCE)), Counter())


def test_two_hundred_readers_that_do_not_read_take_little_and_are_dropped() -> None:
    large = ("--patience", "2", "--nodes", "150", "--jobs", "100")
    with made_up_dashboard(*large) as page, ExitStack() as stack:
        with closing(page.open_stream()) as stream:
            for _ in range(4):
                stream.until("snapshot")
        snapshot_mib = len(page.ask("/api/clusters/made-up/snapshot").body) / 2**20
        before = page.memory_mib()
        streams = [
            stack.enter_context(closing(page.open_stream(receives=2048)))
            for _ in range(min(200, MOST_CONNECTIONS - 10))
        ]
        statuses = Counter(one.status() for one in streams)
        assert statuses == {200: MOST_READERS, 503: len(streams) - MOST_READERS}
        assert page.ask("/api/about").status == 200
        # Nobody reads: in the end they make room for a page.
        wait_until(lambda: _is_room(page), Deadline.after(PATIENCE_S), "room for a page")
        # A connection has its buffers, and a reader two snapshots: one on its way, and the newest.
        held = len(streams) * 0.1 + MOST_READERS * 2 * snapshot_mib
        assert page.memory_mib() - before < LEEWAY_MIB + held


def _is_room(page: Dashboard) -> bool:
    with closing(page.open_stream()) as stream:
        return stream.status() == 200


def test_half_open_connections_are_ended_and_only_so_many_are_kept(page: Dashboard) -> None:
    cookie, before = page.cookie, page.memory_mib()
    with ExitStack() as stack:
        lines = [stack.enter_context(page.connect()) for _ in range(MOST_CONNECTIONS + 100)]
        for number, line in enumerate(lines):
            part = (b"", b"GET / HTTP/1.1\r\nHost: ", b"POST /api/login HTTP/1.1\r\n")[number % 3]
            with socket_errors_ignored():
                line.sendall(part)
        wait_until(lambda: _answers(page, cookie), Deadline.after(PATIENCE_S), "an answer")
        ended = [line for line in lines if _is_ended(line)]
        assert len(ended) == len(lines)
    assert page.memory_mib() - before < LEEWAY_MIB + 8
    assert page.open_files() < 50


def test_a_request_that_is_sent_a_byte_at_a_time_is_ended(page: Dashboard) -> None:
    head = f"GET /api/about HTTP/1.1\r\nHost: 127.0.0.1:{page.port}\r\nX: {'x' * 4000}"
    for sent in (b"", f"POST /api/login HTTP/1.1\r\nOrigin: {page.origin}\r\n".encode()):
        with page.connect() as line:
            line.sendall(sent)
            line.settimeout(0.2)
            said = None
            for byte in head.encode():
                try:
                    line.sendall(bytes([byte]))
                    said = line.recv(1)
                    break
                except TimeoutError:
                    continue
                except ConnectionError:
                    said = b""
                    break
            assert said == b""


def test_a_body_that_never_comes_is_not_waited_for(page: Dashboard) -> None:
    with page.connect() as line:
        line.sendall(
            f"POST /api/login HTTP/1.1\r\nHost: 127.0.0.1:{page.port}\r\nOrigin: {page.origin}\r\n"
            "Content-Length: 100\r\n\r\n{".encode()
        )
        assert _is_ended(line)


def test_an_answer_that_nobody_reads_does_not_stay(page: Dashboard) -> None:
    """Its connection is ended; till then it is as large as the answer."""
    cookie, files = page.cookie, page.open_files()
    path = "/api/clusters/made-up/events?since=1&until=600001"
    head = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{page.port}\r\nCookie: {cookie}\r\n\r\n"
    with ExitStack() as stack:
        for _ in range(10):
            line = stack.enter_context(socket.socket())
            line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            line.connect(("127.0.0.1", page.port))
            line.sendall(head.encode())
        wait_until(lambda: page.open_files() >= files + 5, Deadline.after(PATIENCE_S), "them")
        wait_until(lambda: page.open_files() <= files, Deadline.after(PATIENCE_S), "their end")


def test_a_reader_gets_the_newest_snapshot_of_each_cluster_and_the_last_events() -> None:
    import asyncio  # noqa: PLC0415

    async def read() -> list[tuple[str, bytes]]:
        reader = Reader(None)
        for number in range(1000):
            reader.put_snapshot("a", b"a%d" % number)
            reader.put_snapshot("b", b"b%d" % number)
            reader.put("event", b"%d" % number, cluster="a")
        taken = await reader.take(0.1)
        assert await reader.take(0.01) == []
        return taken

    taken = asyncio.run(read())
    assert [data for kind, data in taken if kind == "snapshot"] == [b"a999", b"b999"]
    events = [data for kind, data in taken if kind == "event"]
    assert events == [b"%d" % number for number in range(1000 - MOST_EVENTS, 1000)]


def _answers(page: Dashboard, cookie: str) -> bool:
    try:
        return page.ask("/api/about", headers={"Cookie": cookie}).status == 200
    except (ConnectionError, http.client.HTTPException):
        return False


def _is_ended(line: socket.socket) -> bool:
    line.settimeout(PATIENCE_S)
    try:
        while line.recv(4096):
            pass
    except ConnectionError:
        return True
    except TimeoutError:
        return False
    return True


def socket_errors_ignored() -> "ExitStack":
    stack = ExitStack()
    stack.push(lambda kind, _error, _trace: kind is not None and issubclass(kind, OSError))
    return stack
