"""What of a directory is copied: all but what git ignores, its own files, and what is no file."""

import os
import socket

import pytest

from ai_how.guest.own_files import IgnoreRules, list_files


@pytest.fixture
def top(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "settings"))
    top = tmp_path / "top"
    top.mkdir()
    return top


def write(top, **files):
    for name, text in files.items():
        path = top / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def listed(top):
    return list(list_files(top, IgnoreRules(top)).entries)


def test_a_directory_comes_before_its_files(top):
    write(top, b__c="", **{"b.x": "", "a": ""})
    assert listed(top) == ["a", "b", "b/c", "b.x"]


def test_rules_of_nearer_directories_win(top):
    write(top, **{".gitignore": "*.log\n/only\nbuild/\n", "a.log": "", "only": "", "x__only": ""})
    write(top, **{"sub__.gitignore": "!*.log\n*.o\n", "sub__b.log": "", "sub__b.o": ""})
    write(top, build__c="", x__build__d="", y__build="a file")
    there = {".gitignore", "sub", "sub/.gitignore", "sub/b.log", "x", "x/only", "y", "y/build"}
    assert set(listed(top)) == there


def test_what_is_in_an_ignored_directory_cannot_be_listed_again(top):
    write(top, **{".gitignore": "out/\n!out/a\n", "out__a": "", "out__.gitignore": "!*\n"})
    assert listed(top) == [".gitignore"]
    rules = IgnoreRules(top)
    assert rules.is_ignored("out/a", is_directory=False)
    assert rules.is_ignored("out/deep/new", is_directory=False)
    assert not rules.is_ignored("new", is_directory=False)


def test_rules_above_count_in_a_repository_alone(top, tmp_path):
    write(tmp_path, **{".gitignore": "/top/a\n*.o\n", "settings__git__ignore": "*.swp\n"})
    write(top, a="", **{"b.o": "", "c.swp": "", "d": ""})
    assert listed(top) == ["a", "b.o", "c.swp", "d"]
    write(tmp_path, **{".git__info__exclude": "top/d\n"})
    assert listed(top) == []


def test_files_of_git_are_never_listed(top):
    write(top, **{".git__config": "", "sub__.git": "gitdir: ../x", "sub__a": ""})
    assert listed(top) == ["sub", "sub/a"]


def test_what_is_no_file_is_left_out_and_named(top, monkeypatch):
    monkeypatch.chdir(top)
    os.mkfifo("pipe")
    with socket.socket(socket.AF_UNIX) as one:
        one.bind("socket")
        found = list_files(top, IgnoreRules(top))
    assert (found.entries, found.left_out) == ({}, ["pipe", "socket"])


def test_a_link_to_a_directory_is_a_link(top):
    write(top, a__b="")
    (top / "link").symlink_to("a")
    assert list_files(top, IgnoreRules(top)).entries["link"] == ["l", "a"]
    assert "link/b" not in listed(top)
