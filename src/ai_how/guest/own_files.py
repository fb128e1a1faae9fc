"""The files of a directory here, without what git ignores, and what is compared of each."""

import fcntl
import os
import re
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from pathspec import GitIgnoreSpec

Entry = list[str | int]
"""`["f", permissions, size, time in ns]`, `["l", target]` or `["d"]`; `["o"]` is anything else."""
FILE, LINK, DIRECTORY, OTHER = "f", "l", "d", "o"
GIT = ".git"
_DRAFT = re.compile(r"\.ai-how-\d+\.part")


def look_at(path: Path) -> Entry | None:
    """What is compared of a file; None if it is not there."""
    try:
        return entry_of(path.lstat(), path)
    except (FileNotFoundError, NotADirectoryError):
        return None


def entry_of(seen: os.stat_result, path: Path) -> Entry:
    """What is compared of a file, of which lstat said `seen`."""
    if stat.S_ISLNK(seen.st_mode):
        return [LINK, os.readlink(path)]  # noqa: PTH115  Path would change `a//b`
    if stat.S_ISDIR(seen.st_mode):
        return [DIRECTORY]
    if stat.S_ISREG(seen.st_mode):
        return [FILE, stat.S_IMODE(seen.st_mode) & 0o777, seen.st_size, seen.st_mtime_ns]
    return [OTHER]


@dataclass(slots=True)
class Listing:
    """The files of a directory by their names; a directory comes before what is in it."""

    entries: dict[str, Entry] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    """Sockets, pipes and devices."""


def list_files(top: Path, rules: "IgnoreRules") -> Listing:
    """All files below `top` but `.git` and what is ignored. Links are not followed.

    What is removed meanwhile is left out, and drafts of runs that were killed are removed.
    """
    found = Listing()
    for name, entry in _walk(top, "", rules):
        if entry[0] == OTHER:
            found.left_out.append(name)
        else:
            found.entries[name] = entry
    return found


def _walk(top: Path, directory: str, rules: "IgnoreRules") -> Iterator[tuple[str, Entry]]:
    try:
        with os.scandir(top / directory) as entries:
            there = sorted(entries, key=lambda one: one.name)
    except (FileNotFoundError, NotADirectoryError):
        if not directory:
            raise
        return
    for one in there:
        name = f"{directory}{one.name}"
        is_directory = one.is_dir(follow_symlinks=False)
        if rules.names(name, is_directory=is_directory) or _is_draft(one):
            continue
        try:
            entry = entry_of(one.stat(follow_symlinks=False), Path(one.path))
        except FileNotFoundError:
            continue
        yield name, entry
        if is_directory:
            yield from _walk(top, f"{name}/", rules)


def draft_name() -> str:
    """The name of what we write, until it is whole; in one directory one at a time."""
    return f".ai-how-{os.getpid()}.part"


def _is_draft(one: "os.DirEntry[str]") -> bool:
    """Whether it is a draft of ours; it is removed if its writer was killed."""
    if not _DRAFT.fullmatch(one.name) or one.is_dir(follow_symlinks=False):
        return False
    with suppress(OSError):
        if one.is_symlink():  # there for a moment
            Path(one.path).unlink()
            return True
        number = os.open(one.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
            Path(one.path).unlink()
        finally:
            os.close(number)
    return True


@dataclass
class IgnoreRules:
    """What git ignores below `top`: by each `.gitignore`, also those above it in a repository.

    Unlike git's, the rules hold without a repository, and for files that git tracks.
    """

    top: Path
    _own: dict[str, GitIgnoreSpec | None] = field(default_factory=dict)
    _ignored: dict[str, bool] = field(default_factory=dict)

    def is_ignored(self, name: str, *, is_directory: bool) -> bool:
        """Whether a file is ignored, or a directory that it is in."""
        above = name.rpartition("/")[0]
        return self._is_within_ignored(above) or self.names(name, is_directory=is_directory)

    def names(self, name: str, *, is_directory: bool) -> bool:
        """Whether a rule is about this file; the one in the nearest directory decides."""
        parts = name.split("/")
        if parts[-1] == GIT:
            return True
        slash = "/" if is_directory else ""
        for count in reversed(range(len(parts))):
            if rules := self._rules_in("/".join(parts[:count])):
                found = rules.check_file("/".join(parts[count:]) + slash).include
                if found is not None:
                    return found
        for prefix, rules in self._above:
            found = rules.check_file(f"{prefix}{name}{slash}").include
            if found is not None:
                return found
        return False

    def _is_within_ignored(self, directory: str) -> bool:
        if not directory:
            return False
        if directory not in self._ignored:
            self._ignored[directory] = self.is_ignored(directory, is_directory=True)
        return self._ignored[directory]

    def _rules_in(self, directory: str) -> GitIgnoreSpec | None:
        if directory not in self._own:
            self._own[directory] = _read_rules(self.top / directory / ".gitignore")
        return self._own[directory]

    @cached_property
    def _above(self) -> list[tuple[str, GitIgnoreSpec]]:
        """The rules above, the nearest first, each with the way from there to `top`."""
        places = [self.top, *self.top.parents]
        repository = next((one for one in places if (one / GIT).exists()), None)
        if repository is None:
            return []
        above = places[1 : places.index(repository) + 1]
        files = [(one, one / ".gitignore") for one in above]
        files.append((repository, repository / GIT / "info" / "exclude"))
        settings = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
        files.append((repository, Path(settings) / "git" / "ignore"))
        found = []
        for place, file in files:
            if rules := _read_rules(file):
                way = self.top.relative_to(place).as_posix()
                found.append(("" if way == "." else f"{way}/", rules))
        return found


def _read_rules(file: Path) -> GitIgnoreSpec | None:
    try:
        lines = file.read_text("utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return None
    return GitIgnoreSpec.from_lines(lines)
