"""The embedded host: our own libvirtd in namespaces of its own, started on demand, without root.

Everything that libvirt makes (bridges, firewall rules, dnsmasq, guests) lives in private network,
mount and PID namespaces, whose PID 1 is supervisor.py: the real host is left as it was.
"""

import json
import os
import shutil
import signal
import socket
import stat
import struct
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from urllib.parse import quote

from ai_how.errors import DeadlineError, HostError
from ai_how.host.supervisor import Order
from ai_how.host.uplink import give_uplink
from ai_how.process import get_tool, start_detached
from ai_how.state.lock import held_lock
from ai_how.state.paths import EmbeddedPaths, ensure_private_directory
from ai_how.waiting import Deadline, wait_until

PATIENCE_S = 60.0
PROGRAMS = (  # what must be installed, and the Debian package that has it
    ("libvirtd", "libvirt-daemon-system"),
    ("virtlogd", "libvirt-daemon-system"),
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("qemu-img", "qemu-utils"),
    ("dnsmasq", "dnsmasq-base"),
    ("iptables", "iptables"),
    ("unshare", "util-linux"),
    ("nsenter", "util-linux"),
    ("ip", "iproute2"),
)
PROGRAMS_OF_USERS = (("newuidmap", "uidmap"), ("newgidmap", "uidmap"))


@dataclass(frozen=True, slots=True)
class Supervisor:
    """The PID 1 of a running embedded host, as seen from outside."""

    pid: int
    start_ticks: int
    launcher: int
    has_kvm: bool

    @classmethod
    def find(cls, pid: int, *, has_kvm: bool) -> "Supervisor | None":
        """The one that has this pid now, None where it has ended."""
        fields = _stat_fields(pid)
        return cls(pid, int(fields[19]), int(fields[1]), has_kvm) if fields else None

    @property
    def is_alive(self) -> bool:
        """Whether this very process (not a later one with its number) is there and no zombie."""
        return _start_ticks(self.pid) == self.start_ticks


@dataclass(frozen=True, slots=True)
class EmbeddedStatus:
    """What there is of the embedded host."""

    is_up: bool
    pid: int | None
    uri: str
    has_kvm: bool
    persistent: tuple[Path, ...]


class EmbeddedHost:
    """One user's embedded host below one state directory. Every verb is safe to repeat."""

    def __init__(self, paths: EmbeddedPaths) -> None:
        self._paths = paths

    @property
    def paths(self) -> EmbeddedPaths:
        """Its places. A host that runs may have been started by a session with another `run`."""
        try:
            there = replace(self._paths, run=self._paths.run_link.readlink())
        except OSError:
            return self._paths
        return there if _read_supervisor(there.record) else self._paths

    @property
    def uri(self) -> str:
        return f"qemu+unix:///system?socket={quote(str(self.paths.socket))}"

    @property
    def needs_user_namespace(self) -> bool:
        return os.geteuid() != 0

    def find_supervisor(self) -> Supervisor | None:
        """The running supervisor, None where there is none."""
        return _read_supervisor(self.paths.record)

    def status(self) -> EmbeddedStatus:
        supervisor = self.find_supervisor()
        return EmbeddedStatus(
            is_up=supervisor is not None,
            pid=supervisor.pid if supervisor else None,
            uri=self.uri,
            has_kvm=supervisor.has_kvm if supervisor else False,
            persistent=tuple(path for path in (self.paths.root,) if path.exists()),
        )

    def up(self, *, with_kvm: bool) -> None:
        """Start it where it is not up, and return when its libvirtd takes connections.

        One that is up stays as it is, with or without KVM. Raises HostError with what is missing,
        or with the supervisor's own words where it failed.
        """
        if self.find_supervisor() and _accepts(self.paths.socket):
            return
        for program, package in (
            *PROGRAMS,
            *(PROGRAMS_OF_USERS if self.needs_user_namespace else ()),
        ):
            get_tool(program, package=package)
        ensure_private_directory(self.paths.root)
        with held_lock(self.paths.lock, doing="starting the embedded host", wait_s=PATIENCE_S):
            supervisor = self.find_supervisor() or self._launch(with_kvm=with_kvm)
            try:
                wait_until(
                    lambda: _accepts(self.paths.socket) or not supervisor.is_alive,
                    Deadline.after(PATIENCE_S),
                    "the embedded libvirtd",
                    interval_s=0.02,
                )
            except DeadlineError as error:
                raise self._failure(error.brief) from None
            if not supervisor.is_alive:
                self._end(supervisor)
                raise self._failure("The embedded host ended while it started")

    def restart_daemon(self) -> None:
        """End its libvirtd, for one that hangs, and return when there is another; guests run on."""
        supervisor = self.find_supervisor()
        if supervisor is None:
            return
        hung = _children(supervisor.pid, "libvirtd")
        for pid in hung:
            _kill(pid)
        wait_until(
            lambda: not any(map(_start_ticks, hung)) and _accepts(self.paths.socket),
            Deadline.after(PATIENCE_S),
            "the embedded libvirtd",
            interval_s=0.02,
        )

    def down(self) -> None:
        """End everything in it. What persists (definitions, disks) is named by status()."""
        if not self.paths.root.is_dir():
            return
        with held_lock(self.paths.lock, doing="stopping the embedded host", wait_s=PATIENCE_S):
            run = self.paths.run
            if supervisor := self.find_supervisor():
                self._end(supervisor)
            self._paths.run_link.unlink(missing_ok=True)
            if not _is_ours_alone(run.parent):
                return
            shutil.rmtree(run, ignore_errors=True)
            with suppress(OSError):  # another host of this user may have its directory there
                run.parent.rmdir()

    def enter(self, argv: Sequence[str]) -> list[str]:
        """The command that runs `argv` in the host's network, where the guests can be reached."""
        if (supervisor := self.find_supervisor()) is None:
            raise HostError("The embedded host is not up", hint="ai-how host up")
        user = ["-U", "--preserve-credentials"] if self.needs_user_namespace else []
        nsenter = str(get_tool("nsenter", package="util-linux"))
        return [nsenter, "-t", str(supervisor.pid), *user, "-n", "--", *argv]

    def _launch(self, *, with_kvm: bool) -> Supervisor:
        order = self._write_order(with_kvm=with_kvm)
        self.paths.supervisor_log.unlink(missing_ok=True)
        user = ["--user", "--map-root-user", "--map-auto", "--setgroups", "allow"]
        ours, theirs = socket.socketpair()
        with ours:
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            with theirs:
                start_detached(
                    [
                        get_tool("unshare", package="util-linux"),
                        *(user if self.needs_user_namespace else []),
                        *("--net", "--mount", "--pid", "--ipc", "--fork", "--kill-child"),
                        *("--mount-proc", sys.executable, "-I", "-m", "ai_how.host.supervisor"),
                        order,
                    ],
                    log=self.paths.supervisor_log,
                    stdin=theirs.fileno(),
                )
            pid = _read_sender(ours)
            supervisor = Supervisor.find(pid, has_kvm=with_kvm) if pid else None
            if supervisor is None:
                raise self._failure("The embedded host could not make its namespaces")
            self.paths.record.write_text(json.dumps(asdict(supervisor)))
            # Were we to die before this, it would end too: no host runs that nobody knows of.
            with suppress(BrokenPipeError):
                ours.send(b"\n")
            give_uplink(supervisor.pid, ours, log=self.paths.supervisor_log)
        return supervisor

    def _write_order(self, *, with_kvm: bool) -> Path:
        cache = self.paths.root / "cache"
        for directory in (self.paths.etc, self.paths.lib, self.paths.log, cache):
            ensure_private_directory(directory)
        # dnsmasq reads names and leases again as nobody, and forgets all of them where it may not.
        # Above it, nobody but its user may pass.
        self.paths.lib.chmod(0o711)
        ensure_private_directory(self.paths.run.parent)
        shutil.rmtree(self.paths.run, ignore_errors=True)
        ensure_private_directory(self.paths.run)
        self.paths.run_link.unlink(missing_ok=True)
        self.paths.run_link.symlink_to(self.paths.run)
        order = Order(
            etc=str(self.paths.etc),
            lib=str(self.paths.lib),
            cache=str(cache),
            log=str(self.paths.log),
            run=str(self.paths.run),
            with_kvm=with_kvm,
        )
        path = self.paths.run / "order.json"
        order.write(path)
        return path

    def _end(self, supervisor: Supervisor) -> None:
        """End PID 1, and so all in it; then `unshare`, which ignores SIGTERM, ends too."""
        if supervisor.is_alive:
            _kill(supervisor.pid)
        wait_until(
            lambda: not (supervisor.is_alive or _start_ticks(supervisor.launcher)),
            Deadline.after(PATIENCE_S),
            "the end of the embedded host",
            interval_s=0.01,
        )

    def _failure(self, brief: str) -> HostError:
        try:
            said = self.paths.supervisor_log.read_text(errors="replace").strip()[-1500:]
        except OSError:
            said = ""
        return HostError(brief, details=said or None, hint="ai-how doctor")


def _read_supervisor(record: Path) -> Supervisor | None:
    """The supervisor of a record, None where there is none (or it is of another boot).

    A record that another user could have put there, below /tmp for one, is none: behind its socket
    might be a libvirt of theirs, which would be told every secret of a cluster.
    """
    if not (_is_ours_alone(record.parent) and _is_ours_alone(record.parent.parent)):
        return None
    try:
        found = Supervisor(**json.loads(record.read_text()))
    except (OSError, ValueError, TypeError):
        return None
    return found if found.is_alive else None


def _is_ours_alone(directory: Path) -> bool:
    try:
        seen = directory.lstat()
    except OSError:
        return False
    is_closed = not seen.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return stat.S_ISDIR(seen.st_mode) and seen.st_uid == os.geteuid() and is_closed


def _start_ticks(pid: int) -> int | None:
    """When a process began, in clock ticks since boot; None for no process."""
    fields = _stat_fields(pid)
    return int(fields[19]) if fields else None


def _stat_fields(pid: int) -> list[str] | None:
    """proc(5)'s stat from its third field on; None for no process and for a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in {"Z", "X"} else fields


def _children(parent: int, name: str) -> list[int]:
    """The processes of that name that a process has started and not yet reaped."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        fields = _stat_fields(int(entry.name))
        with suppress(OSError):
            if fields and int(fields[1]) == parent and (entry / "comm").read_text() == f"{name}\n":
                found.append(int(entry.name))
    return found


def _read_sender(receiver: socket.socket) -> int | None:
    """The pid of whoever writes to us first; None where all who could have ended, or are silent."""
    receiver.settimeout(PATIENCE_S)
    credentials = struct.Struct("3i")  # pid, uid, gid: unix(7), SCM_CREDENTIALS
    try:
        said, extra, _, _ = receiver.recvmsg(1, socket.CMSG_SPACE(credentials.size))
    except TimeoutError:
        return None
    return credentials.unpack(extra[0][2])[0] if said else None


def _accepts(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(str(path))
        except OSError:
            return False
    return True


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
