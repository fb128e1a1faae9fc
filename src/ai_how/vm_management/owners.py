"""Whose a cluster is: several users, and several state directories of one, may share a libvirt."""

import os
import pwd
import re
from contextlib import suppress
from pathlib import Path

from ai_how.errors import HostError
from ai_how.host.place import HypervisorHost
from ai_how.libvirt_client.facts import DomainInfo, NetworkInfo, Owner
from ai_how.libvirt_client.xml import read_xml
from ai_how.state.paths import ClusterPaths

_OWNER_IN_MARK = re.compile(r'(<ai-how:node [^>]*?) uid="[0-9]+" state="[^"]*"')


def caller_of(paths: ClusterPaths) -> Owner:
    """We: what we make for a cluster bears this."""
    return Owner(os.geteuid(), paths.root.parent)


def owner_of(seen: DomainInfo | NetworkInfo) -> Owner | None:
    """Whose it is: by its mark, else by where its serial line is kept; None where neither tells."""
    if seen.mark is None:
        return None
    if seen.mark.owner:
        return seen.mark.owner
    with suppress(HostError):
        log = read_xml(seen.xml).find("./devices/serial/log")
        path = Path(log.get("file", "/") if log is not None else "/")
        if path.parts[-3:] == (seen.mark.cluster, "console", f"{seen.mark.node}.log"):
            return Owner(_uid_of(path.parents[2]), path.parents[2])
    return None


def is_owned_by(owner: Owner | None, caller: Owner) -> bool:
    """Whether that is the caller's own; what nobody is known to own is."""
    if owner is None:
        return True
    if owner.uid is not None and owner.uid != caller.uid:
        return False
    if owner.state == caller.state:
        return True
    with suppress(OSError):
        return owner.state.samefile(caller.state)
    return False


def belongs_to_caller(seen: DomainInfo | NetworkInfo, caller: Owner, place: HypervisorHost) -> bool:
    """Whether it is the caller's.

    An embedded host lies in a state directory, and moves with it: where no other is there, what is
    on it is of this one, whatever its path was.
    """
    owner = owner_of(seen)
    if is_owned_by(owner, caller):
        return True
    return place.moves_with_state and owner is not None and not _is_there(owner.state)


def describe_owner(owner: Owner) -> str:
    """Whose it is, in words."""
    return f"{describe_user(owner.uid)}, state directory {owner.state}"


def describe_user(uid: int | None) -> str:
    """A user by name and number."""
    if uid is None:
        return "a user who is not known"
    with suppress(KeyError):
        return f"user {pwd.getpwuid(uid).pw_name} (uid {uid})"
    return f"uid {uid}"


def find_uid(user: str) -> int:
    """The number of a user who is given by name or number. Raises HostError where there is none."""
    if user.isascii() and user.isdigit():
        return int(user)
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        raise HostError(f"there is no user {user}", hint="getent passwd") from None


def is_same_definition(sent: str, rendered: str) -> bool:
    """Whether a VM was defined from this XML, or from the same before owners were in it."""
    return sent in (rendered, _OWNER_IN_MARK.sub(r"\1", rendered))


def _is_there(directory: Path) -> bool:
    with suppress(OSError):
        return directory.is_dir()
    return True


def _uid_of(directory: Path) -> int | None:
    """Whose a directory is; where we may not look, whose home it is in."""
    for path in (directory, *directory.parents):
        with suppress(OSError):
            return path.stat().st_uid or (0 if path == directory else None)
    return None
