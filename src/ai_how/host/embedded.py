"""The embedded host: a private libvirtd in its own namespaces, started on demand, without root.

Everything that libvirt creates (bridges, firewall rules, dnsmasq, guests) is in private network,
mount and PID namespaces. Their PID 1 is supervisor.py. The real host is not changed.
"""

import fcntl
import json
import os
import re
import shutil
import signal
import socket
import stat
import struct
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from ai_how.errors import DeadlineError, HostError
from ai_how.host.logout import outliving
from ai_how.host.ports import WayIn
from ai_how.host.root_network import root_network
from ai_how.host.running import (
    SETTINGS,
    Supervisor,
    accepts,
    children,
    find_supervisor,
    hold,
    start_ticks,
)
from ai_how.host.share_server import SCRIPTS, write_scripts
from ai_how.host.supervisor import SOCKETS, Order
from ai_how.host.uplink import Relays, await_uplink_end, ensure_uplink, read_uplink
from ai_how.limits import find_told_limit, require_tasks
from ai_how.process import Argument, get_tool, start_detached
from ai_how.state.embedded_paths import EmbeddedPaths
from ai_how.state.files import replaced_atomically
from ai_how.state.lock import OPENED, held_lock
from ai_how.state.paths import ensure_private_directory
from ai_how.waiting import Deadline, wait_until

PATIENCE_S = 60.0
MENDING_S = 5.0
TASKS = 60  # its daemons' threads, and what they start, before any guest
PROGRAMS = (  # the required programs, and their Debian packages
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
class EmbeddedStatus:
    """The status of the embedded host."""

    is_up: bool
    pid: int | None
    uri: str | None
    has_kvm: bool
    uplink_trouble: str | None
    """Why guests have no uplink; None if they have one, or the host is down."""
    persistent: tuple[Path, ...]


class EmbeddedHost:
    """One user's embedded host below one state directory. Every verb is safe to repeat."""

    def __init__(self, paths: EmbeddedPaths) -> None:
        self.paths = paths

    @property
    def uri(self) -> str:
        """The URI of its libvirtd. Raises HostError if it is not up."""
        supervisor = self._get_supervisor()
        wait_until(
            lambda: supervisor.has_own_run or not supervisor.is_alive,
            Deadline.after(PATIENCE_S),
            "the embedded host",
            interval_s=0.02,
        )
        return supervisor.uri

    @property
    def needs_user_namespace(self) -> bool:
        return os.geteuid() != 0

    def find_supervisor(self) -> Supervisor | None:
        """The running supervisor, None where there is none."""
        return find_supervisor(self.paths)

    def status(self) -> EmbeddedStatus:
        supervisor = self.find_supervisor()
        return EmbeddedStatus(
            is_up=supervisor is not None,
            pid=supervisor.pid if supervisor else None,
            uri=supervisor.uri if supervisor else None,
            has_kvm=supervisor.has_kvm if supervisor else False,
            uplink_trouble=read_uplink(self.paths, supervisor) if supervisor else None,
            persistent=tuple(path for path in (self.paths.root,) if path.exists()),
        )

    def up(self, *, with_kvm: bool) -> bool:
        """Start it if it is not up, and return when its libvirtd accepts connections.

        Returns whether it was not up before. A running one stays as it is, with or without KVM.
        Raises HostError with what is missing, or with the supervisor's output if the start failed.
        """
        supervisor = self.find_supervisor()
        if supervisor and accepts(supervisor):
            self.ensure_uplink()
            return False
        for program, package in (
            *PROGRAMS,
            *(PROGRAMS_OF_USERS if self.needs_user_namespace else ()),
        ):
            get_tool(program, package=package)
        ensure_private_directory(self.paths.root)
        with held_lock(self.paths.lock, doing="starting the embedded host", wait_s=PATIENCE_S):
            if supervisor := self.find_supervisor():
                self.check_files(supervisor)
                self._mend_socket(supervisor)
                self._await_daemon(supervisor)
                self.ensure_uplink()
                return False
            require_tasks(TASKS, "the embedded host")
            supervisor = self._launch(with_kvm=with_kvm)
            try:
                self._await_daemon(supervisor)
            except BaseException:
                self._end(supervisor)
                raise
            ensure_uplink(self.paths, supervisor, outliving)
            return True

    def ensure_uplink(self, relays: Relays | None = None) -> None:
        """Start the uplink of a running host again if its process has ended.

        The guests of one cluster then have these `relays`, and no others.
        """
        if supervisor := self.find_supervisor():
            ensure_uplink(self.paths, supervisor, outliving, relays=relays)

    def write_share_scripts(self) -> None:
        """Write the programs of shares; a running host of an earlier version has none."""
        is_of_user = self.needs_user_namespace
        write_scripts(self.paths.etc / SCRIPTS.name, is_of_user=is_of_user)

    @property
    def uplink_trouble(self) -> str | None:
        """Why the guests of a running host have no uplink; None if they have one, or it is down."""
        supervisor = self.find_supervisor()
        return read_uplink(self.paths, supervisor) if supervisor else None

    def _await_daemon(self, supervisor: Supervisor) -> None:
        try:
            wait_until(
                lambda: accepts(supervisor) or not supervisor.is_alive,
                Deadline.after(PATIENCE_S),
                "the embedded libvirtd",
                interval_s=0.02,
            )
        except DeadlineError as error:
            raise self._failure(error.brief) from None
        if not supervisor.is_alive:
            raise self._failure("The embedded host ended during its start")

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """While the block runs, no other run stops the host for being empty."""
        ensure_private_directory(self.paths.root)
        descriptor = os.open(self.paths.users, OPENED, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            yield
        finally:
            os.close(descriptor)

    @contextmanager
    def if_unused(self) -> Iterator[bool]:
        """Whether no run has it `in_use`; no run can begin to use it while the block runs."""
        ensure_private_directory(self.paths.root)
        descriptor = os.open(self.paths.users, OPENED, 0o600)
        try:
            is_unused = True
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                is_unused = False
            yield is_unused
        finally:
            os.close(descriptor)

    def restart_daemon(self) -> None:
        """Restart its libvirtd if it hangs, and wait for the new one. Guests keep running."""
        supervisor = self.find_supervisor()
        if supervisor is None:
            return
        hung = children(supervisor.pid, "libvirtd")
        for pid in hung:
            _kill(pid)
        wait_until(
            lambda: not any(map(start_ticks, hung)) and accepts(supervisor),
            Deadline.after(PATIENCE_S),
            "the embedded libvirtd",
            interval_s=0.02,
        )

    def down(self) -> None:
        """Stop everything in it. status() names what persists (definitions, disks)."""
        if not self.paths.root.is_dir() and self.find_supervisor() is None:
            return
        with held_lock(self.paths.lock, doing="stopping the embedded host", wait_s=PATIENCE_S):
            while supervisor := self.find_supervisor():
                self._end(supervisor)
            self.paths.record.unlink(missing_ok=True)
            self.paths.order.unlink(missing_ok=True)
            self._remove_former_run()

    def enter(self, argv: Sequence[str]) -> list[str]:
        """The command that runs `argv` in the host's network, from which guests can be reached."""
        return [*self.way_in().enter, *argv]

    def way_in(self) -> WayIn:
        """How a process gets into that network, and with whom it ends."""
        supervisor = self._get_supervisor()
        user = ["-U", "--preserve-credentials"] if self.needs_user_namespace else []
        nsenter = str(get_tool("nsenter", package="util-linux"))
        enter = (nsenter, "-t", str(supervisor.pid), *user, "-n", "--")
        return WayIn(enter, (supervisor.pid, supervisor.start_ticks))

    def check_files(self, supervisor: Supervisor) -> None:
        """Raises HostError if its directory was removed or replaced while it is running."""
        if supervisor.has_files(self.paths):
            return
        raise HostError(
            "The embedded host is running, but its files were removed",
            details=f"{self.paths.root} has changed. The disks of running VMs were removed from "
            "it, and are lost when these VMs end.",
            hint="ai-how host down --force",
        )

    def _get_supervisor(self) -> Supervisor:
        if (supervisor := self.find_supervisor()) is None:
            raise HostError("The embedded host is not up", hint="ai-how host up")
        return supervisor

    def _mend_socket(self, supervisor: Supervisor) -> None:
        """Make the libvirtd of a running host listen again after its socket was removed.

        This affects hosts of an earlier version, whose sockets are in a directory of the real host.
        """
        with suppress(DeadlineError):
            # A libvirtd that ended removed its socket, and is restarted.
            wait_until(supervisor.socket.exists, Deadline.after(MENDING_S), "the socket")
            return
        settings = supervisor.root / SETTINGS
        try:
            line = f'unix_sock_dir = "{SOCKETS}"'
            text = re.sub(r"^unix_sock_dir = .*", line, settings.read_text(), flags=re.M)
            settings.write_text(text)
        except OSError as error:
            raise self._failure(f"The embedded host has no socket: {error}") from error
        for pid in children(supervisor.pid, "libvirtd"):
            _kill(pid)

    def _launch(self, *, with_kvm: bool) -> Supervisor:
        order = self._write_order(with_kvm=with_kvm)
        self.paths.supervisor_log.unlink(missing_ok=True)
        scope = outliving()
        held = hold(self.paths.root)
        try:
            return self._launch_holding(held, order, scope, with_kvm=with_kvm)
        finally:
            os.close(held)  # the supervisor has it now, or no process

    def _launch_holding(
        self, held: int, order: Path, scope: Sequence[str], *, with_kvm: bool
    ) -> Supervisor:
        user = ["--user", "--map-root-user", "--map-auto", "--setgroups", "allow", "--net"]
        ours, theirs = socket.socketpair()
        with ours:
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            with theirs, self._network() as net:
                start_detached(
                    [
                        *(*scope, *net, get_tool("unshare", package="util-linux")),
                        *(user if self.needs_user_namespace else [] if net else ["--net"]),
                        *("--mount", "--pid", "--ipc", "--fork", "--kill-child"),
                        *("--mount-proc", sys.executable, "-I", "-m", "ai_how.host.supervisor"),
                        order,
                    ],
                    log=self.paths.supervisor_log,
                    stdin=theirs.fileno(),
                )
                theirs.close()
                pid = _read_sender(ours)
            supervisor = Supervisor.find(pid, has_kvm=with_kvm) if pid else None
            if supervisor is None:
                raise self._failure("The embedded host could not create its namespaces")
            with replaced_atomically(self.paths.record) as draft:
                draft.write_text(json.dumps(asdict(supervisor)))
            try:
                # If we died before this, it would end too: there is never an unknown running host.
                with suppress(BrokenPipeError):
                    socket.send_fds(ours, [b"\n"], [held])
            except BaseException:
                self._end(supervisor)
                raise
        return supervisor

    def _network(self) -> AbstractContextManager[list[Argument]]:
        return nullcontext([]) if self.needs_user_namespace else root_network()

    def _write_order(self, *, with_kvm: bool) -> Path:
        cache = self.paths.root / "cache"
        for directory in (self.paths.etc, self.paths.lib, self.paths.log, cache):
            ensure_private_directory(directory)
        # dnsmasq rereads names and leases as nobody, and forgets them all if it cannot. The
        # directory above is accessible only to its user.
        self.paths.lib.chmod(0o711)
        self._remove_former_run()
        self.write_share_scripts()
        order = Order(
            etc=str(self.paths.etc),
            lib=str(self.paths.lib),
            cache=str(cache),
            log=str(self.paths.log),
            with_kvm=with_kvm,
        )
        with replaced_atomically(self.paths.order) as draft:
            order.write(draft)
        return self.paths.order

    def _remove_former_run(self) -> None:
        """Remove what a host of an earlier version left outside its directory."""
        with suppress(OSError):
            run = self.paths.former_run.readlink()
            self.paths.former_run.unlink()
            if _is_ours_alone(run.parent) and _is_ours_alone(run):
                shutil.rmtree(run, ignore_errors=True)
                run.parent.rmdir()  # unless another host of this user has its directory there

    def _end(self, supervisor: Supervisor) -> None:
        """End PID 1, and so everything in it; then `unshare` ends too, which ignores SIGTERM."""
        if supervisor.is_alive:
            _kill(supervisor.pid)
        wait_until(
            lambda: not (supervisor.is_alive or start_ticks(supervisor.launcher)),
            Deadline.after(PATIENCE_S),
            "the end of the embedded host",
            interval_s=0.01,
        )
        await_uplink_end(self.paths, supervisor)

    def _failure(self, brief: str) -> HostError:
        try:
            said = self.paths.supervisor_log.read_text(errors="replace").strip()[-1500:]
        except OSError:
            said = ""
        if limit := find_told_limit(said):
            return HostError(brief, details=f"{said}\n{limit.brief}", hint=limit.hint)
        return HostError(brief, details=said or None, hint="ai-how doctor")


def _is_ours_alone(directory: Path) -> bool:
    try:
        seen = directory.lstat()
    except OSError:
        return False
    is_closed = not seen.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return stat.S_ISDIR(seen.st_mode) and seen.st_uid == os.geteuid() and is_closed


def _read_sender(receiver: socket.socket) -> int | None:
    """The pid of the first process that writes to us; None if all writers ended or none writes."""
    receiver.settimeout(PATIENCE_S)
    credentials = struct.Struct("3i")  # pid, uid, gid: unix(7), SCM_CREDENTIALS
    try:
        said, extra, _, _ = receiver.recvmsg(1, socket.CMSG_SPACE(credentials.size))
    except TimeoutError:
        return None
    return credentials.unpack(extra[0][2])[0] if said else None


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
