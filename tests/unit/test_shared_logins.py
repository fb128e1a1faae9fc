"""Logins by ssh that commands share: with a stand-in for ssh, which only listens as a master does.

The masters of the real ssh are those of tests/cluster/in_use/test_python_api.py.
"""

import os
import signal
import subprocess  # noqa: TID251  a program is killed while it runs
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from ai_how.guest import shared_logins
from ai_how.guest.shared_logins import LONGEST_PATH, MOST_SESSIONS, SharedLogins
from ai_how.process import child_environment

# Its file of options says what kind of node it is for.
SSH = f"""#!{sys.executable}
import re, socket, sys, time
from pathlib import Path

kind = Path(sys.argv[sys.argv.index("-F") + 1]).read_text()
path = re.search(r"ControlPath=(\\S+)", " ".join(sys.argv))[1]
if "-W" in sys.argv:
    time.sleep(600 if kind == "off by now" else 0)
    sys.exit("open failed: connect failed: Connection refused")
if kind == "refuses":
    sys.exit("Permission denied (publickey).")
if kind == "is awaited":
    print("ai-how: 10.0.0.1 does not answer; waiting for it", file=sys.stderr, flush=True)
    time.sleep(600)
line = socket.socket(socket.AF_UNIX)
line.bind(path)
line.listen()
while True:
    line.accept()
"""
USER = """\
import os, sys, time
from pathlib import Path
from ai_how.guest.shared_logins import SharedLogins

logins = SharedLogins(Path(sys.argv[1]))
with logins.options("node") as options:
    print(options[1].partition("=")[2], flush=True)
if sys.argv[2] == "forks":
    if os.fork():
        os.wait()
    else:
        with logins.options("node") as options:
            print(options[1].partition("=")[2], flush=True)
        logins.close()
        time.sleep(600)
if sys.argv[2] == "waits":
    time.sleep(600)
"""
DEADLINE_S = 60


def wait_for(is_so: Callable[[], object]) -> None:
    until = time.monotonic() + DEADLINE_S
    while not is_so():
        assert time.monotonic() < until
        time.sleep(0.02)


def processes_of(path: Path) -> list[int]:
    """All that name the directory of a socket: keeper and master."""
    found = []
    for one in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = one.read_bytes()
        except OSError:
            continue
        if os.fsencode(path.parent) in words:
            found.append(int(one.parent.name))
    return found


def is_gone(path: Path) -> bool:
    return not path.parent.exists() and not processes_of(path)


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "ssh").write_text(SSH)
    (programs / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    file = tmp_path / "config"
    file.write_text("on")
    return file


@pytest.fixture
def logins(config: Path) -> Iterator[SharedLogins]:
    made = SharedLogins(config)
    yield made
    made.close()


def path_of(options: list[str]) -> Path:
    word, option = options
    assert word == "-o"
    return Path(option.removeprefix("ControlPath="))


def socket_of(logins: SharedLogins, host: str = "node") -> Path:
    with logins.options(host) as options:
        return path_of(options)


def test_commands_on_a_node_share_a_login_that_ends_with_close(logins):
    first = socket_of(logins)
    assert socket_of(logins) == first
    other = socket_of(logins, "other")
    assert other != first
    assert first.parent.stat().st_mode & 0o777 == 0o700
    logins.close()
    assert is_gone(first)
    assert is_gone(other)
    assert socket_of(logins) != first


@pytest.mark.parametrize("kind", ["refuses", "is awaited"])
def test_without_a_login_a_command_makes_its_own(logins, config, kind):
    config.write_text(kind)
    for _ in range(2):
        with logins.options("node") as options:
            assert options == []
    config.write_text("on")
    logins.close()
    assert socket_of(logins).exists()


def test_no_more_commands_use_a_login_than_sshd_takes(logins):
    with ExitStack() as stack:
        shared = [stack.enter_context(logins.options("node")) for _ in range(MOST_SESSIONS)]
        assert len({path_of(one) for one in shared}) == 1
        with logins.options("node") as options:
            assert options == []
    assert socket_of(logins) == path_of(shared[0])


def test_a_master_that_died_is_replaced(logins):
    path = socket_of(logins)
    (master,) = (pid for pid in processes_of(path) if b"-c" not in words_of(pid))
    os.kill(master, signal.SIGKILL)
    wait_for(lambda: is_gone(path))
    assert socket_of(logins) != path


def words_of(pid: int) -> list[bytes]:
    return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")


@pytest.mark.fault("J04", "a node does not answer any more")
def test_a_node_that_is_off_by_now_is_not_spoken_to_by_its_old_login(logins, config, monkeypatch):
    path = socket_of(logins)
    monkeypatch.setattr(shared_logins, "IDLE_S", -1.0)
    monkeypatch.setattr(shared_logins, "ANSWER_S", 1.0)
    assert path_of_next(logins, config, "on") == path
    assert path_of_next(logins, config, "off by now") != path
    assert is_gone(path)


def path_of_next(logins: SharedLogins, config: Path, kind: str) -> Path:
    config.write_text(kind)
    return socket_of(logins)


def start_user(config: Path, how: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(  # noqa: S603
        [sys.executable, "-W", "error", "-c", USER, str(config), how],
        env=child_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_process_that_ends_ends_its_logins(config):
    with start_user(config, "ends") as user:
        said, errors = user.communicate(timeout=DEADLINE_S)
    assert errors == ""
    assert is_gone(Path(said.strip()))


@pytest.mark.fault("J04", "a process with a login is killed")
def test_a_process_that_is_killed_leaves_no_login(config):
    with start_user(config, "waits") as user:
        assert user.stdout
        path = Path(user.stdout.readline().strip())
        assert path.exists()
        user.kill()
    wait_for(lambda: is_gone(path))


@pytest.mark.fault("J04", "the parent of a fork is killed")
def test_a_child_of_a_fork_has_its_own_and_keeps_none_of_its_parent_alive(config):
    with start_user(config, "forks") as user:
        assert user.stdout
        paths = [Path(user.stdout.readline().strip()) for _ in range(2)]
        assert paths[0] != paths[1]
        wait_for(lambda: is_gone(paths[1]))
        assert paths[0].exists()
        (child,) = map(
            int, Path(f"/proc/{user.pid}/task/{user.pid}/children").read_text().split()[-1:]
        )
        user.kill()
        try:
            wait_for(lambda: is_gone(paths[0]))
        finally:
            os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize(
    "name", ["d" * LONGEST_PATH, "of ${HOME}", "100%", "writable"], ids=["long", "$", "%", "open"]
)
def test_an_unfit_place_is_not_taken(logins, tmp_path, monkeypatch, name):
    place = tmp_path / name
    place.mkdir()
    if name == "writable":
        place.chmod(0o777)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(place))
    path = socket_of(logins)
    assert not path.is_relative_to(place)
    assert len(str(path)) <= LONGEST_PATH


def test_the_runtime_directory_of_the_user_is_taken(logins, monkeypatch):
    with tempfile.TemporaryDirectory(dir="/tmp") as place:
        monkeypatch.setenv("XDG_RUNTIME_DIR", place)
        assert socket_of(logins).is_relative_to(place)
        logins.close()
