"""Imported disks as images of ours, made without the VM that would have to boot them."""

from collections.abc import Callable

from ai_how.images.build import Watcher
from ai_how.images.manifest import DISK, Image
from ai_how.images.preparing import Heard, finish_prepared
from ai_how.images.qemu_img import convert
from ai_how.images.store import ImageStore

SAID = (
    "ai-how: package slurm-client 24.11.5-4 amd64 slurm-wlm 24.11.5-4",
    "ai-how: slurm 24.11.5",
    "ai-how: finished",
)


def preparer_of(store: ImageStore) -> Callable[[Image, Watcher], Image]:
    """What a catalogue calls for a disk; the guest has said SAID, and changed nothing."""

    def prepare(image: Image, watch: Watcher) -> Image:
        heard = Heard(image, watch)
        for line in SAID:
            heard.hear(line)
        with store.draft() as draft:
            convert(image.disk, draft / DISK, source_format="qcow2")
            return finish_prepared(store, draft, image, heard, "bios")

    return prepare
