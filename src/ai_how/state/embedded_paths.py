"""The paths of the embedded host."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class EmbeddedPaths:
    """The embedded host. Its sockets are in its own mount namespace (host/running.py)."""

    root: Path

    @property
    def etc(self) -> Path:
        """Mounted over /etc/libvirt inside: definitions and autostart links."""
        return self.root / "etc"

    @property
    def lib(self) -> Path:
        """Mounted over /var/lib/libvirt inside: leases, NVRAM, managed saves."""
        return self.root / "lib"

    @property
    def log(self) -> Path:
        """Mounted over /var/log/libvirt inside."""
        return self.root / "log"

    @property
    def lock(self) -> Path:
        return self.root / "lock"

    @property
    def supervisor_log(self) -> Path:
        return self.root / "supervisor.log"

    @property
    def order(self) -> Path:
        """The parameters of the supervisor; its command line names this file."""
        return self.root / "order.json"

    @property
    def record(self) -> Path:
        """Identifies the supervisor (pid, start time, boot); only to find it quickly."""
        return self.root / "supervisor.json"

    @property
    def uplink(self) -> Path:
        """Locked by the process of the uplink, with what it says (host/uplink.py)."""
        return self.root / "uplink.json"

    @property
    def uplink_lock(self) -> Path:
        """Held while that process is started."""
        return self.root / "uplink.lock"

    @property
    def uplink_log(self) -> Path:
        """The output of pasta since it was last started."""
        return self.root / "uplink.log"

    @property
    def users(self) -> Path:
        """Locked (shared) by each run that uses the host."""
        return self.root / "users"

    @property
    def former_run(self) -> Path:
        """A link to the socket directory of earlier versions."""
        return self.root / "run"
