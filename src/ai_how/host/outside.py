"""The part of an embedded host that runs outside: pasta, and the DNS proxy for its guests.

uplink.py runs it as `python -m ai_how.host.outside LOG PID` in the user's namespaces. Standard
input is connected to the supervisor, which sends the sockets for DNS; we end when it does.
"""

import os
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import BoundedSemaphore, Thread

from ai_how.errors import AiHowError
from ai_how.host.network_facts import read_own_addresses
from ai_how.host.resolver import DEFAULT, find_servers
from ai_how.host.uplink import HOST_CHAIN, MANY_SOCKETS, NAMES_PORT, RESTORING, pasta_argv
from ai_how.process import get_tool, run, start_daemon

PATIENCE_S = 4.0  # per server; clients give up after 5 s
RESOLV_CONF = Path("/etc/resolv.conf")
LONGEST = 65535
AT_ONCE = 64
HEADER = 12  # bytes before the question; RFC 1035
RTMGRP_IPV4_IFADDR = 0x10  # rtnetlink(7): a message whenever an address changes
REFRESH_S = 60.0
AGAIN_S = 2.0


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
    free = BoundedSemaphore(AT_ONCE)

    def answer(line: socket.socket) -> None:
        try:
            with line, suppress(OSError):
                line.settimeout(PATIENCE_S)
                while len(question := _read_message(line)) > HEADER:
                    line.sendall(ask_by_stream(question))
        finally:
            free.release()

    while True:
        line, _ = listener.accept()
        free.acquire()
        _begin(answer, line, free=free)


def ask_by_stream(question: bytes) -> bytes:
    """Like `ask`, but question and answer are prefixed with their length."""
    for server in _servers():
        with suppress(OSError), _socket_to(server, socket.SOCK_STREAM) as way:
            way.sendall(question)
            if answer := _read_message(way):
                return answer
    answer = failure(question[2:])
    return len(answer).to_bytes(2) + answer


def shut_addresses(pid: int) -> None:
    """Block guests' access to this host's addresses: pasta would connect to them as our user."""
    rules = "".join(f"-A {HOST_CHAIN} -d {address} -j DROP\n" for address in read_own_addresses())
    # A root user's host, also in a container, has no user namespace of its own.
    user = ["-U", "--preserve-credentials"] if _user_namespace(pid) != _user_namespace() else []
    run(
        [
            *(get_tool("nsenter", package="util-linux"), "-t", str(pid)),
            *(*user, "-m", "-n", "--"),
            *(get_tool("iptables-restore", package="iptables"), *RESTORING),
        ],
        stdin=f"*mangle\n:{HOST_CHAIN} - [0:0]\n{rules}COMMIT\n",
    )


def watch_addresses(pid: int, changes: socket.socket) -> None:
    """Block addresses that are added later."""
    while True:
        with suppress(OSError):  # timeout, or more messages than the buffer holds
            changes.recv(LONGEST)
        try:
            shut_addresses(pid)
            changes.settimeout(REFRESH_S)
        except (AiHowError, ValueError) as error:
            # Until then guests reach what was added.
            changes.settimeout(AGAIN_S)
            say(f"the addresses of this host could not be blocked for guests: {error}")


def _user_namespace(pid: int | str = "self") -> Path:
    return Path(f"/proc/{pid}/ns/user").readlink()


def say(line: str) -> None:
    """A line for the supervisor's log."""
    os.write(2, f"{line}\n".encode())


def main(log: Path, pid: int) -> None:
    link = socket.socket(fileno=0)
    said, lines, _, _ = socket.recv_fds(link, 1, MANY_SOCKETS)
    if not said:
        return
    changes = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    changes.bind((0, RTMGRP_IPV4_IFADDR))
    changes.settimeout(REFRESH_S)
    shut_addresses(pid)
    for line in map(_opened, lines):
        is_stream = line.type is socket.SOCK_STREAM
        answer = answer_streams if is_stream else answer_datagrams
        Thread(target=answer, args=(line,), daemon=True).start()
    pasta = start_daemon(pasta_argv(pid), log=log)
    Thread(target=watch_addresses, args=(pid, changes), daemon=True).start()
    link.recv(1)  # until the supervisor ends
    pasta.terminate()
    pasta.wait()


def _opened(descriptor: int) -> socket.socket:
    return socket.socket(fileno=descriptor)


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


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), int(sys.argv[2]))
    except (AiHowError, OSError, ValueError) as error:
        say(f"guests have no uplink: {error}")
        sys.exit(1)
