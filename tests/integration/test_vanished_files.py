"""What an embedded host has outside of itself, or wrote down, goes while a cluster runs."""

import json
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ai_how.host.embedded import EmbeddedHost
from ai_how.host.running import SETTINGS, accepts
from ai_how.process import run
from ai_how.waiting import Deadline, wait_until
from daemons import qemus_of, send, socket_of, supervisor_of
from leaks import (
    kept_namespace,
    pid_namespace,
    pids_inside,
    private_host,
    processes_in,
)
from tiny_cluster import TinyHome, opened, steps

pytestmark = pytest.mark.libvirt


@pytest.fixture(scope="module")
def home() -> Iterator[TinyHome]:
    """A cluster that runs on a host of its own."""
    with private_host() as host, opened(TinyHome(host.paths.root.parent, nodes=1)) as home:
        assert home.call("hpc", "start").code == 0
        yield home


def forget_record(host: EmbeddedHost) -> None:
    host.paths.record.unlink(missing_ok=True)


def forget_all(host: EmbeddedHost) -> None:
    for path in (host.paths.record, host.paths.order, host.paths.lock):
        path.unlink(missing_ok=True)


def lose_socket(host: EmbeddedHost) -> None:
    socket_of(host).unlink()


def lose_earlier_directory(host: EmbeddedHost) -> None:
    """As the last logout does to a host that an earlier version started."""
    become_earlier(host)
    shutil.rmtree(socket_of(host).parent)


def become_earlier(host: EmbeddedHost) -> None:
    """Have it listen where an earlier version would, and write down no more than that did."""
    run_directory = (
        Path(tempfile.mkdtemp(prefix=".run-", dir=host.paths.root.parent)) / "0123456789"
    )
    run_directory.mkdir(mode=0o700)
    settings = Path(f"/proc/{supervisor_of(host)}/root") / SETTINGS
    [daemon] = pids_inside(host, "libvirtd")
    lines = settings.read_text().splitlines()
    settings.write_text("\n".join([f'unix_sock_dir = "{run_directory}"', *lines[1:]]) + "\n")
    send(signal.SIGKILL, daemon)
    forget_all(host)
    host.paths.former_run.unlink(missing_ok=True)
    host.paths.former_run.symlink_to(run_directory)
    supervisor = host.find_supervisor()
    assert supervisor
    wait_until(lambda: accepts(supervisor), Deadline.after(60), "libvirtd")
    assert str(socket_of(host)).endswith(f"{run_directory}/libvirt-sock")


def hosts_of(home: TinyHome) -> set[int]:
    """The supervisors of that state directory, however they are found."""
    order = os.fsencode(home.host.paths.order)
    pids = [int(entry.name) for entry in Path("/proc").glob("[0-9]*")]
    ours = pid_namespace(os.getpid())
    return {pid for pid in pids if order in _words(pid) and pid_namespace(pid) != ours}


def _words(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return []


@pytest.mark.fault("H03", "its record, its lock files, its socket or its former run directory")
@pytest.mark.parametrize(
    "lose", [forget_record, forget_all, lose_socket, become_earlier, lose_earlier_directory]
)
def test_every_verb_finds_the_host_that_runs_whatever_was_removed(
    home: TinyHome, lose: Callable[[EmbeddedHost], None]
) -> None:
    supervisor, guests = supervisor_of(home.host), qemus_of(home.host, "hpc")
    assert len(guests) == 2
    lose(home.host)
    # No outside path leads to the socket of today's hosts: root has to go in to remove it.
    if lose in {lose_socket, lose_earlier_directory}:
        assert home.call("host", "up").code == 0
    seen = home.call("--json", "hpc", "status")
    assert [node["state"] for node in json.loads(seen.out)["nodes"]] == ["running"] * 2, seen.said
    assert steps(home) == []
    assert json.loads(home.call("--json", "host", "status").out)["pid"] == supervisor
    refused = home.call("host", "down")
    assert refused.code == 3
    assert "2 VMs are running on the embedded host" in refused.err
    # What `host connect`, and so ssh, goes through.
    assert "ah" in run(home.host.enter(["ip", "-br", "link"])).stdout
    assert hosts_of(home) == {supervisor}
    assert qemus_of(home.host, "hpc") == guests


@pytest.mark.fault("H03", "another or no XDG_RUNTIME_DIR, as by ssh, su and cron")
@pytest.mark.parametrize("runtime", ["", "/run/user/4711", "/tmp"])
def test_a_session_with_another_runtime_directory_finds_the_host(
    home: TinyHome, runtime: str
) -> None:
    environment = {"XDG_RUNTIME_DIR": runtime, "TMPDIR": "/var/tmp"}
    told = home.call("--json", "host", "status", environment=environment)
    assert json.loads(told.out)["pid"] == supervisor_of(home.host)


@pytest.mark.fault("H03", "the whole directory of the host is removed")
def test_nothing_is_said_to_be_gone_while_a_host_whose_directory_was_removed_runs() -> None:
    with private_host() as host, opened(TinyHome(host.paths.root.parent, nodes=1)) as home:
        assert home.call("hpc", "start").code == 0
        supervisor = supervisor_of(host)
        shutil.rmtree(host.paths.root)
        assert host.status().pid == supervisor
        with kept_namespace(supervisor) as namespace:
            assert any(name.startswith("qemu") for name in processes_in(namespace).values())
            for words in (("start",), ("destroy", "--force")):
                refused = home.call("hpc", *words)
                assert refused.code == 3, refused.said
                assert "is running, but its files were removed" in refused.err
                assert " host down --force" in refused.err
            assert json.loads(home.call("--json", "host", "status").out)["pid"] == supervisor
            assert home.call("host", "down", "--force").code == 0
            assert processes_in(namespace) == {}
        done = home.call("hpc", "destroy", "--force")
        assert done.code == 0, done.said
        assert not host.status().is_up
