"""Makes a tree of files the root of a mount namespace, and becomes a program of that tree.

Run as `python -m ai_how.images.pivot ROOT PROGRAM ...` by derive.sh, as PID 1 of its namespaces.
"""

import ctypes
import os
import sys

from ai_how.process import become

_MNT_DETACH = 2


def enter(root: str) -> None:
    """Make `root`, a mount, the root of all processes here, and take the former root away.

    This is done without a program: those of the host are gone, and those of the tree would see it.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    os.chdir(root)
    # The former root is mounted on top of the new one, then.
    _require(libc.pivot_root(b".", b"."), root)
    _require(libc.umount2(b".", _MNT_DETACH), root)
    os.chdir("/")


def _require(result: int, root: str) -> None:
    if result != 0:
        sys.exit(f"{root} cannot be made the root: {os.strerror(ctypes.get_errno())}")


def main(root: str, *argv: str) -> None:
    """Become `argv` in the tree `root`."""
    enter(root)
    try:
        become(argv)
    except OSError as error:
        sys.exit(f"{argv[0]} of the image cannot be run: {error.strerror}")


if __name__ == "__main__":
    main(*sys.argv[1:])
