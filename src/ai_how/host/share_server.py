"""The file server of one share on the embedded host: virtiofsd, with the ids of both sides mapped.

libvirt starts it instead of virtiofsd, by a script below /etc/libvirt/hooks of that host. The user
of the host should be the login account in the guest, but neither libvirt 9 nor QEMU's own virtiofsd
can map ids or serve read-only. So this makes a user namespace in which two ids have changed places,
mounts the directory read-only there if it should be, and becomes virtiofsd.
"""

import ctypes
import errno
import json
import os
import re
import resource
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from ai_how.host.reading import read_text
from ai_how.process import become, find_tool

# Debian's AppArmor profile of libvirtd lets it run programs there.
SCRIPTS = Path("/etc/libvirt/hooks")
LOGIN_ID = 1000
# Whose embedded host it is, as the scripts say.
OF_USER, OF_ROOT = "of-user", "of-root"
# Where packages say which virtiofsd they have, as libvirt reads it.
DESCRIPTIONS = Path("usr/share/qemu/vhost-user")
# There QEMU up to 7.2 has a virtiofsd of its own.
OLD_SUITES = r"^VERSION_CODENAME=(bookworm|jammy)$"

CLONE_NEWNS, CLONE_NEWUSER = 0x00020000, 0x10000000
MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 0x40000
SYS_MOUNT_SETATTR = 442
AT_FDCWD, AT_RECURSIVE, MOUNT_ATTR_RDONLY = -100, 0x8000, 1


class SharedAs(StrEnum):
    """Whose, in the guest, the files are that the directory's owner on the host has."""

    LOGIN = "login"
    ROOT = "root"
    OTHER = "other"  # the numbers are the same on both sides, except those of the host's user


@dataclass(frozen=True, slots=True)
class IdRange:
    """`count` ids: from `inside` on in the new namespace, from `outside` on in the present one."""

    inside: int
    outside: int
    count: int


def script_of(shared_as: SharedAs, *, is_read_only: bool) -> Path:
    """The program that serves such a share, as libvirtd on the embedded host sees it."""
    return SCRIPTS / f"ai-how-share-{shared_as}-{'ro' if is_read_only else 'rw'}"


def write_scripts(directory: Path, *, is_of_user: bool) -> None:
    """Write the programs for libvirt; its XML can name a program, but none of its arguments.

    `directory` is that of SCRIPTS as seen from outside the embedded host, which is an ordinary
    user's or root's. Its maps do not tell: root of a container may have those of a user.
    """
    directory.mkdir(mode=0o755, exist_ok=True)
    for shared_as in SharedAs:
        for is_read_only in (False, True):
            file = directory / script_of(shared_as, is_read_only=is_read_only).name
            access = "ro" if is_read_only else "rw"
            module = ("-I", "-m", "ai_how.host.share_server")
            words = [sys.executable, *module, shared_as, access, OF_USER if is_of_user else OF_ROOT]
            text = f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n'
            if read_text(file) != text.strip():
                # Written again by the next run if this one is cut short, so it needs no fsync.
                draft = file.with_name(f".{file.name}.{os.getpid()}")
                draft.write_text(text)
                draft.chmod(0o755)
                draft.replace(file)


def find_virtiofsd(root: Path = Path("/")) -> Path | None:
    """The virtiofsd of this host, None if it is not installed."""
    for file in sorted((root / DESCRIPTIONS).glob("*.json")):
        with suppress(OSError, ValueError, TypeError, KeyError):
            described = json.loads(file.read_text())
            program = root / Path(described["binary"]).relative_to("/")
            if described["type"] == "fs" and os.access(program, os.X_OK):
                return program
    return find_tool("virtiofsd")


def install_virtiofsd(root: Path = Path("/")) -> str:
    """The command that installs virtiofsd."""
    told = read_text(root / "etc/os-release") or ""
    is_old = re.search(OLD_SUITES, told, re.M)
    return f"sudo apt-get install {'qemu-system-common' if is_old else 'virtiofsd'}"


def source_of(argv: Sequence[str]) -> Path | None:
    """The directory in virtiofsd's arguments, of either form; None if there is none."""
    for word, value in zip(argv, (*argv[1:], ""), strict=False):
        if word == "--shared-dir":
            return Path(value)
        if word.startswith("--shared-dir="):
            return Path(word.removeprefix("--shared-dir="))
        if word == "-o" and value.startswith("source="):
            # A comma in a value is doubled.
            told = value.removeprefix("source=").replace(",,", "\0").partition(",")[0]
            return Path(told.replace("\0", ","))
    return None


def swapped(ranges: Sequence[IdRange], one: int, other: int) -> tuple[IdRange, ...]:
    """The map of a namespace in which two ids have changed places, and all others are the same.

    `ranges` are those of the present namespace; without both ids in them, none changes.
    """
    mapped = {which for which in (one, other) for each in ranges if _has(each, which)}
    if len(mapped) < len({one, other}):
        one = other
    partner = {one: other, other: one}
    return tuple(piece for each in ranges for piece in _pieces(each, partner))


def _has(ids: IdRange, which: int) -> bool:
    return ids.inside <= which < ids.inside + ids.count


def _pieces(ids: IdRange, partner: dict[int, int]) -> Iterator[IdRange]:
    begin, end = ids.inside, ids.inside + ids.count
    for which in sorted(which for which in partner if _has(ids, which)):
        if begin < which:
            yield IdRange(begin, begin, which - begin)
        yield IdRange(which, partner[which], 1)
        begin = which + 1
    if begin < end:
        yield IdRange(begin, begin, end - begin)


def read_ranges(file: Path) -> tuple[IdRange, ...]:
    """The ids of a namespace, from `/proc/self/uid_map` or `gid_map`."""
    return tuple(IdRange(*map(int, line.split())) for line in file.read_text().splitlines())


def render_ranges(ranges: Sequence[IdRange]) -> bytes:
    return "".join(f"{one.inside} {one.outside} {one.count}\n" for one in ranges).encode()


def partners(
    shared_as: SharedAs, owner: tuple[int, int], *, is_of_user: bool
) -> tuple[tuple[int, int], tuple[int, int]]:
    """The ids that change places, of users and of groups: (in the guest, here).

    On an ordinary user's host, the id 0 here is that user. On root's host it is the `owner` (uid
    and gid) of the directory whose files are the login account's, or root's, in the guest.
    """
    guest = 0 if shared_as is SharedAs.ROOT else LOGIN_ID
    if is_of_user:
        owner = (0, 0)
    elif shared_as is SharedAs.OTHER:
        owner = (guest, guest)
    return (guest, owner[0]), (guest, owner[1])


def enter_namespaces(maps: tuple[bytes, bytes] | None) -> None:
    """A mount namespace of our own; with maps also a user namespace, in which we are root."""
    libc = ctypes.CDLL(None, use_errno=True)
    if maps is None:
        _require(libc.unshare(CLONE_NEWNS), "a mount namespace")
    else:
        # Such maps can only be written from outside.
        ready, go = os.pipe()
        helper = os.fork()
        if helper == 0:
            os.close(go)
            os._exit(_write_maps(ready, maps))
        os.close(ready)
        _require(libc.unshare(CLONE_NEWUSER | CLONE_NEWNS), "a user namespace")
        os.write(go, b"\n")
        os.close(go)
        if code := os.waitstatus_to_exitcode(os.waitpid(helper, 0)[1]):
            sys.exit(f"the ids of the share could not be mapped: {os.strerror(code)}")
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
        os.setgroups([])
    _require(libc.mount(None, b"/", None, MS_REC | MS_PRIVATE, None), "private mounts")


def _write_maps(ready: int, maps: tuple[bytes, bytes]) -> int:
    """Write the maps of our parent, once it is in its namespace; returns 0 or the error number."""
    if not os.read(ready, 1):
        return errno.ESRCH
    try:
        for name, text in zip(("uid_map", "gid_map"), maps, strict=True):
            descriptor = os.open(f"/proc/{os.getppid()}/{name}", os.O_WRONLY)
            os.write(descriptor, text)
            os.close(descriptor)
    except OSError as error:
        return error.errno or errno.EINVAL
    return 0


def make_read_only(path: Path) -> None:
    """Cover a directory by itself, read-only, with all that is mounted in it."""
    libc = ctypes.CDLL(None, use_errno=True)
    name = os.fsencode(path)
    _require(libc.mount(name, name, None, MS_BIND | MS_REC, None), f"a mount of {path}")
    attributes = (ctypes.c_uint64 * 4)(MOUNT_ATTR_RDONLY, 0, 0, 0)
    done = libc.syscall(
        *(SYS_MOUNT_SETATTR, AT_FDCWD, name, AT_RECURSIVE),
        *(ctypes.byref(attributes), ctypes.c_size_t(ctypes.sizeof(attributes))),
    )
    _require(done, f"a read-only mount of {path}")


def _require(result: int, what: str) -> None:
    if result != 0:
        sys.exit(f"{what}: {os.strerror(ctypes.get_errno())}")


def find_maps(
    shared_as: SharedAs,
    ranges: Sequence[Sequence[IdRange]],
    owner: tuple[int, int],
    *,
    is_of_user: bool,
) -> tuple[bytes, bytes] | None:
    """The maps (of users and groups) of the share's namespace; None if it needs none.

    `ranges` are those of the present namespace, `owner` (uid and gid) is the directory's.
    """
    pairs = partners(shared_as, owner, is_of_user=is_of_user)
    if all(one == other for one, other in pairs):
        return None
    uids, gids = (swapped(each, *pair) for each, pair in zip(ranges, pairs, strict=True))
    return render_ranges(uids), render_ranges(gids)


def main(shared_as: str, access: str, host: str, *argv: str) -> None:
    """Become virtiofsd for one share; `host` is OF_USER or OF_ROOT."""
    program = find_virtiofsd()
    if program is None:
        sys.exit("virtiofsd is not installed")
    if source := source_of(argv):
        files = (Path("/proc/self/uid_map"), Path("/proc/self/gid_map"))
        ranges = [read_ranges(file) for file in files]
        seen = source.stat()
        owner, is_of_user = (seen.st_uid, seen.st_gid), host == OF_USER
        maps = find_maps(SharedAs(shared_as), ranges, owner, is_of_user=is_of_user)
        if maps or access == "ro":
            enter_namespaces(maps)
        if access == "ro":
            make_read_only(source)
        # An inode that the guest knows is an open file here. More than the hard limit is refused.
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        argv = ("--rlimit-nofile=0", *argv)
    become([program, *argv])


if __name__ == "__main__":
    main(*sys.argv[1:])
