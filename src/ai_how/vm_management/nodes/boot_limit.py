"""How many nodes may boot at the same time: as many as the host keeps busy, no more (pure)."""

from collections.abc import Iterable
from itertools import accumulate

from ai_how.host.checks import QEMU_OVERHEAD_MIB
from ai_how.vm_management.nodes.domain_definition import Accel

# A guest that boots by emulation keeps about one core busy, and yet three at once are up sooner on
# two cores than one after the other: each waits now and then. With KVM it mostly waits for its
# disk and its network.
BOOTS_PER_CPU = {Accel.TCG: 2, Accel.KVM: 8}
# As many as are not worth waiting for each other: the built-in cluster and one more.
LEAST = {Accel.TCG: 4, Accel.KVM: 16}


def choose_boot_limit(
    asked: int | None,
    accel: Accel,
    *,
    cpus: int | None,
    free_mib: int | None,
    memory_mib: Iterable[int],
) -> int:
    """What was asked for, or what the host's processors and free memory can take; at least 1.

    `memory_mib` are the nodes to boot; how many of them fit is asked of the largest. What is not
    known of the host (None) is no bound.
    """
    if asked is not None:
        return asked
    by_cpus = max(LEAST[accel], BOOTS_PER_CPU[accel] * (cpus or 0))
    if free_mib is None:
        return by_cpus
    sums_mib = accumulate(one + QEMU_OVERHEAD_MIB for one in sorted(memory_mib, reverse=True))
    fitting = sum(together <= free_mib for together in sums_mib)
    return max(1, min(by_cpus, fitting))
