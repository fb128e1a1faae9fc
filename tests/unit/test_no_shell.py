"""No value reaches a shell as anything but a word, here or in a guest, and none becomes an option.

Each word that could harm would leave a file named `canary` behind, were it run.
"""

import ast
import re
import shlex
from pathlib import Path
from uuid import UUID

import pytest
from cli_runner import GOOD, Cli
from hypothesis import given
from hypothesis import strategies as st

from ai_how.clusters.secrets import write_ssh_files
from ai_how.errors import HostError, ImageError, StateError
from ai_how.guest.agent import GuestResult
from ai_how.guest.ssh import ssh_argv
from ai_how.hpc.identities import ensure_secrets
from ai_how.hpc.steps import CloseSlurm
from ai_how.images.store import ImageStore
from ai_how.process import get_tool, run
from ai_how.state.cluster_state import read_state, write_state
from ai_how.state.owned_directory import check_chain
from ai_how.state.paths import ClusterPaths, ensure_private_directory
from ai_how.waiting import Deadline
from cluster_bench import draft_of, read_hpc

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
DRAFT = draft_of(read_hpc())
ID = UUID("11111111-1111-4111-8111-111111111111")

# Whoever starts a shell hands it a text of its own, and all else as words after it.
SHELL_TEXTS = {
    ("cli/exec_program.py", "command[0]"),  # the user's own line
    ("api/results.py", "command"),  # so is this
    ("api/jobs.py", "_WAIT"),
    ("api/tied.py", "line"),  # its words are quoted
    ("process.py", "begin"),
    ("images/build.py", "_BOOTSTRAP"),
    ("vm_management/preparing/vm.py", "_UNHEARD"),
    ("hpc/steps.py", "script"),
    ("hpc/workload.py", "_WITH_GPUS"),  # made of constants
    ("hpc/run_here.py", "_SALLOC"),
    ("clusters/diagnosis/look.py", "self.diagnosis.request"),
    ("guest/journal.py", "_CUT"),
    ("clusters/diagnosis/look.py", "script"),
    ("hpc/why.py", "script"),  # its words come after it
    ("cloud/manifests.py", "_check_script(facts, node, asked)"),  # names of nodes, quoted
    ("monitoring/guest_script.py", "SCRIPT"),
    ("hpc/slurm_source.py", "SCRIPT"),
    ("hpc/healing.py", "*words"),  # START, HOME or a constant, and their words after it
    ("hpc/healing.py", "command"),  # the name of the node is quoted
}

PAYLOADS = (
    "; touch canary",
    "$(touch canary)",
    "`touch canary`",
    "| touch canary",
    "&& touch canary #",
    "x\ntouch canary",
    "' ; touch canary ; '",
    '" ; touch canary ; "',
    "${IFS}touch${IFS}canary",
    "<(touch canary)",
    "-oProxyCommand=touch canary",
    "--upload-pack=touch canary",
    "-f",
    "--",
    "*",
    "~",
    "%d%h",
)


def calls(path: Path) -> list[ast.Call]:
    return [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]


@pytest.mark.fault("S29", "the whole source, as a syntax tree")
def test_nothing_is_started_by_a_shell_or_evaluated():
    forbidden = re.compile(
        r"(os\.(system|popen)|subprocess\.get(status)?output|commands\..*|pickle\.loads?"
        r"|marshal\.loads?|eval|exec|yaml\.(unsafe_)?load|Template\.substitute|jinja2\.Template)"
    )
    found = [
        f"{path.name}:{call.lineno}: {ast.unparse(call)[:80]}"
        for path in SOURCES
        for call in calls(path)
        if forbidden.fullmatch(ast.unparse(call.func))
        or any(word.arg == "shell" for word in call.keywords)
    ]
    assert found == []


@pytest.mark.fault("S29", "every shell that the source starts")
def test_each_shell_that_is_started_is_one_that_we_know():
    """Their texts are looked at below, or have no value in them."""
    found = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.List | ast.Tuple):
                continue
            words = [one.value if isinstance(one, ast.Constant) else None for one in node.elts]
            if "-c" in words and {"sh", "/bin/sh", "bash", "/bin/bash"} & set(words):
                text = node.elts[words.index("-c") + 1]
                is_constant = isinstance(text, ast.Constant)
                name = str(path.relative_to(ROOT / "src/ai_how"))
                found.add((name, "a constant" if is_constant else ast.unparse(text)))
    assert found == SHELL_TEXTS


class Shell:
    """A guest in which a program is run by a real shell, with SLURM's tools made up."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        has_jobs = f"[ -e {directory}/asked ] || echo 12 13; : >{directory}/asked"
        for name, script in (("squeue", has_jobs), ("scancel", ":"), ("scontrol", ":")):
            tool = directory / "bin" / name
            tool.parent.mkdir(exist_ok=True)
            tool.write_text(
                f"#!/bin/sh\nprintf '%s\\0' {name} \"$@\" >>{directory}/told\n{script}\n"
            )
            tool.chmod(0o755)

    def agent(self, _uuid: UUID, _name: str) -> "Shell":
        return self

    def run(self, argv: list[str], _deadline: Deadline) -> GuestResult:
        path = f"{self.directory}/bin:/usr/bin:/bin"
        done = run(argv, env={"PATH": path}, cwd=self.directory, check=False, timeout_s=60)
        return GuestResult(done.returncode, done.stdout, done.stderr)

    @property
    def told(self) -> list[str]:
        return (self.directory / "told").read_text().split("\0")


@pytest.mark.fault("S29", "names in the script that a guest is told to run")
@pytest.mark.parametrize("payload", PAYLOADS)
def test_a_name_in_the_script_for_a_guest_stays_a_word(tmp_path, payload):
    shell = Shell(tmp_path)
    CloseSlurm("hpc", ID, ("compute-01", payload)).apply(shell)
    assert not (tmp_path / "canary").exists()
    assert f"compute-01,{payload}" in shell.told
    assert f"nodename=compute-01,{payload}" in shell.told


@pytest.mark.fault("S29", "names of files that are imported")
@pytest.mark.parametrize("payload", PAYLOADS)
def test_a_file_of_any_name_is_imported_or_refused_and_its_name_never_run(
    tmp_path, monkeypatch, payload
):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / payload.replace("/", "_")
    run(["qemu-img", "create", "-q", "-f", "qcow2", tmp_path / "disk", "1M"])
    (tmp_path / "disk").rename(path)
    store = ImageStore(tmp_path / "images")
    assert store.import_file(path.name, name="mine").name == "mine"
    with pytest.raises(ImageError):
        store.import_file(path.name, name=payload)
    path.unlink()
    with pytest.raises(ImageError) as caught:
        store.import_file(path.name)
    # A hint is there to be pasted: it must name this file, and do nothing else.
    assert shlex.split(caught.value.hint or "") == ["ls", "-l", path.name]
    assert not (tmp_path / "canary").exists()


@pytest.mark.fault("S12", "names of nodes on the command line")
@pytest.mark.fault("S29", "names of nodes on the command line")
@pytest.mark.parametrize("verb", ["ssh", "exec", "logs", "console"])
def test_what_is_no_node_reaches_no_program(tmp_path, monkeypatch, capsys, verb):
    cli = Cli(tmp_path, monkeypatch, capsys)
    paths = cli.roots.cluster("demo")
    ensure_private_directory(paths.root)
    state = draft_of(read_hpc(name="demo")).state
    write_state(paths, state.model_copy(update={"host_uri": "test:///default"}))
    cli.write("cluster.yaml", GOOD)
    for payload in PAYLOADS:
        for words in ((payload,), ("--", payload)):
            # Without a node, `hpc ssh` runs the command on the controller: with ssh's own options.
            is_option = words[0].startswith("-") and words[0] != "--"
            if verb == "ssh" and (is_option or payload == "--"):
                continue
            ended = cli("hpc", verb, *words, "--", "true")
            is_help = ended.code == 0 and ended.out.startswith("Usage: ")  # an option with an h
            assert ended.code == 2 or is_help, (words, ended)
    assert not (tmp_path / "canary").exists()


@pytest.mark.fault("S12", "arbitrary names and words after the host")
@given(host=st.text(), words=st.lists(st.text(max_size=20), max_size=5))
def test_after_the_dashes_ssh_knows_no_option(host, words):
    argv = ssh_argv(ClusterPaths(Path("/state/hpc")), host, words)
    before = argv[: argv.index("--")]
    no_agent = ["-o", "IdentityAgent=none"]
    assert before == [str(get_tool("ssh")), "-F", "/state/hpc/ssh/config", *no_agent]
    told, *line = argv[len(before) + 1 :]
    assert told == host
    # One word is a line of the user's own, which need not be whole quotes.
    assert line == words or [word for one in line for word in shlex.split(one)] == words
    assert len(line) == min(len(words), 1)


@pytest.mark.fault("S12", "names that look like options of ssh")
@pytest.mark.parametrize("host", [word for word in PAYLOADS if word.startswith("-")])
def test_ssh_itself_takes_no_such_name_for_an_option(tmp_path, host):
    paths = ClusterPaths(tmp_path / "hpc")
    ensure_secrets(DRAFT.state, paths)
    write_ssh_files(DRAFT.state, paths, [])
    done = run(ssh_argv(paths, host, []), cwd=tmp_path, check=False, timeout_s=60)
    assert done.returncode == 255
    assert not (tmp_path / "canary").exists()
    assert "hostname contains invalid characters" in done.stderr or "resolve" in done.stderr


@pytest.mark.fault("S29", "paths in the commands that an error tells to paste")
@pytest.mark.parametrize("name", ["two words", "a;touch canary", "$(touch canary)"])
def test_a_command_to_paste_that_removes_something_names_one_file(tmp_path, name):
    paths = ClusterPaths(ensure_private_directory(tmp_path / name))
    paths.state.write_text("damaged")
    with pytest.raises(StateError) as caught:
        read_state(paths)
    hint = (caught.value.hint or "").partition("  #")[0]
    assert shlex.split(hint) == ["mv", str(paths.state), f"{paths.state}.damaged"]
    paths.root.chmod(0o777)
    with pytest.raises(HostError) as refused:
        check_chain(paths.root)
    assert shlex.split(refused.value.hint or "") == ["chmod", "go-w", str(paths.root)]
    assert [path.name for path in tmp_path.iterdir()] == [name]
