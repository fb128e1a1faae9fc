"""The frames between the two ends of `exec`, parsed without trust (pure)."""

from collections.abc import Iterator
from dataclasses import dataclass

from ai_how.errors import GuestError

HEAD_BYTES = 5
MOST_BYTES = 1 << 16
# The payloads of the helper: output, error output, and of a fixed size the bytes of the input that
# were taken, the size of the pipe of frames, the end of the input, and the exit code.
_SIZES = {"O": None, "E": None, "C": 8, "W": 8, "S": 0, "X": 1}


@dataclass(frozen=True, slots=True)
class Frame:
    """A message of the helper."""

    kind: str
    payload: bytes

    @property
    def number(self) -> int:
        return int.from_bytes(self.payload, "big")


def encode(kind: str, payload: bytes = b"") -> bytes:
    """A frame as bytes."""
    return kind.encode("ascii") + len(payload).to_bytes(4, "big") + payload


class Frames:
    """Parses a stream of frames that comes in pieces."""

    def __init__(self) -> None:
        self._left = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that are complete now. Raises GuestError for what is no frame."""
        self._left += data
        while len(self._left) >= HEAD_BYTES:
            kind = chr(self._left[0])
            size = int.from_bytes(self._left[1:HEAD_BYTES], "big")
            if kind not in _SIZES or size > MOST_BYTES or _SIZES[kind] not in (None, size):
                raise GuestError("the guest sent something else than the output of the program")
            if len(self._left) < HEAD_BYTES + size:
                return
            payload = bytes(self._left[HEAD_BYTES : HEAD_BYTES + size])
            del self._left[: HEAD_BYTES + size]
            yield Frame(kind, payload)
