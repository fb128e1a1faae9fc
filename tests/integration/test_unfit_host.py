"""A host that cannot have the cluster says so, and nothing of the cluster is left on it."""

from pathlib import Path

import pytest

import decoys
from ai_how.clusters.preflight import capacity
from ai_how.errors import HostError, LibvirtError, ToolError
from ai_how.host.checks import QEMU_OVERHEAD_MIB
from ai_how.host.embedded import EmbeddedHost
from ai_how.libvirt_client.client import LibvirtClient
from ai_how.vm_management.nodes.domain_definition import Accel
from leaks import files
from tiny_cluster import FILE, Ended, TinyHome, opened
from tiny_guest import TINY, render_tiny_guest

pytestmark = pytest.mark.libvirt


def assert_nothing_was_made(home: TinyHome, ended: Ended) -> None:
    assert ended.boundaries == (), "a plan was begun"
    with home.client() as client:
        assert {one.name for one in client.list_domains()} <= decoys.NAMES
        assert {one.name for one in client.list_networks()} <= decoys.NAMES
    assert files(home.host.paths.root / "storage") == []
    paths = home.paths("large")
    assert not paths.is_used


@pytest.mark.fault("F39", "a start that wants more memory than the host has")
def test_more_memory_than_the_host_has_is_refused_before_anything_is_made(tiny_home):
    file = tiny_home.root / "large.yaml"
    file.write_text(
        FILE.format(name="large", count=2, warm="false").replace(
            "memory_gb: 0.5", "memory_gb: 9000"
        )
    )
    ended = tiny_home.call("hpc", "start", name="large")
    assert ended.code == 3, ended.said
    assert f"3 VMs need {3 * (9000 * 1024 + QEMU_OVERHEAD_MIB)} MiB" in ended.err
    assert "hint: free -m" in ended.err
    assert_nothing_was_made(tiny_home, ended)


@pytest.mark.fault("F39", "a machine type that QEMU does not know")
def test_a_machine_type_that_is_unknown_is_refused_by_define(client: LibvirtClient):
    xml = render_tiny_guest().replace("machine='q35'", "machine='pc-q35-99.9'")
    with pytest.raises(LibvirtError, match="defining VM tiny failed") as caught:
        client.define_domain(xml)
    assert "pc-q35-99.9" in str(caught.value)
    assert client.find_domain(TINY) is None


@pytest.mark.fault("F39", "no QEMU when a host is to come up")
def test_without_qemu_no_host_comes_up_and_the_package_is_named(
    own_host: EmbeddedHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    home = TinyHome(own_host.paths.root.parent)
    monkeypatch.setattr("ai_how.process.SBIN", ())
    only = tmp_path / "bin"
    only.mkdir()
    for name in ("libvirtd", "virtlogd", "qemu-img", "dnsmasq", "iptables", "ip", "unshare"):
        (only / name).symlink_to("/bin/true")
    monkeypatch.setenv("PATH", str(only))
    with pytest.raises(ToolError, match="qemu-system-x86_64 is not installed") as caught:
        home.host.up(with_kvm=False)
    assert caught.value.hint == "sudo apt-get install qemu-system-x86"
    assert not home.host.status().is_up


@pytest.mark.fault("F39", "a QEMU that does not work")
def test_a_qemu_that_does_not_work_is_named_and_nothing_stays(
    own_host: EmbeddedHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    broken = tmp_path / "bin" / "qemu-system-x86_64"
    broken.parent.mkdir()
    broken.write_text("#!/bin/sh\necho 'QEMU emulator version 2.5.0'; exit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{broken.parent}:/usr/bin:/bin")
    with opened(TinyHome(own_host.paths.root.parent)) as home:
        ended = home.call("hpc", "start")
        assert ended.code == 3, ended.said
        assert "libvirt has no QEMU for x86_64 guests of machine type q35" in ended.err
        assert str(broken) in ended.err
        assert ended.boundaries == (), "a plan was begun"
        with home.client() as client:
            assert client.list_domains() == ()
            assert client.list_networks() == ()
        assert not home.paths("hpc").is_used


@pytest.mark.fault("F39", "a machine type that QEMU does not know, at start")
def test_a_machine_type_that_is_unknown_is_refused_before_anything_is_made(
    client: LibvirtClient, monkeypatch: pytest.MonkeyPatch
):
    capacity.require_hypervisor(client, Accel.TCG)
    monkeypatch.setattr(capacity, "MACHINE", "pc-q35-99.9")
    with pytest.raises(HostError, match=r"machine type pc-q35-99\.9") as caught:
        capacity.require_hypervisor(client, Accel.TCG)
    assert "pc-q35-99.9" in str(caught.value.details)
