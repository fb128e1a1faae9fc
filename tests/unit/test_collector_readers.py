"""Readers of a collector: many, slow, greedy, and those that say nonsense."""

import json
import socket
import threading
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from ai_how.clusters.collector_socket import connect_to
from ai_how.monitoring.asking import CollectorGoneError, Connection
from ai_how.monitoring.server import LONGEST_REQUEST, MOST_READERS, Server
from ai_how.waiting import Deadline, wait_until

LARGE = 4 << 20


def answer(asked):
    if asked["ask"] == "large":
        return json.dumps({"large": "x" * LARGE}).encode()
    if asked["ask"] == "echo":
        return json.dumps({"echo": asked["word"]}).encode()
    raise ValueError("unknown question")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "collector.sock"


@pytest.fixture
def server(path):
    one = Server(path, answer, stuck_s=1.0)
    yield one
    one.close()


def memory_kib():
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1])


def await_(ask):
    return wait_until(ask, Deadline.after(20), "it", interval_s=0.02)


@pytest.mark.fault("M04", "as many as there may be, and one more")
def test_one_reader_too_many_is_told_so(server, path):
    with ExitStack() as stack:
        open_ = [stack.enter_context(closing(Connection(path))) for _ in range(MOST_READERS)]
        for number, one in enumerate(open_):
            assert one.ask({"ask": "echo", "word": number}) == {"echo": number}
        with closing(Connection(path)) as late:
            assert late.next_line(5) == b'{"error": "it has too many readers"}'
        assert server.idle_s == 0
    await_(lambda: not server.readers)
    with closing(Connection(path)) as one:
        assert one.ask({"ask": "echo", "word": 1}) == {"echo": 1}


@pytest.mark.fault("M04", "questions without an end, and nonsense")
@pytest.mark.parametrize(
    "said",
    [
        b"\n",
        b"{}\n",
        b"[1]\n",
        b'"ask"\n',
        b'{"ask": 1e999}\n',
        b'{"ask": "echo"}\n',
        b"\xff\xfe\n",
        b"[" * 10_000 + b"\n",
        b'{"ask": "unknown"}\n',
    ],
)
def test_nonsense_is_answered_and_harms_nobody(server, path, said):
    with closing(connect_to(path, 5)) as line:
        line.sendall(said)
        assert b'"error"' in line.recv(1 << 16)
        line.sendall(b'{"ask": "echo", "word": 7}\n')
        assert line.recv(1 << 16) == b'{"echo": 7}\n'


@pytest.mark.fault("M04", "a question that is too long")
def test_a_question_without_an_end_ends_the_connection(server, path):
    with closing(connect_to(path, 5)) as line:
        with pytest.raises(OSError, match=r"reset|Broken"):
            line.sendall(b"x" * (100 * LONGEST_REQUEST))
        with closing(Connection(path)) as other:
            assert other.ask({"ask": "echo", "word": 1}) == {"echo": 1}


@pytest.mark.fault("M04", "ten thousand questions")
def test_ten_thousand_questions_leave_nothing_behind(server, path):
    with closing(Connection(path)) as one:
        for number in range(2000):
            one.ask({"ask": "echo", "word": number})
        before = memory_kib()
        for number in range(8000):
            assert one.ask({"ask": "echo", "word": number}) == {"echo": number}
        assert memory_kib() - before < 4096


@pytest.mark.fault("M04", "one that does not read, beside one that does")
def test_a_reader_that_does_not_read_delays_nobody_and_is_dismissed(server, path):
    with ExitStack() as stack:
        slow = [stack.enter_context(closing(connect_to(path, 5))) for _ in range(20)]
        before = memory_kib()
        for line in slow[:10]:
            line.sendall(b'{"ask": "follow"}\n')
        for line in slow[10:]:
            line.sendall(b'{"ask": "large"}\n' * 100)
        with closing(Connection(path)) as quick:
            for number in range(50):
                server.publish(b'{"snapshot": "%b"}\n' % (b"x" * 100_000))
                assert quick.ask({"ask": "echo", "word": number}) == {"echo": number}
            assert memory_kib() - before < 20 * 3 * LARGE // 1024
            await_(lambda: server.readers == 1)


def test_who_follows_and_is_behind_gets_the_newest(server, path):
    with closing(connect_to(path, 5)) as line:
        line.sendall(b'{"ask": "follow"}\n')
        assert line.recv(100) == b'{"follows": true}\n'
        for number in range(200):
            server.publish(b'{"snapshot": %d, "fill": "%b"}\n' % (number, b"x" * 50_000))
        said = b""
        while b'"snapshot": 199' not in said or not said.endswith(b"\n"):
            said += line.recv(1 << 20)
        numbers = [json.loads(one)["snapshot"] for one in said.splitlines()]
        assert numbers == sorted(set(numbers))
        assert len(numbers) < 200


def test_a_question_of_a_program_that_only_writes_is_answered(server, path):
    """As `nc -U` does it: it closes its side when its input ends."""
    with closing(connect_to(path, 5)) as line:
        line.sendall(b'{"ask": "echo", "word": 1}\n{"ask": "echo", "word": 2}\n')
        line.shutdown(socket.SHUT_WR)
        said = b""
        while piece := line.recv(1 << 16):
            said += piece
        assert said == b'{"echo": 1}\n{"echo": 2}\n'


def test_a_collector_that_hangs_is_given_up(path):
    with closing(socket.socket(socket.AF_UNIX)) as hanging:
        hanging.bind(str(path))
        hanging.listen()
        one = Connection(path, patience_s=0.2)
        with pytest.raises(CollectorGoneError, match="does not answer"):
            one.ask({"ask": "echo", "word": 1})


def test_one_that_waits_is_woken_by_its_close(server, path):
    one = Connection(path)

    def wait():
        with pytest.raises(CollectorGoneError, match="has ended"):
            one.next_line(60)

    waiting = threading.Thread(target=wait)
    waiting.start()
    one.interrupt()
    waiting.join(10)
    assert not waiting.is_alive()
    one.close()


def test_the_socket_is_private(server, path):
    assert path.stat().st_mode & 0o777 == 0o600
