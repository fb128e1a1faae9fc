"""The CPUs and the memory of the host that a VM has by its XML. Does not load libvirt."""

from contextlib import suppress
from dataclasses import dataclass

from ai_how.errors import HostError
from ai_how.libvirt_client.xml import read_xml

_KIB = {"B": 1 / 1024, "KiB": 1, "MiB": 1024, "GiB": 1024**2}


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where a VM runs on its host; the default says nothing."""

    cpus: tuple[int, ...] = ()
    """The CPU of each vCPU, in their order; empty if they are not pinned to one each."""
    numa_node: int | None = None
    """The NUMA node of the host that its memory comes from."""
    is_strict: bool = False
    """Whether memory of another node is refused."""
    hugepage_kib: int | None = None


ANYWHERE = Placement()


def placement_in(xml: str) -> Placement:
    """The placement in the XML of a VM; what we do not write ourselves is left out."""
    try:
        root = read_xml(xml)
    except HostError:
        return ANYWHERE
    pins: dict[int, int] = {}
    for pin in root.iterfind("./cputune/vcpupin"):
        with suppress(ValueError):
            pins[int(pin.get("vcpu", ""))] = int(pin.get("cpuset", ""))
    memory = root.find("./numatune/memory")
    nodeset = "" if memory is None else memory.get("nodeset", "")
    page = root.find("./memoryBacking/hugepages/page")
    size = "" if page is None else page.get("size", "")
    unit = _KIB.get("" if page is None else page.get("unit", "KiB"), 0)
    return Placement(
        cpus=tuple(pins[vcpu] for vcpu in sorted(pins)),
        numa_node=int(nodeset) if nodeset.isdecimal() else None,
        is_strict=memory is not None and memory.get("mode") == "strict",
        hugepage_kib=int(int(size) * unit) or None if size.isdecimal() else None,
    )
