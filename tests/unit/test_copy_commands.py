"""What `hpc cp` and `hpc rsync` run: scp and rsync that say with which words they were called."""

import json
import sys
from pathlib import Path

import pytest
from cli_runner import GOOD, Cli
from test_cli_verbs import add_image, remember

from ai_how.cli.arguments import read_command_line
from ai_how.cli.cluster_files import _place
from ai_how.errors import SpecError
from ai_how.guest.ssh import rsync_argv
from ai_how.process import Completed, run
from ai_how.state.cluster_state import read_state
from ai_how.state.models import ClusterState
from ai_how.state.paths import ClusterPaths

TELLER = f"#!{sys.executable}\nimport json, sys\nprint(json.dumps(sys.argv[1:]))\nsys.exit(7)\n"


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """In the home of a user with the cluster `demo` and its node compute-01."""
    cli = Cli(tmp_path, monkeypatch, capsys)
    cli.write("cluster.yaml", GOOD)
    remember(cli, "demo", add_image(cli))
    return cli


@pytest.fixture
def state(cli: Cli) -> ClusterState:
    found = read_state(cli.roots.cluster("demo"))
    assert found is not None
    return found


def tools(cli: Cli, *names: str) -> str:
    """A directory with these programs."""
    place = cli.home / "bin"
    place.mkdir()
    for name in names:
        (place / name).write_text(TELLER)
        (place / name).chmod(0o755)
    return str(place)


def call(cli: Cli, path: str, *words: str) -> Completed:
    argv = [sys.executable, "-m", "ai_how", *words]
    return run(argv, check=False, cwd=cli.home, env={"PATH": path})


@pytest.mark.parametrize(
    ("word", "is_there", "place"),
    [
        ("a b'c", False, "./a b'c"),
        ("-x", False, "./-x"),
        ("/srv/x:y", False, "/srv/x:y"),
        ("./x:y", False, "././x:y"),
        ("sub/x:y", False, "./sub/x:y"),
        ("x:y", True, "./x:y"),
        ("compute-01:", False, "NODE:"),
        ("compute-01:", True, "NODE:"),
        ("compute-01:a b'c", False, "NODE:a b'c"),
        ("compute-01:-x", False, "NODE:-x"),
        ("compute-01:/srv/x:y", False, "NODE:/srv/x:y"),
    ],
)
def test_a_word_is_a_place_of_a_node_or_of_this_host(
    cli: Cli, state: ClusterState, word: str, is_there: bool, place: str
) -> None:
    if is_there:
        cli.write(word, "")
    domain = state.get_node("compute-01").domain_name
    assert _place(word, state) == (place.replace("NODE", domain), place.startswith("NODE"))


def test_the_name_of_the_vm_is_a_node_too(state: ClusterState) -> None:
    domain = state.get_node("compute-01").domain_name
    assert _place(f"{domain}:x", state) == (f"{domain}:x", True)


def test_a_misspelt_node_is_told_with_the_way_to_write_a_file(state: ClusterState) -> None:
    with pytest.raises(SpecError) as caught:
        _place("compute-1:x", state)
    assert caught.value.brief == "cluster demo has no node compute-1"
    assert caught.value.hint == "./compute-1:x  # for a local file"


@pytest.mark.parametrize(
    ("words", "said"),
    [(("a",), "SRC... DST was expected"), (("a", "b"), "no node was named: one side is NODE:PATH")],
)
def test_a_copy_without_a_node_is_refused(cli: Cli, words: tuple[str, ...], said: str) -> None:
    done = cli("hpc", "cp", *words)
    assert done.code == 2
    assert said in done.err


def test_cp_ends_as_scp_does(cli: Cli, state: ClusterState) -> None:
    path = tools(cli, "scp")
    done = call(cli, path, "hpc", "cp", "-rp", "--", "-x", "compute-01:a b")
    config = str(cli.roots.cluster("demo").ssh_config)
    domain = state.get_node("compute-01").domain_name
    told = [
        "-s",
        "-r",
        "-F",
        config,
        "-o",
        "IdentityAgent=none",
        "-p",
        "--",
        "./-x",
        f"{domain}:a b",
    ]
    assert (json.loads(done.stdout), done.returncode) == (told, 7)


def test_rsync_gets_its_words_unchanged(cli: Cli) -> None:
    path = tools(cli, "rsync", "ssh")
    words = ["-av", "-c", "--log-file=x", "--json", "--", "a b'c", "compute-01:-x"]
    done = call(cli, path, "hpc", "rsync", "--cluster", "demo", *words)
    told = json.loads(done.stdout)
    assert (told[2:], done.returncode) == (words, 7)
    assert told[0] == "-e"
    config = cli.roots.cluster("demo").ssh_config
    assert told[1].endswith(f"/ssh' '-F' '{config}' '-o' 'IdentityAgent=none'")


def test_what_is_missing_is_named_with_its_package(cli: Cli) -> None:
    path = tools(cli, "ssh")
    done = call(cli, path, "hpc", "cp", "a", "compute-01:")
    assert (done.returncode, "apt-get install openssh-client" in done.stderr) == (3, True)
    done = call(cli, path, "hpc", "rsync", "a", "compute-01:")
    assert (done.returncode, "apt-get install rsync" in done.stderr) == (3, True)


def test_a_quote_in_the_path_of_the_configuration_is_doubled_for_rsync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("rsync", "ssh"):
        (tmp_path / name).write_text(TELLER)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    argv = rsync_argv(ClusterPaths(Path("/state of/me's")), ["a", "b"])
    assert argv[2].endswith("'-F' '/state of/me''s/ssh/config' '-o' 'IdentityAgent=none'")


@pytest.mark.parametrize(
    ("words", "read"),
    [
        (["hpc", "rsync", "-c", "a", "b:"], ["hpc", "rsync", "--", "-c", "a", "b:"]),
        (["-v", "hpc", "rsync", "-v"], ["-v", "hpc", "rsync", "--", "-v"]),
        (
            ["hpc", "rsync", "--cluster", "x", "-a", "--cluster=y"],
            ["hpc", "rsync", "--cluster", "x", "--", "-a", "--cluster=y"],
        ),
        (["hpc", "rsync", "--json", "a"], ["--json", "hpc", "rsync", "--", "a"]),
        (["hpc", "rsync", "--help"], ["hpc", "rsync", "--help", "--"]),
        (["hpc", "rsync", "--", "a"], ["hpc", "rsync", "--", "--", "a"]),
    ],
)
def test_options_of_ours_come_before_those_of_rsync(words: list[str], read: list[str]) -> None:
    assert list(read_command_line(words).words) == read
