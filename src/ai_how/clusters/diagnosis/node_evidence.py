"""The evidence of one node as a machine, for every kind of cluster (pure)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address
from pathlib import Path

from ai_how.libvirt_client.vm_state import VmState


class AgentState(StrEnum):
    """What the guest agent of a node does."""

    ANSWERS = "answers"
    SILENT = "not connected"
    HANGS = "does not answer"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeEvidence:
    """The evidence of one node; None for what could not be read, or was not asked."""

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
    ip: IPv4Address | None = None
    """The address that it should have."""
    is_left_off: bool = False
    """Whether a start of the cluster leaves it off."""
    has_managed_save: bool = False
    """Whether it is off, and its memory is saved."""
    disk: Path | None = None
    disk_problems: tuple[str, ...] = ()
    """In the words of `DiskManager.find_problems`."""
    share_problems: tuple[str, ...] = ()
    agent: AgentState | None = None
    sections: Mapping[str, str] = field(default_factory=dict)
    """What its own programs say, by section: see look.py. It is the guest's word."""
