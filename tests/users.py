"""Ordinary users for tests that run as root: made, put on a stock desktop, and removed."""

import os
import pwd
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from shutil import rmtree

from ai_how.process import Completed, get_tool, run
from ai_how.waiting import Deadline, wait_until
from leaks import process_name

TESTS = Path(__file__).parent


@contextmanager
def made_user(name: str, *options: str, kept: tuple[str, ...] = ()) -> Iterator[str]:
    """A user of this machine; nothing of theirs is left after, neither process nor file.

    `kept` are entries of the home directory that may be there at the end; they go with it.
    """
    get_tool("newuidmap", package="uidmap")
    home = Path(tempfile.mkdtemp(prefix="ah-home-"))
    run(
        [
            *(get_tool("useradd", package="passwd"), "--no-create-home", "--home-dir", home),
            *("--user-group", "--shell", "/bin/sh", *options, name),
        ]
    )
    try:
        account = pwd.getpwnam(name)
        os.chown(home, account.pw_uid, account.pw_gid)
        yield name
        assert [entry.name for entry in home.iterdir() if entry.name not in kept] == []
        wait_until(
            lambda: not processes_of(account.pw_uid),
            Deadline.after(60),
            f"the end of the processes of {name}",
        )
    finally:
        run([get_tool("userdel", package="passwd"), name])
        rmtree(home)


def processes_of(uid: int) -> list[str]:
    """The names of a user's processes."""
    named = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            named += [process_name(int(entry.name))] if entry.stat().st_uid == uid else []
    return [name for name in named if name]


def run_as(user: str, *program: str | Path, tun_mode: str = "0666", timeout_s: float) -> Completed:
    """Run a Python program on a desktop, as that user; its mounts end with it."""
    unshare = get_tool("unshare", package="util-linux")
    return run(
        [
            *(unshare, "--mount", "--propagation", "private", "--"),
            *(sys.executable, TESTS / "desktop.py", user, tun_mode, sys.executable, *program),
        ],
        timeout_s=timeout_s,
    )
