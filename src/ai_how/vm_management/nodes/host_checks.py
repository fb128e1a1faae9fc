"""Checks the shared directories that the nodes of a file need."""

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from ai_how.host.checks import Check, Status
from ai_how.host.place import HypervisorHost
from ai_how.host.share_server import find_virtiofsd, install_virtiofsd
from ai_how.spec.nodes import Node


def check_shares(
    nodes: Sequence[Node], place: HypervisorHost, *, machine: Path = Path("/")
) -> Iterator[Check]:
    """A failure for each shared directory that is missing, or not visible to QEMU.

    And one if the `machine` has nothing to serve them.
    """
    root = place.root
    sharing = [node.name for node in nodes if node.virtio_fs_mounts]
    if sharing and place.runs_guests and find_virtiofsd(machine) is None:
        found = f"virtiofsd is not installed, for the virtio_fs_mounts of {', '.join(sharing)}"
        yield Check("shares", Status.FAILURE, found, install_virtiofsd(machine))
    for node in nodes:
        for share in node.virtio_fs_mounts:
            path = Path(share.host_path)
            if not path.is_dir():
                found = f"{node.name} shares {path}, which is not a directory on this host"
                yield Check("shares", Status.FAILURE, found, f"mkdir -p {shlex.quote(str(path))}")
            elif root and not is_same(path, root / path.resolve().relative_to("/")):
                # A file system that was mounted later, or a directory in the host's /run.
                found = f"{node.name} shares {path}, which the embedded host does not see"
                yield Check("shares", Status.FAILURE, found, "ai-how host down")


def is_same(path: Path, other: Path) -> bool:
    """Whether both exist and are the same directory."""
    try:
        return path.samefile(other)
    except OSError:
        return False
