"""Files in a guest by its agent: opened, read and written in pieces; no answer is trusted."""

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass

from ai_how.errors import GuestError
from ai_how.guest.agent import GuestAgent
from ai_how.waiting import Deadline

# As base64, an answer of this size is well below the limit of libvirt_client.
MOST_READ = 512 * 1024


@dataclass(frozen=True, slots=True)
class GuestFiles:
    """The files of one guest. Every method raises GuestError if the guest does not comply.

    The agent does one thing at a time, and everybody who asks it waits. It opens files so that
    reading and writing do not block, but opening a FIFO blocks it, except for reading and writing
    (`r+`).
    """

    agent: GuestAgent

    def open(self, path: str, mode: str, deadline: Deadline) -> int:
        """Open a file with a mode of fopen(3), and return its handle."""
        asked = {"path": path, "mode": mode}
        answer = self.agent.ask_raw("guest-file-open", asked, deadline)
        if not isinstance(answer, int) or isinstance(answer, bool):
            raise self._invalid("guest-file-open")
        return answer

    def read(self, handle: int, most: int, deadline: Deadline) -> bytes:
        """Up to `most` bytes; fewer, or none, at the end of what is written so far."""
        asked = {"handle": handle, "count": most}
        answer = self.agent.ask_raw("guest-file-read", asked, deadline)
        text = answer.get("buf-b64", "") if isinstance(answer, Mapping) else None
        if not isinstance(text, str):
            raise self._invalid("guest-file-read")
        try:
            data = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError) as error:
            raise self._invalid("guest-file-read") from error
        if len(data) > most:
            raise self._invalid("guest-file-read")
        return data

    def write(self, handle: int, data: bytes, deadline: Deadline) -> None:
        """Write all of `data`, and flush it."""
        asked = {"handle": handle, "buf-b64": base64.b64encode(data).decode("ascii")}
        answer = self.agent.ask_raw("guest-file-write", asked, deadline)
        if not isinstance(answer, Mapping) or answer.get("count") != len(data):
            raise self._invalid("guest-file-write")
        self.agent.ask_raw("guest-file-flush", {"handle": handle}, deadline)

    def seek(self, handle: int, offset: int, deadline: Deadline) -> None:
        """Go to an offset from the beginning."""
        asked = {"handle": handle, "offset": offset, "whence": "set"}
        self.agent.ask_raw("guest-file-seek", asked, deadline)

    def close(self, handle: int, deadline: Deadline) -> None:
        """Close a file."""
        self.agent.ask_raw("guest-file-close", {"handle": handle}, deadline)

    def _invalid(self, command: str) -> GuestError:
        return GuestError(f"the agent of {self.agent.name} gave an invalid answer to {command}")
