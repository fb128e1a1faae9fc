"""The options of sbatch(1) that `hpc run` passes on, and those that it sets itself (pure)."""

from collections.abc import Sequence

from ai_how.errors import SpecError

# What it does itself, or what would have the command do another thing than run once, with the
# output that is shown here.
_REFUSED = {
    "output": "the output is shown here",
    "error": "the errors are shown here",
    "open-mode": "the output is shown here",
    "input": "the input is that of this command",
    "chdir": "a job runs in the current directory",
    "array": "the jobs of an array have no common output and exit code",
    "wrap": "the command follows --",
    "wait": "it waits unless there is --detach",
    "parsable": "--detach --json prints the number of the job for programs",
    "quiet": "nothing but the output is shown",
    "test-only": "nothing would run",
    "no-shell": "nothing would run",
    "clusters": "the cluster is that of --cluster, or of the file",
    "help": "nothing would run",
    "usage": "nothing would run",
    "version": "nothing would run",
}
_SHORT = {
    "o": "output",
    "e": "error",
    "i": "input",
    "D": "chdir",
    "a": "array",
    "W": "wait",
    "Q": "quiet",
    "M": "clusters",
    "V": "version",
}
_WITHOUT_VALUE = set("HhIkOsQVvW")


def check_options(words: Sequence[str]) -> None:
    """Raises SpecError for an option of sbatch that cannot be passed on."""
    for word in words:
        name = find_refused(word)
        if name is not None:
            raise SpecError(
                f"{word} cannot be used: {_REFUSED[name]}", hint="ai-how hpc run --help"
            )
    if words and not words[0].startswith("-"):
        raise SpecError(f"{words[0]} is no option of sbatch", hint="ai-how hpc run -- CMD")


def find_refused(word: str) -> str | None:
    """The long name of an option that cannot be passed on; sbatch takes any clear beginning."""
    if word.startswith("--"):
        typed = word[2:].partition("=")[0]
        return next((name for name in _REFUSED if typed and name.startswith(typed)), None)
    if not word.startswith("-"):
        return None
    for letter in word[1:]:
        if letter in _SHORT:
            return _SHORT[letter]
        if letter not in _WITHOUT_VALUE:
            return None
    return None
