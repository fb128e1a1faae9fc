"""Which playbooks have to run, and on which nodes."""

import hashlib
import json
import os
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ai_how.errors import SpecError
from ai_how.spec.images import path_in
from ai_how.spec.provision import ProvisionSpec
from ai_how.state.models import PlaybookState

# The directories beside a playbook in which Ansible looks for what it needs.
_DIRECTORIES = (
    *("action_plugins", "callback_plugins", "collections", "defaults", "files", "filter_plugins"),
    *("group_vars", "handlers", "host_vars", "library", "lookup_plugins", "module_utils"),
    *("playbooks", "roles", "tasks", "templates", "test_plugins", "vars", "vars_plugins"),
)
_CONFIGURATION = "ansible.cfg"
_LARGEST_READ = 1 << 20  # a larger file names no other one


@dataclass(frozen=True, slots=True, kw_only=True)
class Playbook:
    """An entry of `provision`, with the paths of its files and the digest of what it depends on."""

    spec: ProvisionSpec
    path: Path
    vault_password_file: Path | None
    digest: str

    @property
    def name(self) -> str:
        """As the file names it."""
        return self.spec.playbook

    @property
    def entry(self) -> str:
        """What tells it apart from other entries that have the same playbook."""
        return entry_of(self.spec)


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingRun:
    """A playbook that has to run on these nodes."""

    playbook: Playbook
    nodes: tuple[str, ...]


def read_playbooks(entries: Iterable[ProvisionSpec], directory: Path) -> tuple[Playbook, ...]:
    """The playbooks of a file in `directory`. Raises SpecError for one that cannot be read."""
    return tuple(_read(entry, directory) for entry in entries)


def find_pending(
    playbooks: Iterable[Playbook],
    done: Iterable[PlaybookState],
    nodes: Collection[str],
    *,
    is_forced: bool = False,
) -> tuple[PendingRun, ...]:
    """The playbooks that have to run on some of the `nodes`; with `is_forced` all on all."""
    known = {one.entry: one for one in done}
    found = []
    for playbook in playbooks:
        was = known.get(playbook.entry)
        wanted = tuple(name for name in nodes if is_forced or not _is_done(playbook, was, name))
        if wanted:
            found.append(PendingRun(playbook=playbook, nodes=wanted))
    return tuple(found)


def with_run(
    done: Iterable[PlaybookState], playbook: Playbook, nodes: Collection[str]
) -> tuple[PlaybookState, ...]:
    """What is remembered after the playbook ran on `nodes` as well."""
    others = tuple(one for one in done if one.entry != playbook.entry)
    was = next((one for one in done if one.entry == playbook.entry), None)
    # A run of an older version counts no longer, unless one run is enough.
    counts = was is not None and (was.digest == playbook.digest or playbook.spec.when == "created")
    former = was.nodes if was and counts else ()
    names = (*former, *(name for name in nodes if name not in former))
    return (*others, PlaybookState(entry=playbook.entry, digest=playbook.digest, nodes=names))


def entry_of(spec: ProvisionSpec) -> str:
    """The playbook with its tags and limit."""
    return json.dumps([spec.playbook, sorted(spec.tags), spec.limit])


def _is_done(playbook: Playbook, was: PlaybookState | None, node: str) -> bool:
    if playbook.spec.when == "always" or was is None or node not in was.nodes:
        return False
    return playbook.spec.when == "created" or was.digest == playbook.digest


def _read(entry: ProvisionSpec, directory: Path) -> Playbook:
    path = path_in(directory, entry.playbook)
    password = entry.vault_password_file
    try:
        digest = _digest(path, entry)
    except OSError as error:
        raise SpecError(f"{error.filename or path}: {error.strerror}") from error
    return Playbook(
        spec=entry,
        path=path,
        vault_password_file=path_in(directory, password) if password else None,
        digest=digest,
    )


def _digest(path: Path, entry: ProvisionSpec) -> str:
    """SHA-256 of the playbook, of the files that it can use, and of its variables."""
    whole = hashlib.sha256(json.dumps(entry.vars, sort_keys=True, default=str).encode())
    for file in files_of(path):
        with file.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        is_program = os.access(file, os.X_OK)
        whole.update(json.dumps([str(file.relative_to(path.parent)), is_program, digest]).encode())
    return whole.hexdigest()


def files_of(playbook: Path) -> list[Path]:
    """The files on which a playbook depends, as far as they are beside it, sorted.

    These are the playbook, ansible.cfg, all in the directories that Ansible searches there, and the
    files in the same directory that it names, or that those name.
    """
    beside = {entry.name: entry for entry in playbook.parent.iterdir() if entry.is_file()}
    found = {playbook}
    waiting = [playbook]
    while waiting:
        text = _text_of(waiting.pop())
        new = {path for name, path in beside.items() if path not in found and name in text}
        found |= new
        waiting += new
    if _CONFIGURATION in beside:
        found.add(beside[_CONFIGURATION])
    for name in _DIRECTORIES:
        found.update(_files_below(playbook.parent / name))
    return sorted(found)


def _text_of(file: Path) -> str:
    with file.open("rb") as content:
        return content.read(_LARGEST_READ).decode(errors="replace")


def _files_below(directory: Path) -> Iterator[Path]:
    for parent, directories, names in os.walk(directory):
        directories[:] = [one for one in directories if one not in (".git", "__pycache__")]
        yield from (path for name in names if (path := Path(parent, name)).is_file())
