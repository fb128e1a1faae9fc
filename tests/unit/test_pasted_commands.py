"""A command that we print can be pasted: it is about the same cluster, host and state directory."""

import ast
import json
import os
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from cli_runner import GOOD, Cli

from ai_how.cli.app import app
from ai_how.cli.arguments import read_command_line
from ai_how.console.commands import Call, called_as, completed
from ai_how.process import run
from ai_how.state.cluster_state import read_state, write_state
from ai_how.state.paths import default_roots, ensure_private_directory
from cluster_bench import draft_of, read_hpc

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
# A value in the place of the group is the kind of a cluster.
VERB = re.compile(
    r"\bai-how (?:--connect \S+ )?(?:init|validate|hpc|cloud|image|host|gpu|doctor|schema|…"
    r"|(?:x1|\{[^}]+\})"
    r"(?= (?:start|stop|status|destroy|recover|exec|ssh|logs|console|why|kubectl)\b))"
)
# What shows a text completes it: `console` does so for these, and for the hint of every error.
SPOKEN_BY = ("show_line", "show_warning", "warn", "Check", "KvmVerdict", "_compare")
SPOKEN_AS = ("hint", "advice", "remedy", "denied_remedy")
# Help and the commented file say how commands look like, for any cluster.
EXPLAINING = ("app.py", "document.py", "commands.py")
# All that is in there is a remedy, or its meaning.
OF_REMEDIES = ("clusters/diagnosis/catalogue.py", "hpc/catalogue.py", "cloud/catalogue.py")


@pytest.fixture
def cli(tmp_path, monkeypatch, capsys) -> Cli:
    return Cli(tmp_path, monkeypatch, capsys)


@pytest.fixture
def elsewhere(cli) -> Path:
    """A state directory with a space in its name; a cluster `demo` is remembered there, and off."""
    state_dir = cli.home / "my state"
    paths = default_roots(state_dir).cluster("demo")
    ensure_private_directory(paths.root)
    draft = draft_of(read_hpc(name="demo"), storage=cli.home / "storage")
    write_state(paths, draft.state.model_copy(update={"host_uri": "test:///default"}))
    paths.spec.write_text(GOOD)
    cli.write("my cluster.yaml", GOOD)
    return state_dir


def hint_of(ended) -> list[str]:
    """The command of an error's hint, as a shell reads it."""
    [line] = [line for line in ended.err.splitlines() if line.startswith("hint: ")]
    return shlex.split(line.removeprefix("hint: "), comments=True)


GIVEN = {
    "a file": (["hpc", "destroy", "my cluster.yaml"], ["-c", "my cluster.yaml"]),
    "-c": (["-c", "my cluster.yaml", "hpc", "destroy"], ["-c", "my cluster.yaml"]),
    "--config=": (["hpc", "destroy", "--config=my cluster.yaml"], ["-c", "my cluster.yaml"]),
    "-cFILE": (["hpc", "destroy", "-cmy cluster.yaml"], ["-c", "my cluster.yaml"]),
    "two files": (
        ["-c", "no.yaml", "hpc", "destroy", "./my cluster.yaml"],
        ["-c", "my cluster.yaml"],
    ),
}


@pytest.mark.parametrize("given", GIVEN)
def test_a_hint_repeats_the_file_the_state_directory_and_the_host(cli, elsewhere, given):
    words, file = GIVEN[given]
    where = ["--state-dir", str(elsewhere), "--connect", "test:///default"]
    ended = cli(*where, *words)
    assert ended.code == 2
    assert hint_of(ended) == ["ai-how", *file, *where, "hpc", "destroy", "--force"]
    told = json.loads(cli(*where, *words, "--json").out)["error"]["hint"]
    assert shlex.split(told) == hint_of(ended)
    pasted = cli(*hint_of(ended)[1:])
    assert (pasted.code, pasted.out.splitlines()[-1]) == (0, "demo is destroyed")


def test_a_hint_repeats_the_name_of_the_cluster(cli, elsewhere):
    ended = cli("hpc", "destroy", "--cluster", "demo", f"--state-dir={elsewhere}")
    words = ["--state-dir", str(elsewhere), "hpc", "destroy", "--cluster", "demo", "--force"]
    assert hint_of(ended) == ["ai-how", *words]
    assert cli(*words).out.splitlines()[-1] == "demo is destroyed"


def test_a_cluster_that_was_stopped_by_its_name_is_started_by_it(cli, elsewhere, monkeypatch):
    """Its file is kept with its state: the one in this directory is another's."""
    cli.write("cluster.yaml", GOOD.replace("demo", "other"))
    where = ["--state-dir", str(elsewhere)]
    ended = cli(*where, "hpc", "exec", "--cluster", "nope", "controller", "true")
    assert hint_of(ended) == ["ai-how", *where, "hpc", "status", "--cluster", "demo"]
    ended = cli(*where, "--connect", "qemu:///system", "hpc", "start", "--cluster", "demo")
    assert "the cluster demo is on test:///default, not on qemu:///system" in ended.err
    kept = default_roots(elsewhere).cluster("demo").spec
    kept.write_text(GOOD.replace("demo", "${WHOSE}"))
    monkeypatch.setenv("WHOSE", "other")
    ended = cli(*where, "hpc", "start", "--cluster", "demo")
    assert ended.err == f"error: {kept} is the file of demo, but now names other\n"
    ended = cli(*where, "hpc", "start", "--cluster", "nope")
    assert (ended.code, ended.err.splitlines()[0]) == (
        3,
        "error: there is no cluster nope",
    )
    kept.unlink()
    ended = cli(*where, "hpc", "start", "--cluster", "demo")
    assert (ended.code, ended.err.splitlines()[0]) == (
        3,
        "error: the file of the cluster demo is not stored here",
    )


EXPIRED = """\
#!/bin/sh
echo "E: Release file for http://mirror/forky/InRelease is expired (invalid since 23d)." >&2
exit 1
"""
OF_FORKY = f"images: {{mine: {{from: {{suite: forky}}, packages: [gdb]}}}}\n{GOOD}".replace(
    "name: demo", "name: demo\n    base_image_path: mine"
)


@pytest.mark.parametrize("words", [["my cluster.yaml"], ["--cluster", "demo"]])
def test_an_image_that_a_start_cannot_build_is_built_by_what_its_hint_says(
    cli, elsewhere, monkeypatch, words
):
    """The images are those of the file that the start has read, wherever that is."""
    kept = default_roots(elsewhere).cluster("demo")
    named = kept.spec if "--cluster" in words else Path("my cluster.yaml")
    named.write_text(OF_FORKY)
    state = read_state(kept)
    write_state(kept, state.model_copy(update={"nodes": state.nodes[:1]}))
    program = cli.home / "bin" / "mmdebstrap"
    program.parent.mkdir(exist_ok=True)
    program.write_text(EXPIRED)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    where = ["--state-dir", str(elsewhere)]
    ended = cli(*where, "hpc", "start", *words)
    assert "error: the image forky cannot be built: the lists of packages are out" in ended.err
    build = [*where, "image", "build", "suite:forky", "--allow-expired"]
    assert hint_of(ended) == ["ai-how", "-c", str(named), *build]
    program.write_text("#!/bin/sh\necho $* >&2\nexit 1")
    assert "Acquire::Check-Valid-Until" in cli(*hint_of(ended)[1:]).err
    # An image of the file itself is found by it, too.
    again = [word.replace("suite:forky", "mine") for word in hint_of(ended)[1:]]
    assert "Acquire::Check-Valid-Until" in cli(*again).err


def test_another_host_is_named_in_the_same_command(cli, elsewhere):
    where = ["--state-dir", str(elsewhere), "hpc", "stop", "my cluster.yaml", "compute-01"]
    ended = cli("--connect", "qemu:///system", *where)
    assert hint_of(ended) == ["ai-how", "--connect", "test:///default", *where]


def test_lines_that_are_no_errors_are_completed_too(cli, elsewhere):
    cli("init", "--force", "two words.yaml")
    ended = cli("image", "list", "--state-dir", elsewhere)
    assert ended.out.endswith(f"ai-how --state-dir {shlex.quote(str(elsewhere))} image build\n")
    ended = cli("init", "new words.yaml")
    assert ended.out == "wrote new words.yaml; check it: ai-how validate 'new words.yaml'\n"


def test_what_is_advised_by_a_check_is_completed_in_both_forms(cli, elsewhere):
    advice = f"ai-how --state-dir {shlex.quote(str(elsewhere))} image build"
    assert advice in cli("doctor", "--state-dir", elsewhere).out
    told = json.loads(cli("doctor", "--json", "--state-dir", elsewhere).out)
    assert advice in [check["advice"] for check in told["checks"]]


def test_an_init_or_help_gets_nothing_that_it_would_not_take(cli):
    call = Call(
        "ai-how", file=Path("a.yaml"), connect="embedded", state_dir=Path("s"), cluster="demo"
    )
    with called_as(call):
        assert completed("ai-how init") == "ai-how init"
        assert completed("ai-how hpc stop --help") == "ai-how hpc stop --help"
        assert completed("ai-how image list") == "ai-how --state-dir s image list"
        assert completed("a && ai-how hpc stop b && ai-how hpc start b") == (
            "a && ai-how --state-dir s --connect embedded hpc stop --cluster demo b"
            " && ai-how --state-dir s --connect embedded hpc start --cluster demo b"
        )
        for text in ("use ai-how 0.3.0", "a bug in ai-how (OSError)", "ai-how-role.service"):
            assert completed(text) == text


def test_what_is_completed_is_not_completed_again():
    for call in (
        Call("ai-how", cluster="demo"),
        Call("ai-how", file=Path("f")),
        Call(".venv/bin/ai-how"),
    ):
        with called_as(call):
            once = completed("log in: ai-how hpc ssh controller")
            assert completed(once) == once


@pytest.mark.parametrize(
    ("called", "printed"),
    [
        ("tools/ai-how", "tools/ai-how"),
        ("'my tools/ai-how'", "'my tools/ai-how'"),
        ("PATH=tools:$PATH ai-how", "ai-how"),
        ("PYTHON -m ai_how", "PYTHON -m ai_how"),
        ("SUDO_COMMAND='/usr/bin/ai-how x' SUDO_UID=0 tools/ai-how", "sudo tools/ai-how"),
        ("SUDO_COMMAND=/bin/bash SUDO_UID=0 tools/ai-how", "tools/ai-how"),
    ],
)
def test_the_program_is_named_as_it_was_called(tmp_path, called, printed):
    for name in ("tools", "my tools"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "ai-how").symlink_to(Path(sys.executable).with_name("ai-how"))
    python = shlex.quote(sys.executable)
    done = run(
        ["bash", "-c", f"{called.replace('PYTHON', python)} hpc stop --cluster demo --state-dir s"],
        cwd=tmp_path,
        # Without the directory of the same program that whoever runs the tests may have in it.
        env=os.environ | {"PATH": "/usr/bin:/bin"},
        check=False,
        timeout_s=60,
    )
    if os.geteuid() != 0:
        printed = printed.removeprefix("sudo ")
    assert done.stderr.splitlines()[-1] == (
        f"hint: {printed.replace('PYTHON', python)} --state-dir s hpc start FILE"
    )


def strings(tree: ast.Module) -> Iterator[tuple[ast.AST, str]]:
    """Each string of a module but docstrings, `x1` for every value in it."""
    inside = {
        id(part)
        for node in ast.walk(tree)
        if isinstance(node, ast.JoinedStr)
        for part in node.values
    }
    docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = (one.value if isinstance(one, ast.Constant) else "x1" for one in node.values)
            yield node, "".join(parts)
        elif isinstance(node, ast.Constant) and id(node) not in inside | docs:
            yield node, str(node.value)


def spoken(tree: ast.Module) -> set[int]:
    """The strings that are, or are a part of, what an error, a check or a line of ours says."""
    found: set[int] = set()
    for node in ast.walk(tree):
        said: list[ast.AST] = []
        if isinstance(node, ast.Call):
            said += [word.value for word in node.keywords if word.arg in SPOKEN_AS]
            is_voice = ast.unparse(node.func).rpartition(".")[2] in SPOKEN_BY
            said += node.args if is_voice else []
        elif isinstance(node, ast.Assign):
            said += [node.value for name in node.targets if ast.unparse(name) in SPOKEN_AS]
        found |= {id(part) for one in said for part in ast.walk(one)}
    return found


def with_kind(text: str, path: Path) -> str:
    """The text as it is of a SLURM cluster, or where it is about Kubernetes."""
    kind = "cloud" if path.parent.name == "cloud" else "hpc"
    return VERB.sub(lambda found: re.sub(r"(x1|\{kind\})$", kind, found[0]), text)


def find_printed() -> Iterator[tuple[str, str, bool]]:
    """Where a command is written, the whole text, and whether it is completed before it is seen."""
    for path in SOURCES:
        if path.name in EXPLAINING or not VERB.search(path.read_text()):
            continue
        tree = ast.parse(path.read_text())
        completed_ones = spoken(tree)
        for node, text in strings(tree):
            if VERB.search(text):
                where = f"{path.relative_to(ROOT)}:{node.lineno}"
                is_completed = id(node) in completed_ones or str(path).endswith(OF_REMEDIES)
                yield where, with_kind(text, path), is_completed


PRINTED = list(find_printed())


def parse(words: list[str]) -> None:
    """Have Typer read a command line, and run nothing. Raises what it would say."""
    command, context = typer.main.get_command(app), None
    words = list(read_command_line(words).words)
    while "--help" not in words:
        context = command.make_context("ai-how", words, parent=context)
        if not hasattr(command, "commands"):
            return
        _name, command, words = command.resolve_command(
            context, [*context._protected_args, *context.args]
        )


PATH_COMMAND = re.compile(r"(chmod|df|findmnt|fuser|less|ls|mkdir|mv|qemu-img|rm)\b")
NO_PATHS = ("seen.iommu_group", "group", "previous.kind")


def is_script(text: ast.JoinedStr) -> bool:
    """Whether it has several lines: such ones run in guests, too, and nobody is to paste them."""
    return any(isinstance(one, ast.Constant) and "\n" in one.value for one in text.values)


def test_a_path_in_a_command_to_paste_is_one_word():
    bare = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {value}"
        for path in SOURCES
        # Those commands run in guests, whose paths we choose.
        if path.parent.name != "guest" and path.name != "node_identity.py"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.JoinedStr)
        and isinstance(first := node.values[0], ast.Constant)
        and PATH_COMMAND.match(first.value)
        and not is_script(node)
        for part in node.values
        if isinstance(part, ast.FormattedValue)
        and not (value := ast.unparse(part.value)).startswith("shlex.quote(")
        and value not in NO_PATHS
    ]
    assert bare == []


def test_there_are_commands_to_look_at():
    assert len(PRINTED) > 30


def test_every_printed_command_goes_where_it_is_completed():
    assert [where for where, _, is_completed in PRINTED if not is_completed] == []


def test_every_printed_command_is_one_that_the_program_takes():
    given = Call(
        "ai-how",
        file=Path("f.yaml"),
        connect="embedded",
        state_dir=Path("s"),
        again=("hpc", "stop"),
    )
    for where, text, _ in PRINTED:
        for call in (given, Call("ai-how", cluster="demo", again=("hpc", "ssh", "controller"))):
            with called_as(call):
                shown = completed(text)
            commands = re.findall(r"\bai-how (.*?)(?=  #| && |$|\)$)", shown)
            assert commands, where
            for command in commands:
                assert "…" not in command, where
                parse(shlex.split(command))


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("ai-how image build ./a.qcow2", "-c my.yaml --state-dir s "),
        ("ai-how image build", "-c my.yaml --state-dir s "),
        ("ai-how image build mine --file FILE", "--state-dir s "),
        ("ai-how image rm mine", "--state-dir s "),
    ],
)
def test_what_builds_an_image_is_about_the_same_file(text, options):
    call = Call("ai-how", file=Path("my.yaml"), state_dir=Path("s"), connect="test:///default")
    with called_as(call):
        assert completed(text) == text.replace("ai-how ", f"ai-how {options}")
