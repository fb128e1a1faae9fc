"""The libraries that only some verbs need, and how they come to the Python that runs us."""

import shlex
import sys


def install_command(extra: str) -> str:
    """The command that installs the libraries of an extra, wherever we were installed from."""
    from importlib.metadata import PackageNotFoundError, requires  # noqa: PLC0415  seldom needed

    try:
        needed = requires("ai-how") or []
    except PackageNotFoundError:
        needed = []
    mark = f'extra == "{extra}"'
    words = [
        text.strip()
        for text, _, marker in (one.partition(";") for one in needed)
        if mark in marker.replace("'", '"')
    ]
    return shlex.join([sys.executable, "-m", "pip", "install", *words])
