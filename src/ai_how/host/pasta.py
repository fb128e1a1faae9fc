"""pasta for the embedded host, started again whenever it ends, and what is known of it."""

import fcntl
import json
import os
import select
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict

from ai_how.host.daemon_log import say
from ai_how.host.guest_rules import LINK, OLD_HOST
from ai_how.host.running import FLOCK, start_ticks
from ai_how.host.uplink import LONGEST_NOTE, STARTING, UplinkNote
from ai_how.process import Argument, Daemon, dying_with_us, get_tool, run, start_daemon
from ai_how.state.embedded_paths import EmbeddedPaths
from ai_how.state.lock import OPENED

NS_GET_USERNS = 0xB701  # linux/nsfs.h
# pasta says within this time that it cannot work.
SETTLED_S = 0.5
# It ends while this host has no network, so it is tried again for ever.
SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0
LONGEST_REASON = 300
REFUSED = "root may not make a user namespace here"


def owner_of_network(network: int) -> int:
    """A descriptor of the user namespace that owns a network namespace: ioctl_ns(2)."""
    return fcntl.ioctl(network, NS_GET_USERNS)


def is_own(user_namespace: int) -> bool:
    """Whether this descriptor is of the user namespace that we are in."""
    return os.path.samestat(os.fstat(user_namespace), os.stat("/proc/self/ns/user"))  # noqa: PTH116


def pasta_argv(owner: int) -> list[Argument]:
    """The command line of pasta; standard input is the network namespace.

    Nothing can come in by it. It enters the user namespace that owns the network first: root's
    pasta would become the user `nobody`, and could not.
    """
    nsenter = get_tool("nsenter", package="util-linux")
    pasta = get_tool("pasta", package="passt")
    closed = [word for way in ("-t", "-u", "-T", "-U") for word in (way, "none")]
    words = ["--foreground", "--config-net", "--quiet", "--no-map-gw", "--ns-ifname", LINK, *closed]
    where = ["--netns-only", "--netns", "/proc/self/fd/0"]
    # What it gains by entering would undo an earlier order to die with us.
    ending = dying_with_us([pasta, *words, *where])
    return [nsenter, f"--user=/proc/self/fd/{owner}", "--", *ending]


class Uplink:
    """The uplink of one supervisor, as others see it in its file."""

    def __init__(self, paths: EmbeddedPaths, pid: int, ticks: int, relays: Sequence[str]) -> None:
        """Raises ProcessLookupError if the supervisor has ended: its directory may be gone."""
        self.paths, self.pid, self.ticks, self.relays = paths, pid, ticks, relays
        self.end = os.pidfd_open(pid)
        if self.has_ended:
            raise ProcessLookupError
        self.file = os.open(paths.uplink, OPENED, 0o600)

    @property
    def has_ended(self) -> bool:
        return start_ticks(self.pid) != self.ticks or self._wait([self.end], 0) is not None

    def take(self) -> bool:
        """Become the one process of this uplink; False if there is one, or its host has ended."""
        asked = FLOCK.pack(fcntl.F_WRLCK, 0, 0, 0, 0)
        while not self.has_ended:
            try:
                fcntl.fcntl(self.file, fcntl.F_OFD_SETLK, asked)
            except OSError:
                if self._is_noted():
                    return False
                time.sleep(0.05)  # that of a host that has just ended
            else:
                self.note(STARTING)
                return True
        return False

    def note(self, trouble: str | None) -> None:
        """Say in the file why guests have no uplink, None if they have one."""
        note = UplinkNote((self.pid, self.ticks), os.getpid(), trouble, tuple(self.relays))
        text = json.dumps(asdict(note)).encode()
        with suppress(OSError):  # a full disk
            os.pwrite(self.file, text, 0)
            os.ftruncate(self.file, len(text))

    def keep_pasta(self) -> None:
        """Run pasta, and start it again whenever it ends, until the host ends."""
        network = os.open(f"/proc/{self.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        owner = owner_of_network(network)
        if is_own(owner):
            unshare = get_tool("unshare", package="util-linux")
            made = run([unshare, "--user", "--map-root-user", "true"], check=False)
            can_make = made.returncode == 0
            self.note(OLD_HOST if can_make else REFUSED)
            self._wait([self.end], None)
            return
        pause_s = SHORTEST_PAUSE_S
        while True:
            began = time.monotonic()
            with self._started_pasta(network, owner) as pasta:
                has_ended = self._watch(pasta)
            if has_ended:
                return
            if time.monotonic() - began > LONGEST_PAUSE_S:
                pause_s = SHORTEST_PAUSE_S
            if self._wait([self.end], pause_s) is not None:
                return
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    @contextmanager
    def _started_pasta(self, network: int, owner: int) -> Iterator[Daemon]:
        self.paths.uplink_log.unlink(missing_ok=True)
        pasta = start_daemon(
            pasta_argv(owner), log=self.paths.uplink_log, stdin=network, pass_fds=[owner]
        )
        try:
            yield pasta
        finally:
            pasta.terminate()
            pasta.wait()

    def _watch(self, pasta: Daemon) -> bool:
        """Wait for the end of pasta, and note it; True if the host ended first."""
        its_end = os.pidfd_open(pasta.pid)
        try:
            if self._wait([self.end, its_end], SETTLED_S) is None:
                self.note(None)
            if self._wait([self.end, its_end], None) == self.end:
                return True
            code = pasta.wait()
            said = f"signal {-code}" if code < 0 else self._last_words() or f"exit code {code}"
            self.note(f"pasta ended: {said}")
            say(f"pasta ended, and is started again: {said}")
            return False
        finally:
            os.close(its_end)

    def _last_words(self) -> str:
        try:
            lines = self.paths.uplink_log.read_text(errors="replace").splitlines()
        except OSError:
            return ""
        told = [line.strip() for line in lines if line.strip() and "to syslog" not in line]
        return told[-1][:LONGEST_REASON] if told else ""

    def _is_noted(self) -> bool:
        try:
            return bool(
                json.loads(os.pread(self.file, LONGEST_NOTE, 0))["of"] == [self.pid, self.ticks]
            )
        except (OSError, ValueError, KeyError, TypeError):
            return False

    @staticmethod
    def _wait(ends: Sequence[int], timeout_s: float | None) -> int | None:
        """The first of these processes that has ended; None after the time."""
        return next(iter(select.select(ends, [], [], timeout_s)[0]), None)
