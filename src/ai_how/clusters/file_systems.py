"""How full the file systems of guests are, as their agents report."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from uuid import UUID

from ai_how.clusters.observation import Observed
from ai_how.libvirt_client.client import LibvirtClient
from ai_how.vm_management.nodes.polling import ask_guests

FULL = 0.9
# The agents answer while status asks libvirt, and may take this much longer: a status does not wait
# for guests.
GRACE_S = 0.5
MIB = 2**20


@dataclass(frozen=True, slots=True)
class FileSystem:
    """A file system that a guest mounted from one of its disks."""

    mount_point: str
    used_mib: int
    size_mib: int

    @property
    def is_full(self) -> bool:
        return self.used_mib >= FULL * self.size_mib > 0

    def __str__(self) -> str:
        share = 100 * self.used_mib // max(self.size_mib, 1)
        return f"{self.mount_point} is {share}% full ({self.used_mib} of {self.size_mib} MiB)"


@contextmanager
def asked_file_systems(
    client: LibvirtClient, seen: Observed
) -> Iterator[Mapping[UUID, tuple[FileSystem, ...]]]:
    """Ask the agents while the block runs. Afterwards the yielded map has the answers, by VM."""
    told: dict[UUID, tuple[FileSystem, ...]] = {}
    with ask_guests(
        client, seen.domains.values(), lambda agent: agent.file_systems(), grace_s=GRACE_S
    ) as answers:
        yield told
    told.update({uuid: read_file_systems(answer) for uuid, answer in answers.items()})


def read_file_systems(answer: object) -> tuple[FileSystem, ...]:
    """The file systems in an answer to guest-get-fsinfo, by mount point. The guest is untrusted.

    A file system with several mount points is listed once.
    """
    found: dict[object, FileSystem] = {}
    for entry in answer if isinstance(answer, list) else []:
        if not isinstance(entry, dict):
            continue
        place = entry.get("mountpoint")
        used, size = _count(entry.get("used-bytes")), _count(entry.get("total-bytes"))
        if isinstance(place, str) and used is not None and size is not None and used <= size:
            one = FileSystem(place[:200], used // MIB, size // MIB)
            previous = found.get(entry.get("name"))
            if previous is None or len(one.mount_point) < len(previous.mount_point):
                found[str(entry.get("name"))] = one
    return tuple(sorted(found.values(), key=lambda one: one.mount_point))


def _count(value: object) -> int | None:
    is_count = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    return int(value) if isinstance(value, int) and is_count else None
