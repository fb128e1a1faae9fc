"""Find the running embedded host. The kernel decides; our files only make it faster.

A supervisor locks the directory of its host for its whole life. Its sockets are in its own mount
namespace, which no logout and no cleaner of the real host reaches.
"""

import fcntl
import json
import os
import re
import shlex
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from ai_how.errors import DeadlineError, HostError
from ai_how.host.reading import read_text
from ai_how.host.supervisor import SOCKETS
from ai_how.state.embedded_paths import EmbeddedPaths
from ai_how.state.files import read_file
from ai_how.waiting import Deadline, wait_until

MODULE = b"ai_how.host.supervisor"
SETTINGS = Path("etc/libvirt/libvirtd.conf")
COMING_UP_S = 30.0
FLOCK = struct.Struct("hhqqi0q")  # struct flock of fcntl(2), with 64 bits


@dataclass(frozen=True, slots=True)
class Supervisor:
    """The PID 1 of a running embedded host, as seen from outside."""

    pid: int
    start_ticks: int
    launcher: int
    has_kvm: bool
    boot_id: str = ""

    @classmethod
    def find(cls, pid: int, *, has_kvm: bool) -> "Supervisor | None":
        """The supervisor with this pid, None if it has ended."""
        fields = stat_fields(pid)
        if fields is None:
            return None
        return cls(pid, int(fields[19]), int(fields[1]), has_kvm, _boot_id())

    @property
    def is_alive(self) -> bool:
        """Whether this process (not a later one with its pid) exists and is not a zombie."""
        return self.boot_id in {"", _boot_id()} and start_ticks(self.pid) == self.start_ticks

    @property
    def root(self) -> Path:
        """The root directory of the supervisor and its daemons, as a path for us."""
        return Path(f"/proc/{self.pid}/root")

    @property
    def socket(self) -> Path:
        """The socket of its libvirtd; for an earlier version in a directory of the host."""
        told = re.search(
            r'^unix_sock_dir = "/([^"]+)"', read_text(self.root / SETTINGS) or "", re.M
        )
        return self.root / (told[1] if told else SOCKETS.relative_to("/")) / "libvirt-sock"

    @property
    def has_own_run(self) -> bool:
        """Whether its /run is private yet: before that, the real host's libvirt is visible in it.

        Also true for a supervisor that is ending, of which nothing is visible.
        """
        try:
            return not (self.root / "run").samefile("/run")
        except OSError:
            return True

    def has_files(self, paths: EmbeddedPaths) -> bool:
        """Whether libvirt's definitions are still stored there, in a directory not removed."""
        try:
            return (self.root / "etc/libvirt").samefile(paths.etc)
        except OSError:
            return False

    @property
    def uri(self) -> str:
        return f"qemu+unix:///system?socket={quote(str(self.socket))}"


def find_supervisor(paths: EmbeddedPaths) -> Supervisor | None:
    """The supervisor of the host with its files there, None if there is none.

    Raises HostError if a supervisor holds the host's lock but is not visible from here.
    """
    try:
        return wait_until(
            # A process that starts a supervisor holds the lock before anything is visible.
            lambda: (found,) if (found := _look(paths)) or not is_held(paths.root) else None,
            Deadline.after(COMING_UP_S),
            "the embedded host",
            interval_s=0.02,
        )[0]
    except DeadlineError:
        raise HostError(
            "The embedded host is running, but it is not visible from here",
            details=f"A process holds {paths.root}; it may be in another container.",
            hint=f"sudo fuser -v {shlex.quote(str(paths.root))}",
        ) from None


def hold(directory: Path) -> int:
    """Take the lock of the host with its files there; the open descriptor holds it.

    The directory itself is locked, as a file in it could be removed. Raises HostError if a
    supervisor has the lock.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # The state of flock can only be queried by taking it; this error means that it is held.
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, FLOCK.pack(fcntl.F_RDLCK, 0, 0, 0, 0))
    except OSError as error:
        os.close(descriptor)
        raise HostError(
            f"{directory} is in use by a running embedded host: {error.strerror}",
            hint=f"sudo fuser -v {shlex.quote(str(directory))}",
        ) from error
    return descriptor


def is_held(directory: Path) -> bool:
    """Whether a supervisor, or a process that starts one, holds the lock of that host."""
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return is_locked(descriptor)
    except OSError:
        return False  # a file system without such locks: rely on what is visible
    finally:
        os.close(descriptor)


def is_locked(descriptor: int) -> bool:
    """Whether another process holds a lock of fcntl on an open file. Raises OSError."""
    asked = FLOCK.pack(fcntl.F_WRLCK, 0, 0, 0, 0)
    told = FLOCK.unpack(fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, asked))
    return bool(told[0] != fcntl.F_UNLCK)


def accepts(supervisor: Supervisor) -> bool:
    """Whether its libvirtd accepts connections."""
    if not supervisor.has_own_run:
        return False
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(str(supervisor.socket))
        except OSError:
            return False
    return True


def start_ticks(pid: int) -> int | None:
    """The start time of a process in clock ticks since boot; None if there is no process."""
    fields = stat_fields(pid)
    return int(fields[19]) if fields else None


def stat_fields(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat from the third on; None for no process and for a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in {"Z", "X"} else fields


def children(parent: int, name: str) -> list[int]:
    """The child processes with that name, not yet reaped."""
    found = []
    for pid in _pids():
        fields = stat_fields(pid)
        with suppress(OSError):
            is_child = fields and int(fields[1]) == parent
            if is_child and Path(f"/proc/{pid}/comm").read_text() == f"{name}\n":
                found.append(pid)
    return found


def _look(paths: EmbeddedPaths) -> Supervisor | None:
    """The supervisor of the record; if that is missing or stale, any supervisor of this host."""
    if found := _read_record(paths):
        return found
    for pid in _pids():
        if _is_supervisor(pid, paths):
            has_kvm = Path(f"/proc/{pid}/root/dev/kvm").exists()
            if there := Supervisor.find(pid, has_kvm=has_kvm):
                return there
    return None


def _read_record(paths: EmbeddedPaths) -> Supervisor | None:
    """The recorded supervisor, if it is ours and belongs to this directory, not to a copy."""
    try:
        found = Supervisor(**json.loads(read_file(paths.record)))
        if not found.is_alive or Path(f"/proc/{found.pid}").stat().st_uid != os.geteuid():
            return None
    except (OSError, ValueError, TypeError):
        return None
    # A supervisor that ends has released the lock and its root; its guests may still exist.
    return found if is_held(paths.root) or not os.path.lexists(found.root / ".") else None


def _is_supervisor(pid: int, paths: EmbeddedPaths) -> bool:
    """Whether a process is the PID 1 of this host: by its files, or by its former ones."""
    process = Path(f"/proc/{pid}")
    try:
        words = (process / "cmdline").read_bytes().split(b"\0")
        if MODULE not in words or process.stat().st_uid != os.geteuid():
            return False
        fields = stat_fields(pid)
        # `unshare` has the same words, but is not it; nor is a container's copy of it.
        if not fields or not Path(f"/proc/{fields[1]}/root").samefile("/"):
            return False
        its_files = process / "root/etc/libvirt"
        if paths.etc.exists() and its_files.samefile(paths.etc):
            return True
        # Removing the directory of a running host does not end the host.
        return _is_removed(process) and os.fsencode(paths.order) in words
    except OSError:
        return False


def _is_removed(process: Path) -> bool:
    mounts = (process / "mountinfo").read_bytes().rstrip(b"\n").split(b"\n")
    places = [line.split(b" ")[3:5] for line in mounts]
    return any(at == b"/etc/libvirt" and root.endswith(b"//deleted") for root, at in places)


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]  # noqa: PTH208


def _boot_id() -> str:
    return read_text(Path("/proc/sys/kernel/random/boot_id")) or ""
