"""The voice: the only room that writes to the user's terminal. Rich is loaded where it is used."""

from ai_how.console.progress import ProgressBar
from ai_how.console.show import (
    Cell,
    brief_of,
    clear_screen,
    confirm,
    error_data,
    show_checks,
    show_error,
    show_error_json,
    show_fields,
    show_json,
    show_line,
    show_problems,
    show_table,
    show_text,
    show_warning,
)
from ai_how.console.streams import Style, guarded_output, is_terminal

__all__ = [
    "Cell",
    "ProgressBar",
    "Style",
    "brief_of",
    "clear_screen",
    "confirm",
    "error_data",
    "guarded_output",
    "is_terminal",
    "show_checks",
    "show_error",
    "show_error_json",
    "show_fields",
    "show_json",
    "show_line",
    "show_problems",
    "show_table",
    "show_text",
    "show_warning",
]
