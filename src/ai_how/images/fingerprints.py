"""Whether a file is still the one that was read, without reading it again."""

import shlex
import time
from pathlib import Path

from ai_how.errors import ImageError

Fingerprint = tuple[int, int, int, int]
"""The inode, the size, mtime and ctime. Only the kernel sets ctime: each write changes it."""

# A file that is written twice within a tick of the kernel's clock keeps its times.
_TICK_S = 0.05


def fingerprint(path: Path) -> Fingerprint:
    """Changes with every write to the file. Raises ImageError where it cannot be read."""
    try:
        seen = path.stat()
    except OSError as error:
        raise ImageError(
            f"{path} cannot be read: {error.strerror}", hint=f"ls -l {shlex.quote(str(path))}"
        ) from error
    return seen.st_ino, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns


def let_settle(known: Fingerprint) -> None:
    """Wait until a file that was just written would get other times by another write."""
    age = time.time() - known[3] / 1e9
    if 0 <= age < _TICK_S:
        time.sleep(_TICK_S - age)
