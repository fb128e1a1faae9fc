"""Links on the path to our files: followed only if no other user can change them."""

import errno
import grp
import os
import pwd
import shlex
import stat
from pathlib import Path

from ai_how.errors import HostError

MOST_LINKS = 40  # as the kernel's own limit


def resolve_links(path: Path) -> Path:
    """The canonical path: absolute, and without links.

    So a home that was moved to a larger disk, with a link in its old place, is the same home.
    Raises HostError for a link that another user could change.
    """
    wanted = [*Path(os.path.abspath(path)).parts[1:]]  # noqa: PTH100  which follows no link
    seen, links = Path("/"), 0
    while wanted:
        name = wanted.pop(0)
        if name == "..":
            seen = seen.parent
            continue
        there = seen / name
        try:
            target = there.readlink()
        except OSError as error:
            if error.errno in {errno.EINVAL, errno.ENOENT}:  # no link, or nothing yet
                seen = there
                continue
            # The user of the path gets the error.
            return there.joinpath(*wanted)
        _check_link(there)
        links += 1
        if links > MOST_LINKS:
            raise HostError(f"{path} is a loop of links", hint=f"namei -l {shlex.quote(str(path))}")
        if target.is_absolute():
            seen = Path("/")
        wanted = [*[part for part in target.parts if part != "/"], *wanted]
    return seen


def others_may_write(seen: os.stat_result) -> bool:
    """Whether a mode lets others than the owner and the owner's private group write."""
    if seen.st_mode & stat.S_IWOTH:
        return True
    return bool(seen.st_mode & stat.S_IWGRP) and not _is_private_group(seen.st_gid)


def _check_link(link: Path) -> None:
    itself, above = link.lstat(), link.parent.stat()
    ours = (0, os.geteuid())
    # In a sticky directory, /tmp for one, nobody can rename or remove what is not theirs.
    is_open = others_may_write(above) and not above.st_mode & stat.S_ISVTX
    if itself.st_uid in ours and above.st_uid in ours and not is_open:
        return
    raise HostError(
        f"{link} is a link that another user could change",
        details="Its target is not used.",
        hint=f"namei -l {shlex.quote(str(link))}",
    )


def _is_private_group(gid: int) -> bool:
    """Whether it is the group with our user's name: distributions with umask 002 have those."""
    try:
        me, group = pwd.getpwuid(os.geteuid()), grp.getgrgid(gid)
    except KeyError:
        return False
    return me.pw_gid == gid and me.pw_name == group.gr_name and not set(group.gr_mem) - {me.pw_name}
