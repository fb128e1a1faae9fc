"""What guests are asked in passing, all at once: how full their file systems are."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from ai_how.errors import AiHowError
from ai_how.guest.agent import GuestAgent
from ai_how.plan.crew import Crew
from ai_how.state.models import ClusterState, VmState
from ai_how.vm_management.libvirt_client import LibvirtClient
from ai_how.vm_management.observed import Observed
from ai_how.waiting import Deadline

FULL = 0.9
# Whoever is asked has the time of the look, and this much more: a status is not to wait for guests.
GRACE_S = 0.5
MAX_THREADS = 16
MIB = 2**20

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class FileSystem:
    """One that a guest has mounted from a disk of its own."""

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
    client: LibvirtClient, state: ClusterState, seen: Observed
) -> Iterator[Mapping[str, tuple[FileSystem, ...]]]:
    """Ask while the body runs; afterwards the answers that came in time are there, by node."""
    with ask_guests(client, state, seen, lambda agent: agent.file_systems()) as answers:
        told: dict[str, tuple[FileSystem, ...]] = {}
        yield told
    told.update({node: read_file_systems(answer) for node, answer in answers.items()})


@contextmanager
def ask_guests(
    client: LibvirtClient, state: ClusterState, seen: Observed, ask: Callable[[GuestAgent], T]
) -> Iterator[dict[str, T]]:
    """Ask the agents of all nodes that run at the same time as the body; no one is waited for long.

    Whoever fails to answer is left out: it may be starting, hang or be of another image.
    """
    agents = {
        node.name: GuestAgent(client, node.uuid, node.name)
        for node in state.nodes
        if (domain := seen.find_domain(node.uuid))
        and domain.state is VmState.RUNNING
        and domain.is_agent_connected
    }
    answers: dict[str, T] = {}
    crew = Crew[T](min(MAX_THREADS, max(len(agents), 1)))
    for name, agent in agents.items():
        crew.submit(name, partial(ask, agent))
    yield answers
    deadline, left = Deadline.after(GRACE_S), len(agents)
    while left and not deadline.has_passed:
        for ended in crew.wait(deadline.remaining_s):
            left -= 1
            if ended.error is None and ended.result is not None:
                answers[ended.key] = ended.result
            elif ended.error is not None and not isinstance(ended.error, AiHowError):
                raise ended.error


def read_file_systems(answer: object) -> tuple[FileSystem, ...]:
    """What is of use in an answer to guest-get-fsinfo, by mount point; the guest is not trusted.

    One file system that is mounted in several places is shown once.
    """
    found: dict[object, FileSystem] = {}
    for entry in answer if isinstance(answer, list) else []:
        if not isinstance(entry, dict):
            continue
        place = entry.get("mountpoint")
        used, size = _count(entry.get("used-bytes")), _count(entry.get("total-bytes"))
        if isinstance(place, str) and used is not None and size is not None and used <= size:
            one = FileSystem(place[:200], used // MIB, size // MIB)
            former = found.get(entry.get("name"))
            if former is None or len(one.mount_point) < len(former.mount_point):
                found[str(entry.get("name"))] = one
    return tuple(sorted(found.values(), key=lambda one: one.mount_point))


def _count(value: object) -> int | None:
    is_count = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    return int(value) if isinstance(value, int) and is_count else None
