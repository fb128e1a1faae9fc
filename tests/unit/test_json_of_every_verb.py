"""With --json, stdout is one JSON document, whatever the verb and however it ends."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from cli_runner import GOOD, Cli
from test_docs_json import assert_whole, documented

from ai_how.cli.app import app

REFUSED = 2
TEST_HOST = ("--connect", "test:///default")

# Each verb with words that have it answer, and with words that have it fail, in an empty home. None
# where that cannot be had here; what runs a cluster is asked with guests in the tests that boot.
CALLS: dict[str, tuple[tuple[str, ...] | None, tuple[str, ...] | None]] = {
    "init": (("new.yaml",), ("cluster.yaml",)),
    "validate": (None, ("broken.yaml",)),
    "schema": ((), ("--unknown",)),
    "doctor": (None, ()),
    "hpc start": (None, ()),
    "hpc stop": (None, ()),
    "hpc status": (None, ()),
    "hpc check": (None, ()),
    "hpc destroy": (("--force", *TEST_HOST), ()),
    "hpc recover": (None, TEST_HOST),
    "hpc list": ((), ("--unknown",)),
    "hpc inventory": (None, ()),
    "hpc provision": (None, ()),
    "hpc ssh": (None, ("controller",)),
    "hpc run": (None, ("--", "id")),
    "hpc exec": (None, ("controller", "--", "id")),
    "hpc console": (None, ("controller",)),
    "hpc cp": (None, ("controller:a", ".")),
    "hpc rsync": (None, ("controller:a", ".")),
    "hpc forward": (None, ("0:controller:80",)),
    "hpc why": (None, ()),
    "hpc wrappers": (None, ("bin",)),
    "hpc top": (None, ()),
    "hpc monitor start": (None, ()),
    "hpc monitor stop": (None, ()),
    "hpc monitor status": (None, ()),
    "hpc dashboard": (None, ("--address", "192.0.2.1")),
    "hpc logs": (None, ("controller",)),
    "hpc report": (None, ()),
    "hpc ssh-config": (None, ()),
    "hpc metrics": (("--rules", "rules"), ()),
    "cloud start": (None, ()),
    "cloud stop": (None, ()),
    "cloud status": (None, ()),
    "cloud destroy": (None, ()),
    "cloud recover": (None, TEST_HOST),
    "cloud list": ((), ("--unknown",)),
    "cloud ssh": (None, ("control-plane-01",)),
    "cloud exec": (None, ("control-plane-01", "--", "id")),
    "cloud console": (None, ("control-plane-01",)),
    "cloud cp": (None, ("control-plane-01:a", ".")),
    "cloud rsync": (None, ("control-plane-01:a", ".")),
    "cloud forward": (None, ("0:control-plane-01:80",)),
    "cloud why": (None, ()),
    "cloud logs": (None, ("control-plane-01",)),
    "cloud ssh-config": (None, ()),
    "cloud kubectl": (None, ("get", "nodes")),
    "cloud kubeconfig": (None, ()),
    "list": ((), ("--unknown",)),
    "status": (None, ("broken.yaml",)),
    "image build": (None, ()),
    "image warm": (None, ()),
    "image list": ((), None),
    "image import": (None, ("/nowhere",)),
    "image show": (None, ("unknown",)),
    "image diff": (None, ("unknown", "other")),
    "image export": (None, ("unknown", "file")),
    "image verify": ((), ("unknown",)),
    "image rm": (None, ("unknown",)),
    "cache export": (None, ("file",)),
    "cache import": (None, ("/nowhere",)),
    "cache key": (None, ()),
    "cache prune": ((), ("--unknown",)),
    "gpu list": ((), ("--unknown",)),
    "gpu explain": ((), ("0000:99:00.0",)),
    "gpu doctor": (None, ("--unknown",)),
    "gpu move": (None, ("65:00.0", "--to", "hpc/compute-01")),
    "host up": (None, ()),
    "host down": ((), None),
    "host status": ((), ("--unknown",)),
    "host connect": (None, ("192.0.2.1", "22")),
}
WITHOUT_JSON = [
    ("hpc", "ssh", "controller"),
    ("hpc", "console", "controller"),
    ("hpc", "cp", "controller:a", "."),
    ("hpc", "rsync", "controller:a", "."),
    ("hpc", "ssh-config"),
    ("hpc", "status", "--watch"),
    ("hpc", "inventory", "--yaml"),
    ("cloud", "ssh", "control-plane-01"),
    ("cloud", "console", "control-plane-01"),
    ("cloud", "cp", "control-plane-01:a", "."),
    ("cloud", "rsync", "control-plane-01:a", "."),
    ("cloud", "ssh-config"),
    ("cloud", "status", "--watch"),
    ("cloud", "kubeconfig", "--stdout"),
    ("host", "connect", "192.0.2.1", "22"),
]


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """In a home with a good and a broken file, and without programs to run."""
    cli = Cli(tmp_path, monkeypatch, capsys)
    monkeypatch.setenv("PATH", str(tmp_path))
    cli.write("cluster.yaml", GOOD)
    cli.write("broken.yaml", "version: [")
    return cli


def verbs(command: Any, path: tuple[str, ...] = ()) -> Iterator[str]:
    """Every verb of the program, hidden ones too."""
    subcommands = getattr(command, "commands", None)
    if not subcommands:
        yield " ".join(path)
        return
    for name in subcommands:
        yield from verbs(subcommands[name], (*path, name))


def test_every_verb_is_asked() -> None:
    assert set(verbs(typer.main.get_command(app))) == set(CALLS)


@pytest.mark.parametrize("verb", [name for name, calls in CALLS.items() if calls[0] is not None])
def test_what_is_answered_in_json_is_one_document(cli: Cli, verb: str) -> None:
    done = cli("--json", *verb.split(), *(CALLS[verb][0] or ()))
    assert done.code == 0, (done.out, done.err)
    answer = json.loads(done.out)
    assert "error" not in answer


@pytest.mark.parametrize("verb", [name for name, calls in CALLS.items() if calls[1] is not None])
def test_a_failure_is_said_in_json_too(cli: Cli, verb: str) -> None:
    done = cli("--json", *verb.split(), *(CALLS[verb][1] or ()))
    assert done.code not in (0, 1), (done.out, done.err)
    answer = json.loads(done.out)
    if "error" in answer:
        assert answer["error"]["exit_code"] == done.code
        assert answer["error"]["brief"]
        assert_whole(answer, "", documented("A verb that fails"))
    else:
        assert verb in ("doctor", "validate"), "what these find is their answer"


@pytest.mark.parametrize("words", WITHOUT_JSON, ids=" ".join)
def test_what_has_no_json_is_refused_where_it_is_asked_for(
    cli: Cli, words: tuple[str, ...]
) -> None:
    done = cli(*words[:2], "--json", *words[2:])
    assert done.code == REFUSED, (done.out, done.err)
    error = json.loads(done.out)["error"]
    assert error["brief"].endswith("has no JSON")
    assert error["hint"].startswith("ai-how ")
    assert done.err == ""


def test_help_is_given_with_json_too(cli: Cli) -> None:
    done = cli("--json", "hpc", "ssh", "--help")
    assert done.code == 0
    assert "Usage: ai-how hpc ssh" in done.out
