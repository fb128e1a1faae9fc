"""The embedded host under the real libvirtd: what it promises of itself, and of the machine."""

import os
import signal
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from ai_how.errors import ConnectionLostError, HostError
from ai_how.host.embedded import EmbeddedHost
from ai_how.libvirt_client.client import LibvirtClient
from ai_how.libvirt_client.vm_state import VmState
from ai_how.process import run
from ai_how.state.paths import default_roots
from ai_how.vm_management.networks.definition import render_network
from ai_how.waiting import Deadline, wait_until
from daemons import socket_of
from leaks import (
    command_lines,
    files,
    kept_namespace,
    look_at_machine,
    names_inside,
    pid_namespace,
    pids_inside,
    process_name,
    processes_in,
    settled_difference,
)
from shapes import NETWORK
from tiny_guest import TINY, remove_tiny_guest, render_tiny_guest, start_tiny_guest

pytestmark = pytest.mark.libvirt

UP = """
import sys
from pathlib import Path
from ai_how.host.embedded import EmbeddedHost
from ai_how.state.paths import default_roots
EmbeddedHost(default_roots(Path(sys.argv[1])).embedded).up(with_kvm=False)
"""


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """A process that does not run while the block does."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@contextmanager
def running_network(client: LibvirtClient) -> Iterator[None]:
    client.define_network(render_network(NETWORK))
    try:
        client.start_network(NETWORK.uuid)
        yield
    finally:
        client.destroy_network(NETWORK.uuid)
        client.undefine_network(NETWORK.uuid)


def run_up(host: EmbeddedHost) -> None:
    """`up` in a process of its own."""
    run([sys.executable, "-I", "-c", UP, host.paths.root.parent], timeout_s=60)


def kill_supervisor(host: EmbeddedHost) -> None:
    """What a crash or an impatient user would do."""
    supervisor = host.find_supervisor()
    assert supervisor
    os.kill(supervisor.pid, signal.SIGKILL)
    wait_until(lambda: not supervisor.is_alive, Deadline.after(60), "the end of PID 1")


def other_pid(host: EmbeddedHost, name: str, than: int) -> int:
    """The pid of the one process of that name, when it is another than before."""

    def look() -> int | None:
        found = pids_inside(host, name)
        return found[0] if len(found) == 1 and found[0] != than else None

    return wait_until(look, Deadline.after(60), f"a new {name}", interval_s=0.05)


def test_up_again_changes_nothing_and_takes_no_time(host: EmbeddedHost) -> None:
    before = host.find_supervisor()
    began = time.monotonic()
    host.up(with_kvm=False)
    assert time.monotonic() - began < 20
    assert host.find_supervisor() == before
    assert host.status().is_up
    assert host.status().pid == (before.pid if before else None)


def test_up_comes_within_seconds(own_host: EmbeddedHost) -> None:
    began = time.monotonic()
    own_host.up(with_kvm=False)
    with LibvirtClient(own_host.uri) as client:
        assert client.list_domains() == ()
    assert time.monotonic() - began < 60


def test_several_ups_at_once_make_one_host(own_host: EmbeddedHost) -> None:
    with ThreadPoolExecutor(3) as crew:
        list(crew.map(lambda _: run_up(own_host), range(3)))
    assert names_inside(own_host).count("libvirtd (1)") == 1
    order = str(own_host.paths.order).encode()
    # `unshare` and the PID 1 that it made.
    assert sum(order in words for words in command_lines().values()) == 2


def test_sessions_with_other_runtime_directories_share_the_host(
    own_host: EmbeddedHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_host.up(with_kvm=False)
    with tempfile.TemporaryDirectory() as runtime:
        monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
        roots = default_roots(own_host.paths.root.parent)
        same = EmbeddedHost(roots.embedded)
        same.up(with_kvm=False)
        assert same.find_supervisor() == own_host.find_supervisor()
        with LibvirtClient(same.uri) as client:
            assert client.list_domains() == ()
        same.down()
    assert not own_host.status().is_up


def test_down_leaves_what_it_names_and_nothing_else(own_host: EmbeddedHost) -> None:
    before = look_at_machine()
    own_host.up(with_kvm=False)
    supervisor = own_host.find_supervisor()
    assert supervisor
    namespace = pid_namespace(supervisor.pid)
    assert namespace
    own_host.down()
    assert processes_in(namespace) == {}
    assert process_name(supervisor.pid) is None
    assert process_name(supervisor.launcher) is None
    assert settled_difference(before, None) == ""
    assert own_host.status().persistent == (own_host.paths.root,)
    beside = set(own_host.paths.root.parent.iterdir()) - {own_host.paths.root}
    assert beside == set()
    own_host.down()
    with pytest.raises(HostError, match="The embedded host is not up"):
        own_host.enter(["true"])


@pytest.mark.fault("S13", "the files of an embedded host")
def test_what_persists_holds_no_socket_and_no_secret_others_could_read(host: EmbeddedHost) -> None:
    assert stat.S_IMODE(host.paths.root.stat().st_mode) == 0o700
    assert stat.S_IMODE(socket_of(host).stat().st_mode) == 0o700
    # QEMU's monitors are sockets of guests that run.
    ours = [name for name in files(host.paths.root) if "/qemu/domain-" not in name]
    persistent = [Path(name) for name in ours]
    assert [path for path in persistent if stat.S_ISSOCK(path.lstat().st_mode)] == []


def test_a_killed_supervisor_takes_everything_with_it(own_host: EmbeddedHost) -> None:
    own_host.up(with_kvm=False)
    with LibvirtClient(own_host.uri) as client:
        client.define_network(render_network(NETWORK))
        client.start_network(NETWORK.uuid)
        start_tiny_guest(client, render_tiny_guest())
    assert pids_inside(own_host, "qemu-system-x86")
    assert pids_inside(own_host, "dnsmasq")
    killed = own_host.find_supervisor()
    assert killed
    with kept_namespace(killed.pid) as namespace:
        kill_supervisor(own_host)
        wait_until(lambda: not processes_in(namespace), Deadline.after(60), "the end of all in it")
    assert not own_host.status().is_up

    own_host.up(with_kvm=False)
    supervisor = own_host.find_supervisor()
    assert supervisor
    assert supervisor.pid != killed.pid
    with LibvirtClient(own_host.uri) as client:
        assert client.get_domain(TINY).state is VmState.SHUT_OFF
        found = client.find_network(NETWORK.uuid)
        assert found
        assert not found.is_active


def test_a_killed_libvirtd_comes_back_and_guests_run_on(
    host: EmbeddedHost, client: LibvirtClient
) -> None:
    others = pids_inside(host, "qemu-system-x86")
    start_tiny_guest(client, render_tiny_guest())
    try:
        guests = pids_inside(host, "qemu-system-x86")
        assert len(guests) == len(others) + 1
        [daemon] = pids_inside(host, "libvirtd")
        os.kill(daemon, signal.SIGKILL)
        # The client that was connected asks again by itself.
        assert client.get_domain(TINY).state is VmState.PAUSED
        assert other_pid(host, "libvirtd", daemon)
        assert pids_inside(host, "qemu-system-x86") == guests
        assert "libvirtd ended (-9); starting it again" in host.paths.supervisor_log.read_text()
        client.resume_domain(TINY)
        assert client.get_domain(TINY).state is VmState.RUNNING
    finally:
        remove_tiny_guest(client)


def test_a_killed_virtlogd_comes_back(host: EmbeddedHost) -> None:
    [daemon] = pids_inside(host, "virtlogd")
    os.kill(daemon, signal.SIGKILL)
    assert other_pid(host, "virtlogd", daemon)


def test_a_libvirtd_that_hangs_is_given_up(host: EmbeddedHost) -> None:
    [daemon] = pids_inside(host, "libvirtd")
    with LibvirtClient(host.uri, patience_s=5) as client:
        there = client.list_domains()
        with stopped(daemon):
            began = time.monotonic()
            with pytest.raises(ConnectionLostError):
                client.list_domains()
            assert time.monotonic() - began < 20
            assert not client.is_alive()
        assert client.list_domains() == there


def test_definitions_outlive_down(own_host: EmbeddedHost) -> None:
    own_host.up(with_kvm=False)
    with LibvirtClient(own_host.uri) as client:
        client.define_domain(render_tiny_guest())
        client.define_network(render_network(NETWORK))
    own_host.down()
    own_host.up(with_kvm=False)
    with LibvirtClient(own_host.uri) as client:
        assert client.get_domain(TINY).state is VmState.SHUT_OFF
        assert client.find_network(NETWORK.uuid)


def test_a_host_without_namespaces_is_quoted(
    own_host: EmbeddedHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unshare = tmp_path / "unshare"
    unshare.write_text("#!/bin/sh\necho 'unshare: Operation not permitted' >&2\nexit 1\n")
    unshare.chmod(0o755)
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
        with pytest.raises(HostError) as caught:
            own_host.up(with_kvm=False)
    assert caught.value.brief == "The embedded host could not create its namespaces"
    assert caught.value.details == "unshare: Operation not permitted"
    assert caught.value.hint == "ai-how doctor"
    own_host.up(with_kvm=False)


@pytest.mark.parametrize("code", [0, 6])
def test_a_libvirtd_that_cannot_start_is_quoted_at_once(
    code: int, own_host: EmbeddedHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    libvirtd = tmp_path / "libvirtd"
    libvirtd.write_text(f"#!/bin/sh\necho 'libvirtd: no room left' >&2\nexit {code}\n")
    libvirtd.chmod(0o755)
    began = time.monotonic()
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
        with pytest.raises(HostError) as caught:
            own_host.up(with_kvm=False)
    assert time.monotonic() - began < 60
    assert caught.value.brief == "The embedded host ended during its start"
    assert caught.value.details
    assert "libvirtd: no room left" in caught.value.details
    assert f"libvirtd cannot start (exit code {code})" in caught.value.details
    assert not own_host.status().is_up
    own_host.up(with_kvm=False)


@pytest.mark.fault("F39", "no libvirtd on PATH")
def test_a_missing_program_is_named_with_its_package(
    own_host: EmbeddedHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ai_how.process.SBIN", ())
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HostError, match="libvirtd is not installed") as caught:
        own_host.up(with_kvm=False)
    assert caught.value.hint == "sudo apt-get install libvirt-daemon-system"
    monkeypatch.undo()


def test_whoever_dies_while_starting_a_host_leaves_none_behind(own_host: EmbeddedHost) -> None:
    starter = f"""
import os, signal
from pathlib import Path
from ai_how.host import embedded
from ai_how.state.paths import default_roots
embedded.Supervisor.__init__ = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
embedded.EmbeddedHost(default_roots(Path({str(own_host.paths.root.parent)!r})).embedded).up(
    with_kvm=False
)
"""
    assert run([sys.executable, "-I", "-c", starter], check=False).returncode == -signal.SIGKILL
    assert not own_host.status().is_up
    order = str(own_host.paths.order).encode()

    wait_until(
        lambda: not any(order in words for words in command_lines().values()),
        Deadline.after(60),
        "the end of a host that nobody knows of",
    )


@pytest.mark.fault("S33", "links and rules outside of an embedded host")
def test_a_nat_network_is_inside_only(host: EmbeddedHost, client: LibvirtClient) -> None:
    before = look_at_machine()
    with running_network(client):
        inside = run(host.enter(["ip", "-br", "addr", "show", NETWORK.bridge])).stdout
        assert f"{NETWORK.gateway}/{NETWORK.subnet.prefixlen}" in inside
        assert pids_inside(host, "dnsmasq")
        rules = run(host.enter(["iptables-save", "-t", "nat"])).stdout
        assert f"-s {NETWORK.subnet}" in rules
        assert look_at_machine() == before


def test_a_running_network_ends_with_the_host(own_host: EmbeddedHost) -> None:
    own_host.up(with_kvm=False)
    supervisor = own_host.find_supervisor()
    assert supervisor
    with LibvirtClient(own_host.uri) as client:
        client.define_network(render_network(NETWORK))
        client.start_network(NETWORK.uuid)
        start_tiny_guest(client, render_tiny_guest(network=NETWORK.name))
    with kept_namespace(supervisor.pid) as namespace:
        assert any(name.startswith("dnsmasq") for name in processes_in(namespace).values())
        own_host.down()
        assert processes_in(namespace) == {}


def test_guests_see_no_kvm_unless_it_is_asked_for(own_host: EmbeddedHost) -> None:
    for with_kvm in (False, True):
        own_host.up(with_kvm=with_kvm)
        supervisor = own_host.find_supervisor()
        assert supervisor
        assert own_host.status().has_kvm is with_kvm
        devices = Path(f"/proc/{supervisor.pid}/root/dev")
        assert (devices / "kvm").exists() is (with_kvm and Path("/dev/kvm").exists())
        assert (devices / "net/tun").is_char_device()
        own_host.down()


def test_what_a_guest_says_is_logged(host: EmbeddedHost, client: LibvirtClient) -> None:
    log = host.paths.root / "storage" / "tiny.log"
    log.parent.mkdir(exist_ok=True)
    start_tiny_guest(client, render_tiny_guest(console_log=log), paused=False)
    try:
        wait_until(lambda: "SeaBIOS" in log.read_text(), Deadline.after(120), "the firmware's line")
    finally:
        remove_tiny_guest(client)
