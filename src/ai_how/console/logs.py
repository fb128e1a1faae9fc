"""The log: to stderr as -v requests, to a file completely."""

import logging
import os
import shlex
import sys
from io import TextIOWrapper
from pathlib import Path
from typing import TextIO

from ai_how.console.text import clean
from ai_how.errors import SpecError

_LEVELS = (logging.WARNING, logging.INFO, logging.DEBUG)
_FORMAT = "%(asctime)s %(levelname)-7s %(threadName)s %(name)s: %(message)s"


def start_logging(verbosity: int, file: Path | None) -> None:
    """Log warnings to stderr (-v: info, -vv: all), and everything to `file`, which is private.

    Raises SpecError if the file cannot be opened.
    """
    level = _LEVELS[min(verbosity, len(_LEVELS) - 1)]
    handlers: list[logging.Handler] = [_Stderr(level, has_traces=level == logging.DEBUG)]
    if file is not None:
        handlers.append(_file_handler(file))
    logging.basicConfig(level=min(h.level for h in handlers), handlers=handlers, force=True)


class _Clean(logging.Formatter):
    """Lines without terminal control characters; tracebacks only if requested."""

    def __init__(self, fmt: str, *, has_traces: bool) -> None:
        super().__init__(fmt)
        self.has_traces = has_traces

    def format(self, record: logging.LogRecord) -> str:
        if not self.has_traces and record.exc_info:
            record = logging.makeLogRecord(record.__dict__ | {"exc_info": None, "exc_text": None})
        return clean(super().format(record), keep_lines=True)


class _Stderr(logging.StreamHandler[TextIO]):
    """Writes to the current stderr: a live display replaces it for a while."""

    def __init__(self, level: int, *, has_traces: bool) -> None:
        logging.Handler.__init__(self, level)
        self.setFormatter(_Clean("%(levelname)s: %(message)s", has_traces=has_traces))

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stderr


class _PrivateFile(logging.FileHandler):
    """Appends to a file that only we may read."""

    def _open(self) -> TextIOWrapper:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        number = os.open(self.baseFilename, flags, 0o600)
        return os.fdopen(number, "a", encoding="utf-8", errors="backslashreplace")


def _file_handler(file: Path) -> logging.Handler:
    try:
        handler = _PrivateFile(file)
    except OSError as error:
        hint = f"ls -ld {shlex.quote(str(file.parent))}"
        raise SpecError(f"cannot log to {file}: {error.strerror}", hint=hint) from None
    handler.setFormatter(_Clean(_FORMAT, has_traces=True))
    handler.setLevel(logging.DEBUG)
    return handler
