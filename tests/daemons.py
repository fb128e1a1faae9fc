"""The libvirtd and the QEMUs of an embedded host: found, stopped, killed, cut off."""

import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ai_how.host.embedded import EmbeddedHost
from ai_how.waiting import Deadline, wait_until
from leaks import pids_inside, process_name

COMING_BACK_S = 60.0
PACKET_HEAD = 4  # a packet of libvirt's protocol begins with its whole length, big-endian


def supervisor_of(host: EmbeddedHost) -> int:
    supervisor = host.find_supervisor()
    assert supervisor
    return supervisor.pid


def socket_of(host: EmbeddedHost) -> Path:
    """Where its libvirtd listens."""
    supervisor = host.find_supervisor()
    assert supervisor
    return supervisor.socket


def daemon_of(host: EmbeddedHost) -> int:
    """The pid of its libvirtd, once there is one that takes connections."""

    def look() -> int | None:
        with socket.socket(socket.AF_UNIX) as client:
            try:
                client.connect(str(socket_of(host)))
            except OSError:
                return None
        pids = pids_inside(host, "libvirtd")
        return pids[0] if len(pids) == 1 else None

    return wait_until(look, Deadline.after(COMING_BACK_S), "libvirtd", interval_s=0.05)


def qemus_of(host: EmbeddedHost, cluster: str) -> dict[str, int]:
    """The QEMUs of a cluster's nodes, by the names of these."""
    found = {}
    for pid in pids_inside(host, "qemu-system-x86"):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:  # it has just ended
            continue
        names = [word for word in words if word.startswith(b"guest=")]
        name = names[0].decode().removeprefix("guest=").partition(",")[0] if names else ""
        node = name.removeprefix(f"{cluster}-")
        # Somebody else's may have a longer name.
        if node == "controller" or node.startswith("compute-"):
            found[node] = pid
    return found


def send(number: int, *pids: int) -> None:
    for pid in pids:
        os.kill(pid, number)


@contextmanager
def stopped(*pids: int) -> Iterator[None]:
    """Processes that do not run while the block does; they may be gone after it."""
    send(signal.SIGSTOP, *pids)
    try:
        yield
    finally:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def wait_for_stop(pid: int) -> None:
    """Until a process is stopped by a signal."""

    def is_stopped() -> bool:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"

    wait_until(is_stopped, Deadline.after(60), f"the stop of {pid}", interval_s=0.02)


def kill_daemon(host: EmbeddedHost) -> None:
    """SIGKILL to its libvirtd; returns when that has ended, and before another need be there."""
    daemon = daemon_of(host)
    send(signal.SIGKILL, daemon)
    # Until then it holds its socket, and daemon_of() might find it again.
    wait_until(
        lambda: process_name(daemon) is None,
        Deadline.after(60),
        "the end of libvirtd",
        interval_s=0.02,
    )


@contextmanager
def without_daemon(host: EmbeddedHost) -> Iterator[None]:
    """No libvirtd while the block runs, and one that takes connections after it."""
    with stopped(supervisor_of(host)):
        kill_daemon(host)
        yield
    daemon_of(host)


class CutSocket:
    """Stands between clients and libvirtd, and cuts one reply in half.

    `arm(n)`: the nth packet from then on goes out half, and both ends of its connection are closed.
    """

    def __init__(self, host: EmbeddedHost) -> None:
        self._path = socket_of(host)
        self._real = self._path.with_name("libvirt-real")
        self._guard = threading.Lock()
        self._at: int | None = None
        self.packets = 0
        self.cuts = 0

    def __enter__(self) -> "CutSocket":
        self._path.rename(self._real)
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(self._path))
        self._server.listen(16)
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._path.unlink()
        self._real.rename(self._path)

    def arm(self, at: int | None) -> None:
        with self._guard:
            self._at, self.packets, self.cuts = at, 0, 0

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                client = self._server.accept()[0]
                daemon = socket.socket(socket.AF_UNIX)
                daemon.connect(str(self._real))
                for work in (self._ask, self._answer):
                    threading.Thread(target=work, args=(client, daemon), daemon=True).start()

    def _ask(self, client: socket.socket, daemon: socket.socket) -> None:
        with suppress(OSError):
            while data := client.recv(65536):
                daemon.sendall(data)
        _shut(client, daemon)

    def _answer(self, client: socket.socket, daemon: socket.socket) -> None:
        with suppress(OSError):
            while packet := _read_packet(daemon):
                if self._is_cut():
                    client.sendall(packet[: len(packet) // 2])
                    break
                client.sendall(packet)
        _shut(client, daemon)

    def _is_cut(self) -> bool:
        with self._guard:
            is_cut = self.packets == self._at
            self.packets += 1
            self.cuts += is_cut
            return is_cut


def _read_packet(source: socket.socket) -> bytes:
    head = _read(source, PACKET_HEAD)
    return head + _read(source, int.from_bytes(head, "big") - PACKET_HEAD) if head else b""


def _read(source: socket.socket, size: int) -> bytes:
    """So many bytes; none where the other end has closed."""
    data = b""
    while len(data) < size:
        more = source.recv(size - len(data))
        if not more:
            return b""
        data += more
    return data


def _shut(*sockets: socket.socket) -> None:
    for one in sockets:
        with suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)
            one.close()
