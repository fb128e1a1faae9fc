"""Complete the ai-how commands in messages, so that they work when the user pastes them."""

import os
import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

# The program, an option in the text, and a verb; `…` repeats the whole command of this run.
_COMMAND = re.compile(
    r"(?<![\w./-])ai-how(?P<own> --connect (?:'[^']*'|\S+))? "
    r"(?P<verb>…|hpc monitor [a-z]+|(?:hpc|cloud|image|cache|host|gpu)(?: [a-z-]+)?"
    r"|init|validate|list|status|doctor|schema|--help)"
    r"(?![\w-])"
)
_END = re.compile(r"  #|\n|`| && |; |$")
_SHELLS = ("sh", "bash", "dash", "zsh", "fish", "ksh", "su")
_CLUSTERS = ("hpc", "cloud")
"""The groups of verbs for clusters, one for each kind of cluster."""
_NEED_NO_STATE = ("init", "schema", "--help")
_OF_ALL_CLUSTERS = ("hpc list", "cloud list", "list")


@dataclass(slots=True)
class Call:
    """How this run was called, which the printed commands must repeat."""

    program: str | None = None
    """Quoted for a shell; None until it is first needed."""
    file: Path | None = None
    cluster: str | None = None
    state_dir: Path | None = None
    connect: str | None = None
    again: tuple[str, ...] = ()
    """The whole command line without --connect."""
    has_json_lines: bool = False
    """Whether each JSON document takes one line."""


class _Current:
    """The call of this process; global, like its standard output."""

    call = Call("ai-how")


@contextmanager
def called_as(call: Call) -> Iterator[Call]:
    """Complete all messages in the block for a run that was called like this."""
    previous, _Current.call = _Current.call, call
    try:
        yield call
    finally:
        _Current.call = previous


def note_file(file: Path) -> None:
    """Record the cluster file of the verb, which the command line named."""
    _Current.call.file = file


def note_cluster(name: str) -> None:
    """Record the cluster of the verb, which the command line named."""
    _Current.call.cluster = name


def note_json_lines() -> None:
    """Record that the verb prints many JSON documents: each takes one line, an error as well."""
    _Current.call.has_json_lines = True


def has_json_lines() -> bool:
    """Whether each JSON document takes one line."""
    return _Current.call.has_json_lines


def completed(text: str) -> str:
    """The text, with this run's options in each of its commands."""
    if "ai-how " not in text:
        return text
    call = _Current.call
    return _COMMAND.sub(lambda found: _complete(found, call), text)


def find_program() -> str:
    """Our command for a shell: the name if PATH finds us by it, else the path as it was called."""
    import shutil  # slow to import, and few runs print a command

    words = [sys.argv[0]]
    if Path(sys.argv[0]).name == "__main__.py" and "-m" in sys.orig_argv:
        words = sys.orig_argv[: sys.orig_argv.index("-m") + 2]
    else:
        named = shutil.which(Path(sys.argv[0]).name)
        if named and Path(named).exists() and Path(named).samefile(sys.argv[0]):
            words = [Path(sys.argv[0]).name]
    return shlex.join(["sudo", *words] if is_by_sudo() else words)


def is_by_sudo() -> bool:
    """Whether sudo ran us directly, not a shell in which the command was typed."""
    ran = os.environ.get("SUDO_COMMAND", "").partition(" ")[0]
    return bool(ran) and os.geteuid() == 0 and Path(ran).name not in _SHELLS


def _complete(found: re.Match[str], call: Call) -> str:
    if call.program is None:
        call.program = find_program()
    own, verb = found["own"] or "", found["verb"]
    if verb == "…":
        return f"{call.program}{own} {shlex.join(call.again) or verb}"
    end = _END.search(found.string, found.end())
    rest = found.string[found.end() : end.start() if end else None]
    words = [] if " --help" in rest else _options(own, verb, rest, call)
    options = f" {shlex.join(words)}" if words else ""
    cluster = _cluster(verb, rest, call)
    return f"{call.program}{own}{options} {verb}{cluster}"


def _options(own: str, verb: str, rest: str, call: Call) -> list[str]:
    words: list[str] = []
    is_of_cluster = verb.startswith((*_CLUSTERS, "cache")) or verb in ("image warm", "status")
    takes_file = is_of_cluster and not call.cluster and "--cluster" not in rest
    # A cluster that is named has no file for this verb, but its images are described in one.
    takes_file = takes_file or (verb == "image build" and "--file" not in rest)
    if takes_file and call.file:
        words += ["-c", str(call.file)]
    if call.state_dir and verb not in _NEED_NO_STATE:
        words += ["--state-dir", str(call.state_dir)]
    if call.connect and not own and (is_of_cluster or verb == "validate"):
        words += ["--connect", call.connect]
    return words


def _cluster(verb: str, rest: str, call: Call) -> str:
    group, _, name = verb.partition(" ")
    is_named = "--cluster" in rest or "--help" in rest
    if verb in _OF_ALL_CLUSTERS:
        return ""
    if not call.cluster or group not in _CLUSTERS or not name or is_named:
        return ""
    return f" --cluster {shlex.quote(call.cluster)}"
