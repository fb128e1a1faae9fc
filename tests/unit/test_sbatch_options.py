"""Options of sbatch are passed on by `hpc run`, but those that it sets itself."""

import pytest

from ai_how.cli.arguments import read_command_line
from ai_how.errors import SpecError
from ai_how.hpc.sbatch_options import check_options, find_refused


@pytest.mark.parametrize(
    "words",
    ["-N 2", "-N2 -n4", "-p gpu --gres=gpu:1", "--export=ALL", "-H", "-t 10", "--wait-all-nodes=1"],
)
def test_what_sbatch_takes_is_passed_on(words):
    check_options(words.split())


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("-o", "output"),
        ("-ofile", "output"),
        ("-Ho", "output"),
        ("--output=x", "output"),
        ("--outp", "output"),
        ("-a1-3", "array"),
        ("--array=1-3", "array"),
        ("-D/tmp", "chdir"),
        ("--wrap=x", "wrap"),
        ("-W", "wait"),
        ("-Jo", None),
        ("--export", None),
        ("7", None),
    ],
)
def test_what_it_sets_itself_is_found_however_it_is_written(word, name):
    assert find_refused(word) == name


def test_a_refusal_says_why():
    with pytest.raises(SpecError, match="-o cannot be used: the output is shown here"):
        check_options(["-N2", "-o", "x"])
    with pytest.raises(SpecError, match="2 is no option of sbatch"):
        check_options(["2", "-N"])


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ("hpc run true", "hpc run -- true"),
        ("hpc run -- true", "hpc run -- true"),
        ("hpc run --start sh -c x", "hpc run --start -- sh -c x"),
        ("hpc run -N 2 -- a --json", "hpc run --pass=-N --pass=2 -- a --json"),
        ("hpc run --json -N2 --detach -- a", "--json hpc run --detach --pass=-N2 -- a"),
        ("hpc run --attach 5", "hpc run --attach 5 --"),
        ("hpc run --cluster=x --attach=5", "hpc run --cluster=x --attach=5 --"),
        ("hpc run -c f.yaml -p b -- a", "-c f.yaml hpc run --pass=-p --pass=b -- a"),
        ("hpc run -h", "hpc run -h --"),
    ],
)
def test_words_before_the_dashes_are_ours_or_those_of_sbatch(argv, words):
    assert read_command_line(argv.split()).words == tuple(words.split())
