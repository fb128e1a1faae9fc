"""The ansible-playbook that we run: the one beside our own Python, else one on PATH."""

import re
import sys
from importlib import metadata
from pathlib import Path

from ai_how.errors import HostError
from ai_how.extras import install_command
from ai_how.process import find_tool, run

PROGRAM = "ansible-playbook"
# Older ones cannot run modules with Python 3.13, which Debian 13 has.
OLDEST = (2, 18)
_VERSION = re.compile(r"core (\d+)\.(\d+)")
_ASK_S = 60


def find_ansible() -> Path:
    """The program. Raises HostError if there is none, or only one that is too old."""
    own = Path(sys.executable).with_name(PROGRAM)
    found = own if own.exists() else find_tool(PROGRAM)
    if found is None:
        raise HostError(
            f"{PROGRAM} is not installed, but the file has playbooks",
            hint=install_command("ansible"),
        )
    version = _own_version() if found == own else _asked_version(found)
    if version is None or version < OLDEST:
        shown = ".".join(map(str, version)) if version else "an unknown version"
        raise HostError(
            f"{found} is too old: {shown}",
            details=f"The nodes need ansible-core {'.'.join(map(str, OLDEST))} or later.",
            hint=install_command("ansible"),
        )
    return found


def _own_version() -> tuple[int, ...] | None:
    try:
        return _numbers(f"core {metadata.version('ansible-core')}")
    except metadata.PackageNotFoundError:
        return None


def _asked_version(program: Path) -> tuple[int, ...] | None:
    return _numbers(run([program, "--version"], check=False, timeout_s=_ASK_S).stdout)


def _numbers(text: str) -> tuple[int, ...] | None:
    found = _VERSION.search(text)
    return tuple(map(int, found.groups())) if found else None
