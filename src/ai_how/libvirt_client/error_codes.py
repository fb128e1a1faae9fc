"""The meaning of libvirt's error numbers. Pure: plain numbers, so libvirt is not loaded.

The numbers are libvirt's ABI (virErrorNumber and virErrorDomain in libvirt/virterror.h).
"""

import errno
from enum import StrEnum


class Kind(StrEnum):
    """The meaning of an error, and so what to do about it."""

    GONE = "gone"  # there is no such object: the only kind that says so
    LOST = "lost"  # the connection broke: the state is unknown
    BUSY = "busy"  # nothing was done; worth trying again after a pause
    AGENT = "agent"  # the guest's agent did not answer
    EXISTS = "exists"  # perhaps there already: look it up by UUID
    WRONG_STATE = "wrong state"  # read the state again and decide
    UNSUPPORTED = "unsupported"  # this driver does not know the call or its flags
    DENIED = "denied"  # the user is not allowed to
    FATAL = "fatal"  # a repetition would fail as well


INTERNAL_ERROR = 1
SYSTEM_ERROR = 38
NO_SUPPORT = 3

FROM_RPC = 7
FROM_REMOTE = 13
FROM_STORAGE = 18

_KINDS = {
    Kind.GONE: {
        42,  # NO_DOMAIN
        43,  # NO_NETWORK
        49,  # NO_STORAGE_POOL
        50,  # NO_STORAGE_VOL
    },
    Kind.LOST: {
        5,  # NO_CONNECT
        6,  # INVALID_CONN
        39,  # RPC
    },
    Kind.BUSY: {
        68,  # OPERATION_TIMEOUT: the job lock was not available within libvirt's own 30 s
        87,  # RESOURCE_BUSY
    },
    Kind.AGENT: {
        86,  # AGENT_UNRESPONSIVE
        97,  # AGENT_UNSYNCED
        112,  # AGENT_COMMAND_TIMEOUT, which newer libvirt says in place of 86
    },
    Kind.EXISTS: {
        9,  # OPERATION_FAILED: a definition with a used name or UUID (and other failures)
        28,  # DOM_EXIST
        37,  # NETWORK_EXIST
        90,  # STORAGE_VOL_EXIST
    },
    Kind.WRONG_STATE: {55},  # OPERATION_INVALID: also for a paused guest, so never "it is off"
    Kind.UNSUPPORTED: {
        NO_SUPPORT,
        8,  # INVALID_ARG: the error for an unknown flag
        74,  # ARGUMENT_UNSUPPORTED
        84,  # OPERATION_UNSUPPORTED
    },
    Kind.DENIED: {
        29,  # OPERATION_DENIED
        45,  # AUTH_FAILED
        79,  # AUTH_CANCELLED
        88,  # ACCESS_DENIED
        94,  # AUTH_UNAVAILABLE
    },
}
_KIND_OF = {code: kind for kind, codes in _KINDS.items() for code in codes}


def classify(code: int | None, domain: int | None = None, error_number: int | None = None) -> Kind:
    """The kind of an error, by its number, libvirt's error domain, and the errno.

    Every other number is FATAL: 27 XML_ERROR, 67 CONFIG_UNSUPPORTED, 80 NO_DOMAIN_METADATA (the
    domain exists), 92 XML_INVALID_SCHEMA, 99 DEVICE_MISSING, …
    """
    if code is None:
        return Kind.LOST
    if code in {INTERNAL_ERROR, SYSTEM_ERROR} and domain in {FROM_RPC, FROM_REMOTE}:
        refused = code == SYSTEM_ERROR and error_number in {errno.EACCES, errno.EPERM}
        return Kind.DENIED if refused else Kind.LOST
    if code == INTERNAL_ERROR and domain == FROM_STORAGE:
        return Kind.BUSY  # "has asynchronous jobs running" has no number of its own
    return _KIND_OF.get(code, Kind.FATAL)
