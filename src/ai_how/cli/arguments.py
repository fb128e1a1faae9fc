"""The command line before it is parsed: global options may stand anywhere before `--`."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_VERBOSE = re.compile(r"-v+|--verbose")
_VALUED = ("--config", "-c", "--connect", "--state-dir", "--log-file")
_JOINED = re.compile(r"(--config|--connect|--state-dir|--log-file)=.*|-c.+", re.DOTALL)


@dataclass(frozen=True, slots=True)
class CommandLine:
    """The words with global options first, and what must be known even where they do not parse."""

    words: tuple[str, ...]
    is_json: bool
    is_verbose: bool
    state_dir: Path | None


def read_command_line(argv: Sequence[str]) -> CommandLine:
    """Put global options before the verb, where the parser wants them; the rest stays in order."""
    hoisted: list[str] = []
    rest: list[str] = []
    words = list(argv)
    while words and words[0] != "--":
        word = words.pop(0)
        if word in _VALUED and words:
            hoisted += [word, words.pop(0)]
        elif word == "--json" or _VERBOSE.fullmatch(word) or _JOINED.fullmatch(word):
            hoisted.append(word)
        else:
            rest.append(word)
    return CommandLine(
        words=(*hoisted, *rest, *words),
        is_json="--json" in hoisted,
        is_verbose=any(map(_VERBOSE.fullmatch, hoisted)),
        state_dir=_find_state_dir(hoisted),
    )


def _find_state_dir(hoisted: Sequence[str]) -> Path | None:
    for place, word in enumerate(hoisted):
        if word == "--state-dir":
            return Path(hoisted[place + 1])
        if word.startswith("--state-dir="):
            return Path(word.partition("=")[2])
    return None
