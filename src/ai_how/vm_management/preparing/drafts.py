"""Where such a VM has its files, and the removal of what a killed run left of it."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import UUID, uuid5

from ai_how.errors import LockedError
from ai_how.images.copying import DRAFTS, remove_tree
from ai_how.libvirt_client.client import LibvirtClient
from ai_how.state.lock import held_lock
from ai_how.state.paths import StoragePaths
from ai_how.vm_management.storage_drafts import storage_draft

# The cluster id in the marks of these VMs and networks; no cluster has it.
PREPARING_ID = UUID("0c5f2ea4-7c0a-4a53-9a0e-9d5c7b1f3e62")
# Another image may be prepared just now.
_LOCK_WAIT_S = 3600


def vm_uuid(draft: Path) -> UUID:
    """The UUID of the VM with its files in this draft."""
    return uuid5(PREPARING_ID, str(draft))


def network_uuid(draft: Path) -> UUID:
    """The UUID of its network."""
    return uuid5(PREPARING_ID, f"{draft}/network")


@contextmanager
def preparing_draft(storage: StoragePaths, client: LibvirtClient) -> Iterator[Path]:
    """A directory for the files of such a VM, which QEMU's own user can pass; one per host at once.

    It is removed after the block, and before that what a killed run has left.
    """
    with storage_draft(
        storage,
        storage.preparing,
        storage.preparing_lock,
        doing="prepare an image",
        wait_s=_LOCK_WAIT_S,
        clean_up=lambda: _end_all(storage, client),
    ) as draft:
        yield draft


def end_leftovers(storage: StoragePaths, client: LibvirtClient) -> None:
    """Remove the VMs, networks and files of runs that were killed, unless an image is prepared."""
    if not storage.preparing.is_dir():
        return
    with (
        suppress(LockedError),
        held_lock(storage.preparing_lock, doing="clean up after an image", wait_s=0),
    ):
        _end_all(storage, client)


def _end_all(storage: StoragePaths, client: LibvirtClient) -> None:
    """The same for whoever holds the lock: no draft is of a run that still goes on."""
    for draft in storage.preparing.glob(DRAFTS):
        end_vm(draft, client)
        remove_tree(draft)


def end_vm(draft: Path, client: LibvirtClient) -> None:
    """End the VM of a draft, and remove its network. What is not ours or not there stays."""
    info = client.find_domain(vm_uuid(draft))
    if info and info.mark and info.mark.id == PREPARING_ID:
        client.destroy_domain(info.uuid)
    client.destroy_network(network_uuid(draft))
    client.undefine_network(network_uuid(draft))
