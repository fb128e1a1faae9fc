"""The Unix socket of a collector; its path may be longer than that of a socket can be."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

BACKLOG = 128
LONGEST_NAME = 107


def listen(path: Path) -> socket.socket:
    """A socket that listens there, 0600; whatever is there is replaced. Raises OSError."""
    path.unlink(missing_ok=True)
    line = socket.socket(socket.AF_UNIX)
    before = os.umask(0o177)
    try:
        with _short(path) as name:
            line.bind(name)
        line.listen(BACKLOG)
    except BaseException:
        line.close()
        raise
    finally:
        os.umask(before)
    return line


def connect_to(path: Path, timeout_s: float) -> socket.socket:
    """A connection to a socket. Raises OSError."""
    line = socket.socket(socket.AF_UNIX)
    line.settimeout(timeout_s)
    try:
        with _short(path) as name:
            line.connect(name)
    except BaseException:
        line.close()
        raise
    return line


@contextmanager
def _short(path: Path) -> Iterator[str]:
    """A name for the path during the block."""
    if len(os.fsencode(path)) <= LONGEST_NAME:
        yield str(path)
        return
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)
