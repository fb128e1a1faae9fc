"""The scripts that a node gets with its identity, from the directory `guest_files`."""

from functools import cache
from importlib.resources import files


@cache
def read_guest_file(name: str) -> str:
    return (files("ai_how.hpc") / "guest_files" / name).read_text("utf-8")
