"""What libvirt counts of many VMs, in one call, for who looks every few seconds.

Part of LibvirtClient.
"""

from collections.abc import Collection, Mapping
from uuid import UUID

import libvirt

from ai_how.libvirt_client.conversion import with_first_known
from ai_how.libvirt_client.facts import StatsRecord
from ai_how.libvirt_client.session import Session

BULK = (
    libvirt.VIR_DOMAIN_STATS_STATE
    | libvirt.VIR_DOMAIN_STATS_CPU_TOTAL
    | libvirt.VIR_DOMAIN_STATS_BALLOON
    | libvirt.VIR_DOMAIN_STATS_VCPU
    | libvirt.VIR_DOMAIN_STATS_BLOCK
    | libvirt.VIR_DOMAIN_STATS_INTERFACE
)


class BulkStats:
    """The part of a client for statistics."""

    _link: Session

    def bulk_stats(
        self, uuids: Collection[UUID], *, timeout_s: float
    ) -> Mapping[UUID, StatsRecord]:
        """The statistics of those VMs that exist, on or off, for `facts.read_stats`.

        A QEMU that is busy, or hangs, has only its state. Raises ConnectionLostError if libvirt, or
        a QEMU that has begun to hang, does not answer within `timeout_s`.
        """
        asked = frozenset(uuids)
        return self._link.read(
            "reading statistics of VMs",
            lambda raw: read_records(raw, asked, BULK),
            timeout_s=timeout_s,
        )


def read_records(
    raw: libvirt.virConnect, uuids: Collection[UUID], groups: int
) -> Mapping[UUID, StatsRecord]:
    """These groups of statistics (VIR_DOMAIN_STATS_*) of those VMs that exist, in one call."""
    every = raw.listAllDomains(0)
    wanted = [one for one in every if UUID(one.UUIDString()) in uuids]
    if not wanted:
        return {}
    # This does not wait for another call's job in a QEMU, only for its own.
    records = with_first_known(
        lambda flags: raw.domainListGetStats(wanted, groups, flags),
        libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT,
        0,
    )
    return {UUID(domain.UUIDString()): record for domain, record in records}
