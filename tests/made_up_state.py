"""The state of a made-up cluster whose disks are below a directory."""

from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from uuid import UUID, uuid5

from ai_how.spec.nodes import Role
from ai_how.state.models import ClusterState, NetworkState, NodeState
from ai_how.state.paths import StoragePaths

LINEAGE = UUID(int=14)
MADE = datetime(2026, 1, 1, tzinfo=UTC)


def made_up_node(name: str, root: Path, last: int = 11) -> NodeState:
    """A node of two processors and 1 GiB."""
    return NodeState(
        name=name,
        role=Role.CONTROLLER if name == "controller" else Role.COMPUTE,
        uuid=uuid5(LINEAGE, name),
        domain_name=f"demo-{name}",
        mac=f"52:54:00:00:00:{last:02x}",
        ip=IPv4Address(f"10.20.0.{last}"),
        cpu_cores=2,
        memory_mib=1024,
        disk_gib=8,
        disk=StoragePaths(root).disks / f"demo/{name}.qcow2",
        image_digest="sha256:abc",
        auto_start=True,
    )


def made_up_state(root: Path, *, nodes: int = 2, host_uri: str = "test:///x") -> ClusterState:
    """A controller and so many compute nodes."""
    names = ["controller", *(f"compute-{n:02}" for n in range(1, nodes + 1))]
    return ClusterState(
        lineage=LINEAGE,
        name="demo",
        created_at=MADE,
        updated_at=MADE,
        host_uri=host_uri,
        user="hpc",
        home="nfs",
        network=NetworkState(
            uuid=uuid5(LINEAGE, "network"),
            name="demo",
            bridge="ah0123456789",
            subnet=IPv4Network("10.20.0.0/24"),
            gateway=IPv4Address("10.20.0.1"),
        ),
        nodes=tuple(made_up_node(name, root, 10 + n) for n, name in enumerate(names)),
    )
