"""A VM's serial line in both directions, for a loop in its own thread."""

from collections.abc import Callable
from types import TracebackType
from typing import Self

import libvirt

from ai_how.errors import LibvirtError
from ai_how.waiting import call_with_timeout

CLOSE_WITHIN_S = 2.0

Translate = Callable[[libvirt.libvirtError, str], LibvirtError]


class Console:
    """An open serial line. While one thread waits in `recv`, another may `send` and `close`."""

    def __init__(self, stream: libvirt.virStream, translate: Translate) -> None:
        self._stream = stream
        self._translate = translate
        self._is_closed = False

    def recv(self, size: int) -> bytes:
        """Up to `size` bytes, as soon as there are any; none at the end of the line."""
        try:
            return self._stream.recv(size)
        except libvirt.libvirtError as error:
            if self._is_closed:
                return b""
            raise self._translate(error, "reading from the console") from None

    def send(self, data: bytes) -> None:
        """Send all of `data`."""
        while data:
            try:
                data = data[self._stream.send(data) :]
            except libvirt.libvirtError as error:
                raise self._translate(error, "writing to the console") from None

    def close(self) -> None:
        """Close the line; a waiting `recv` then returns. Safe to repeat, and never hangs."""
        if self._is_closed:
            return
        self._is_closed = True
        try:
            call_with_timeout(self._stream.abort, CLOSE_WITHIN_S)
        except (TimeoutError, libvirt.libvirtError):
            return  # the daemon is gone or hangs, and the line with it

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self.close()
