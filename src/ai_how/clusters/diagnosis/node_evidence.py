"""The evidence of one node as a machine, for every kind of cluster (pure)."""

from dataclasses import dataclass
from pathlib import Path

from ai_how.libvirt_client.vm_state import VmState


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeEvidence:
    """The evidence of one node after a failure; None for what could not be read."""

    name: str
    domain: str
    is_controller: bool = False
    state: VmState = VmState.UNKNOWN
    reason: str = ""
    console: str | None = None
    """Only what was written since this run began."""
    qemu_log: str | None = None
    is_qemu_log_roots: bool = False
    """Whether the log exists but only root can read it."""
    qemu_signal: int | None = None
    """The signal that ended its QEMU, if the embedded host saw it."""
    disk_directory: Path | None = None
    free_bytes: int | None = None
    skew_s: float | None = None
    """Seconds that its clock is ahead of the host's; negative if behind."""
    journal: str | None = None
