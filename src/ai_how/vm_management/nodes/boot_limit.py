"""The number of nodes that boot at the same time (pure)."""

from collections.abc import Iterable
from itertools import accumulate

from ai_how.host.checks import QEMU_OVERHEAD_MIB
from ai_how.vm_management.nodes.domain_definition import Accel

# An emulated guest uses about one core while it boots. It sometimes waits for I/O, so three at once
# on two cores are faster than one after the other. With KVM a guest mostly waits for I/O.
BOOTS_PER_CPU = {Accel.TCG: 2, Accel.KVM: 8}
# So many nodes never wait for each other: those of the built-in cluster and one more.
LEAST = {Accel.TCG: 4, Accel.KVM: 16}


def choose_boot_limit(
    asked: int | None,
    accel: Accel,
    *,
    cpus: int | None,
    free_mib: int | None,
    memory_mib: Iterable[int],
) -> int:
    """The `asked` limit, or one that derives from the host's CPUs and free memory; at least 1.

    `memory_mib` has the memory of each node to boot; the largest are counted first. An unknown
    property of the host (None) sets no limit.
    """
    if asked is not None:
        return asked
    by_cpus = max(LEAST[accel], BOOTS_PER_CPU[accel] * (cpus or 0))
    if free_mib is None:
        return by_cpus
    sums_mib = accumulate(mib + QEMU_OVERHEAD_MIB for mib in sorted(memory_mib, reverse=True))
    fitting = sum(together <= free_mib for together in sums_mib)
    return max(1, min(by_cpus, fitting))
