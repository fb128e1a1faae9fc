"""The DNS proxy for guests: it asks this host's own name servers."""

import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from threading import BoundedSemaphore, Thread

from ai_how.host.connections import serve_connections
from ai_how.host.listening import NAMES_PORT
from ai_how.host.resolver import DEFAULT, find_servers

PATIENCE_S = 4.0  # per server; clients give up after 5 s
RESOLV_CONF = Path("/etc/resolv.conf")
LONGEST = 65535
AT_ONCE = 64
HEADER = 12  # bytes before the question; RFC 1035


def serve_names(lines: Sequence[socket.socket]) -> None:
    """Answer on all of them, in threads."""
    for line in lines:
        is_stream = line.type is socket.SOCK_STREAM
        answer = answer_streams if is_stream else answer_datagrams
        Thread(target=answer, args=(line,), daemon=True).start()


def ask(question: bytes) -> bytes:
    """The answer of the host's first name server that gives one, else SERVFAIL.

    The servers are read each time: the host may have moved to another network.
    """
    for server in _servers():
        with suppress(OSError), _socket_to(server, socket.SOCK_DGRAM) as way:
            way.send(question)
            for _ in range(AT_ONCE):
                answer = way.recv(LONGEST)
                if answer[:2] == question[:2]:
                    return answer
    return failure(question)


def failure(question: bytes) -> bytes:
    """The answer SERVFAIL to a question, so that nobody waits."""
    end = HEADER
    while end < len(question) and question[end]:
        end += question[end] + 1
    head = question[:2] + bytes([question[2] | 0x80, 0x82, 0, 1, 0, 0, 0, 0, 0, 0])
    return head + question[HEADER : end + 5]


def answer_datagrams(line: socket.socket) -> None:
    """Answer questions by UDP, a limited number at a time."""
    free = BoundedSemaphore(AT_ONCE)

    def answer(question: bytes, whom: tuple[str, int]) -> None:
        try:
            line.sendto(ask(question), whom)
        except OSError:
            return
        finally:
            free.release()

    while True:
        question, whom = line.recvfrom(LONGEST)
        if len(question) > HEADER and free.acquire(blocking=False):
            _begin(answer, question, whom, free=free)


def answer_streams(listener: socket.socket) -> None:
    """Answer questions by TCP: answers that are too large for a datagram."""

    def answer(line: socket.socket) -> None:
        line.settimeout(PATIENCE_S)
        while len(question := _read_message(line)) > HEADER:
            line.sendall(ask_by_stream(question))

    serve_connections(listener, answer, at_once=AT_ONCE)


def ask_by_stream(question: bytes) -> bytes:
    """Like `ask`, but question and answer are prefixed with their length."""
    for server in _servers():
        with suppress(OSError), _socket_to(server, socket.SOCK_STREAM) as way:
            way.sendall(question)
            if answer := _read_message(way):
                return answer
    answer = failure(question[2:])
    return len(answer).to_bytes(2) + answer


def _servers() -> list[str]:
    try:
        return find_servers(RESOLV_CONF.read_text(errors="replace")) or [DEFAULT]
    except OSError:
        return [DEFAULT]


def _socket_to(server: str, kind: socket.SocketKind) -> socket.socket:
    [(family, *_, address), *_] = socket.getaddrinfo(
        server, NAMES_PORT, type=kind, flags=socket.AI_NUMERICHOST
    )
    way = socket.socket(family, kind)
    try:
        way.settimeout(PATIENCE_S)
        way.connect(address)
    except OSError:
        way.close()
        raise
    return way


def _begin(answer: Callable[..., None], *what: object, free: BoundedSemaphore) -> None:
    """Answer on a thread; if no thread can be started, the client has to repeat the question."""
    try:
        Thread(target=answer, args=what, daemon=True).start()
    except RuntimeError:
        free.release()


def _read_message(line: socket.socket) -> bytes:
    """A message with its length prefix; empty at the end of the stream."""
    length = _read(line, 2)
    return length + _read(line, int.from_bytes(length))


def _read(line: socket.socket, count: int) -> bytes:
    """`count` bytes; fewer if the stream ends before."""
    got = b""
    while len(got) < count and (more := line.recv(count - len(got))):
        got += more
    return got
