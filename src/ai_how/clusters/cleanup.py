"""Removal of what a cluster leaves: its directory, unused base images, an idle host."""

import os
import shlex
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from ai_how.clusters.observation import Observed
from ai_how.errors import AiHowError, HostError, StateError
from ai_how.host.logout import find_end
from ai_how.host.place import HypervisorHost
from ai_how.images.copying import disk_errors
from ai_how.libvirt_client.client import LibvirtClient
from ai_how.libvirt_client.xml import read_xml
from ai_how.plan.step import Plan
from ai_how.spec.image_checks import names_files
from ai_how.spec.models import ClusterFile
from ai_how.state.cluster_state import read_state
from ai_how.state.files import replaced_atomically
from ai_how.state.lock import held_lock
from ai_how.state.models import ClusterState
from ai_how.state.paths import ClusterPaths, Roots, ensure_parents
from ai_how.vm_management.disks.manager import DiskManager
from ai_how.vm_management.preparing.drafts import end_leftovers
from ai_how.vm_management.steps.disks import BackUpDisk


def clear_directory(paths: ClusterPaths) -> None:
    """Remove the cluster's directory, with the lock file in it. The caller holds the lock.

    A process that waits for the lock notices that the file is gone, and opens it again.
    """
    shutil.rmtree(paths.root, ignore_errors=True)


def forget(paths: ClusterPaths) -> None:
    """Remove all files of a cluster that no longer exists, except the evidence of a failure."""
    kept = {paths.lock.name, paths.evidence.name}
    for entry in paths.root.iterdir():
        if entry.name in kept:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def check_snapshots(
    client: LibvirtClient, state: ClusterState, seen: Observed, *, may_go: bool
) -> None:
    """Refuse to destroy snapshots, before anything is removed.

    Raises HostError for snapshots unless they `may_go`, and always for a node that writes to a file
    other than its disk. Such a file is the overlay of an external snapshot, and useless without the
    disk.
    """
    found = []
    for node in state.nodes:
        if (domain := seen.find_domain(node.uuid)) is None:
            continue
        found += [f"{name} of {node.name}" for name in client.snapshot_names(node.uuid)]
        sources = read_xml(domain.xml).iterfind("./devices/disk/source")
        used = [Path(source.get("file", "/")) for source in sources]
        other = [file for file in used if file.parent == node.disk.parent and file != node.disk]
        if other:
            # Shallow: a deeper commit would write into the image that all nodes share.
            merge = client.virsh(
                "blockcommit", node.domain_name, "vda", "--active", "--shallow", "--pivot"
            )
            raise HostError(
                f"{node.name} writes to {other[0]}, which is not its own disk",
                details=f"Its disk {node.disk} has an external snapshot.",
                hint=f"{merge} && rm {shlex.quote(str(other[0]))}",
            )
    if found and not may_go:
        raise HostError(
            f"{state.name} has {len(found)} snapshot{'s' * (len(found) > 1)}, which would be lost",
            details="\n".join(found),
            hint=f"ai-how {state.kind} destroy --force  # removes them too",
        )


def clear_lock(paths: ClusterPaths) -> None:
    """Remove the directory if only the lock is left in it. The caller holds the lock."""
    if {entry.name for entry in paths.root.iterdir()} == {paths.lock.name}:
        clear_directory(paths)


def prepare_backups(directory: Path, plan: Plan, *, kind: str) -> None:
    """Create the directory for the backups with mode 0700, unless it exists.

    Raises HostError if a backup file already exists. `kind` is that of the cluster, for the hint.
    """
    for step in plan.steps:
        if isinstance(step, BackUpDisk) and os.path.lexists(step.target):
            raise HostError(
                f"{step.target} already exists, and a backup overwrites nothing",
                hint=f"ai-how {kind} destroy --backup ANOTHER-DIRECTORY",
            )
    if not directory.is_dir():
        with disk_errors(directory):
            ensure_parents(directory)
            directory.mkdir(mode=0o700)
            directory.chmod(0o700)  # mkdir applies the umask


def check_backups(state: ClusterState, seen: Observed) -> None:
    """Raises HostError if a node is suspended: its disk is incomplete without its memory."""
    if names := [one.name for one in state.nodes if seen.has_managed_save(one)]:
        raise HostError(
            f"{state.name} is suspended: its disks are incomplete without the saved memory",
            details=f"suspended: {', '.join(names)}",
            hint=f"ai-how {state.kind} start  # resumes it; then destroy it",
        )


def drop_backups(plan: Plan) -> None:
    """Remove the backups of a destroy that failed before all were made.

    Such a destroy removed nothing, and its backups would block the next one. If a disk is gone, as
    in a destroy that is continued, its backup is the only copy and is kept.
    """
    backups = [step for step in plan.steps if isinstance(step, BackUpDisk)]
    if all(step.target.exists() or not step.disk.exists() for step in backups):
        return
    for step in backups:
        if step.disk.exists():
            with disk_errors(step.target.parent):
                step.target.unlink(missing_ok=True)


def keep_source(text: str, paths: ClusterPaths, spec: ClusterFile) -> None:
    """Store a copy of the cluster file, and the directory of its relative paths if it has any.

    An identical copy is not written again.
    """
    _keep(text, paths.spec)
    if spec.directory is not None and names_files(spec):
        _keep(str(spec.directory), paths.spec_directory)


def _keep(text: str, path: Path) -> None:
    with suppress(OSError, UnicodeDecodeError):
        if path.read_text("utf-8") == text:
            return
    with replaced_atomically(path) as draft:
        draft.write_text(text, "utf-8")


def release_host(place: HypervisorHost, roots: Roots) -> None:
    """Remove base images that no cluster uses; stop the embedded host if nothing is left on it."""
    with held_lock(roots.host_lock, doing="releasing the host", wait_s=60):
        if any(roots.cluster(name).journal.exists() for name in roots.cluster_names()):
            return  # a cluster is being created, and its images are not in its state yet
        try:
            used = {node.image_digest for state in _states(roots) for node in state.nodes}
        except StateError:
            return  # the images of a damaged state are unknown, so none is removed
        DiskManager(place.storage).remove_unused_bases(used)
        _end_idle(place)


@contextmanager
def host_up(place: HypervisorHost, roots: Roots, warn: Callable[[str], None]) -> Iterator[None]:
    """Keep the host running during the block; stop it afterwards if this started it and it is idle.

    It is idle after a dry run, or after a first start that failed or was interrupted.
    """
    was_started = False
    try:
        with place.embedded.in_use() if place.embedded else nullcontext():
            was_started = place.ensure_up(roots)
            if was_started and (why := find_end(Path("/"))):
                warn(f"{why}; to keep it running: ai-how doctor")
            yield
    finally:
        if was_started:
            # An error here must not hide how the run ended.
            with suppress(AiHowError):
                _end_idle(place)


def _end_idle(place: HypervisorHost) -> None:
    if place.embedded is None or not place.is_up:
        return
    with place.embedded.if_unused() as is_unused:
        if not is_unused:
            return
        with LibvirtClient(place.uri, is_kept=place.is_kept) as client:
            end_leftovers(place.storage, client)
            is_idle = not client.list_domains() and not client.list_networks()
        if is_idle:
            place.embedded.down()


def _states(roots: Roots) -> Iterator[ClusterState]:
    for name in roots.cluster_names():
        if state := read_state(roots.cluster(name)):
            yield state
