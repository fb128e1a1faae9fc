"""Output: only this package writes to the user's terminal. Rich is loaded where it is used."""

from ai_how.console.commands import (
    Call,
    called_as,
    completed,
    is_by_sudo,
    note_cluster,
    note_file,
)
from ai_how.console.error_report import ErrorReport, report_of
from ai_how.console.progress import ProgressBar
from ai_how.console.show import (
    Cell,
    clear_screen,
    completed_checks,
    confirm,
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
    show_wrapped,
    width_for_tables,
)
from ai_how.console.streams import Style, guarded_output, is_terminal, pause

__all__ = [
    "Call",
    "Cell",
    "ErrorReport",
    "ProgressBar",
    "Style",
    "called_as",
    "clear_screen",
    "completed",
    "completed_checks",
    "confirm",
    "guarded_output",
    "is_by_sudo",
    "is_terminal",
    "note_cluster",
    "note_file",
    "pause",
    "report_of",
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
    "show_wrapped",
    "width_for_tables",
]
