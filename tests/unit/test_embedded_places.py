"""The embedded host's sockets lie where others may have been first: below /tmp, for one."""

import json
import os
import socket
from dataclasses import asdict
from pathlib import Path

import pytest

from ai_how.errors import HostError
from ai_how.host.embedded import EmbeddedHost, Supervisor
from ai_how.process import run
from ai_how.state.paths import find_roots

NOBODY = 65534


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EmbeddedHost:
    (tmp_path / "runtime").mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "runtime"))
    return EmbeddedHost(find_roots(tmp_path / "state").embedded)


def lay_bait(directory: Path) -> socket.socket:
    """What a running host looks like: a record of a process that lives, and a socket."""
    directory.mkdir(parents=True)
    us = Supervisor.find(os.getpid(), has_kvm=False)
    assert us is not None
    (directory / "supervisor.json").write_text(json.dumps(asdict(us)))
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(directory / "libvirt-sock"))
    server.listen()
    return server


def test_the_bait_is_taken_where_nobody_else_can_have_laid_it(host):
    host.paths.run.parent.mkdir(mode=0o700)
    with lay_bait(host.paths.run):
        host.paths.run.chmod(0o700)
        assert host.find_supervisor() is not None


@pytest.mark.fault("S18", "a host of another's where ours would have its sockets")
@pytest.mark.parametrize("case", ["link", "link below", "open", "open below"])
def test_a_host_that_another_user_could_have_made_is_not_spoken_to(host, tmp_path, case):
    runs = host.paths.run
    theirs = tmp_path / "theirs" / runs.name
    with lay_bait(runs if case.startswith("open") else theirs):
        match case:
            case "link":
                runs.parent.symlink_to(theirs.parent)
            case "link below":
                runs.parent.mkdir(mode=0o700)
                runs.symlink_to(theirs)
            case "open":
                runs.parent.chmod(0o777)
            case "open below":
                runs.parent.chmod(0o700)
                runs.chmod(0o777)
        assert not host.status().is_up
        assert host.find_supervisor() is None
        host.down()
    assert theirs.exists() or case.startswith("open")


@pytest.mark.fault("S18", "a link and a directory of another's for our sockets")
@pytest.mark.parametrize("case", ["link", "another's"])
def test_a_place_that_is_taken_is_refused_and_left_as_it_is(host, tmp_path, monkeypatch, case):
    runs, victim = host.paths.run, tmp_path / "victim"
    (victim / runs.name).mkdir(parents=True)
    (victim / runs.name / "precious").write_text("untouched")
    if case == "link":
        runs.parent.symlink_to(victim)
        reason = "is not a directory"
    else:
        victim.rename(runs.parent)
        victim = runs.parent
        if os.geteuid() == 0:
            os.chown(runs.parent, NOBODY, NOBODY)
        else:
            monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
        reason = "belongs to another user"
    with pytest.raises(HostError, match=reason):
        host.up(with_kvm=False)
    assert (victim / runs.name / "precious").read_text() == "untouched"
    assert str(runs) not in run(["ps", "-eo", "args"]).stdout
