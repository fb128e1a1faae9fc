"""The DNS server of a cluster: dnsmasq on each control plane, and who tells it the Services (pure).

Pods ask the Service `kube-dns`, whose endpoints are all control planes. dnsmasq answers for the
cluster's own names, and asks the node's resolver for all others.
"""

from collections.abc import Iterable, Iterator
from ipaddress import IPv4Network

from ai_how.cloud.facts import API_PORT, CLUSTER_DOMAIN, KubeFacts, KubeNode
from ai_how.cloud.guest import NAMES_PROGRAM, names_program
from ai_how.cloud.settings import PKI
from ai_how.cloud.units import WAIT, Daemon
from ai_how.guest.base_identity import Entry

DNS_PORT = 10053
"""It needs no rights, and Pods in the network of the node may have port 53."""
SERVER, NAMES = "kube-dns", "kube-names"
_PLACE, _PID = f"/run/{NAMES}", f"/run/{SERVER}/pid"
_KEYS = ("ca.crt", "names.crt", "names.key")
# Of dnsmasq-base. Both units run as it: so one may signal the other. They get no file systems of
# their own, which take a slow node seconds; what this user cannot write is safe from it.
_RIGHTS = (
    "User=dnsmasq",
    "NoNewPrivileges=yes",
    "CapabilityBoundingSet=",
    "RestrictAddressFamilies=AF_INET AF_INET6 AF_NETLINK AF_UNIX",
    "RestrictNamespaces=yes",
    "LockPersonality=yes",
    "MemoryDenyWriteExecute=yes",
    "SystemCallArchitectures=native",
    "IPAddressDeny=any",
    # Names outlive both: while one is started again, the other goes on.
    "RuntimeDirectoryPreserve=yes",
)


def dns_daemons(facts: KubeFacts, node: KubeNode) -> tuple[Daemon, ...]:
    """The services of a control plane; none where the server is not ours."""
    return (_server(facts, node), _NAMES) if facts.has_own_dns else ()


def dns_entries(facts: KubeFacts) -> Iterator[Entry]:
    """The files of a control plane, besides its units and keys."""
    if facts.has_own_dns:
        yield Entry(NAMES_PROGRAM[1:], names_program(), 0o755)


def _options(facts: KubeFacts, node: KubeNode) -> Iterator[str]:
    """Those of dnsmasq(8). Of the cluster's own zones, nothing is asked elsewhere."""
    zones = (CLUSTER_DOMAIN, *_reverse(facts.service_subnet), *_reverse(facts.pod_subnet))
    options = (
        "keep-in-foreground",
        # Debian's settings are not ours.
        "conf-file=/dev/null",
        f"port={DNS_PORT}",
        f"listen-address={node.address}",
        "bind-interfaces",
        "no-hosts",
        "resolv-file=/etc/resolv.conf",
        f"addn-hosts={_PLACE}/hosts",
        f"conf-dir={_PLACE},*.conf",
        *(f"local=/{zone}/" for zone in zones),
        # As long as CoreDNS lets its own names be kept.
        "local-ttl=5",
        "cache-size=2000",
        "dns-forward-max=1000",
        f"pid-file={_PID}",
        "log-facility=-",
    )
    return (f"--{one}" for one in options)


def _reverse(subnet: IPv4Network) -> Iterable[str]:
    """The zones of in-addr.arpa that a subnet is made of."""
    octets = -(-subnet.prefixlen // 8)
    for part in subnet.subnets(new_prefix=octets * 8):
        numbers = str(part.network_address).split(".")[:octets]
        yield ".".join((*reversed(numbers), "in-addr", "arpa"))


def _server(facts: KubeFacts, node: KubeNode) -> Daemon:
    asked_by = f"localhost {facts.node_subnet} {facts.pod_subnet}"
    return Daemon(
        name=SERVER,
        description="The DNS server of Pods",
        command=("/usr/sbin/dnsmasq", *_options(facts, node)),
        settings=(
            *_RIGHTS,
            # The resolver of the node is in the same networks: it is the host.
            f"IPAddressAllow={asked_by}",
            f"RuntimeDirectory={SERVER} {NAMES}",
            # Records change by a new start.
            "RestartSec=100ms",
        ),
    )


_NAMES = Daemon(
    name=NAMES,
    description="The names of Services for the DNS server",
    command=(NAMES_PROGRAM, "follow", _PLACE, _PID),
    # The controllers wait until the API has its roles. Before that, it refuses each request.
    after=("kube-controller-manager.service",),
    waits_for=(f"{WAIT} 127.0.0.1 {API_PORT}",),
    read_once=(NAMES_PROGRAM, *(f"{PKI}/{name}" for name in _KEYS)),
    settings=(
        *_RIGHTS,
        "IPAddressAllow=localhost",
        f"RuntimeDirectory={NAMES}",
        *(f"LoadCredential={name}:{PKI}/{name}" for name in _KEYS),
    ),
)
