"""Identities: every UUID, MAC address and bridge name is derived from the cluster's random id."""

import hashlib
from uuid import UUID, uuid4, uuid5


def new_cluster_id() -> UUID:
    """Random, drawn once in a cluster's life."""
    return uuid4()


def object_uuid(cluster_id: UUID, role: str) -> UUID:
    """The UUID of a libvirt object; roles are `network` and `domain/<node>`."""
    return uuid5(cluster_id, role)


def mac_address(cluster_id: UUID, node: str) -> str:
    """A unicast, locally administered address (52:54 has bit 1 set and bit 0 clear)."""
    octets = b"\x52\x54" + _digest(cluster_id, f"mac/{node}")[:4]
    return octets.hex(":")


def bridge_name(cluster_id: UUID) -> str:
    """12 characters; the kernel takes 15."""
    return "ah" + _digest(cluster_id, "bridge").hex()[:10]


def _digest(cluster_id: UUID, purpose: str) -> bytes:
    return hashlib.sha256(cluster_id.bytes + purpose.encode()).digest()
