"""Opens one connection at a time, for a process that asks a libvirt for days.

A libvirtd that hangs does not answer to a new connection, and the thread that opens it stays until
it does. Without this, each later call would leave another one.
"""

import threading

import libvirt

from ai_how.errors import ConnectionLostError
from ai_how.libvirt_client.connection import Opener, open_connection
from ai_how.libvirt_client.uri import LibvirtUri

# A client has two connections, and both may be opened at once.
TURN_S = 2.0


class GuardedOpening:
    """An opener for LibvirtClient that refuses to begin while an earlier opening hangs."""

    def __init__(self, opener: Opener = open_connection) -> None:
        self._opener = opener
        self._busy = threading.Lock()

    def __call__(self, uri: LibvirtUri) -> libvirt.virConnect:
        if not self._busy.acquire(timeout=TURN_S):
            raise ConnectionLostError(
                "libvirt does not answer: a connection to it is still being opened",
                uri.for_libvirt,
                hint=uri.remedy,
            )
        try:
            return self._opener(uri)
        finally:
            self._busy.release()
