"""What the dashboard's server answers, and goes on answering, whatever is asked or happens."""

import json
import shutil
import signal
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import pytest

from ai_how.monitoring.records import read_snapshot
from ai_how.waiting import Deadline, wait_until
from dashboard_process import PATIENCE_S, Dashboard, made_up_dashboard

ONE = "/api/clusters/made-up"
NODE = f"{ONE}/nodes/compute-01"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
SERIES = f"{ONE}/series?name=cpu&subject=host"


@pytest.fixture(scope="module")
def page() -> Iterator[Dashboard]:
    with made_up_dashboard("--jobs", "6") as made:
        yield made


@pytest.fixture
def clusters(tmp_path: Path) -> Path:
    """The directory of the clusters of a dashboard of the test's own."""
    (tmp_path / "made-up").mkdir()
    return tmp_path


@pytest.fixture
def own(clusters: Path) -> Iterator[Dashboard]:
    with made_up_dashboard("--of", clusters, "--patience", "2", "--event", "5") as made:
        yield made


def error_of(page: Dashboard, path: str, status: int, **more: Any) -> str:
    got = page.ask(path, **more)
    assert got.status == status, got.body
    return str(got.value["error"]["brief"])


def test_it_says_what_it_is(page: Dashboard) -> None:
    assert page.ask("/api/about").value == {"version": "0.0.0", "has_console": True}


def test_all_clusters_are_listed(page: Dashboard) -> None:
    found = page.ask("/api/clusters").value
    assert [(one["name"], one["kind"]) for one in found] == [("made-up", "hpc"), ("second", "hpc")]
    assert found[0]["nodes"] == ["controller", "compute-01", "compute-02"]


def test_a_snapshot_is_that_of_the_collector(page: Dashboard) -> None:
    seen = read_snapshot(page.ask(f"{ONE}/snapshot").body)
    assert (seen.cluster, len(seen.nodes)) == ("made-up", 3)
    assert seen.slurm
    assert len(seen.slurm.jobs) == 6
    assert [one.id for one in seen.findings] == ["node-drained"]


def test_a_series_has_as_many_points_as_were_asked_for(page: Dashboard) -> None:
    got = page.ask(f"{SERIES}&since=1000&until=1600&step=10").value
    assert got["step"] == 10
    assert [at for at, _ in got["points"]] == [1000 + 10 * number for number in range(60)]
    assert got["points"][50] == [1500, None]


def test_a_series_of_a_year_is_not_larger_than_one_of_a_day(page: Dashboard) -> None:
    got = page.ask(f"{SERIES}&since=1&until=31536001&step=1")
    assert got.status == 200
    assert len(got.value["points"]) <= 2000
    assert len(got.body) < 100_000


def test_jobs_and_events_of_a_span(page: Dashboard) -> None:
    jobs = page.ask(f"{ONE}/jobs?since=-600").value
    assert not jobs["is_cut"]
    assert [one["id"] for one in jobs["jobs"]] == [str(number) for number in range(1, 7)]
    events = page.ask(f"{ONE}/events?since=6000&until=6600").value["events"]
    assert [one["at"] for one in events] == [6000 + 60 * number for number in range(11)]
    assert set(events[0]) == {"at", "kind", "subject", "text"}


def test_what_would_be_too_large_is_cut_at_its_old_end_and_says_so(page: Dashboard) -> None:
    got = page.ask(f"{ONE}/events?since=1&until=600001").value
    assert got["is_cut"]
    assert len(got["events"]) == 5000
    assert got["events"][-1]["at"] == 600_000


def test_the_journal_of_a_node(page: Dashboard) -> None:
    got = page.ask(f"{NODE}/journal?lines=3").value["entries"]
    assert [one["message"] for one in got] == [f"line {n} of compute-01" for n in range(3)]


@pytest.mark.parametrize(
    "query",
    [
        *(
            f"{name}={value}"
            for name in ("since", "until", "step")
            for value in ("nan", "inf", "-inf", "1e308", "1e999", "x", "", "0x10", "1_0", "9" * 400)
        ),
        "since=5&until=5",
        "since=6&until=5",
        "since=0&until=99999999",
        "step=-1",
        "until=1e12",
        "since=-1e11",
    ],
)
def test_a_span_that_is_none_is_refused(page: Dashboard, query: str) -> None:
    assert error_of(page, f"{SERIES}&{query}", 400)


@pytest.mark.parametrize(
    "query",
    [
        "",
        "name=cpu",
        "subject=host",
        "name=../cpu&subject=host",
        "name=CPU&subject=host",
        "name=cpu&subject=",
        f"name={'x' * 41}&subject=host",
        f"name=cpu&subject={'x' * 101}",
        "name=cpu&subject=%00",
        "name=cpu&subject=a%0Ab",
        "name=cpu&subject=%ff",
        "name=cpu;drop&subject=host",
    ],
)
def test_a_series_that_none_can_be_is_refused(page: Dashboard, query: str) -> None:
    assert error_of(page, f"{ONE}/series?{query}", 400)


@pytest.mark.parametrize("lines", ["0", "-1", "1001", "nan", "1e9", "x", ""])
def test_so_many_lines_are_refused(page: Dashboard, lines: str) -> None:
    assert error_of(page, f"{NODE}/journal?lines={lines}", 400)


@pytest.mark.parametrize(
    "path",
    [
        "/api/clusters/no/snapshot",
        "/api/clusters/MADE-UP/jobs",
        "/api/clusters/..%2F..%2Fetc/jobs",
        "/api/clusters/%00/events",
        "/api/clusters//snapshot",
        f"/api/clusters/{'x' * 5000}/snapshot",
        f"{ONE}/nodes/no/journal",
        f"{ONE}/nodes/..%2Fcontroller/journal",
        "/api/",
        "/api/about/",
        "/API/about",
        "//api/about",
        "/docs",
        "/openapi.json",
    ],
)
def test_what_is_not_there_is_not_found(page: Dashboard, path: str) -> None:
    assert page.ask(path).status == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW"])
def test_nothing_can_be_changed(page: Dashboard, method: str) -> None:
    for path in ("/", "/static/page.css", "/api/about", "/api/stream", f"{ONE}/jobs"):
        got = page.ask(path, method=method, headers={"Origin": page.origin})
        assert (path, got.status) == (path, 405)
    assert page.ask("/api/login").status == 405


def test_a_head_has_no_body_and_a_stream_does_not_begin(page: Dashboard) -> None:
    for path in ("/api/about", "/api/stream"):
        got = page.ask(path, method="HEAD")
        assert (got.status, got.body) == (200, b"")


@pytest.mark.parametrize(
    "path",
    [
        "/static/../app.py",
        "/static/../../dashboard/app.py",
        "/static/..%2fapp.py",
        "/static/%2e%2e/app.py",
        "/static/..%5capp.py",
        "/static//etc/passwd",
        "/static/%2fetc%2fpasswd",
        "/static/%00index.html",
        "/static/./index.html",
        "/static/index.html/",
        "/static/",
        "/static",
        "/app.py",
        "/../../../../etc/passwd",
    ],
)
def test_no_path_leads_out_of_the_page(page: Dashboard, path: str) -> None:
    got = page.ask(path)
    assert got.status == 404
    assert "error" in got.value


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /api/about HTTP/1.1\r\n\r\n",
        b"nonsense\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET " + b"/" * 30_000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n" + b"X: y\r\n" * 5000 + b"\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"POST /api/login HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n%b" % CHUNKED,
        b"GET http://evil.example/ HTTP/1.1\r\nHost: evil.example\r\n\r\n",
        b"CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example\r\n\r\n",
    ],
)
def test_what_is_no_request_of_a_browser_is_refused(page: Dashboard, sent: bytes) -> None:
    said = b""
    # It may be gone before all is sent or read.
    with page.connect() as line, suppress(ConnectionError):
        line.sendall(sent)
        if sent.startswith(b"\x16"):
            line.shutdown(1)
        said = line.recv(12)
    assert said[9:10] in (b"4", b"")
    assert page.ask("/api/about").status == 200


def test_a_figure_that_is_none_is_not_passed_on(page: Dashboard) -> None:
    """JSON has neither, and the page could not read any of it."""
    for name in ("nan", "inf"):
        assert "figure" in error_of(page, f"{ONE}/series?name={name}&subject=host", 503)


def test_a_page_gets_the_newest_at_once_and_then_each_new_one(page: Dashboard) -> None:
    with closing(page.open_stream("?cluster=made-up")) as stream:
        assert stream.status() == 200
        seen = [stream.until("snapshot")["at"] for _ in range(3)]
    assert seen == sorted(set(seen))
    with closing(page.open_stream("?cluster=made-up")) as stream:
        told = dict(stream.events().__next__() for _ in range(2))
    assert [one["name"] for one in told["clusters"]] == ["made-up", "second"]
    assert told["snapshot"]["at"] >= seen[-1]


def test_a_page_gets_the_clusters_that_it_asks_for(page: Dashboard) -> None:
    with closing(page.open_stream("?cluster=second")) as stream:
        assert {stream.until("snapshot")["cluster"] for _ in range(3)} == {"second"}
    with closing(page.open_stream()) as stream:
        for name in ("made-up", "second"):
            stream.until("snapshot", cluster=name)


def test_clusters_come_and_go_under_an_open_page(own: Dashboard, clusters: Path) -> None:
    with closing(own.open_stream()) as stream:
        stream.until("snapshot", cluster="made-up")
        (clusters / "new").mkdir()
        stream.until("snapshot", cluster="new")
        shutil.rmtree(clusters / "made-up")
        assert stream.until("gone") == {"cluster": "made-up"}
        assert [one["name"] for one in stream.until("clusters")] == ["new"]
        stream.until("snapshot", cluster="new")
    assert own.ask(f"{ONE}/snapshot").status == 404


def test_a_page_survives_the_end_of_the_collector(own: Dashboard, clusters: Path) -> None:
    dead = clusters / "made-up" / "dead"
    with closing(own.open_stream()) as stream:
        stream.until("snapshot")
        dead.touch()
        while not stream.until("snapshot")["sources"][0]["trouble"]:
            pass
        assert error_of(own, SERIES, 503) == "the collector has ended"
        dead.unlink()
        while stream.until("snapshot")["sources"][0]["trouble"]:
            pass
    assert own.ask(SERIES).status == 200


def test_a_collector_that_hangs_keeps_nobody_from_the_others(
    own: Dashboard, clusters: Path
) -> None:
    (clusters / "other").mkdir()
    hung = clusters / "made-up" / "hung"
    wait_until(lambda: len(own.ask("/api/clusters").value) == 2, Deadline.after(PATIENCE_S), "both")
    hung.touch()
    assert error_of(own, SERIES, 504) == "there was no answer in time"
    assert own.ask("/api/clusters/other/series?name=cpu&subject=host").status == 200
    hung.unlink()
    wait_until(lambda: own.ask(SERIES).status == 200, Deadline.after(PATIENCE_S), "an answer")


def test_an_event_comes_once(own: Dashboard) -> None:
    """The collector tells of the same ones again and again."""
    with closing(own.open_stream()) as stream:
        seen = [stream.until("event") for _ in range(3)]
    assert {one["cluster"] for one in seen} == {"made-up"}
    times = [one["at"] for one in seen]
    assert times == sorted(set(times))


def test_a_console_passes_on_both_ways(page: Dashboard) -> None:
    with closing(page.open_console(f"{NODE}/console")) as console:
        assert json.loads(console.receive()) == {"kind": "serial", "node": "compute-01"}
        console.until(b"# ")
        console.send(b"id -u\r")
        assert b"id -u" in console.until(b"# ")
        everything = bytes(range(256)).replace(b"\r", b"")
        console.send(everything)
        assert console.until(everything).endswith(everything)


def test_a_console_to_no_node_says_so(page: Dashboard) -> None:
    for path in (f"{ONE}/nodes/no/console", "/api/clusters/no/nodes/compute-01/console"):
        with closing(page.open_console(path)) as console:
            assert console.is_open
            assert (end := console.receive()).code == 4404
            assert end.reason == "there is no such node"


def test_only_so_many_consoles_are_open(page: Dashboard) -> None:
    with ExitStack() as stack:
        for _ in range(8):
            one = stack.enter_context(closing(page.open_console(f"{NODE}/console")))
            one.until(b"# ")
        late = stack.enter_context(closing(page.open_console(f"{NODE}/console")))
        assert late.receive().code == 4429
    wait_until(lambda: _opens(page), Deadline.after(PATIENCE_S), "a free place")


def _opens(page: Dashboard) -> bool:
    with closing(page.open_console(f"{NODE}/console")) as console:
        return isinstance(console.receive(), str)


def test_a_message_that_is_too_long_ends_the_console(page: Dashboard) -> None:
    with closing(page.open_console(f"{NODE}/console")) as console:
        console.until(b"# ")
        console.send(b"x" * 100_000)
        assert console.receive().code == 1009
    assert page.ask("/api/about").status == 200


def test_there_is_no_console_unless_it_was_asked_for() -> None:
    with made_up_dashboard("--no-console") as page:
        assert not page.ask("/api/about").value["has_console"]
        with closing(page.open_console(f"{NODE}/console")) as console:
            assert console.refusal in (403, 404)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_it_ends_at_once_with_everything_open(clusters: Path, number: int) -> None:
    """Streams, also of readers that do not read, a console, a request that hangs, half a one."""
    (clusters / "hung-up").mkdir()
    with made_up_dashboard("--of", clusters, "--nodes", "200") as page, ExitStack() as stack:
        for _ in range(5):
            stack.enter_context(closing(page.open_stream())).until("snapshot")
            stack.enter_context(closing(page.open_stream(receives=4096))).status()
        stack.enter_context(closing(page.open_console(f"{NODE}/console"))).until(b"# ")
        (clusters / "hung-up" / "hung").touch()
        asking = stack.enter_context(page.connect())
        asking.sendall(
            f"GET /api/clusters/hung-up/series?name=cpu&subject=host HTTP/1.1\r\n"
            f"Host: 127.0.0.1:{page.port}\r\nCookie: {page.cookie}\r\n\r\n".encode()
        )
        stack.enter_context(page.connect()).sendall(b"GET / HT")
        page.process.send_signal(number)
        # The limit is that of a hang: the grace of uvicorn for open connections has none.
        assert page.process.wait(15) == 0
