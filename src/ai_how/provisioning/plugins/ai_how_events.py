"""Ansible's output as JSON lines on the descriptor AI_HOW_EVENTS_FD. Ansible loads this file."""

import json
import os
import time
from typing import Any

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
    name: ai_how_events
    type: stdout
    short_description: JSON lines for ai-how
    description:
        - Writes each result of a task, and the counts of each host, to a pipe of ai-how.
"""

LONGEST = 4000  # characters; a line must fit into the reader's


class CallbackModule(CallbackBase):
    """Reports the results of tasks, and the counts of hosts at the end."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "stdout"
    CALLBACK_NAME = "ai_how_events"

    def __init__(self) -> None:
        super().__init__()
        self._events = int(os.environ["AI_HOW_EVENTS_FD"])
        self._begun: dict[tuple[str, str], float] = {}
        self._diffs: dict[tuple[str, str], str] = {}

    def v2_runner_on_start(self, host: Any, task: Any) -> None:  # noqa: ANN401  Ansible's own
        self._begun[host.get_name(), task._uuid] = time.monotonic()  # noqa: SLF001

    def v2_runner_on_ok(self, result: Any) -> None:  # noqa: ANN401
        self._report(result, "changed" if _values(result).get("changed") else "ok")

    def v2_runner_on_skipped(self, result: Any) -> None:  # noqa: ANN401
        self._report(result, "skipped")

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:  # noqa: ANN401, FBT001, FBT002
        self._report(result, "ignored" if ignore_errors else "failed")

    def v2_runner_on_unreachable(self, result: Any) -> None:  # noqa: ANN401
        self._report(result, "unreachable")

    def v2_on_file_diff(self, result: Any) -> None:  # noqa: ANN401
        """Comes before the result of the task, if --diff was given."""
        if diff := _values(result).get("diff"):
            self._diffs[_key(result)] = self._get_diff(diff)

    def v2_playbook_on_stats(self, stats: Any) -> None:  # noqa: ANN401
        for host in stats.processed:
            self._send({"event": "stats", "host": host, "counts": stats.summarize(host)})

    def _report(self, result: Any, status: str) -> None:  # noqa: ANN401
        host, task = _key(result)
        is_good = status in ("ok", "changed", "skipped")
        self._send(
            {
                "event": "result",
                "host": host,
                "task": _task(result).get_name().strip(),
                "status": status,
                "seconds": round(time.monotonic() - self._begun.pop((host, task), 0.0), 3),
                "message": "" if is_good else _message(_values(result))[:LONGEST],
                "diff": self._diffs.pop((host, task), "")[:LONGEST],
            }
        )

    def _send(self, event: dict[str, Any]) -> None:
        line = json.dumps(event).encode() + b"\n"
        while line:
            line = line[os.write(self._events, line) :]


def _key(result: Any) -> tuple[str, str]:  # noqa: ANN401
    host = getattr(result, "host", None) or result._host  # noqa: SLF001  before core 2.19
    return host.get_name(), _task(result)._uuid  # noqa: SLF001


def _task(result: Any) -> Any:  # noqa: ANN401
    return getattr(result, "task", None) or result._task  # noqa: SLF001


def _values(result: Any) -> dict[str, Any]:  # noqa: ANN401
    found: dict[str, Any] = getattr(result, "result", None) or result._result  # noqa: SLF001
    return found


def _message(values: dict[str, Any]) -> str:
    """Why a task failed; what `no_log` hides is hidden already."""
    items = [one for one in values.get("results") or () if one.get("failed")]
    values = items[0] if items else values
    said = str(values.get("msg") or values.get("censored") or "")
    rest = next((str(values[key]) for key in ("stderr", "stdout") if values.get(key)), "")
    code = f"exit code {values['rc']}" if values.get("rc") else ""
    return "\n".join(part for part in (said, code, rest.strip()) if part)
