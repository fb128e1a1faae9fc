"""Global options may stand anywhere before `--`, and nothing else is moved."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai_how.cli.arguments import read_command_line

GLOBAL = ["--json", "-v", "-vv", "--verbose", "--config=x", "-cx", "--connect=x", "--state-dir=x"]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ("hpc status --json", "--json hpc status"),
        ("hpc -vv status -c a.yaml", "-vv -c a.yaml hpc status"),
        ("validate --connect qemu:///system x.yaml", "--connect qemu:///system validate x.yaml"),
        ("hpc logs n -- ls --json -v", "hpc logs n -- ls --json -v"),
        ("hpc exec n -- ls --json -v", "hpc exec -- n -- ls --json -v"),
        ("--json hpc exec n -- ls", "--json hpc exec -- n -- ls"),
        ("hpc exec n ls --json -v -c x", "hpc exec -- n ls --json -v -c x"),
        ("hpc exec n --json --timeout 5 ls -c x", "--json hpc exec --timeout 5 -- n ls -c x"),
        ("hpc exec -c f.yaml g.yaml n ls -h", "-c f.yaml hpc exec -- g.yaml n ls -h"),
        ("hpc exec -t n ls", "hpc exec -t -- n ls"),
        ("hpc exec -- -n ls", "hpc exec -- -- -n ls"),
        ("hpc ssh n srun -c 1 --json", "hpc ssh -- n srun -c 1 --json"),
        ("hpc ssh -t n top -v", "hpc ssh --pass=-t -- n top -v"),
        ("hpc ssh n -t -- top -v", "hpc ssh --pass=-t -- n -- top -v"),
        (
            "hpc ssh --cluster d -NL 80:h:80 -o=A=b f.yaml n --json",
            "--json hpc ssh --cluster d --pass=-NL --pass=80:h:80 --pass=-o=A=b -- f.yaml n",
        ),
        ("hpc ssh -c f.yaml -v -h", "-c f.yaml -v hpc ssh -h --"),
        ("hpc ssh -L", "hpc ssh --pass=-L --"),
        ("validate --offline", "validate --offline"),
        ("hpc status -c", "hpc status -c"),
        ("", ""),
    ],
)
def test_global_options_come_first(argv, words):
    assert read_command_line(argv.split()).words == tuple(words.split())


@given(st.lists(st.sampled_from([*GLOBAL, "hpc", "--force", "--", "node", "--log-file", "-x"])))
def test_no_word_is_lost_and_what_follows_the_dashes_is_left_alone(argv):
    words = read_command_line(argv).words
    assert sorted(words) == sorted(argv)
    if "--" in argv and "--" in words:
        tail = len(argv) - len(argv[: argv.index("--")])
        assert list(words[-tail:]) == argv[argv.index("--") :] or "--log-file" in argv


def test_what_an_error_needs_is_known_even_where_the_rest_does_not_parse():
    command = read_command_line(["nonsense", "--json", "-v", "--state-dir", "/x"])
    assert (command.is_json, command.is_verbose, command.state_dir) == (True, True, Path("/x"))
    assert read_command_line(["--state-dir=/y"]).state_dir == Path("/y")
    command = read_command_line(["exec", "--", "--json"])
    assert (command.is_json, command.is_verbose, command.state_dir) == (False, False, None)


@pytest.mark.parametrize(
    "argv", ["-c a -cb", "-ca --config b", "--config=a -c b", "-c a --config=b"]
)
def test_of_an_option_that_is_given_twice_the_last_counts(argv):
    assert read_command_line(argv.split()).config == Path("b")
