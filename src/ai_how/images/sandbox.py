"""Where images are made: root of a namespace that ends with us, and the environment there."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from ai_how.errors import HostError
from ai_how.outside_access import OutsideAccess
from ai_how.process import Argument, dying_with_us, get_tool, run, search_path

# Directories that every system has and that may be covered in a mount namespace of our own.
_PLACES = (Path("/mnt"), Path("/media"), Path("/srv"), Path("/opt"))


def in_namespace(argv: Sequence[Argument]) -> list[Argument]:
    """The command that runs `argv` as root of a mount and a PID namespace.

    We own the files that are made there, also as an ordinary user (by a user namespace). When we
    end, in whatever way, all that runs in it is killed, and what it had mounted is gone.
    """
    unshare = get_tool("unshare", package="util-linux")
    as_root = ("--user", "--map-root-user", "--map-auto", "--setgroups", "allow")
    return dying_with_us(
        [
            *(unshare, *(() if os.geteuid() == 0 else as_root)),
            *("--mount", "--pid", "--fork", "--kill-child", "--mount-proc"),
            *argv,
        ]
    )


def build_environment(settings: Mapping[str, str], access: OutsideAccess) -> dict[str, str]:
    """All variables of a build: `settings`, and of what the user has set only the proxies.

    What every build and every script of an image shall see belongs in here.
    """
    return (
        access.for_builds()
        | {
            "PATH": search_path(),
            "HOME": "/root",
            "LC_ALL": "C.UTF-8",
            "DEBIAN_FRONTEND": "noninteractive",
        }
        | dict(settings)
    )


def find_workplace(*needed: Path) -> Path:
    """A directory that may be covered by mounts of a namespace: none of `needed` is below it."""
    for place in _PLACES:
        if place.is_dir() and not any(path.resolve().is_relative_to(place) for path in needed):
            return place
    raise HostError(
        "an image cannot be built: it needs an empty directory to work in",
        details=f"Files that a build needs are below each of {', '.join(map(str, _PLACES))}.",
        hint="sudo mkdir -p /mnt",
    )


def remove_built(directory: Path) -> None:
    """Remove a tree of files that a namespace made: some are of other users than us."""
    run(in_namespace([get_tool("rm"), "-rf", "--", directory]))
