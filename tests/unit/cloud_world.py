"""Kubernetes clusters as the command line sees them: a file, and what is remembered of one."""

from cli_runner import Cli

from ai_how.spec.roles import Role
from ai_how.state.cluster_state import write_state
from ai_how.state.models import NodeState
from ai_how.state.paths import ClusterPaths, ensure_private_directory
from cluster_bench import draft_of, read_hpc

KUBE = """\
version: "1.0"
clusters:
  cloud:
    name: kube
    control_plane: {cpu_cores: 2, memory_gb: 2, disk_gb: 10}
    worker_nodes: {count: 2, cpu_cores: 1, memory_gb: 1, disk_gb: 10}
"""


def remember_kube(cli: Cli, name: str = "kube", host: str = "test:///default") -> ClusterPaths:
    """A Kubernetes cluster that was started on a host, and of which nothing is there."""
    paths = cli.roots.cluster(name)
    ensure_private_directory(paths.root)
    state = draft_of(read_hpc(name=name), storage=cli.home / "storage").state
    nodes = tuple(_renamed(one, name) for one in state.nodes)
    write_state(paths, state.model_copy(update={"kind": "cloud", "host_uri": host, "nodes": nodes}))
    return paths


def _renamed(node: NodeState, cluster: str) -> NodeState:
    number = node.name.rpartition("-")[2]
    name = "control-plane-01" if node.role is Role.CONTROLLER else f"worker-{number}"
    return node.model_copy(update={"name": name, "domain_name": f"{cluster}-{name}"})
