"""Whether a cluster outlives a logout: what doctor says, and how the host is started for it."""

import os
from pathlib import Path

import pytest

from ai_how.host.checks import Status
from ai_how.host.doctor import check_logout
from ai_how.host.embedded import EmbeddedHost
from ai_how.host.logout import find_end, outliving
from leaks import private_host
from logind import HOSTS, KILLS, ME, SESSION, TERMINAL, LogindHost

# What a scope is made by, as far as this machine can: it becomes the command.
SYSTEMD_RUN = """#!/bin/sh
echo "$@" >>{log}
[ -e {broken} ] && exit 1
while [ "$1" != -- ]; do shift; done
shift
exec "$@"
"""


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that is first on PATH, with a systemd-run that writes down how it was called."""
    directory = tmp_path / "tools"
    directory.mkdir()
    program = directory / "systemd-run"
    program.write_text(SYSTEMD_RUN.format(log=directory / "log", broken=directory / "broken"))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(directory), prepend=os.pathsep)
    return directory


def as_user(monkeypatch: pytest.MonkeyPatch, name: str = ME) -> None:
    """Not root, for what is only read."""
    monkeypatch.setattr("ai_how.host.logout.os.geteuid", lambda: 1000)
    monkeypatch.setattr("ai_how.host.logout.user_name", lambda: name)
    monkeypatch.setattr("ai_how.host.doctor.user_name", lambda: name)


@pytest.mark.fault("H03", "logind's files and cgroups of stock hosts, as files")
@pytest.mark.parametrize("name", HOSTS)
def test_doctor_says_whether_a_cluster_outlives_a_logout(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_user(monkeypatch)
    root = HOSTS[name].make(tmp_path)
    check = check_logout(root, kind="hpc")
    assert (check.status is Status.OK) is HOSTS[name].outlives, check
    if not HOSTS[name].outlives:
        assert check.advice == f"sudo loginctl enable-linger {ME}"
        assert "clusters are powered off" in check.found


@pytest.mark.fault("H03", "logind's files and cgroups of stock hosts, as files")
def test_a_host_that_runs_is_judged_by_where_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_user(monkeypatch)
    root = LogindHost(TERMINAL, outlives=False).make(tmp_path, pid="4711")
    check = check_logout(root, kind="hpc", supervisor=4711)
    assert check.status is Status.WARNING
    assert check.advice is not None
    assert check.advice.startswith(f"sudo loginctl enable-linger {ME} && ai-how hpc stop")


@pytest.mark.fault("H03", "KillUserProcesses=yes for a user who lingers; systemd-run is a fake")
def test_who_lingers_has_the_host_in_a_scope_of_its_own(
    tools: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_user(monkeypatch)
    root = LogindHost(SESSION, outlives=True, files=(KILLS,), lingers=True).make(tmp_path / "host")
    words = outliving(root)
    assert words[:2] == ["env", "XDG_RUNTIME_DIR=/run/user/1000"]
    assert words[2:] == [
        str(tools / "systemd-run"),
        "--user",
        *["--scope", "--quiet", "--collect", "--"],
    ]
    assert find_end(root) is None
    # A user manager that is not to be reached, as after `su`.
    (tools / "broken").touch()
    assert outliving(root) == []


@pytest.mark.fault("H03", "a user who does not linger; systemd-run is a fake")
def test_a_scope_that_would_end_sooner_is_not_asked_for(
    tools: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_user(monkeypatch)
    assert outliving(LogindHost(SESSION, outlives=True).make(tmp_path / "host")) == []
    assert not (tools / "log").exists()


@pytest.mark.libvirt
@pytest.mark.fault("H03", "root by sudo in another's session; systemd-run is a fake")
def test_a_host_that_comes_up_in_a_scope_is_a_whole_one(
    tools: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = LogindHost(SESSION, outlives=False, files=(KILLS,)).make(tmp_path / "host")
    monkeypatch.setattr("ai_how.host.embedded.outliving", lambda: outliving(root))
    monkeypatch.setattr("ai_how.host.logout.os.geteuid", lambda: 0)
    with private_host() as host:
        host.up(with_kvm=False)
        assert host.status().is_up
        assert EmbeddedHost(host.paths).find_supervisor() == host.find_supervisor()
        host.down()
    [probe, launch, probe_again, uplink] = (tools / "log").read_text().splitlines()
    assert probe == probe_again == "--scope --quiet --collect -- true"
    assert "unshare" in launch
    assert "ai_how.host.outside" in uplink
