"""Looks for secrets where they must not be: in files, arguments, environments and what was said."""

import base64
import os
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from ai_how.state.paths import ClusterPaths

# As often as this, /proc is read: an argument is there as long as its process, or until it becomes
# another program, which new ones do at once.
WATCH_S = 0.02
LOOKS = 20
CHUNK = 1 << 24


def read_secrets(paths: ClusterPaths) -> dict[str, bytes]:
    """The secrets of a cluster by the name of their file: 48 bytes in the middle of each."""
    files = [paths.munge_key, paths.ssh_key, *paths.secrets.glob("*_key")]
    found = {}
    for file in files:
        data = file.read_bytes()
        if b"PRIVATE KEY" in data:
            # The first lines of OpenSSH's format are the same for every key.
            data = base64.b64decode(b"".join(data.splitlines()[1:-1]))
            data = data[len(data) // 2 :]
        found[file.name] = data[16:64]
    assert len(found) == len(files)
    return found


def spellings(secret: bytes) -> tuple[bytes, ...]:
    """A secret as it is, in hexadecimal, and in base64 wherever in a text it may begin."""
    coded = (base64.b64encode(bytes(n) + secret)[(-(-n * 4) // 3) + 4 : -8] for n in range(3))
    both = [one for text in coded for one in (text, text.replace(b"+", b"-").replace(b"/", b"_"))]
    return (
        secret,
        secret.hex().encode(),
        secret.hex().upper().encode(),
        repr(secret)[2:-1].encode(),
        *both,
    )


def find_in_text(secrets: Mapping[str, bytes], where: str, text: bytes) -> Iterator[str]:
    """Each secret that is in a text, with the place."""
    for name, secret in secrets.items():
        if any(one in text for one in spellings(secret)):
            yield f"{name} is in {where}"


def find_in_files(
    secrets: Mapping[str, bytes], tops: Iterable[Path], *, kept: set[Path]
) -> list[str]:
    """Each secret in each file below these places, but for the files that may hold one."""
    found: list[str] = []
    for top in tops:
        for path in top.rglob("*"):
            if path.is_symlink() or not path.is_file() or path in kept:
                continue
            with suppress(OSError), path.open("rb") as file:
                tail = b""
                while chunk := file.read(CHUNK):
                    found += find_in_text(secrets, str(path), tail + chunk)
                    tail = chunk[-256:]
    return found


class Watch:
    """All arguments and environments of all processes, as they come and go."""

    def __init__(self) -> None:
        self.seen: set[bytes] = set()
        self._looks: Counter[str] = Counter()
        self._end = threading.Event()

    def look(self) -> None:
        for entry in os.scandir("/proc"):
            if not entry.name.isdecimal() or self._looks[entry.name] > LOOKS:
                continue
            self._looks[entry.name] += 1
            for name in ("cmdline", "environ"):
                with suppress(OSError):
                    self.seen.add(Path(entry.path, name).read_bytes())

    def run(self) -> None:
        while not self._end.wait(WATCH_S):
            self.look()

    def end(self) -> None:
        self._end.set()


@contextmanager
def watching() -> Iterator[Watch]:
    watch = Watch()
    thread = threading.Thread(target=watch.run, daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        watch.end()
        thread.join()
