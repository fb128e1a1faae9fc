"""What is left to remove when a cluster is gone: its directory, unused bases, an idle host."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from ai_how.errors import HostError, StateError
from ai_how.host.place import HostPlace
from ai_how.images.copying import disk_errors
from ai_how.plan.step import Plan
from ai_how.spec.document import render_default_file
from ai_how.state.cluster_state import read_state
from ai_how.state.files import replaced_atomically
from ai_how.state.lock import held_lock
from ai_how.state.models import ClusterState
from ai_how.state.paths import ClusterPaths, Roots
from ai_how.vm_management.disk_manager import DiskManager
from ai_how.vm_management.libvirt_client import LibvirtClient
from ai_how.vm_management.stop_steps import BackUpDisk


def clear_directory(paths: ClusterPaths) -> None:
    """Remove all that is remembered; whoever calls holds the lock, whose file goes with it.

    A process that waits for the lock sees that its file is gone, and opens it anew.
    """
    shutil.rmtree(paths.root, ignore_errors=True)


def forget(paths: ClusterPaths) -> None:
    """Remove what is remembered of a cluster that is no more, but for the evidence of why."""
    kept = {paths.lock.name, paths.evidence.name}
    for entry in paths.root.iterdir():
        if entry.name in kept:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def prepare_backups(directory: Path, plan: Plan) -> None:
    """Have the directory for the backups, ours alone where we make it.

    Raises HostError where a file would be in the way.
    """
    for step in plan.steps:
        if isinstance(step, BackUpDisk) and os.path.lexists(step.target):
            raise HostError(
                f"{step.target} is there already, and a backup replaces nothing",
                hint="ai-how hpc destroy --backup ANOTHER-DIRECTORY",
            )
    if not directory.is_dir():
        with disk_errors(directory):
            directory.mkdir(parents=True)
            directory.chmod(0o700)


def keep_source(source: Path | None, paths: ClusterPaths) -> None:
    """Keep the cluster file as it was given; the built-in default where there was none."""
    text = source.read_text() if source else render_default_file()
    with replaced_atomically(paths.spec) as draft:
        draft.write_text(text)


def read_tail(path: Path, lines: int) -> str:
    """The last lines of a file; none where it is not there."""
    try:
        text = path.read_text("utf-8", "replace")
    except FileNotFoundError:
        return ""
    return "".join(text.splitlines(keepends=True)[-lines:])


def release_host(place: HostPlace, roots: Roots) -> None:
    """Remove bases that no cluster uses, and end the embedded host when nothing is left on it."""
    with held_lock(roots.host_lock, doing="releasing the host", wait_s=60):
        if any(roots.cluster(name).journal.exists() for name in roots.cluster_names()):
            return  # a cluster is being made: what it uses is not remembered yet
        try:
            used = {node.image_digest for state in _states(roots) for node in state.nodes}
        except StateError:
            return  # what a damaged state uses is not known, so nothing is removed
        DiskManager(place.storage).remove_unused_bases(used)
        if place.embedded and place.is_up:
            with LibvirtClient(place.uri) as client:
                is_idle = not client.list_domains() and not client.list_networks()
            if is_idle:
                place.embedded.down()


def _states(roots: Roots) -> Iterator[ClusterState]:
    for name in roots.cluster_names():
        if state := read_state(roots.cluster(name)):
            yield state
