"""Which embedded host runs: what the kernel says of it counts, and no file that lies about."""

import json
import os
import shutil
import socket
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from ai_how.errors import HostError
from ai_how.host import running
from ai_how.host.embedded import EmbeddedHost
from ai_how.host.running import Supervisor, accepts, hold, is_held
from ai_how.state.paths import default_roots, ensure_private_directory

NOBODY = 65534


@pytest.fixture
def host(tmp_path: Path) -> EmbeddedHost:
    host = EmbeddedHost(default_roots(tmp_path / "state").embedded)
    ensure_private_directory(host.paths.root)
    return host


@pytest.fixture
def us() -> Supervisor:
    found = Supervisor.find(os.getpid(), has_kvm=False)
    assert found is not None
    return found


def note(host: EmbeddedHost, supervisor: Supervisor) -> None:
    host.paths.record.write_text(json.dumps(asdict(supervisor)))


def test_a_host_that_holds_its_lock_is_found_by_its_record(host, us):
    note(host, us)
    held = hold(host.paths.root)
    try:
        assert host.find_supervisor() == us
        with pytest.raises(HostError, match="is in use by a running embedded host"):
            hold(host.paths.root)
    finally:
        os.close(held)
    assert not is_held(host.paths.root)


@pytest.mark.fault("H03", "a record of another boot, of a later process, of nobody's lock")
@pytest.mark.parametrize("case", ["no lock", "earlier boot", "later process", "ended", "torn"])
def test_a_record_that_was_left_blocks_nobody(host, us, case):
    match case:
        case "earlier boot":
            note(host, replace(us, boot_id="11111111-2222-4333-8444-555555555555"))
        case "later process":
            note(host, replace(us, start_ticks=us.start_ticks - 1))
        case "ended":
            note(host, replace(us, pid=2**22 + 1))
        case "torn":
            host.paths.record.write_text('{"pid": 1')
        case "no lock":
            note(host, us)
    assert host.find_supervisor() is None
    host.down()
    assert not host.paths.record.exists()
    os.close(hold(host.paths.root))


@pytest.mark.fault("H03", "a copy of the directory of a host that runs")
def test_a_copy_of_a_running_hosts_directory_is_not_that_host(host, us, tmp_path):
    note(host, us)
    held = hold(host.paths.root)
    try:
        shutil.copytree(host.paths.root.parent, tmp_path / "copy")
        assert EmbeddedHost(default_roots(tmp_path / "copy").embedded).find_supervisor() is None
        assert host.find_supervisor() == us
    finally:
        os.close(held)


@pytest.mark.fault("H03", "a host whose processes cannot be seen, as from another container")
def test_a_host_that_cannot_be_seen_is_never_taken_for_none(host, monkeypatch):
    monkeypatch.setattr(running, "COMING_UP_S", 0.1)
    held = hold(host.paths.root)
    try:
        with pytest.raises(HostError, match="but it is not visible from here") as refused:
            host.find_supervisor()
        assert refused.value.hint == f"sudo fuser -v {host.paths.root}"
        with pytest.raises(HostError, match="but it is not visible from here"):
            host.up(with_kvm=False)
    finally:
        os.close(held)
    assert host.find_supervisor() is None


@pytest.mark.fault("S18", "a record of a process of another user's")
def test_a_process_of_another_users_is_never_our_host(host, us, monkeypatch):
    note(host, us)
    held = hold(host.paths.root)
    try:
        monkeypatch.setattr(running, "COMING_UP_S", 0.1)
        monkeypatch.setattr(os, "geteuid", lambda: NOBODY)
        with pytest.raises(HostError, match="is not visible"):
            host.find_supervisor()
    finally:
        os.close(held)


@pytest.mark.fault("H03", "a host that has not covered /run yet, beside a libvirt of the system's")
def test_a_host_that_still_sees_the_real_run_takes_no_connections(us, tmp_path, monkeypatch):
    """What listens there is the system's libvirtd: a cluster of ours would be defined on it."""
    settings = tmp_path / "libvirtd.conf"
    settings.write_text(f'unix_sock_dir = "{tmp_path}"\n')
    monkeypatch.setattr(running, "SETTINGS", settings.relative_to("/"))
    with socket.socket(socket.AF_UNIX) as systems:
        systems.bind(f"{tmp_path}/libvirt-sock")
        systems.listen()
        assert us.socket.exists()
        assert not us.has_own_run
        assert not accepts(us)
