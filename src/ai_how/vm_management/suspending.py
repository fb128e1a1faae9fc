"""Whether the memory of a cluster finds room where libvirt saves it."""

import shlex
import shutil

from ai_how.errors import HostError
from ai_how.host.place import HostPlace
from ai_how.state.models import ClusterState
from ai_how.vm_management.libvirt_client import LibvirtClient
from ai_how.vm_management.observed import Observed

# Left free for state, logs and what guests write until they are off.
RESERVE_MIB = 256


def check_memory_fits(
    place: HostPlace, state: ClusterState, seen: Observed, client: LibvirtClient
) -> None:
    """Raises HostError, before anything is suspended, where the file system has not the room.

    What a guest's QEMU takes now is what is saved at most.
    """
    on = {one.uuid: one for one in state.nodes if seen.is_on(one)}
    stats = client.stats(on)
    sizes = {
        one.name: (stats[uuid].memory_rss_mib if uuid in stats else None) or one.memory_mib
        for uuid, one in on.items()
    }
    there = place.saved_memory
    free_mib = shutil.disk_usage(there).free // 2**20
    needed_mib = sum(sizes.values())
    if needed_mib + RESERVE_MIB > free_mib:
        raise HostError(
            f"the memory of {state.name} needs {needed_mib} MiB, and {free_mib} MiB are free",
            details="\n".join(f"{name}: {mib} MiB" for name, mib in sizes.items()),
            hint=f"df -h {shlex.quote(str(there))}",
        )
