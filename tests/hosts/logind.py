"""Hosts with systemd and logind, as files below a directory: what ends a user's processes there.

This machine has no systemd. The files are as logind.conf(5), loginctl(1) and systemd.special(7)
say; that a real logind does what they say is not shown.
"""

import os
import pwd
from dataclasses import dataclass
from pathlib import Path

ME = pwd.getpwuid(os.geteuid()).pw_name
SESSION = "0::/user.slice/user-1000.slice/session-2.scope"
TERMINAL = "0::/user.slice/user-1000.slice/user@1000.service/app.slice/vte-spawn-1.scope"
SERVICE = "0::/system.slice/cron.service"


@dataclass(frozen=True)
class LogindHost:
    """One such host, and whether a program that is started there outlives its session."""

    group: str
    outlives: bool
    files: tuple[tuple[str, str], ...] = ()
    lingers: bool = False
    has_systemd: bool = True

    def make(self, root: Path, *, pid: str = "self") -> Path:
        """Write it down below `root`."""
        (root / "proc" / pid).mkdir(parents=True)
        (root / "proc" / pid / "cgroup").write_text(f"{self.group}\n")
        if self.has_systemd:
            (root / "run/systemd/system").mkdir(parents=True)
        if self.lingers:
            (root / "var/lib/systemd/linger").mkdir(parents=True)
            (root / "var/lib/systemd/linger" / ME).touch()
        for name, text in self.files:
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return root


def login(text: str) -> str:
    return f"[Login]\n# NAutoVTs=6\n{text}\n"


MAIN = "etc/systemd/logind.conf"
VENDORS = "usr/lib/systemd/logind.conf.d/50.conf"
OURS = "etc/systemd/logind.conf.d/50.conf"
KILLING = login("KillUserProcesses=on\nKillExcludeUsers=")
KILLS = (MAIN, login("KillUserProcesses=yes\nKillExcludeUsers="))
HOSTS = {
    "no systemd": LogindHost("0::/", outlives=True, has_systemd=False),
    "Debian, over ssh": LogindHost(SESSION, outlives=True),
    "Debian, as its file comes": LogindHost(
        SESSION, outlives=True, files=((MAIN, login("#KillUserProcesses=no")),)
    ),
    "from a desktop's terminal": LogindHost(TERMINAL, outlives=False),
    "from a desktop's terminal, lingering": LogindHost(TERMINAL, outlives=True, lingers=True),
    "from cron": LogindHost(SERVICE, outlives=True, files=(KILLS,)),
    "kills": LogindHost(SESSION, outlives=False, files=(KILLS,)),
    "kills, but not us": LogindHost(
        SESSION, outlives=True, files=(KILLS, (OURS, login(f"KillExcludeUsers=root {ME}")))
    ),
    "kills others only": LogindHost(
        SESSION, outlives=True, files=(KILLS, (VENDORS, login("KillOnlyUsers=somebody")))
    ),
    "kills by a drop-in of the vendor's": LogindHost(
        SESSION, outlives=False, files=((VENDORS, KILLING),)
    ),
    "a drop-in that the administrator took back": LogindHost(
        SESSION,
        outlives=True,
        files=((VENDORS, KILLING), (OURS, login("KillUserProcesses=no"))),
    ),
    "a file that is none": LogindHost(SESSION, outlives=True, files=((MAIN, "\x00nonsense=\n"),)),
}
