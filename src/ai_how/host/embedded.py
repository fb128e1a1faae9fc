"""The embedded host: our own libvirtd in namespaces of its own, started on demand, without root.

Everything that libvirt makes (bridges, firewall rules, dnsmasq, guests) lives in private network, mount
and PID namespaces, whose PID 1 is supervisor.py: the real host is left as it was.
"""

import json
import os
import shutil
import signal
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from ai_how.errors import HostError
from ai_how.host.supervisor import Order
from ai_how.process import find_tool, get_tool, start_daemon
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
    ("unshare", "util-linux"),
    ("nsenter", "util-linux"),
    ("ip", "iproute2"),
    ("nc", "netcat-openbsd"),
)


@dataclass(frozen=True, slots=True)
class Supervisor:
    """The PID 1 of a running embedded host, as seen from outside."""

    pid: int
    start_ticks: int
    launcher: int
    has_kvm: bool

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
        self.paths = paths

    @property
    def uri(self) -> str:
        return f"qemu+unix:///system?socket={quote(str(self.paths.socket))}"

    @property
    def needs_user_namespace(self) -> bool:
        return os.geteuid() != 0

    def find_supervisor(self) -> Supervisor | None:
        """The running supervisor, None where there is none (or its record is of another boot)."""
        try:
            found = Supervisor(**json.loads(self.paths.record.read_text()))
        except (OSError, ValueError, TypeError):
            return None
        return found if found.is_alive else None

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

        Raises HostError with what is missing, or with the supervisor's own words where it failed.
        """
        if self.find_supervisor() and _accepts(self.paths.socket):
            return
        for program, package in PROGRAMS:
            get_tool(program, package=package)
        ensure_private_directory(self.paths.root)
        ensure_private_directory(self.paths.run.parent)
        ensure_private_directory(self.paths.run)
        with held_lock(self.paths.lock, doing="starting the embedded host", wait_s=PATIENCE_S):
            deadline = Deadline.after(PATIENCE_S)
            supervisor = self.find_supervisor() or self._launch(with_kvm=with_kvm)
            wait_until(
                lambda: _accepts(self.paths.socket) or not supervisor.is_alive,
                deadline,
                "the embedded libvirtd",
                interval_s=0.05,
            )
        if not supervisor.is_alive:
            raise self._failure("The embedded host ended while it started")

    def down(self) -> None:
        """End everything in it. What persists (definitions, disks) is named by status()."""
        if not self.paths.root.is_dir():
            return
        with held_lock(self.paths.lock, doing="stopping the embedded host", wait_s=PATIENCE_S):
            if supervisor := self.find_supervisor():
                # `unshare --fork` ignores SIGTERM; the death of PID 1 ends it as well.
                _kill(supervisor.pid)
                wait_until(
                    lambda: (
                        not supervisor.is_alive and not Path(f"/proc/{supervisor.pid}").exists()
                    ),
                    Deadline.after(PATIENCE_S),
                    "the end of the embedded host",
                    interval_s=0.05,
                )
                _reap(supervisor.launcher)
            shutil.rmtree(self.paths.run, ignore_errors=True)

    def enter(self, argv: Sequence[str]) -> list[str]:
        """The command that runs `argv` in the host's network, where the guests can be reached."""
        if (supervisor := self.find_supervisor()) is None:
            raise HostError("The embedded host is not up", hint="ai-how host up")
        user = ["-U", "--preserve-credentials"] if self.needs_user_namespace else []
        nsenter = str(get_tool("nsenter", package="util-linux"))
        return [nsenter, "-t", str(supervisor.pid), *user, "-n", "--", *argv]

    def _launch(self, *, with_kvm: bool) -> Supervisor:
        cache = self.paths.root / "cache"
        for directory in (self.paths.etc, self.paths.lib, self.paths.log, cache):
            ensure_private_directory(directory)
        for stale in self.paths.run.iterdir():
            stale.unlink()
        order = self.paths.run / "order.json"
        Order(
            etc=str(self.paths.etc),
            lib=str(self.paths.lib),
            cache=str(cache),
            log=str(self.paths.log),
            run=str(self.paths.run),
            with_kvm=with_kvm,
            in_user_namespace=self.needs_user_namespace,
        ).write(order)
        user = ["--user", "--map-root-user", "--map-auto", "--setgroups", "allow"]
        launcher = start_daemon(
            [
                get_tool("unshare", package="util-linux"),
                *(user if self.needs_user_namespace else []),
                *("--net", "--mount", "--pid", "--ipc", "--fork", "--kill-child", "--mount-proc"),
                *(sys.executable, "-I", "-m", "ai_how.host.supervisor", order),
            ],
            log=self.paths.supervisor_log,
        )
        pid = wait_until(
            lambda: _only_child(launcher.pid) or (-1 if launcher.poll() is not None else None),
            Deadline.after(PATIENCE_S),
            "the embedded host's first process",
            interval_s=0.01,
        )
        if pid == -1 or (ticks := _start_ticks(pid)) is None:
            raise self._failure("The embedded host could not make its namespaces")
        supervisor = Supervisor(pid, ticks, launcher.pid, with_kvm)
        self.paths.record.write_text(json.dumps(_as_record(supervisor)))
        self._give_uplink(pid)
        return supervisor

    def _give_uplink(self, pid: int) -> None:
        """Let guests reach the outside through pasta, where it is installed; they work without."""
        if (pasta := find_tool("pasta")) is None:
            return
        start_daemon(
            [pasta, "--config-net", "--quiet", "--no-map-gw", "-t", "none", "-u", "none",
             "-T", "none", "-U", "none", str(pid)],
            log=self.paths.root / "pasta.log",
        )  # fmt: skip

    def _failure(self, brief: str) -> HostError:
        try:
            said = self.paths.supervisor_log.read_text(errors="replace").strip()[-1500:]
        except OSError:
            said = ""
        return HostError(brief, details=said or None, hint="ai-how doctor")


def _as_record(supervisor: Supervisor) -> dict[str, int | bool]:
    return {
        "pid": supervisor.pid,
        "start_ticks": supervisor.start_ticks,
        "launcher": supervisor.launcher,
        "has_kvm": supervisor.has_kvm,
    }


def _start_ticks(pid: int) -> int | None:
    """When a process began, in clock ticks since boot (proc(5), stat field 22); None for no process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in {"Z", "X"} else int(fields[19])


def _only_child(pid: int) -> int | None:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return None
    return int(children[0]) if children else None


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


def _reap(pid: int) -> None:
    """Take the launcher's exit status where it is our own child."""
    try:
        os.waitpid(pid, 0)
    except ChildProcessError:
        return
