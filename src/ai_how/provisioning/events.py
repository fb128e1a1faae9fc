"""What a running playbook reports: the lines of our callback plugin."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class TaskStatus(StrEnum):
    """How a task ended on a host, in Ansible's words."""

    OK = "ok"
    CHANGED = "changed"
    SKIPPED = "skipped"
    IGNORED = "ignored"
    FAILED = "failed"
    UNREACHABLE = "unreachable"

    @property
    def is_bad(self) -> bool:
        return self in (TaskStatus.FAILED, TaskStatus.UNREACHABLE)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskResult:
    """The end of one task on one host."""

    host: str
    task: str
    status: TaskStatus
    seconds: float
    message: str
    """Why it failed; empty otherwise."""
    diff: str
    """What it changed, or would change, if that was asked for."""


@dataclass(slots=True)
class Report:
    """What a run has reported so far."""

    bad: list[TaskResult] = field(default_factory=list)
    hosts: list[str] = field(default_factory=list)
    """Those on which it ran."""
    counts: dict[str, int] = field(default_factory=dict)
    """The results of all hosts, by Ansible's own names: ok, changed, failures, unreachable, …"""
    code: int | None = None
    """The exit code of ansible-playbook; None until it ended."""

    def read(self, line: str) -> TaskResult | None:
        """Take one line; return the result that it reports, if it is one. Other text is skipped."""
        event = _parse(line)
        match event.get("event"):
            case "result":
                result = _result_of(event)
                if result.status.is_bad:
                    self.bad.append(result)
                return result
            case "stats":
                self.hosts.append(event["host"])
                for name, count in event["counts"].items():
                    self.counts[name] = self.counts.get(name, 0) + count
            case "end":
                self.code = event["code"]
        return None


def _result_of(event: Mapping[str, Any]) -> TaskResult:
    return TaskResult(
        host=event["host"],
        task=event["task"],
        status=TaskStatus(event["status"]),
        seconds=event["seconds"],
        message=event["message"],
        diff=event["diff"],
    )


def _parse(line: str) -> Mapping[str, Any]:
    try:
        event = json.loads(line)
    except ValueError:
        return {}
    return event if isinstance(event, dict) else {}
