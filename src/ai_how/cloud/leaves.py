"""Which certificates the nodes of a Kubernetes cluster have (pure).

Names and groups are those that Kubernetes gives rights to: docs/setup/best-practices/certificates
on kubernetes.io, and its "Node Authorization".
"""

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address

from ai_how.cloud.facts import CLUSTER_DOMAIN, KubeFacts, KubeNode

CLUSTER_CA, FRONT_PROXY_CA, ETCD_CA = "ca", "front-proxy-ca", "etcd-ca"
CAS = {
    CLUSTER_CA: "the CA of the cluster",
    FRONT_PROXY_CA: "the CA of extended APIs",
    ETCD_CA: "the CA of etcd",
}
KUBELET_CLIENT_OF_API = "kube-apiserver-kubelet-client"
FRONT_PROXY_CLIENT = "front-proxy-client"
NAMES_CLIENT = "ai-how:names"
"""Reads Services and Endpoints for the DNS server."""
_LOOPBACK = IPv4Address("127.0.0.1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaf:
    """A certificate to be issued. `name` is also its path below a node's /etc/kubernetes/pki."""

    name: str
    ca: str = CLUSTER_CA
    common_name: str
    organisation: str = ""
    is_server: bool = False
    is_client: bool = False
    names: tuple[str, ...] = ()
    addresses: tuple[IPv4Address, ...] = ()


ADMIN = Leaf(
    name="admin", common_name="ai-how-admin", organisation="system:masters", is_client=True
)


def leaves_of(facts: KubeFacts, node: KubeNode) -> Iterable[Leaf]:
    """The certificates of a node alone; the administrator's is not among them."""
    own_names = (node.name, f"{node.name}.{facts.cluster}")
    yield _client("kubelet-client", f"system:node:{node.name}", "system:nodes")
    yield _client("kube-proxy", "system:kube-proxy")
    yield Leaf(
        name="kubelet",
        common_name=f"system:node:{node.name}",
        organisation="system:nodes",
        is_server=True,
        names=own_names,
        addresses=(node.address, _LOOPBACK),
    )
    if not node.is_control_plane:
        return
    yield _apiserver(facts)
    yield _client("apiserver-kubelet-client", KUBELET_CLIENT_OF_API)
    yield _client("front-proxy-client", FRONT_PROXY_CLIENT, ca=FRONT_PROXY_CA)
    yield _client("controller-manager", "system:kube-controller-manager")
    yield _client("scheduler", "system:kube-scheduler")
    if facts.has_own_dns:
        yield _client("names", NAMES_CLIENT)
    yield _client("apiserver-etcd-client", "kube-apiserver-etcd-client", ca=ETCD_CA)
    for name in ("etcd/server", "etcd/peer"):
        # Both are used as a client's as well: etcd's gateway connects to its own server.
        yield Leaf(
            name=name,
            ca=ETCD_CA,
            common_name=node.name,
            is_server=True,
            is_client=True,
            names=("localhost", *own_names),
            addresses=(node.address, _LOOPBACK),
        )


def _apiserver(facts: KubeFacts) -> Leaf:
    """The same names for all control planes, since a client may be sent to any of them."""
    service = ("kubernetes", "default", "svc", CLUSTER_DOMAIN)
    services = tuple(".".join(service[:end]) for end in range(1, len(service) + 1))
    nodes = facts.control_planes
    names = (one for node in nodes for one in (node.name, f"{node.name}.{facts.cluster}"))
    return Leaf(
        name="apiserver",
        common_name="kube-apiserver",
        is_server=True,
        names=("localhost", *services, *names),
        addresses=(_LOOPBACK, facts.service_ip, *(node.address for node in nodes)),
    )


def _client(name: str, common_name: str, organisation: str = "", *, ca: str = CLUSTER_CA) -> Leaf:
    return Leaf(
        name=name, ca=ca, common_name=common_name, organisation=organisation, is_client=True
    )
