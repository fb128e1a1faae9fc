"""What the parts of a Kubernetes cluster are made from: its nodes and networks (pure)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network

from ai_how.cloud.versions import has_master_role
from ai_how.spec.kubernetes import Dns
from ai_how.spec.kubernetes_versions import Version

API_PORT = 6443
LOCAL_API_PORT = 6444
CLUSTER_DOMAIN = "cluster.local"
_ROLE = "node-role.kubernetes.io"
_DNS_HOST = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class KubeNode:
    """A node; `pod_subnet` is a /24 of its own, `labels` and `taints` are those of the file."""

    name: str
    address: IPv4Address
    is_control_plane: bool
    pod_subnet: IPv4Network
    labels: Mapping[str, str] = field(default_factory=dict)
    taints: tuple[str, ...] = ()
    """As `key=value:effect`, or `key:effect`."""
    disk_gib: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class KubeFacts:
    """A cluster. `pod_subnet` has the subnets of all nodes, `gateway` is the host."""

    cluster: str
    version: Version
    nodes: tuple[KubeNode, ...]
    node_subnet: IPv4Network
    pod_subnet: IPv4Network
    service_subnet: IPv4Network
    gateway: IPv4Address
    has_audit: bool = False
    dns: Dns = "own"
    storage_class: str | None = None
    """The name of the class of its nodes' directories; None if it has none."""

    @property
    def control_planes(self) -> tuple[KubeNode, ...]:
        return tuple(one for one in self.nodes if one.is_control_plane)

    @property
    def workers(self) -> tuple[KubeNode, ...]:
        return tuple(one for one in self.nodes if not one.is_control_plane)

    @property
    def service_ip(self) -> IPv4Address:
        """The address of the API as a Service: the first one."""
        return self.service_subnet[1]

    @property
    def has_dns(self) -> bool:
        """Whether Pods are told to ask a DNS server of the cluster."""
        return self.dns != "none"

    @property
    def has_own_dns(self) -> bool:
        """Whether that server is ours."""
        return self.dns == "own"

    @property
    def dns_ip(self) -> IPv4Address:
        return self.service_subnet[_DNS_HOST]

    @property
    def has_local_proxy(self) -> bool:
        """Whether workers reach the API by a proxy of their own: there are many API servers."""
        return len(self.control_planes) > 1

    @property
    def api_endpoint(self) -> str:
        """Where workers reach the API."""
        if self.has_local_proxy:
            return f"https://127.0.0.1:{LOCAL_API_PORT}"
        return f"https://{self.control_planes[0].address}:{API_PORT}"

    def api_endpoint_of(self, node: KubeNode) -> str:
        """Where the components of a node reach the API; on a control plane it is its own."""
        return f"https://127.0.0.1:{API_PORT}" if node.is_control_plane else self.api_endpoint

    def get_node(self, name: str) -> KubeNode:
        return next(one for one in self.nodes if one.name == name)

    def labels_of(self, node: KubeNode) -> Mapping[str, str]:
        """All labels of a node, with those of its role.

        A kubelet may not set those of the role by itself (NodeRestriction): an administrator does.
        """
        if not node.is_control_plane:
            return {f"{_ROLE}/worker": "", **node.labels}
        master = {f"{_ROLE}/master": ""} if has_master_role(self.version) else {}
        return {f"{_ROLE}/control-plane": "", **master, **node.labels}

    def takes_pods(self, node: KubeNode) -> bool:
        """Whether Pods of users run there: on a control plane if there is no worker."""
        return not node.is_control_plane or not self.workers

    def taints_of(self, node: KubeNode) -> tuple[str, ...]:
        """All taints of a node."""
        if self.takes_pods(node):
            return node.taints
        master = (f"{_ROLE}/master:NoSchedule",) if has_master_role(self.version) else ()
        return (f"{_ROLE}/control-plane:NoSchedule", *master, *node.taints)
