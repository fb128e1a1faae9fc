"""SLURM's commands on this host: small scripts that run them on the controller of a cluster."""

import os
import shlex
import sys
from pathlib import Path

from ai_how.errors import HostError, OwnershipError
from ai_how.images.copying import disk_errors
from ai_how.state.files import replaced_atomically
from ai_how.state.paths import Roots, ensure_parents

IN_DIRECTORY = ("srun", "sbatch", "salloc")
"""These read and write files: they run in the copy of the current directory."""
PLAIN = ("squeue", "sinfo", "scancel", "scontrol")

_MARK = "# A wrapper of ai-how:"
_WITHOUT_INPUT = """\
# With a script, or --wrap, the input is not read: it may be that of a loop of the caller's.
for word; do
    case $word in --wrap | --wrap=*) exec {call} "$@" </dev/null ;; esac
    [ ! -f "$word" ] || exec {call} "$@" </dev/null
done"""


def write_wrappers(directory: Path, cluster: str, roots: Roots) -> tuple[str, ...]:
    """Write a script for each of SLURM's commands, and return their names.

    Scripts of an earlier call are replaced. Raises OwnershipError, before anything is written, for
    another file of such a name.
    """
    names = (*IN_DIRECTORY, *PLAIN)
    if not directory.is_dir():
        if os.path.lexists(directory):
            raise HostError(f"{directory} is not a directory", hint=_look(directory))
        with disk_errors(directory.parent):
            ensure_parents(directory)
            directory.mkdir()
    for name in names:
        path = directory / name
        if os.path.lexists(path) and not _is_ours(path):
            raise OwnershipError(f"{path} is not of ai-how, and is left alone", hint=_look(path))
    for name in names:
        with disk_errors(directory), replaced_atomically(directory / name) as draft:
            draft.write_text(_script(name, cluster, roots))
            draft.chmod(0o755)
    return names


def _script(name: str, cluster: str, roots: Roots) -> str:
    # -P: nothing is imported from the current directory, which is the user's.
    program = [sys.executable, "-P", "-m", "ai_how", "--state-dir", str(roots.state), "hpc"]
    if name in IN_DIRECTORY:
        words = [*program, "run", "--cluster", cluster, "--login", "--", name]
    else:
        # The input may be that of a loop of the caller's.
        words = [*program, "ssh", "-n", "--cluster", cluster, "controller", name]
    call = shlex.join(words)
    lines = ["#!/bin/sh", f"{_MARK} {name} of the cluster {cluster}."]
    if name == "sbatch":
        lines += _WITHOUT_INPUT.format(call=call).splitlines()
    return "\n".join([*lines, f'exec {call} "$@"', ""])


def _is_ours(path: Path) -> bool:
    try:
        return not path.is_symlink() and _MARK in path.read_text("utf-8").partition("\nexec ")[0]
    except (OSError, UnicodeDecodeError):
        return False


def _look(path: Path) -> str:
    return f"ls -l {shlex.quote(str(path))}"
