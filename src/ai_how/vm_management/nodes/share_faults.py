"""Whether the shared directories of running VMs are still there, and still served."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ai_how.host.reading import read_number
from ai_how.libvirt_client.facts import DomainInfo
from ai_how.libvirt_client.xml import read_xml

# Where libvirt notes the process of each share: `2-hpc-compute-01-fs0-fs.pid`.
PROCESSES = Path("run/libvirt/qemu")


@dataclass(frozen=True, slots=True)
class ShareFault:
    """A share of a running VM that its guest cannot use."""

    path: str
    is_there: bool
    """Whether the directory exists: then its server has ended."""

    def __str__(self) -> str:
        if self.is_there:
            return f"the server of its share {self.path} has ended"
        return f"its share {self.path} was removed on this host"


def find_share_faults(domain: DomainInfo, root: Path) -> tuple[ShareFault, ...]:
    """The faults of a running VM's shares; `root` is the root directory of its embedded host.

    A directory that we may not look at, or whose server does not answer, counts as removed.
    """
    return tuple(
        ShareFault(path, is_there)
        for path, alias in _shares_of(domain)
        for is_there in [os.path.isdir(root / path.lstrip("/"))]  # noqa: PTH112
        if not (is_there and _is_served(domain, alias, root))
    )


def _shares_of(domain: DomainInfo) -> Iterator[tuple[str, str]]:
    """Each share's directory, and libvirt's name for it."""
    for share in read_xml(domain.xml).iterfind("./devices/filesystem"):
        source, alias = share.find("source"), share.find("alias")
        if source is not None and alias is not None:
            yield source.get("dir", ""), alias.get("name", "")


def _is_served(domain: DomainInfo, alias: str, root: Path) -> bool:
    """Whether its process exists; also true if libvirt noted none."""
    notes = (root / PROCESSES).glob(f"{domain.domid}-*-{alias}-fs.pid")
    pids = [pid for note in notes if (pid := read_number(note))]
    return not pids or any((root / "proc" / str(pid)).exists() for pid in pids)
