"""The command line before parsing: global options may be anywhere before a command's own.

Nothing after `--` belongs to ai-how, and in `ssh`, `exec` and `run` of a cluster nothing after the
first word of the command that they run. After its `rsync`
and `kubectl` only what comes first does.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ai_how.console import Call, is_by_sudo

_VERBOSE = re.compile(r"-v+|--verbose")
_VALUED = ("--config", "-c", "--connect", "--state-dir", "--log-file")
_JOINED = re.compile(r"(--config|--connect|--state-dir|--log-file)=.*|-c.+", re.DOTALL)
_CONFIG, _CONNECT, _STATE_DIR = ("--config", "-c"), ("--connect",), ("--state-dir",)

_RUNNING = [[kind, verb] for kind in ("hpc", "cloud") for verb in ("ssh", "exec")]
_JOB = ["hpc", "run"]
_PASSING = (["hpc", "rsync"], ["cloud", "rsync"], ["cloud", "kubectl"])
_VALUED_OF_RUNNING = ("--cluster", "--timeout")
# ssh(1), except `c`, which is our --config everywhere, and -v, our --verbose.
_FLAGS_OF_SSH, _VALUED_OF_SSH = set("1246AaCfGgKkMNnqsTtvVXxYy"), set("BbcDEeFIiJLlmOoPpQRSWw")
_OWN_FIRST = ("--cluster", "--json", "--help", "-h")
PASSED = "--pass"
"""The hidden option of `ssh` that passes a word to ssh, and of `hpc run` to sbatch."""

YAML = (".yaml", ".yml")
_OF_RUN = ("--detach", "--pty", "--start", "--login", "--help", "-h")
_VALUED_OF_RUN = ("--attach", "--cluster")


@dataclass(frozen=True, slots=True)
class CommandLine:
    """The words with global options first, and what is needed even if they cannot be parsed."""

    words: tuple[str, ...]
    is_json: bool
    is_verbose: bool
    state_dir: Path | None
    config: Path | None = None
    connect: str | None = None
    again: tuple[str, ...] = ()
    """As given, without `--connect`."""

    def as_call(self, program: str | None) -> Call:
        """What printed commands must repeat. sudo drops the environment."""
        kept = os.environ if is_by_sudo() else {}
        config = self.config or (Path(kept["AI_HOW_CONFIG"]) if "AI_HOW_CONFIG" in kept else None)
        return Call(
            program=program,
            file=config,
            state_dir=self.state_dir,
            connect=self.connect or kept.get("AI_HOW_CONNECT"),
            again=self.again,
        )


def looks_like_file(word: str) -> bool:
    """Whether a word is a cluster file rather than a node."""
    return word.endswith(YAML) or "/" in word


def read_command_line(argv: Sequence[str]) -> CommandLine:
    """Move global options before the verb, as the parser needs; the rest keeps its order."""
    return _Reader(list(argv)).read()


@dataclass(slots=True)
class _Reader:
    left: list[str]
    hoisted: list[str] = field(default_factory=list)
    rest: list[str] = field(default_factory=list)
    again: list[str] = field(default_factory=list)

    def read(self) -> CommandLine:
        while self.left and self.left[0] != "--":
            if not self._hoist():
                self._move(self.rest)
                if self.rest in _RUNNING:
                    self._read_running(is_ssh=self.rest[1] == "ssh")
                    break
                if self.rest == _JOB:
                    self._read_job()
                    break
                if self.rest in _PASSING:
                    self._read_passing()
                    break
        config, state_dir = self._find(_CONFIG), self._find(_STATE_DIR)
        return CommandLine(
            words=(*self.hoisted, *self.rest, *self.left),
            is_json="--json" in self.hoisted,
            is_verbose=any(map(_VERBOSE.fullmatch, self.hoisted)),
            state_dir=Path(state_dir) if state_dir else None,
            config=Path(config) if config else None,
            connect=self._find(_CONNECT),
            again=(*self.again, *self.left),
        )

    def _read_running(self, *, is_ssh: bool) -> None:
        """Read options up to the command; then all words unchanged, after a `--`."""
        named: list[str] = []
        while self.left and self.left[0] != "--":
            word = self.left[0]
            if self._hoist():
                continue
            if is_ssh and (count := _count_of_ssh(word)):
                passed: list[str] = []
                self._move(passed, count)
                self.rest += [f"{PASSED}={one}" for one in passed]
            elif word.startswith("-") and word != "-":
                self._move(self.rest, 2 if word in _VALUED_OF_RUNNING else 1)
            elif named and not looks_like_file(named[-1]):
                break
            else:
                self._move(named)
        self.rest += ["--", *named]

    def _read_job(self) -> None:
        """Read options up to the command: those that are not ours are sbatch's, with their values.

        Without a `--` the command follows our own options: which of sbatch's take a value is not
        known here.
        """
        passed: list[str] = []
        while self.left and self.left[0] != "--":
            word = self.left[0]
            name, joined, _ = word.partition("=")
            if self._hoist():
                continue
            if word in _OF_RUN or name in _VALUED_OF_RUN:
                self._move(self.rest, 1 if joined or word in _OF_RUN else 2)
            elif word.startswith("-") or passed:
                self._move(passed)
            else:
                break
        self.rest += [f"{PASSED}={one}" for one in passed]
        if self.left[:1] != ["--"]:
            self.rest.append("--")

    def _read_passing(self) -> None:
        """Read the options that come first; then all words unchanged, after a `--`."""
        while self.left and (self.left[0] in _OWN_FIRST or self.left[0].startswith("--cluster=")):
            if self.left[0] == "--json":
                self._hoist()
            else:
                self._move(self.rest, 2 if self.left[0] == "--cluster" else 1)
        self.rest.append("--")

    def _hoist(self) -> bool:
        """Move a global option out of the remaining words."""
        word = self.left[0]
        if word in _VALUED and self.left[1:]:
            self._move(self.hoisted, 2)
        elif word == "--json" or _VERBOSE.fullmatch(word) or _JOINED.fullmatch(word):
            self._move(self.hoisted)
        else:
            return False
        return True

    def _move(self, target: list[str], count: int = 1) -> None:
        words, self.left = self.left[:count], self.left[count:]
        target += words
        if words[0].partition("=")[0] not in _CONNECT:
            self.again += words

    def _find(self, names: Sequence[str]) -> str | None:
        """The value of an option if given; the last one wins, as in the parser."""
        found, words = None, iter(self.hoisted)
        for word in words:
            name, joined, value = word.partition("=")
            if word in _VALUED:
                value = next(words)
            elif not joined or not name.startswith("--"):
                name, value = word[:2], word[2:]  # -cFILE
            if name in names:
                found = value
        return found


def _count_of_ssh(word: str) -> int:
    """The number of words of an ssh option; 0 if it is none."""
    if not word.startswith("-") or word.startswith("--"):
        return 0
    for end, letter in enumerate(word[1:], 2):
        if letter in _VALUED_OF_SSH:
            return 1 if word[end:] else 2
        if letter not in _FLAGS_OF_SSH:
            return 0
    return len(word) > 1
