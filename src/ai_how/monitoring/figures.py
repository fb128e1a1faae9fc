"""Read figures that others wrote, without trust (pure): what is no figure is None."""

import math

MOST_DIGITS = 18


def whole(text: str | None) -> int | None:
    """A whole number, not negative, below 10^18."""
    text = (text or "").strip()
    if not text.isascii() or not text.isdecimal() or len(text) > MOST_DIGITS:
        return None
    return int(text)


def real(text: str | None, *, most: float = 1e15) -> float | None:
    """A number from 0 to `most`."""
    text = (text or "").strip()
    if not text.isascii() or len(text) > 2 * MOST_DIGITS or "_" in text:
        return None
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) and 0 <= number <= most else None


def mib(size_bytes: int | None) -> int | None:
    """MiB of bytes."""
    return None if size_bytes is None else size_bytes >> 20


def rate(now: int | None, before: int | None, seconds: float) -> float | None:
    """Per second; None if a counter went back, as that of a VM that was restarted does."""
    if now is None or before is None or now < before or seconds <= 0:
        return None
    return (now - before) / seconds


def byte_count(value: object) -> int | None:
    """A size in parsed JSON, below an exbibyte."""
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return value if is_number and isinstance(value, int) and 0 <= value < 1 << 60 else None
