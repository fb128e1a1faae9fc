"""The state of a VM, in libvirt's words."""

from enum import StrEnum
from typing import Self


class VmState(StrEnum):
    """The state of a VM: queried from libvirt each time, never stored."""

    RUNNING = "running"
    BLOCKED = "blocked"
    PAUSED = "paused"
    SHUTTING_DOWN = "shutting_down"
    SHUT_OFF = "shut_off"
    CRASHED = "crashed"
    SUSPENDED = "suspended"
    ABSENT = "absent"
    """libvirt has no such domain."""
    UNKNOWN = "unknown"
    """libvirt did not say."""

    @classmethod
    def from_libvirt(cls, number: int) -> Self:
        """The state for a virDomainState number; UNKNOWN for one from a newer libvirt."""
        state, _ = _STATES.get(number, (VmState.UNKNOWN, ()))
        return cls(state)

    @property
    def is_on(self) -> bool:
        """Whether it has a QEMU: paused and shutting down are on, only shut off is off."""
        return self not in (VmState.SHUT_OFF, VmState.ABSENT, VmState.UNKNOWN)

    @property
    def is_running(self) -> bool:
        """Whether it is on and can do something: a crashed one has a QEMU, but no running guest."""
        return self.is_on and self is not VmState.CRASHED


# virDomainState, each with its reasons from 0 on: libvirt-domain.h, worded as in virsh.
_STATES: dict[int, tuple[VmState, tuple[str, ...]]] = {
    0: (VmState.UNKNOWN, ("unknown",)),
    1: (
        VmState.RUNNING,
        (
            "unknown",
            "booted",
            "migrated",
            "restored",
            "from snapshot",
            "unpaused",
            "migration canceled",
            "save canceled",
            "event wakeup",
            "crashed",
            "post-copy",
            "post-copy failed",
        ),
    ),
    2: (VmState.BLOCKED, ("unknown",)),
    3: (
        VmState.PAUSED,
        (
            "unknown",
            "user",
            "migrating",
            "saving",
            "dumping",
            "I/O error",
            "watchdog",
            "from snapshot",
            "shutting down",
            "creating snapshot",
            "crashed",
            "starting up",
            "post-copy",
            "post-copy failed",
        ),
    ),
    4: (VmState.SHUTTING_DOWN, ("unknown", "user")),
    5: (
        VmState.SHUT_OFF,
        (
            "unknown",
            "shutdown",
            "destroyed",
            "crashed",
            "migrated",
            "saved",
            "failed",
            "from snapshot",
            "daemon",
        ),
    ),
    6: (VmState.CRASHED, ("unknown", "panicked")),
    7: (VmState.SUSPENDED, ("unknown",)),
}


def reason_text(state_number: int, reason_number: int) -> str:
    """The reason of a state, as `virsh domstate --reason` prints it."""
    _, reasons = _STATES.get(state_number, (VmState.UNKNOWN, ()))
    if 0 <= reason_number < len(reasons):
        return reasons[reason_number]
    return f"unknown ({reason_number})"
