"""The embedded host for an ordinary user with what a stock desktop gives: no root, no group."""

import os
import pwd
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from shutil import rmtree

import pytest

from ai_how.process import Completed, get_tool, run
from ai_how.waiting import Deadline, wait_until
from leaks import process_name

pytestmark = pytest.mark.libvirt

TESTS = Path(__file__).parents[1]


@contextmanager
def made_user(name: str, *options: str) -> Iterator[str]:
    """A user of this machine; nothing of theirs is left after, neither process nor file."""
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
        assert list(home.iterdir()) == []
        wait_until(
            lambda: not processes_of(account.pw_uid),
            Deadline.after(5),
            f"the end of the processes of {name}",
        )
    finally:
        run([get_tool("userdel", package="passwd"), name])
        rmtree(home)


def processes_of(uid: int) -> list[str]:
    """The names of a user's processes."""
    named = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(FileNotFoundError):
            named += [process_name(int(entry.name))] if entry.stat().st_uid == uid else []
    return [name for name in named if name]


def run_as(user: str, what: str, *, tun_mode: str = "0666") -> Completed:
    """Run ordinary_user.py on a desktop; all its processes end with it."""
    unshare = get_tool("unshare", package="util-linux")
    return run(
        [
            *(unshare, "--mount", "--propagation", "private", "--"),
            *(sys.executable, TESTS / "desktop.py", user, tun_mode),
            *(sys.executable, TESTS / "ordinary_user.py", what),
        ],
        timeout_s=120,
    )


@pytest.fixture(scope="module")
def user() -> Iterator[str]:
    """An ordinary user, with the subordinate ids that useradd gives to one."""
    with made_user(f"aihow{os.getpid()}") as name:
        yield name


def test_an_ordinary_user_has_a_host_a_network_and_a_guest(user: str) -> None:
    run_as(user, "use")


def test_without_subordinate_ids_doctor_and_host_say_so(user: str) -> None:
    with made_user(f"aihow{os.getpid()}s", "--system") as name:
        said = run_as(name, "be-refused").stdout
    assert f"/etc/subuid gives {name} 0 ids of the 65536 needed" in said
    assert f"sudo usermod --add-subuids 100000-165535 {name}" in said
    assert f"/etc/subgid gives {name} 0 ids of the 65536 needed" in said
    assert "HostError\tThe embedded host could not make its namespaces" in said
    assert f'no line matching user "{name}" in /etc/subuid' in said


def test_without_tun_doctor_and_libvirt_say_so(user: str) -> None:
    said = run_as(user, "be-refused", tun_mode="0600").stdout
    assert "/dev/net/tun has mode 0600\tsudo chmod 0666 /dev/net/tun" in said
    assert "LibvirtError\tstarting VM" in said
    assert "Unable to open /dev/net/tun" in said
