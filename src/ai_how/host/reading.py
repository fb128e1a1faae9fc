"""Read kernel files that may not exist: a missing one is None."""

from pathlib import Path


def read_text(path: Path) -> str | None:
    """The text of a small file, stripped; None where it cannot be read."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return None


def read_number(path: Path) -> int | None:
    """The decimal number in a file; None where there is none (as in cgroup's `max`)."""
    text = read_text(path)
    return int(text) if text and text.isascii() and text.isdecimal() else None


def link_name(path: Path) -> str | None:
    """The last part of where a symbolic link points, as in sysfs; None where there is no link."""
    try:
        return path.readlink().name
    except OSError:
        return None


def entries(directory: Path) -> list[Path]:
    """What is in a directory; nothing where it is not there or cannot be read."""
    try:
        return sorted(directory.iterdir())
    except OSError:
        return []


def is_withheld(path: Path, *, is_link: bool = False) -> bool:
    """Whether a file (or link) that could not be read is there: its content is not known."""
    try:
        _ = path.readlink() if is_link else path.read_bytes()
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False
