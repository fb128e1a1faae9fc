"""Every refusal has its message and its exit code, and no traceback reaches a user."""

import json
import re
import stat
from pathlib import Path

import pytest
from cli_runner import GOOD, Cli

from ai_how.errors import (
    HostError,
    InterruptedRunError,
    LockedError,
    PlanFailedError,
    UndoIncompleteError,
)


@pytest.fixture
def cli(tmp_path, monkeypatch, capsys) -> Cli:
    return Cli(tmp_path, monkeypatch, capsys)


BAD_FILES = {
    "unknown key": (
        GOOD.replace(
            "cpu_cores: 1, memory_gb: 1, disk_gb: 10}\n    comp", "cpu_coers: 1}\n    comp"
        ),
        r"bad\.yaml:5: clusters\.hpc\.controller\.cpu_coers: .*cpu_cores",
    ),
    "bad YAML": ("version: [1\n", r"bad\.yaml:\d+: "),
    "unsafe tag": ("version: !!python/object/apply:os.system [true]\n", r"bad\.yaml:1: .*tag"),
    "twice the same key": (f'version: "1.0"\n{GOOD}', r"bad\.yaml:2: .*version"),
    "unset variable": (GOOD.replace("demo", "${AI_HOW_NOT_SET}"), r"bad\.yaml:4: .*AI_HOW_NOT_SET"),
    "empty": ("", r"bad\.yaml:1: "),
    "binary": ("\x00\x1b]0;x\x07", r"bad\.yaml:1: "),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_file_is_refused_with_its_place(cli, case):
    text, message = BAD_FILES[case]
    cli.write("bad.yaml", text)
    ended = cli("validate", "--offline", "bad.yaml")
    assert ended.code == 2
    assert re.search(message, ended.err)
    assert re.search(r"error: \d+ problems? in bad\.yaml", ended.err)
    assert "\x1b" not in ended.err


def test_all_problems_are_told_at_once(cli):
    cli.write("bad.yaml", GOOD.replace("memory_gb: 1", "memory_gb: -1"))
    ended = cli("validate", "--offline", "bad.yaml")
    assert ended.code == 2
    assert "error: 2 problems in bad.yaml" in ended.err
    assert re.search(r"bad\.yaml:5: .*memory_gb", ended.err)
    assert re.search(r"bad\.yaml:6: .*memory_gb", ended.err)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("validate --offline missing.yaml", "cannot read missing.yaml: No such file or directory"),
        ("validate --offline -c missing.yaml", "cannot read missing.yaml"),
        ("hpc start missing.yaml", "cannot read missing.yaml"),
        ("nonsense", "no such command 'nonsense'"),
        ("validat", "Did you mean 'validate'?"),
        ("image", "Usage: ai-how image"),
        ("image nonsense", "no such command 'nonsense'"),
        ("validate --nonsense", "no such option: --nonsense"),
        ("validate a.yaml b.yaml", "unexpected extra argument"),
        ("image rm", "missing argument 'IMAGE'"),
        ("--connect", "option '--connect' requires an argument"),
        ("--connect foo:///system schema", "this libvirt URI is not allowed: 'foo:///system'"),
        ("schema --connect qemu+ext:///x", "this libvirt URI is not allowed"),
        ("--log-file /nowhere/log schema", "cannot log to /nowhere/log: No such file"),
        ("host connect gateway 22", "invalid value for 'address'"),
        ("host connect 10.0.0.1 99999", "invalid value for 'port'"),
    ],
)
def test_wrong_use_ends_with_2(cli, words, message):
    ended = cli(*words.split())
    assert ended.code == 2
    assert message in ended.err


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        ("image rm nope", "there is no image nope", "ai-how image build"),
        ("image verify nope", "there is no image nope", "ai-how image build"),
        ("image import nope.qcow2", "nope.qcow2", ""),
        ("image import http://x/y", "a download needs its sha256", "--sha256"),
        ("host connect 10.0.0.1 22", "The embedded host is not up", "ai-how host up"),
    ],
)
def test_what_the_host_cannot_do_ends_with_3(cli, words, message, hint):
    ended = cli(*words.split())
    assert ended.code == 3
    assert message in ended.err
    assert hint in ended.err


def test_without_a_verb_the_help_is_shown(cli):
    ended = cli()
    assert ended.code == 2
    assert ended.err.startswith("Usage: ai-how")


@pytest.mark.parametrize(
    ("words", "code", "brief"),
    [
        ("hpc start missing.yaml", 2, "cannot read missing.yaml: No such file or directory"),
        ("nonsense", 2, "no such command 'nonsense'"),
        ("image rm nope", 3, "there is no image nope"),
        ("--connect foo: schema", 2, "this libvirt URI is not allowed: 'foo:'"),
    ],
)
def test_an_error_under_json_is_one_document(cli, words, code, brief):
    ended = cli("--json", *words.split())
    told = json.loads(ended.out)["error"]
    assert ended.code == told["exit_code"] == code
    assert told["brief"] == brief
    assert ended.err == ""


def test_problems_under_json_are_data(cli):
    cli.write("bad.yaml", GOOD.replace("memory_gb: 1", "memory_gb: -1"))
    ended = cli("validate", "--offline", "--json", "bad.yaml")
    told = json.loads(ended.out)
    assert ended.code == 2
    assert told["is_valid"] is False
    assert [(one["line"], one["severity"]) for one in told["problems"]] == [
        (5, "error"),
        (6, "error"),
    ]


@pytest.mark.parametrize(
    "error",
    [
        HostError("brief"),
        PlanFailedError("brief"),
        UndoIncompleteError("brief"),
        LockedError("brief"),
        InterruptedRunError("brief"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_each_error_ends_with_its_own_code(cli, monkeypatch, error):
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("ai_how.spec.document.json_schema", fail)
    ended = cli("schema")
    assert ended.code == type(error).exit_code
    assert ended.err == "error: brief\n"


def test_a_group_of_known_errors_is_no_bug_and_the_worst_of_them_gives_the_code(cli, monkeypatch):
    def fail() -> None:
        raise ExceptionGroup("both failed", [HostError("one"), UndoIncompleteError("two")])

    monkeypatch.setattr("ai_how.spec.document.json_schema", fail)
    ended = cli("schema")
    assert ended.code == 5
    assert ended.err.splitlines() == ["error: both failed", "  one", "  two"]


def test_a_file_that_the_system_refuses_is_no_bug(cli, monkeypatch):
    def fail() -> None:
        raise PermissionError(13, "Permission denied", "/some/file")

    monkeypatch.setattr("ai_how.spec.document.json_schema", fail)
    ended = cli("schema")
    assert ended.code == 3
    assert ended.err == "error: /some/file: Permission denied\nhint: ls -ld /some/file\n"


def saved_report(err: str) -> Path:
    found = re.search(r"Its report was saved to (.*)", err)
    assert found, err
    return Path(found[1])


def test_a_bug_leaves_a_private_report_and_no_traceback(cli, monkeypatch):
    def fail() -> None:
        raise RuntimeError("never thought of\x1b[31m")

    monkeypatch.setattr("ai_how.spec.document.json_schema", fail)
    ended = cli("schema", "-v")
    assert ended.code == 1
    assert ended.err.startswith("error: this is a bug in ai-how (RuntimeError)\n")
    report = saved_report(ended.err)
    assert report.parent == cli.roots.crash_reports
    assert stat.S_IMODE(report.stat().st_mode) == 0o600
    assert "RuntimeError: never thought of" in report.read_text()
    assert report.read_text().startswith("ai-how -v schema\n")


def test_a_bug_where_the_state_cannot_be_written_still_leaves_a_report(cli, monkeypatch):
    def fail() -> None:
        raise RuntimeError("never thought of")

    monkeypatch.setattr("ai_how.spec.document.json_schema", fail)
    in_the_way = cli.write("file", "")
    ended = cli("schema", "--state-dir", in_the_way)
    assert ended.code == 1
    report = saved_report(ended.err)
    assert "never thought of" in report.read_text()
    report.unlink()
