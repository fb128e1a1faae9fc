"""All files of a Kubernetes node, and the services that it runs (pure).

Services start in the order etcd, API server, controller manager and scheduler, kubelet and proxy:
clients that retry would take the API server the processor that it needs to become ready.
"""

import hashlib
from collections.abc import Iterable

from ai_how.cloud import settings
from ai_how.cloud.dns import dns_daemons, dns_entries
from ai_how.cloud.facts import (
    API_PORT,
    CLUSTER_DOMAIN,
    LOCAL_API_PORT,
    KubeFacts,
    KubeNode,
)
from ai_how.cloud.guest import PROGRAM
from ai_how.cloud.leaves import FRONT_PROXY_CLIENT
from ai_how.cloud.pki import NodeKeys
from ai_how.cloud.settings import ETC, PKI
from ai_how.cloud.units import WAIT, Daemon, render_changes, render_script_unit
from ai_how.cloud.versions import flags, has_taints_field
from ai_how.cloud.volumes import render_directories
from ai_how.guest.base_identity import Entry

BIN = "/usr/lib/kubernetes/bin"
# Of Debian, whose own unit would run it without TLS.
ETCD, ETCD_UNIT = "/usr/bin/etcd", "etcd.service"
ETCD_PORT, PEER_PORT = 2379, 2380
PODS_UNIT = "ai-how-pod-routes.service"
CONTAINERD_UNIT = "containerd.service"
CHANGES_UNIT = "ai-how-kubernetes.service"
_CHANGES_SCRIPT = "/etc/ai-how/kubernetes-changes"
_PODS_SCRIPT = "/etc/ai-how/pod-routes"
_HAPROXY_CONF = "/etc/ai-how/haproxy.cfg"
# Labels of Kubernetes' own domains that a kubelet may set by itself: docs/reference/access-authn-
# authz/admission-controllers on kubernetes.io, NodeRestriction.
_OWN_DOMAINS = ("kubernetes.io", "k8s.io")
_OPEN_DOMAINS = ("kubelet.kubernetes.io", "node.kubernetes.io")


def entries(facts: KubeFacts, node: KubeNode, keys: NodeKeys) -> Iterable[Entry]:
    """All files of a node that its base identity has not."""
    yield from _open_entries(facts, node)
    for path, content in keys.files.items():
        yield Entry(f"{PKI[1:]}/{path}", content, 0o600)
    if keys.encryption_key:
        text = settings.render_encryption(keys.encryption_key)
        yield Entry(f"{ETC[1:]}/encryption.yaml", text, 0o600)


def services(facts: KubeFacts, node: KubeNode) -> tuple[str, ...]:
    """The units to start, in this order."""
    return (CHANGES_UNIT, PODS_UNIT, CONTAINERD_UNIT, *(one.unit for one in daemons(facts, node)))


def digest(facts: KubeFacts) -> str:
    """SHA-256 of what all nodes are told, besides keys."""
    text = hashlib.sha256()
    for node in facts.nodes:
        for entry in _open_entries(facts, node):
            text.update(repr((node.name, entry)).encode())
        text.update(repr((services(facts, node), sorted(facts.labels_of(node).items()))).encode())
    return text.hexdigest()


def daemons(facts: KubeFacts, node: KubeNode) -> tuple[Daemon, ...]:
    """The components of a node, in the order in which they start."""
    if node.is_control_plane:
        return (
            _etcd(facts, node),
            _apiserver(facts, node),
            _controller_manager(facts),
            _scheduler(facts),
            *dns_daemons(facts, node),
            _kubelet(facts, node),
            _kube_proxy(facts, node),
        )
    proxy = (_HAPROXY,) if facts.has_local_proxy else ()
    return (*proxy, _kubelet(facts, node), _kube_proxy(facts, node))


def _open_entries(facts: KubeFacts, node: KubeNode) -> Iterable[Entry]:
    components = daemons(facts, node)
    for daemon in components:
        yield Entry(f"etc/systemd/system/{daemon.unit}", daemon.render())
    # Its tools are part of that shell: under emulation each program takes a third of a second.
    changes = render_script_unit(
        "What components of Kubernetes start with", f"/bin/busybox sh {_CHANGES_SCRIPT}"
    )
    yield Entry(f"etc/systemd/system/{CHANGES_UNIT}", changes)
    script = render_directories(facts, node) + render_changes(components)
    yield Entry(_CHANGES_SCRIPT[1:], f"set -e\n{script}")
    routes = render_script_unit("Routes to the Pods of other nodes", f"/bin/sh {_PODS_SCRIPT}")
    yield Entry(f"etc/systemd/system/{PODS_UNIT}", routes)
    yield Entry(_PODS_SCRIPT[1:], settings.render_pod_routes(facts, node))
    yield Entry("etc/cni/net.d/10-ai-how.conflist", settings.render_cni(node))
    yield Entry(f"{ETC[1:]}/kubelet.yaml", settings.render_kubelet(facts, node))
    yield Entry(f"{ETC[1:]}/kube-proxy.yaml", settings.render_kube_proxy(facts, node))
    users = [
        ("kubelet", f"system:node:{node.name}", "kubelet-client"),
        ("kube-proxy", "system:kube-proxy", "kube-proxy"),
    ]
    if node.is_control_plane:
        yield from dns_entries(facts)
        users.append(("controller-manager", "controller-manager", "controller-manager"))
        users.append(("scheduler", "scheduler", "scheduler"))
        users.append(("admin", "admin", "admin"))
        if facts.has_audit:
            yield Entry(f"{ETC[1:]}/audit.yaml", settings.render_audit_policy())
    elif facts.has_local_proxy:
        yield Entry(_HAPROXY_CONF[1:], settings.render_haproxy(facts.control_planes))
    server = facts.api_endpoint_of(node)
    for name, user, certificate in users:
        text = settings.render_kubeconfig(facts, server, user, certificate)
        yield Entry(f"{ETC[1:]}/{name}.conf", text, 0o600)


def _etcd(facts: KubeFacts, node: KubeNode) -> Daemon:
    """Times are ten times the defaults: a slow or busy host would elect new leaders for ever."""
    members = ",".join(f"{one.name}={_peer(one)}" for one in facts.control_planes)
    client = f"https://127.0.0.1:{ETCD_PORT},https://{node.address}:{ETCD_PORT}"
    options = {
        "name": node.name,
        "data-dir": "/var/lib/etcd",
        "listen-client-urls": client,
        "advertise-client-urls": f"https://{node.address}:{ETCD_PORT}",
        "client-cert-auth": "true",
        "trusted-ca-file": f"{PKI}/etcd/ca.crt",
        "cert-file": f"{PKI}/etcd/server.crt",
        "key-file": f"{PKI}/etcd/server.key",
        "listen-peer-urls": _peer(node),
        "initial-advertise-peer-urls": _peer(node),
        "peer-client-cert-auth": "true",
        "peer-trusted-ca-file": f"{PKI}/etcd/ca.crt",
        "peer-cert-file": f"{PKI}/etcd/peer.crt",
        "peer-key-file": f"{PKI}/etcd/peer.key",
        "initial-cluster": members,
        "initial-cluster-state": "new",
        "initial-cluster-token": facts.cluster,
        "heartbeat-interval": "1000",
        "election-timeout": "10000",
    }
    return Daemon(
        name="ai-how-etcd",
        description="The database of the Kubernetes API",
        command=(ETCD, *_flags(options)),
        conflicts=ETCD_UNIT,
        notifies=True,
    )


def _apiserver(facts: KubeFacts, node: KubeNode) -> Daemon:
    """Its own etcd comes first; with several, it goes on without its own."""
    members = [one for one in facts.control_planes if one.name != node.name]
    etcds = ["127.0.0.1", *(str(one.address) for one in members)]
    options = {
        "advertise-address": str(node.address),
        "secure-port": str(API_PORT),
        "allow-privileged": "true",
        "anonymous-auth": "false",
        "authorization-mode": "Node,RBAC",
        "client-ca-file": f"{PKI}/ca.crt",
        "enable-admission-plugins": "NodeRestriction",
        "encryption-provider-config": f"{ETC}/encryption.yaml",
        "etcd-cafile": f"{PKI}/etcd/ca.crt",
        "etcd-certfile": f"{PKI}/apiserver-etcd-client.crt",
        "etcd-keyfile": f"{PKI}/apiserver-etcd-client.key",
        "etcd-servers": ",".join(f"https://{one}:{ETCD_PORT}" for one in etcds),
        "kubelet-certificate-authority": f"{PKI}/ca.crt",
        "kubelet-client-certificate": f"{PKI}/apiserver-kubelet-client.crt",
        "kubelet-client-key": f"{PKI}/apiserver-kubelet-client.key",
        "kubelet-preferred-address-types": "InternalIP",
        "profiling": "false",
        "proxy-client-cert-file": f"{PKI}/front-proxy-client.crt",
        "proxy-client-key-file": f"{PKI}/front-proxy-client.key",
        "requestheader-allowed-names": FRONT_PROXY_CLIENT,
        "requestheader-client-ca-file": f"{PKI}/front-proxy-ca.crt",
        "requestheader-extra-headers-prefix": "X-Remote-Extra-",
        "requestheader-group-headers": "X-Remote-Group",
        "requestheader-username-headers": "X-Remote-User",
        "service-account-issuer": f"https://kubernetes.default.svc.{CLUSTER_DOMAIN}",
        "service-account-key-file": f"{PKI}/sa.pub",
        "service-account-signing-key-file": f"{PKI}/sa.key",
        "service-cluster-ip-range": str(facts.service_subnet),
        "tls-cert-file": f"{PKI}/apiserver.crt",
        "tls-private-key-file": f"{PKI}/apiserver.key",
    }
    if facts.has_audit:
        options |= {
            "audit-policy-file": f"{ETC}/audit.yaml",
            "audit-log-path": "/var/log/kubernetes/audit.log",
            "audit-log-maxsize": "20",
            "audit-log-maxbackup": "2",
        }
    return Daemon(
        name="kube-apiserver",
        description="The Kubernetes API",
        command=_command(facts, "kube-apiserver", options),
        after=("ai-how-etcd.service",),
        waits_for=(f"{WAIT} 127.0.0.1 {ETCD_PORT}",),
        read_once=(f"{ETC}/encryption.yaml", *([f"{ETC}/audit.yaml"] if facts.has_audit else [])),
        notifies=True,
    )


def _controller_manager(facts: KubeFacts) -> Daemon:
    """The subnets of Pods are given with the identity, and not allocated."""
    options = {
        **_client_options("controller-manager"),
        "allocate-node-cidrs": "false",
        "client-ca-file": f"{PKI}/ca.crt",
        "flex-volume-plugin-dir": settings.PLUGINS,
        "cluster-name": facts.cluster,
        "cluster-signing-cert-file": f"{PKI}/ca.crt",
        "cluster-signing-key-file": f"{PKI}/ca.key",
        # A busy host may hold up the reports of a node for longer than the default of 40 s.
        "node-monitor-grace-period": "60s",
        "requestheader-client-ca-file": f"{PKI}/front-proxy-ca.crt",
        "root-ca-file": f"{PKI}/ca.crt",
        "service-account-private-key-file": f"{PKI}/sa.key",
        "use-service-account-credentials": "true",
        **_election(facts),
    }
    return Daemon(
        name="kube-controller-manager",
        description="The controllers of Kubernetes",
        command=_command(facts, "kube-controller-manager", options),
        after=("kube-apiserver.service",),
        # It ends where the API refuses it for ten seconds, as an API does that has no roles yet.
        waits_for=(f"{WAIT} 127.0.0.1 {API_PORT}", f"{PROGRAM} granted"),
        read_once=(f"{ETC}/controller-manager.conf",),
    )


def _scheduler(facts: KubeFacts) -> Daemon:
    return Daemon(
        name="kube-scheduler",
        description="The scheduler of Pods",
        command=_command(facts, "kube-scheduler", _client_options("scheduler") | _election(facts)),
        after=("kube-apiserver.service",),
        waits_for=(f"{WAIT} 127.0.0.1 {API_PORT}",),
        read_once=(f"{ETC}/scheduler.conf",),
    )


def _client_options(name: str) -> dict[str, str]:
    conf = f"{ETC}/{name}.conf"
    return {
        "kubeconfig": conf,
        "authentication-kubeconfig": conf,
        "authorization-kubeconfig": conf,
        "bind-address": "127.0.0.1",
        "profiling": "false",
    }


def _election(facts: KubeFacts) -> dict[str, str]:
    """Whoever is alone needs no lease: a busy host would let it pass, and the component end."""
    if len(facts.control_planes) == 1:
        return {"leader-elect": "false"}
    return {
        "leader-elect": "true",
        "leader-elect-lease-duration": "40s",
        "leader-elect-renew-deadline": "30s",
        "leader-elect-retry-period": "5s",
    }


def _kubelet(facts: KubeFacts, node: KubeNode) -> Daemon:
    options = {
        "config": f"{ETC}/kubelet.yaml",
        "kubeconfig": f"{ETC}/kubelet.conf",
        "hostname-override": node.name,
        "node-ip": str(node.address),
    }
    if labels := own_labels(node):
        options["node-labels"] = labels
    if (taints := facts.taints_of(node)) and not has_taints_field(facts.version):
        options["register-with-taints"] = ",".join(_flag_form(one) for one in taints)
    early = ("kube-scheduler.service",)
    return Daemon(
        name="kubelet",
        description="The kubelet, which runs the Pods of this node",
        command=_command(facts, "kubelet", options),
        after=(CONTAINERD_UNIT, PODS_UNIT, *(early if node.is_control_plane else ())),
        waits_for=_wait_for_api(facts, node),
        # Of the certificates only its own as a server; each component reads the others again.
        read_once=(f"{ETC}/kubelet.yaml", f"{ETC}/kubelet.conf", f"{PKI}/kubelet.crt"),
        # It looks for its own accounts.
        settings=("CPUAccounting=yes", "MemoryAccounting=yes"),
    )


def _kube_proxy(facts: KubeFacts, node: KubeNode) -> Daemon:
    return Daemon(
        name="kube-proxy",
        description="Services of Kubernetes on this node",
        command=_command(facts, "kube-proxy", {"config": f"{ETC}/kube-proxy.yaml"}),
        after=("kubelet.service",),
        waits_for=_wait_for_api(facts, node),
        read_once=(f"{ETC}/kube-proxy.yaml", f"{ETC}/kube-proxy.conf"),
    )


_HAPROXY = Daemon(
    name="ai-how-api-proxy",
    description="The way to all servers of the Kubernetes API",
    command=("/usr/sbin/haproxy", "-Ws", "-f", _HAPROXY_CONF),
    read_once=(_HAPROXY_CONF,),
    notifies=True,
)


def _wait_for_api(facts: KubeFacts, node: KubeNode) -> tuple[str, ...]:
    """Behind a proxy that always answers, until any API server does."""
    if node.is_control_plane:
        return (f"{WAIT} 127.0.0.1 {API_PORT}",)
    if not facts.has_local_proxy:
        return (f"{WAIT} {facts.control_planes[0].address} {API_PORT}",)
    asked = " || ".join(
        f"nc -w 2 {one.address} {API_PORT} < /dev/null" for one in facts.control_planes
    )
    any_of = f"/bin/busybox sh -c 'until {asked}; do sleep 0.3; done'"
    return (any_of, f"{WAIT} 127.0.0.1 {LOCAL_API_PORT}")


def own_labels(node: KubeNode) -> str:
    """The labels that a kubelet may set by itself, as its flag takes them."""
    allowed = [f"{key}={value}" for key, value in node.labels.items() if _is_own(key)]
    return ",".join(allowed)


def _is_own(key: str) -> bool:
    domain = key.rpartition("/")[0]
    if any(domain == one or domain.endswith(f".{one}") for one in _OPEN_DOMAINS):
        return True
    return not any(domain == one or domain.endswith(f".{one}") for one in _OWN_DOMAINS)


def _flag_form(taint: str) -> str:
    """The flag wants `key=value:effect`, where the value may be empty."""
    pair, _, effect = taint.rpartition(":")
    return f"{pair}{'' if '=' in pair else '='}:{effect}"


def _command(facts: KubeFacts, name: str, options: dict[str, str]) -> tuple[str, ...]:
    return (f"{BIN}/{name}", *_flags(options), *flags(name, facts.version))


def _flags(options: dict[str, str]) -> list[str]:
    return [f"--{key}={value}" for key, value in options.items()]


def _peer(node: KubeNode) -> str:
    return f"https://{node.address}:{PEER_PORT}"
