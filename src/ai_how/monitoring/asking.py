"""One connection to a collector: a line of JSON for each question, and one for its answer."""

import json
import socket
import time
from pathlib import Path
from typing import Any

from ai_how.clusters.collector_socket import connect_to
from ai_how.errors import HostError, StateError

ANSWER_S = 10.0
LARGEST = 64 << 20
_PIECE = 1 << 16


class CollectorGoneError(HostError):
    """The collector has ended, or does not answer."""


class Connection:
    """For one thread. Each method raises CollectorGoneError, after which it is closed."""

    def __init__(self, path: Path, *, patience_s: float = ANSWER_S) -> None:
        self._patience_s = patience_s
        self._said = bytearray()
        try:
            self._line = connect_to(path, patience_s)
        except OSError as error:
            raise CollectorGoneError(f"nothing watches the cluster: {error.strerror}") from error

    def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        """The answer. Raises StateError if the collector refuses the question."""
        answer = read_answer(self.ask_line(question))
        if "error" in answer:
            raise StateError(f"the collector refused: {answer['error']}")
        return answer

    def ask_line(self, question: dict[str, Any]) -> bytes:
        try:
            self._line.settimeout(self._patience_s)
            self._line.sendall(json.dumps(question).encode() + b"\n")
        except OSError as error:
            raise self._gone(error) from error
        line = self.next_line(self._patience_s)
        if line is None:
            self.close()
            raise CollectorGoneError(f"the collector does not answer within {self._patience_s:g} s")
        return line

    def next_line(self, within_s: float) -> bytes | None:
        """The next line that it sends; None if none comes in this time."""
        until = time.monotonic() + within_s
        looked = 0
        while (end := self._said.find(b"\n", looked)) < 0:
            looked = len(self._said)
            left_s = until - time.monotonic()
            if left_s <= 0:
                return None
            try:
                self._line.settimeout(left_s)
                piece = self._line.recv(_PIECE)
            except TimeoutError:
                return None
            except OSError as error:
                raise self._gone(error) from error
            if not piece or looked > LARGEST:
                self.close()
                raise CollectorGoneError("the collector has ended")
            self._said += piece
        line = bytes(self._said[:end])
        del self._said[: end + 1]
        return line

    def close(self) -> None:
        self._line.close()

    def interrupt(self) -> None:
        """Have a `next_line` of another thread end at once."""
        try:
            self._line.shutdown(socket.SHUT_RDWR)
        except OSError:
            return

    def _gone(self, error: OSError) -> CollectorGoneError:
        self.close()
        return CollectorGoneError(f"the collector has ended: {error.strerror or error}")


def read_answer(line: bytes) -> dict[str, Any]:
    """Raises CollectorGoneError for what is no answer."""
    try:
        answer = json.loads(line)
        return answer if isinstance(answer, dict) else {"error": "no answer"}
    except ValueError as error:
        raise CollectorGoneError("the collector answers nonsense") from error
