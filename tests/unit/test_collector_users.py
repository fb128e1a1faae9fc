"""A collector of an ordinary user: they and root may ask it, and nobody else."""

import os
import pwd
import socket
from pathlib import Path
from shutil import rmtree

import pytest

from ai_how.monitoring.asking import Connection
from made_up_collector import MadeUp
from users import TESTS, made_user, run_as

NOBODY = 65534


def ask_as_nobody(path: Path) -> bytes:
    """What a process of another user gets from the socket; why it gets nothing."""
    ours, theirs = socket.socketpair()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            with socket.socket(socket.AF_UNIX) as line:
                line.connect(str(path))
                theirs.send(line.recv(100))
        except OSError as error:
            theirs.send(type(error).__name__.encode())
        finally:
            os._exit(0)
    theirs.close()
    os.waitpid(child, 0)
    with ours:
        return ours.recv(200)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.fault("S13", "the socket of a collector, asked by another user")
def test_a_collector_is_asked_by_its_user_and_by_root_alone():
    with made_user("ah-reader") as user:
        account = pwd.getpwnam(user)
        home = Path(account.pw_dir)
        run_as(user, TESTS / "ordinary_reader.py", home / "state", timeout_s=60)
        cluster = MadeUp(home / "state")
        try:
            path = cluster.paths.collector_socket
            assert path.stat().st_uid == account.pw_uid
            line = Connection(path)
            assert line.ask({"ask": "status"})["status"]["pid"] == cluster.pid
            line.close()
            # Somebody has opened their directories to all, and then the socket itself.
            for place in (home, cluster.root, cluster.paths.root):
                place.chmod(0o755)
            assert ask_as_nobody(path) == b"PermissionError"
            path.chmod(0o666)
            assert b"it serves another user" in ask_as_nobody(path)
        finally:
            cluster.end()
            rmtree(cluster.root)
