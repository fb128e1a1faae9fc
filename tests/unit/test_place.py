"""Which host a URI means, and what is said of one that cannot be used."""

from pathlib import Path

import pytest

from ai_how.errors import HostError, SpecError
from ai_how.host.place import resolve_host
from ai_how.process import run
from ai_how.state.paths import default_roots


@pytest.fixture
def roots(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return default_roots(tmp_path / "state")


def test_the_embedded_host_keeps_its_disks_with_the_state(roots):
    place = resolve_host("embedded", roots)
    assert place.kind == "embedded"
    assert place.storage.root.is_relative_to(roots.state)
    assert not place.is_up
    with pytest.raises(HostError, match="The embedded host is not up"):
        _ = place.uri


def test_auto_without_a_system_libvirt_is_embedded(roots):
    if Path("/run/libvirt/libvirt-sock").exists():
        assert resolve_host("auto", roots).kind in {"system", "embedded"}
    else:
        assert resolve_host("auto", roots).kind == "embedded"


def test_the_embedded_host_is_reached_through_us_and_others_directly(roots):
    proxy = resolve_host("embedded", roots).ssh_proxy(roots)
    assert proxy[-2:] == ["ai_how.host.connect", str(roots.state)]
    assert str(roots.state) in proxy
    assert resolve_host("test:///default", roots).ssh_proxy(roots) == []


def test_ssh_to_a_host_that_is_down_is_told_so(roots):
    done = run([*resolve_host("embedded", roots).ssh_proxy(roots), "10.0.0.1", "22"], check=False)
    assert done.returncode == HostError.exit_code
    assert done.stderr.startswith("error: The embedded host is not up\nhint: ")
    assert done.stderr.endswith(f" --state-dir {roots.state} host up\n")


def test_a_session_daemon_is_refused_with_what_to_use_instead(roots):
    with pytest.raises(HostError, match="cannot give a cluster its own network") as refused:
        resolve_host("qemu:///session", roots)
    assert refused.value.hint == "ai-how --connect embedded …"  # the same command, there


def test_a_remote_host_is_refused_for_now(roots):
    with pytest.raises(HostError, match="a remote host is not supported yet") as refused:
        resolve_host("qemu+ssh://host/system", roots)
    assert refused.value.exit_code == 3


def test_what_is_no_host_is_wrong_usage(roots):
    with pytest.raises(SpecError, match="is not a known host") as refused:
        resolve_host("xen:///", roots)
    assert refused.value.exit_code == 2


def test_each_host_says_what_it_can(roots):
    embedded, test = resolve_host("embedded", roots), resolve_host("test:///default", roots)
    for place, is_real in ((embedded, True), (test, False)):
        assert (place.runs_guests, place.has_network, place.saves_memory) == (is_real,) * 3
        assert (place.has_private_network, place.moves_with_state) == (is_real,) * 2
