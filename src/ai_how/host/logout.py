"""Whether a user's processes survive a logout, and how to start them so that they do.

logind ends the processes in a session's scope if KillUserProcesses= says so. A user's own manager
ends with the last session, unless the user lingers: logind.conf(5), loginctl(1).
"""

import configparser
import os
import pwd
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from ai_how.errors import ToolError
from ai_how.host.reading import read_text
from ai_how.process import find_tool, run

CONFIG_DIRECTORIES = ("etc/systemd", "run/systemd", "usr/local/lib/systemd", "usr/lib/systemd")
PROBE_S = 10.0
TRUE = {"1", "yes", "y", "true", "t", "on"}


def find_end(root: Path, *, pid: int | None = None) -> str | None:
    """What ends a process at logout, None if nothing does. Without `pid`: a process started now."""
    if not (root / "run/systemd/system").is_dir():
        return None
    if pid is None and _scope_of_its_own(root):
        return None
    group = read_text(root / f"proc/{pid or 'self'}/cgroup") or ""
    if "/user@" in group:
        if _lingers(root):
            return None
        return f"{user_name()}'s processes end with the last session: clusters are powered off then"
    if "/session-" in group and _kills(root):
        return "logind ends a session's processes at logout: clusters are powered off"
    return None


def outliving(root: Path = Path("/")) -> list[str]:
    """The prefix of a command that is to survive a logout; empty if nothing helps."""
    words = _scope_of_its_own(root)
    # A manager that hangs or refuses must not prevent the start.
    with suppress(ToolError):
        if words:
            run([*words, "true"], timeout_s=PROBE_S)
            return words
    return []


def _scope_of_its_own(root: Path) -> list[str]:
    """The command that starts a program in a scope that survives the end of the session."""
    systemd_run = find_tool("systemd-run")
    if systemd_run is None or not (root / "run/systemd/system").is_dir():
        return []
    scope = ["--scope", "--quiet", "--collect", "--"]
    if os.geteuid() == 0:
        # With sudo, root is in the session of another user, who may log out.
        is_in_session = "/user.slice/" in (read_text(root / "proc/self/cgroup") or "")
        return [str(systemd_run), *scope] if is_in_session else []
    if not _lingers(root):
        return []  # the user's manager would end with the session, and everything in it
    way = f"XDG_RUNTIME_DIR=/run/user/{os.geteuid()}"
    return ["env", way, str(systemd_run), "--user", *scope]


def _lingers(root: Path) -> bool:
    return (root / "var/lib/systemd/linger" / user_name()).exists()


def _kills(root: Path) -> bool:
    """Whether logind ends our user's processes with their session."""
    settings = dict[str, str]()
    for path in _config_files(root):
        parser = configparser.ConfigParser(strict=False, interpolation=None, allow_no_value=True)
        try:
            parser.read_string(read_text(path) or "")
            found = dict(parser["Login"])
        except (configparser.Error, KeyError):
            continue
        settings |= {name: value or "" for name, value in found.items()}
    if settings.get("killuserprocesses", "no").lower() not in TRUE:
        return False
    only = settings.get("killonlyusers", "").split()
    if user_name() in settings.get("killexcludeusers", "root").split():
        return False
    return not only or user_name() in only


def _config_files(root: Path) -> Iterator[Path]:
    """logind's files in the order of their priority: the main file, then drop-ins by name."""
    places = [root / place for place in CONFIG_DIRECTORIES]
    yield from [path for place in places if (path := place / "logind.conf").exists()][:1]
    named = dict[str, Path]()
    for place in reversed(places):
        named |= {path.name: path for path in (place / "logind.conf.d").glob("*.conf")}
    yield from (named[name] for name in sorted(named))


def user_name() -> str:
    """The name of our user, or its number if it has no name."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())
