"""The log of the embedded host's own processes: their standard error."""

import os


def say(line: str) -> None:
    """A line for the supervisor's log."""
    os.write(2, f"{line}\n".encode())
