"""The owner of a VM or network: users and state directories may share one libvirt."""

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
    """The owner that this process writes into the marks of its objects."""
    return Owner(os.geteuid(), paths.root.parent)


def owner_of(info: DomainInfo | NetworkInfo) -> Owner | None:
    """The owner by the mark, else by the path of the serial log. None if neither names one."""
    if info.mark is None:
        return None
    if info.mark.owner:
        return info.mark.owner
    with suppress(HostError):
        log = read_xml(info.xml).find("./devices/serial/log")
        path = Path(log.get("file", "/") if log is not None else "/")
        if path.parts[-3:] == (info.mark.cluster, "console", f"{info.mark.node}.log"):
            return Owner(_uid_of(path.parents[2]), path.parents[2])
    return None


def is_owned_by(owner: Owner | None, caller: Owner) -> bool:
    """Whether the caller is the owner. An unknown owner counts as the caller."""
    if owner is None:
        return True
    if owner.uid is not None and owner.uid != caller.uid:
        return False
    if owner.state == caller.state:
        return True
    with suppress(OSError):
        return owner.state.samefile(caller.state)
    return False


def belongs_to_caller(info: DomainInfo | NetworkInfo, caller: Owner, place: HypervisorHost) -> bool:
    """Whether a VM or network belongs to the caller.

    An embedded host is in a state directory, and moves with it. If the state directory in the mark
    no longer exists, its objects belong to the present one.
    """
    owner = owner_of(info)
    if is_owned_by(owner, caller):
        return True
    return place.moves_with_state and owner is not None and not _is_there(owner.state)


def describe_owner(owner: Owner) -> str:
    """`user NAME (uid N), state directory PATH`."""
    return f"{describe_user(owner.uid)}, state directory {owner.state}"


def describe_user(uid: int | None) -> str:
    """`user NAME (uid N)`."""
    if uid is None:
        return "an unknown user"
    with suppress(KeyError):
        return f"user {pwd.getpwuid(uid).pw_name} (uid {uid})"
    return f"uid {uid}"


def find_uid(user: str) -> int:
    """The uid of a user, given by name or uid. Raises HostError for an unknown name."""
    if user.isascii() and user.isdigit():
        return int(user)
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        raise HostError(f"there is no user {user}", hint="getent passwd") from None


def is_same_definition(sent: str, rendered: str) -> bool:
    """Whether both XMLs are equal, or differ only in an owner that older versions did not write."""
    return sent in (rendered, _OWNER_IN_MARK.sub(r"\1", rendered))


def _is_there(directory: Path) -> bool:
    with suppress(OSError):
        return directory.is_dir()
    return True


def _uid_of(directory: Path) -> int | None:
    """The uid of a directory's owner. If it is not accessible, the owner of the home above it."""
    for path in (directory, *directory.parents):
        with suppress(OSError):
            return path.stat().st_uid or (0 if path == directory else None)
    return None
