"""What a process that runs for days does about its own memory, and what it has of it."""

import ctypes
from contextlib import suppress
from pathlib import Path

_M_ARENA_MAX = -8  # malloc.h
_ARENAS = 2


def spare_memory() -> None:
    """Have one heap for all threads: each would otherwise keep one, mostly empty. For glibc."""
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, _ARENAS)


def give_back_memory() -> None:
    """Return what is free in the heap to the system."""
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


def memory_mib() -> tuple[float, float]:
    """Of this process: all (RSS), and without what it shares with others (PSS); 0 if not told."""
    return _read("/proc/self/status", "VmRSS"), _read("/proc/self/smaps_rollup", "Pss")


def _read(path: str, name: str) -> float:
    with suppress(OSError, ValueError, IndexError):
        for line in Path(path).read_text().splitlines():
            if line.startswith(f"{name}:"):
                return round(int(line.split()[1]) / 1024, 1)
    return 0.0
