"""Units of systemd for the components (pure)."""

from collections.abc import Sequence
from dataclasses import dataclass

_SEEN = "/run/ai-how-kubernetes"
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
    read_once: Sequence[str] = ()
    """Files that it reads only when it starts."""

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


def render_changes(daemons: Sequence[Daemon]) -> str:
    """A script that restarts what runs with other files than there are now.

    The first time in a boot it only remembers them: then nothing runs yet.
    """
    looks = "".join(
        f"look {one.unit} {' '.join((f'/etc/systemd/system/{one.unit}', *one.read_once))}\n"
        for one in daemons
    )
    return f"""\
mkdir -p {_SEEN}
changed=
look() {{
  unit=$1
  shift
  now=$(cat "$@" | md5sum)
  if [ -e {_SEEN}/$unit ] && [ "$now" != "$(cat {_SEEN}/$unit)" ]; then
    changed="$changed $unit"
  fi
  echo "$now" > {_SEEN}/$unit
}}
{looks}[ -z "$changed" ] || {{
  systemctl daemon-reload
  systemctl try-restart --no-block $changed
}}
"""


def render_script_unit(description: str, command: str) -> str:
    """A unit that runs a command to its end whenever it is started."""
    return f"""\
[Unit]
Description={description}
After=ai-how-network.service

[Service]
Type=oneshot
ExecStart={command}
TimeoutStartSec=infinity
"""
