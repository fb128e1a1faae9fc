import http.client
import json
import socket
import threading
from contextlib import closing, contextmanager
from dataclasses import replace

import pytest

from ai_how.cli.metrics_pages import LARGEST_PAGE, _ask
from ai_how.dashboard.metrics import Seen
from ai_how.dashboard.metrics_server import AT_ONCE, MetricsServer, Readers
from ai_how.dashboard.metrics_targets import ScrapedNode, render_targets
from ai_how.errors import HostError
from ai_how.host.dialing import Dialer
from ai_how.host.ports import WayIn, listen
from made_up_cluster import NOON, make_snapshot

TOKEN = "0123456789abcdef"  # noqa: S105
OURS = Readers(hosts=frozenset({"127.0.0.1", "localhost", "[::1]"}))


class Pages:
    def __init__(self):
        self.looks = 0
        self.error = None

    def see(self):
        self.looks += 1
        if self.error:
            raise self.error
        return [Seen(snapshot=make_snapshot())]

    def ask_node(self, node, port):
        return f"from_{node} {port}\n".encode() if node == "compute-01" else None


@contextmanager
def serving(pages, readers=OURS):
    with listen("127.0.0.1", 0) as line:
        server = MetricsServer(line, pages, readers, now=lambda: NOON)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield line.getsockname()[1]
        finally:
            server.shutdown()
            thread.join()


def ask(port, path="/metrics", method="GET", **headers):
    """Status, headers and body."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=20)) as line:
        line.request(method, path, headers={k.replace("_", "-"): v for k, v in headers.items()})
        answer = line.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()


def test_the_page_is_served_in_both_forms():
    with serving(Pages()) as port:
        status, headers, text = ask(port)
        assert (status, headers["Content-Type"]) == (
            200,
            "text/plain; version=0.0.4; charset=utf-8",
        )
        assert b'slurm_nodes{cluster="made-up"} 2.0' in text
        status, headers, strict = ask(port, Accept="application/openmetrics-text;version=1.0.0")
        assert headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
        assert strict.endswith(b"# EOF\n")
        assert ask(port, method="HEAD")[2] == b""
        assert int(ask(port, method="HEAD")[1]["Content-Length"]) == len(text)


def test_pages_of_exporters_in_nodes_are_passed_on():
    with serving(Pages()) as port:
        assert ask(port, "/metrics/nodes/compute-01")[2] == b"from_compute-01 9100\n"
        assert ask(port, "/metrics/nodes/compute%2D01/dcgm")[2] == b"from_compute-01 9400\n"


@pytest.mark.parametrize(
    "path",
    ["/", "/metrics/", "/metrics/nodes/", "/metrics/nodes/other", "/metrics/nodes/compute-01/22"],
)
def test_nothing_else_is_there(path):
    with serving(Pages()) as port:
        assert ask(port, path)[0] == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_nothing_can_be_written(method):
    with serving(Pages()) as port:
        assert ask(port, method=method)[0] == 501


@pytest.mark.parametrize(
    ("told", "status"),
    [
        ({}, 401),
        ({"Authorization": f"Bearer {TOKEN}"}, 200),
        ({"Authorization": f"bearer  {TOKEN}"}, 200),
        ({"Authorization": f"Bearer {TOKEN[:-1]}"}, 401),
        ({"Authorization": TOKEN}, 401),
        ({"Authorization": f"Basic {TOKEN}"}, 401),
        ({"Authorization": "Bearer "}, 401),
        ({"Authorization": "Bearer \xe9"}, 401),
    ],
)
def test_with_a_token_only_who_has_it_reads(told, status):
    with serving(Pages(), replace(OURS, token=TOKEN)) as port:
        answer = ask(port, **told)
        assert answer[0] == status
        assert TOKEN.encode() not in answer[2]
        assert ("WWW-Authenticate" in answer[1]) is (status == 401)
        assert ask(port, "/metrics/nodes/compute-01", **told)[0] == status


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:9717", 200),
        ("localhost", 200),
        ("[::1]:80", 200),
        ("evil.example:9717", 403),
        ("127.0.0.1.evil.example", 403),
        ("[::1]x.evil.example", 403),
        ("", 403),
    ],
)
def test_on_loopback_a_name_that_leads_here_is_refused(host, status):
    with serving(Pages()) as port:
        assert ask(port, Host=host)[0] == status


def test_scrapers_at_the_same_time_share_a_look_and_10000_requests_do_no_harm():
    pages = Pages()
    with serving(pages) as port:
        answers = [0] * 20

        def scrape(place):
            answers[place] = sum(ask(port, "/")[0] == 404 for _ in range(499)) + (
                ask(port)[0] == 200
            )

        threads = [threading.Thread(target=scrape, args=(one,)) for one in range(len(answers))]
        for one in threads:
            one.start()
        for one in threads:
            one.join()
        assert answers == [500] * 20
        assert pages.looks < 20
        assert threading.active_count() < AT_ONCE + 10


def test_who_says_nothing_does_not_keep_others_from_being_answered():
    with serving(Pages()) as port:
        silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(AT_ONCE - 1)]
        assert ask(port)[0] == 200
        for one in silent:
            one.close()


def test_a_look_that_fails_is_said_and_the_next_one_is_made_again():
    pages = Pages()
    pages.error = HostError("the embedded host is down")
    with serving(pages) as port:
        assert ask(port)[::2] == (503, b"the embedded host is down\n")
        pages.error = None
        assert ask(port)[0] == 200


def test_targets_are_reached_through_us():
    text = render_targets(
        "demo",
        "127.0.0.1:9717",
        [
            ScrapedNode("controller"),
            ScrapedNode("compute-01", has_node_exporter=True),
            ScrapedNode("compute-02", has_node_exporter=True, has_gpus=True),
        ],
    )
    found = json.loads(text)
    assert [one["targets"] for one in found] == [["127.0.0.1:9717"]] * 4
    labels = [one["labels"] for one in found]
    assert "cluster" not in labels[0]  # the samples have it
    assert [one["job"] for one in labels] == ["ai-how", "node", "node", "dcgm"]
    assert labels[1]["__metrics_path__"] == "/metrics/nodes/compute-01"
    assert labels[3]["__metrics_path__"] == "/metrics/nodes/compute-02/dcgm"
    assert labels[3]["instance"] == "demo/compute-02"


@contextmanager
def exporter(answer):
    """A port on which a node answers this to whatever it is asked, and the connections to it."""
    with listen("127.0.0.1", 0) as line:

        def serve():
            try:
                node, _ = line.accept()
            except OSError:
                return
            with node:
                node.recv(4096)
                try:
                    for part in answer:
                        node.sendall(part)
                except OSError:
                    pass

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield line.getsockname()[1]
        line.close()
        thread.join(10)


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n"


@pytest.mark.parametrize(
    ("answer", "trouble"),
    [
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nx 1\n"], None),
        ([HEAD, b"x 1\n"], None),
        ([b"HTTP/1.1 500 no\r\n\r\n"], "answers 500"),
        ([b"HTTP/1.1 302 no\r\nLocation: http://elsewhere/\r\n\r\n"], "answers 302"),
        ([b"garbage\r\n\r\n"], "gives no page"),
        ([], "gives no page"),
        ([HEAD, *[b"x" * (1 << 20)] * 9], "does not end"),
        ([b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 500 + b"\r\n"], "gives no page"),
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx 1\n"], "gives no page"),
    ],
)
def test_a_guest_that_lies_gives_an_error_and_no_more(answer, trouble):
    assert LARGEST_PAGE < 9 << 20
    with exporter(answer) as port, Dialer(WayIn).connect("127.0.0.1", port) as line:
        line.settimeout(5)
        if trouble is None:
            assert _ask(line, "compute-01") == b"x 1\n"
        else:
            with pytest.raises(HostError, match=trouble):
                _ask(line, "compute-01")


@pytest.fixture
def entered():
    """A way in that enters nothing, but has a process of its own."""
    dialer = Dialer(lambda: WayIn(enter=("env", "A=b")))
    yield dialer
    dialer.close()


def test_connections_are_made_by_a_process_in_the_network_of_the_nodes(entered):
    with listen("127.0.0.1", 0) as line:
        port = line.getsockname()[1]
        for _ in range(3):
            with entered.connect("127.0.0.1", port) as ours:
                theirs, _ = line.accept()
                with theirs:
                    theirs.sendall(b"hello")
                    assert ours.recv(16) == b"hello"
    with pytest.raises(HostError, match="Connection refused"):
        entered.connect("127.0.0.1", port)


def test_a_dialer_that_was_killed_is_started_again(entered):
    with listen("127.0.0.1", 0) as line:
        port = line.getsockname()[1]
        entered.connect("127.0.0.1", port).close()
        entered._child[2].kill()
        entered._child[2].wait()
        entered.connect("127.0.0.1", port).close()


def test_a_host_that_is_down_is_said():
    with pytest.raises(HostError, match="is down"):
        Dialer(lambda: None).connect("127.0.0.1", 1)
