"""Logins by ssh that the commands of one process share: a master of ssh for each node.

The handshake of ssh takes seconds in an emulated guest, a command by a master a fraction of it.
Nothing here is needed: a command that gets no options makes a login of its own.

A master belongs to one process. Its keeper, a shell, waits for the end of a pipe of ours: when we
end, in whatever way, it ends the master and its ProxyCommand and removes the socket's directory.
"""

import os
import re
import socket
import stat
import tempfile
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ai_how.errors import AiHowError, DeadlineError
from ai_how.process import Daemon, get_tool, run, start_piped
from ai_how.waiting import Deadline, wait_until

# sshd takes ten sessions of one login (MaxSessions); more get logins of their own.
MOST_SESSIONS = 8
READY_S = 30.0
# A node may have been switched off since a master was last used: it is tried first.
IDLE_S = 5.0
ANSWER_S = 5.0
END_S = 30.0
# A socket's path has at most 107 bytes, and ssh first makes it with 17 more.
LONGEST_PATH = 90
_PLAIN = re.compile(r"/[A-Za-z0-9/._-]*")  # nothing that ssh would expand

# Its group is the master, its ProxyCommand and the one that reads. A master that sleeps may miss a
# SIGTERM until it wakes up for its next ServerAlive (OpenSSH 9.2).
_KEEPER = """\
trap : TERM
exec 3<&0
"$@" </dev/null >/dev/null 3<&- &
master=$!
{ trap - TERM; read -r line <&3; kill -s KILL "$master"; kill -s TERM 0; } &
exec 3<&-
wait "$master"
wait "$master"
kill -s TERM 0
rm -rf -- "$0"
"""


class SharedLogins:
    """The masters of one process and cluster, by node; for any number of threads.

    After a fork, the child has none, and starts its own.
    """

    def __init__(self, config: Path) -> None:
        """`config` is the ssh configuration of the cluster; it need not exist yet."""
        self._config = config
        self._masters: dict[str, _Master] = {}
        self._lock = threading.Lock()
        self._at_exit = weakref.finalize(self, _end_all, self._masters)
        _everyone.add(self)

    @contextmanager
    def options(self, host: str) -> Iterator[list[str]]:
        """Options for ssh(1) or scp(1), by which one command uses the login of a host.

        None if there is no login and none can be had soon.
        """
        with self._lock:
            master = self._masters.setdefault(host, _Master(self._config, host))
        with master.session() as path:
            yield ["-o", f"ControlPath={path}"] if path else []

    def close(self) -> None:
        """End all logins; commands that use them fail. The next command begins a new one."""
        with self._lock:
            _end_all(self._masters)

    def forget(self) -> None:
        """Called in the child of a fork: the logins are those of its parent."""
        self._lock = threading.Lock()
        for master in self._masters.values():
            master.disown()
        self._masters.clear()


class _Master:
    """The login of one host."""

    def __init__(self, config: Path, host: str) -> None:
        self._config, self._host = config, host
        self._beginning = threading.RLock()
        self._counting = threading.Lock()
        self._sessions, self._used_at = 0, 0.0
        self._keeper: Daemon | None = None
        self._errors = -1
        self._path = Path()

    @contextmanager
    def session(self) -> Iterator[Path | None]:
        """The socket for one command; None if that needs a login of its own."""
        has_one = self._begin_session()
        try:
            yield self._path if has_one else None
        finally:
            with self._counting:
                self._sessions -= has_one
                self._used_at = time.monotonic()

    def _begin_session(self) -> bool:
        with self._beginning:
            with self._counting:
                if self._sessions >= MOST_SESSIONS:
                    return False
            if not (self._is_up() or self._begins()):
                return False
            with self._counting:
                self._sessions += 1
            return True

    def _is_up(self) -> bool:
        if not self._is_listening():
            return False
        with self._counting:
            is_idle = not self._sessions and time.monotonic() - self._used_at > IDLE_S
        return not is_idle or self._answers()

    def _is_listening(self) -> bool:
        with socket.socket(socket.AF_UNIX) as line, suppress(OSError):
            line.connect(str(self._path))
            return True
        return False

    def _answers(self) -> bool:
        """Whether the node itself does: it is asked for a port that nobody has, not for a program.

        A master learns of a node that was switched off by the next word to it, or never.
        """
        ssh = get_tool("ssh", package="openssh-client")
        options = ["-o", f"ControlPath={self._path}", "-o", "ProxyCommand=false"]
        config = str(self._config)
        argv = [str(ssh), "-F", config, *options, "-W", "127.0.0.1:1", "--", self._host]
        with suppress(AiHowError):
            run(argv, check=False, timeout_s=ANSWER_S)
            return self._is_listening()
        return False

    def _begins(self) -> bool:
        """Begin a login, and wait for it; not for one that says that it is in trouble."""
        if self._keeper and self._keeper.poll() is None and not self._is_listening():
            return False  # it has not come through since the last command
        self.end()
        if not self._start():
            return False
        with suppress(DeadlineError):
            wait_until(
                lambda: self._is_listening() or self._is_in_trouble(),
                Deadline.after(READY_S),
                "the login",
                interval_s=0.02,
            )
        return self._is_listening()

    def _is_in_trouble(self) -> bool:
        ended = self._keeper is None or self._keeper.poll() is not None
        return ended or os.fstat(self._errors).st_size > 0

    def _start(self) -> bool:
        directory = _make_directory()
        if directory is None:
            return False
        self._path = directory / "s"
        options = (
            *("ControlMaster=yes", f"ControlPath={self._path}", "ControlPersist=no"),
            *("BatchMode=yes", "ServerAliveInterval=15", "ServerAliveCountMax=4"),
        )
        words = [word for option in options for word in ("-o", option)]
        ssh = get_tool("ssh", package="openssh-client")
        master = [str(ssh), "-F", str(self._config), "-N", *words, "--", self._host]
        argv = [str(get_tool("sh")), "-c", _KEEPER, str(directory), *master]
        errors = os.memfd_create("errors")
        try:
            self._keeper = start_piped(argv, errors=errors, is_apart=True)
        except BaseException:
            os.close(errors)
            directory.rmdir()
            raise
        self._errors = errors
        return True

    def end(self) -> None:
        """End the login, and all commands that use it."""
        with self._beginning:
            keeper = self._keeper
            self._close_pipes()
        if keeper is None:
            return
        with suppress(DeadlineError):
            wait_until(
                lambda: keeper.poll() is not None,
                Deadline.after(END_S),
                "the end of ssh",
                interval_s=0.01,
            )

    def disown(self) -> None:
        """Close what would keep the login of our parent alive."""
        if self._keeper:
            self._keeper.returncode = 0  # it is no child of ours, and Python would look for it
        self._close_pipes()

    def _close_pipes(self) -> None:
        if self._keeper is None:
            return
        for pipe in (self._keeper.stdin, self._keeper.stdout):
            if pipe:
                pipe.close()
        os.close(self._errors)
        self._keeper = None


def _make_directory() -> Path | None:
    """A private one for a socket; None if there is no place with a path that is short enough."""
    for place in (os.environ.get("XDG_RUNTIME_DIR", ""), tempfile.gettempdir(), "/tmp"):  # noqa: S108
        if not _PLAIN.fullmatch(place) or len(f"{place}/ai-how-ssh-01234567/s") > LONGEST_PATH:
            continue
        with suppress(OSError):
            if _is_safe(place):
                return Path(tempfile.mkdtemp(prefix="ai-how-ssh-", dir=place))
    return None


def _is_safe(place: str) -> bool:
    """Whether no other user but root can replace what we put there."""
    seen = Path(place).stat()
    is_open = seen.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not seen.st_mode & stat.S_ISVTX
    return seen.st_uid in (0, os.geteuid()) and not is_open


def _end_all(masters: dict[str, _Master]) -> None:
    while masters:
        masters.popitem()[1].end()


def _forget_all() -> None:
    for one in list(_everyone):
        one.forget()


_everyone: "weakref.WeakSet[SharedLogins]" = weakref.WeakSet()
os.register_at_fork(after_in_child=_forget_all)
