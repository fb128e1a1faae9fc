"""What is on the disk of an image, read without mounting it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ai_how.images.manifest import Image
from ai_how.process import get_tool, run


class Files:
    """An ext4 file system."""

    def __init__(self, disk: Path) -> None:
        self.disk = disk

    def debugfs(self, request: str) -> str:
        debugfs = get_tool("debugfs", package="e2fsprogs")
        return run([debugfs, "-R", request, self.disk]).stdout

    def read(self, path: str) -> str:
        return self.debugfs(f"cat {path}")

    def entries(self, path: str) -> dict[str, str]:
        """The names in a directory, each with its mode and owner: `100644 0:0`."""
        lines = [line.split("/") for line in self.debugfs(f"ls -p {path}").splitlines()]
        return {
            words[5]: f"{words[2]} {words[3]}:{words[4]}"
            for words in lines
            if len(words) > 5 and words[5] not in (".", "..")
        }

    def names(self, path: str) -> set[str]:
        return set(self.entries(path))


@contextmanager
def opened_files(image: Image, directory: Path) -> Iterator[Files]:
    """The files of an image; needs as much room as they take in `directory`."""
    raw = directory / "disk.raw"
    run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", image.disk, raw])
    try:
        yield Files(raw)
    finally:
        raw.unlink()
