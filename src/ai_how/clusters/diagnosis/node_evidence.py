"""What is known of one node's machine after a failure, whatever runs on it (pure)."""

from dataclasses import dataclass
from pathlib import Path

from ai_how.libvirt_client.vm_state import VmState


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeEvidence:
    """What is known of one node after a failure; None is what could not be had."""

    name: str
    domain: str
    is_controller: bool = False
    state: VmState = VmState.UNKNOWN
    reason: str = ""
    console: str | None = None
    """Only what was written since this run began."""
    qemu_log: str | None = None
    is_qemu_log_roots: bool = False
    """Whether its log is there, and only root may read it."""
    qemu_signal: int | None = None
    """The signal that ended its QEMU, where the embedded host saw that."""
    disk_directory: Path | None = None
    free_bytes: int | None = None
    skew_s: float | None = None
    """By how much its clock is ahead of the host's; negative where it is behind."""
    journal: str | None = None
