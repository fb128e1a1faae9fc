"""The allowed forms of a libvirt URI, and the remedies for a libvirt that does not answer.

A libvirt URI can name a program to run (`qemu+ext`, `command=`, `netcat=`), so it is never passed
on unchanged: it is parsed, and a new URI is built from the checked parts.
"""

import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote

from ai_how.errors import SpecError

ALLOWED = """\
auto, embedded
qemu:///system
qemu:///session
qemu+unix:///system?socket=/absolute/path
qemu+ssh://[user@]host[:port]/system[?keyfile=/absolute/path]
test:///default, test:///absolute/path.xml"""

# sun_path of unix(7), less its closing NUL.
_SOCKET_PATH_BYTES = 107

_LOCAL = re.compile(r"qemu:///(system|session)")
_TEST = re.compile(r"test:///[\w.+/-]+", re.ASCII)
_UNIX = re.compile(r"qemu\+unix:///system\?(?P<query>[!-~]+)")
_SSH = re.compile(
    r"qemu\+ssh://(?P<login>((?P<user>[a-z_][\w.-]*)@)?"
    r"(?P<host>[a-z0-9]([a-z0-9.-]*[a-z0-9])?|\[[0-9a-f:]+\])(:(?P<port>[0-9]{1,5}))?)"
    r"/system(\?(?P<query>[!-~]+))?",
    re.ASCII | re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class LibvirtUri:
    """A checked URI: the form for libvirt, and the remedies for the user."""

    for_libvirt: str
    is_test: bool = False
    remedy: str | None = None
    """The remedy if no daemon answers."""
    denied_remedy: str | None = None
    """The remedy if a daemon answers, and refuses."""


def unix_uri(socket: Path) -> str:
    """The URI of a libvirtd with this socket."""
    return f"qemu+unix:///system?socket={quote(os.fspath(socket), safe='/')}"


def read_uri(text: str) -> LibvirtUri:
    """Parse a URI. Raises SpecError for any form that is not in ALLOWED."""
    if found := _LOCAL.fullmatch(text):
        return _local(text, found[1])
    if _TEST.fullmatch(text):
        return LibvirtUri(text, is_test=True)
    if found := _UNIX.fullmatch(text):
        socket = _only_path(text, found["query"], "socket")
        if len(os.fsencode(socket)) > _SOCKET_PATH_BYTES:
            raise _refused(text, "the path of a Unix socket has 107 bytes at most")
        return LibvirtUri(
            unix_uri(socket),
            remedy="ai-how host up",
            denied_remedy=f"ls -l {shlex.quote(os.fspath(socket))}",
        )
    if found := _SSH.fullmatch(text):
        return _ssh(text, found)
    raise _refused(text, "it has none of the allowed forms")


def _local(text: str, mode: str) -> LibvirtUri:
    if mode == "session":
        return LibvirtUri(text, remedy="virsh --connect qemu:///session version")
    return LibvirtUri(
        text,
        remedy="sudo systemctl start libvirtd",
        denied_remedy="sudo usermod -aG libvirt $USER && newgrp libvirt",
    )


def _ssh(text: str, found: re.Match[str]) -> LibvirtUri:
    key = _only_path(text, found["query"], "keyfile") if found["query"] else None
    # With no_tty ssh runs in batch mode: it fails instead of asking for a password.
    query = "no_tty=1" + (f"&keyfile={quote(os.fspath(key), safe='/')}" if key else "")
    words = ["ssh", *(["-p", found["port"]] if found["port"] else [])]
    words += ["-i", os.fspath(key)] if key else []
    words += [(f"{found['user']}@" if found["user"] else "") + found["host"].strip("[]")]
    login = shlex.join(words)
    return LibvirtUri(
        f"qemu+ssh://{found['login']}/system?{query}",
        remedy=f"{login} virsh --connect qemu:///system version",
        denied_remedy=f"{login} -t 'sudo usermod -aG libvirt $USER'",
    )


def _only_path(text: str, query: str, name: str) -> Path:
    """The absolute path in the query's only parameter."""
    key, _, escaped = query.partition("=")
    if key != name or set(escaped) & set("&;=?#"):
        raise _refused(text, f"its only parameter may be {name}=")
    value = unquote(escaped, errors="replace")
    if not value.startswith("/") or not value.isprintable() or "\N{REPLACEMENT CHARACTER}" in value:
        raise _refused(text, f"{name}= must be an absolute path")
    return Path(value)


def _refused(text: str, why: str) -> SpecError:
    return SpecError(
        f"this libvirt URI is not allowed: {text[:200]!a}", details=f"{why}; allowed are\n{ALLOWED}"
    )
