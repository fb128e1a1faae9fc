"""Which program is run, and in which surroundings: never another's, and never by accident."""

import os
from pathlib import Path

import pytest

from ai_how.errors import ToolError
from ai_how.process import child_environment, find_tool, get_tool, run, search_path, start_daemon

CANARY = "canary-tool"
IS_ROOT = os.geteuid() == 0
NOBODY = 65534


def put(directory: Path, *, mode: int = 0o755) -> Path:
    """A program that leaves a file behind when it is run."""
    directory.mkdir(parents=True, exist_ok=True)
    tool = directory / CANARY
    tool.write_text(f"#!/bin/sh\ntouch {directory}/ran\n")
    tool.chmod(0o755)
    directory.chmod(mode)
    return tool


@pytest.mark.fault("S32", "relative and empty entries of PATH")
@pytest.mark.parametrize("entry", [".", "", "bin", "./bin", "../here/bin", "~/bin"])
def test_a_program_is_never_looked_for_where_we_happen_to_stand(tmp_path, monkeypatch, entry):
    here = tmp_path / "here"
    put(here)
    put(here / "bin")
    put(here / "~" / "bin")
    monkeypatch.chdir(here)
    monkeypatch.setenv("PATH", f"{entry}{os.pathsep}/usr/bin")
    assert find_tool(CANARY) is None
    with pytest.raises(ToolError, match="is not installed"):
        get_tool(CANARY)


@pytest.mark.fault("S32", "directories on root's PATH in which others can write")
@pytest.mark.parametrize("case", ["open", "below open", "another's", "link", "sticky"])
def test_root_runs_nothing_that_another_user_could_have_put_there(tmp_path, monkeypatch, case):
    tool = put(tmp_path / "top" / "bin")
    entry = tool.parent
    # Where we are not root, what we made is another's to root.
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    match case:
        case "open":
            entry.chmod(0o777)
        case "below open":
            entry.parent.chmod(0o777)
        case "another's" if IS_ROOT:
            os.chown(entry, NOBODY, NOBODY)
        case "link":
            entry.parent.chmod(0o777)
            (tmp_path / "link").symlink_to(entry)
            entry = tmp_path / "link"
        case "sticky":
            entry.chmod(0o1777)
    monkeypatch.setenv("PATH", f"{entry}{os.pathsep}/usr/bin")
    assert find_tool(CANARY) is None
    assert str(entry) not in search_path().split(os.pathsep)
    run(["sh", "-c", f"{CANARY}; true"])
    assert not (tool.parent / "ran").exists()


@pytest.mark.fault("S32", "a good directory on PATH")
def test_a_program_is_found_by_its_absolute_path_and_first_come_first_served(tmp_path, monkeypatch):
    first, second = put(tmp_path / "first"), put(tmp_path / "second")
    monkeypatch.setenv("PATH", f"{first.parent}{os.pathsep}{second.parent}")
    assert find_tool(CANARY) == first
    assert get_tool(CANARY).is_absolute()


@pytest.mark.fault("S32", "variables by which a child would load or ask something else")
@pytest.mark.parametrize(
    "name",
    ["LD_PRELOAD", "LD_AUDIT", "PYTHONPATH", "PYTHONSTARTUP", "LIBVIRT_DEFAULT_URI", "VIRSH_HOME"],
)
def test_children_do_not_inherit_what_would_lead_them_elsewhere(monkeypatch, name):
    monkeypatch.setenv(name, "/tmp/elsewhere")
    assert name not in child_environment()
    assert f"\n{name}=" not in f"\n{run(['env']).stdout}"


@pytest.mark.fault("S13", "the log of a daemon under umask 000")
def test_what_a_daemon_writes_is_for_our_eyes_only(tmp_path):
    former = os.umask(0)
    try:
        child = start_daemon(["sh", "-c", "echo hello"], log=tmp_path / "logs" / "daemon.log")
    finally:
        os.umask(former)
    assert child.wait(60) == 0
    assert (tmp_path / "logs" / "daemon.log").read_text() == "hello\n"
    assert (tmp_path / "logs" / "daemon.log").stat().st_mode & 0o777 == 0o600


@pytest.mark.fault("S18", "a link where a daemon's log would be")
def test_the_log_of_a_daemon_follows_no_link(tmp_path):
    (tmp_path / "victim").write_text("untouched")
    (tmp_path / "daemon.log").symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match="symbolic links"):
        start_daemon(["true"], log=tmp_path / "daemon.log")
    assert (tmp_path / "victim").read_text() == "untouched"
