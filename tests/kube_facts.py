"""Kubernetes clusters as data, for tests of what is made from them."""

from datetime import datetime
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from ai_how.cloud.facts import KubeFacts, KubeNode
from ai_how.cloud.pki import ensure_authorities, read_keys
from ai_how.spec.kubernetes import Dns
from ai_how.spec.kubernetes_versions import Version


def make_node(
    name: str,
    number: int,
    *,
    control: bool = False,
    labels: dict[str, str] | None = None,
    taints: tuple[str, ...] = (),
    disk_gib: int = 10,
) -> KubeNode:
    return KubeNode(
        name=name,
        address=IPv4Address(f"192.168.130.{10 + number}"),
        is_control_plane=control,
        pod_subnet=IPv4Network(f"10.244.{number}.0/24"),
        labels=labels or {},
        taints=taints,
        disk_gib=disk_gib,
    )


def make_facts(
    *,
    control: int = 1,
    workers: int = 2,
    version: str = "1.20.2",
    nodes: tuple[KubeNode, ...] | None = None,
    has_audit: bool = False,
    dns: Dns = "own",
    storage_class: str | None = None,
) -> KubeFacts:
    made = [make_node(f"cp-{one}", one, control=True) for one in range(1, control + 1)]
    made += [make_node(f"worker-{one}", control + one) for one in range(1, workers + 1)]
    return KubeFacts(
        cluster="demo",
        version=Version.parse(version),
        nodes=tuple(made) if nodes is None else nodes,
        node_subnet=IPv4Network("192.168.130.0/24"),
        pod_subnet=IPv4Network("10.244.0.0/16"),
        service_subnet=IPv4Network("10.96.0.0/16"),
        gateway=IPv4Address("192.168.130.1"),
        has_audit=has_audit,
        dns=dns,
        storage_class=storage_class,
    )


def ensure_pki(directory: Path, facts: KubeFacts, now: datetime | None = None) -> None:
    """All keys and certificates, as a start with all nodes has them made."""
    ensure_authorities(directory, facts.cluster, now)
    for node in facts.nodes:
        read_keys(directory, facts, node, now)
