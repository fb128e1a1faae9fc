"""Units of systemd for the components (pure)."""

from collections.abc import Sequence
from dataclasses import dataclass

WAIT = "/usr/lib/ai-how/wait-for-port"


@dataclass(frozen=True, slots=True, kw_only=True)
class Daemon:
    """A program that is started again whenever it ends, in the order of a node's components."""

    name: str
    description: str
    command: Sequence[str]
    after: Sequence[str] = ()
    waits_for: Sequence[str] = ()
    """Commands that end when what it needs answers."""
    notifies: bool = False
    """Whether it tells systemd when it is ready; what comes after it waits for that."""
    settings: Sequence[str] = ()
    conflicts: str = ""

    @property
    def unit(self) -> str:
        return f"{self.name}.service"

    def render(self) -> str:
        """The unit. Nothing limits how often or how long it is started: a slow host takes minutes.

        `After=` alone, no `Requires=`: what a component needs may end and come back without it.
        """
        after = " ".join(("ai-how-network.service", *self.after))
        command = " \\\n  ".join(self.command)
        lines = [
            "[Unit]",
            f"Description={self.description}",
            f"After={after}",
            *([f"Conflicts={self.conflicts}"] if self.conflicts else []),
            "StartLimitIntervalSec=0",
            "",
            "[Service]",
            *(["Type=notify"] if self.notifies else []),
            *(f"ExecStartPre={wait}" for wait in self.waits_for),
            f"ExecStart={command}",
            "Restart=always",
            "RestartSec=2",
            "TimeoutStartSec=infinity",
            "LimitNOFILE=1048576",
            *self.settings,
        ]
        return "\n".join(lines) + "\n"


def render_script_unit(description: str, script: str, *, before: str) -> str:
    """A unit that runs a script whenever it is started."""
    return f"""\
[Unit]
Description={description}
After=ai-how-network.service
Before={before}

[Service]
Type=oneshot
ExecStart=/bin/sh {script}
TimeoutStartSec=infinity
"""
