"""The configuration files of the components, without secrets (pure).

Fields are those of the reference of each kind on kubernetes.io (docs/reference/config-api): kinds
and versions are the same from 1.20 to 1.36.
"""

from collections.abc import Sequence
from typing import Any

from ai_how.cloud.facts import API_PORT, CLUSTER_DOMAIN, LOCAL_API_PORT, KubeFacts, KubeNode
from ai_how.cloud.texts import Manifest, render
from ai_how.cloud.versions import CONTAINERD_SOCKET, has_runtime_field, has_taints_field

ETC = "/etc/kubernetes"
PKI = f"{ETC}/pki"
# Plugins of volumes, which no node has; the default is created below /usr.
PLUGINS = "/var/lib/kubelet/volume-plugins"


def render_kubeconfig(facts: KubeFacts, server: str, user: str, certificate: str) -> str:
    """How a component reaches the API, by the keys in PKI: it reads them again when they change."""
    name = facts.cluster
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {
                "name": name,
                "cluster": {"server": server, "certificate-authority": f"{PKI}/ca.crt"},
            }
        ],
        "users": [
            {
                "name": user,
                "user": {
                    "client-certificate": f"{PKI}/{certificate}.crt",
                    "client-key": f"{PKI}/{certificate}.key",
                },
            }
        ],
        "contexts": [{"name": name, "context": {"cluster": name, "user": user}}],
        "current-context": name,
    }
    return render(content)


def render_kubelet(facts: KubeFacts, node: KubeNode) -> str:
    """KubeletConfiguration: requests are authenticated and authorized by the API server."""
    content: dict[str, Any] = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": "0.0.0.0",  # noqa: S104  the API server and the other nodes ask it
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": f"{PKI}/ca.crt"},
        },
        "authorization": {"mode": "Webhook"},
        "readOnlyPort": 0,
        "tlsCertFile": f"{PKI}/kubelet.crt",
        "tlsPrivateKeyFile": f"{PKI}/kubelet.key",
        "rotateCertificates": False,
        # The default is cgroupfs, beside which systemd would manage the same tree.
        "cgroupDriver": "systemd",
        "clusterDomain": CLUSTER_DOMAIN,
        "resolvConf": "/etc/resolv.conf",
        "failSwapOn": False,
        "volumePluginDir": PLUGINS,
        "serializeImagePulls": True,
        # Nodes download nothing: an image that is removed does not come back.
        "imageGCHighThresholdPercent": 100,
        # The defaults are shares of the disk, and the disks of nodes are small.
        "evictionHard": {
            "memory.available": "50Mi",
            "nodefs.available": "200Mi",
            "nodefs.inodesFree": "1%",
        },
        # An emulated node may need minutes to start a container.
        "runtimeRequestTimeout": "10m0s",
    }
    if facts.has_dns:
        content["clusterDNS"] = [str(facts.dns_ip)]
    if has_runtime_field(facts.version):
        content["containerRuntimeEndpoint"] = CONTAINERD_SOCKET
    if has_taints_field(facts.version) and facts.taints_of(node):
        content["registerWithTaints"] = [_taint(one) for one in facts.taints_of(node)]
    return render(content)


def _taint(text: str) -> Manifest:
    pair, _, effect = text.rpartition(":")
    key, _, value = pair.partition("=")
    return {"key": key, **({"value": value} if value else {}), "effect": effect}


def render_kube_proxy(facts: KubeFacts, node: KubeNode) -> str:
    content = {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": f"{ETC}/kube-proxy.conf"},
        "mode": "iptables",
        "clusterCIDR": str(facts.pod_subnet),
        "hostnameOverride": node.name,
        "healthzBindAddress": "127.0.0.1:10256",
        "metricsBindAddress": "127.0.0.1:10249",
    }
    return render(content)


def render_encryption(key: str) -> str:
    """Secrets are encrypted before etcd stores them; what is not encrypted yet is still read."""
    providers = [{"secretbox": {"keys": [{"name": "key1", "secret": key}]}}, {"identity": {}}]
    content = {
        "apiVersion": "apiserver.config.k8s.io/v1",
        "kind": "EncryptionConfiguration",
        "resources": [{"resources": ["secrets"], "providers": providers}],
    }
    return render(content)


def render_audit_policy() -> str:
    """Who changed what; of Secrets and tokens never the content, of reading nothing."""
    content = {
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived"],
        "rules": [
            {"level": "None", "verbs": ["get", "list", "watch"]},
            {
                "level": "None",
                "resources": [
                    {"group": "coordination.k8s.io", "resources": ["leases"]},
                    {"group": "", "resources": ["events", "nodes/status"]},
                    {"group": "events.k8s.io", "resources": ["events"]},
                ],
            },
            {
                "level": "Metadata",
                "resources": [
                    {"group": "", "resources": ["secrets", "serviceaccounts/token"]},
                    {"group": "authentication.k8s.io"},
                ],
            },
            {"level": "Request"},
        ],
    }
    return render(content)


def render_cni(node: KubeNode) -> str:
    """The network of a node's Pods: a bridge, and the node's own /24.

    Addresses are kept in /run: no Pod outlives a boot, and nothing else would free those of Pods
    that a crash ended. containerd sets up the loopback interface by itself.
    """
    ipam = {
        "type": "host-local",
        "ranges": [[{"subnet": str(node.pod_subnet)}]],
        "routes": [{"dst": "0.0.0.0/0"}],
        "dataDir": "/run/ai-how-pods",
    }
    bridge = {
        "type": "bridge",
        "bridge": "cni0",
        "isGateway": True,
        "hairpinMode": True,
        "ipMasq": False,
        "ipam": ipam,
    }
    portmap = {"type": "portmap", "capabilities": {"portMappings": True}}
    content = {"cniVersion": "0.4.0", "name": "ai-how", "plugins": [bridge, portmap]}
    return render(content)


def render_haproxy(control_planes: Sequence[KubeNode]) -> str:
    """A worker's way to all API servers, as haproxy(1) reads it."""
    servers = "".join(
        f"    server {one.name} {one.address}:{API_PORT} check inter 3s fall 3 rise 1\n"
        for one in control_planes
    )
    return f"""\
global
    maxconn 2000

defaults
    mode tcp
    timeout connect 5s
    timeout client 24h
    timeout server 24h

frontend api
    bind 127.0.0.1:{LOCAL_API_PORT}
    default_backend control-planes

backend control-planes
    balance leastconn
{servers}"""


def render_pod_routes(facts: KubeFacts, node: KubeNode) -> str:
    """A script that connects the Pods of all nodes; it can be run again, and removes what is old.

    What leaves the nodes gets the node's address. That includes what goes to the host, which has an
    address in their network, but knows no way to Pods. Modules are loaded here: a node starts
    without what reads /etc/modules-load.d.
    """
    proto = 84  # marks our routes; no routing daemon of rt_protos(5) has this number
    others = [one for one in facts.nodes if one.name != node.name]
    routes = "".join(
        f"ip route replace {one.pod_subnet} via {one.address} proto {proto}\n" for one in others
    )
    kept = " ".join(str(one.pod_subnet) for one in others)
    return f"""\
set -e
modprobe -a overlay br_netfilter
echo 1 > /proc/sys/net/ipv4/ip_forward
echo 1 > /proc/sys/net/bridge/bridge-nf-call-iptables
{routes}ip -o route show proto {proto} | while read -r subnet rest; do
  case " {kept} " in
    *" $subnet "*) ;;
    *) ip route del "$subnet" proto {proto} ;;
  esac
done
iptables-restore -w --noflush << 'END'
*nat
:AI-HOW-PODS - [0:0]
-A AI-HOW-PODS -d {facts.pod_subnet} -j RETURN
-A AI-HOW-PODS -d {facts.gateway} -j MASQUERADE
-A AI-HOW-PODS -d {facts.node_subnet} -j RETURN
-A AI-HOW-PODS -j MASQUERADE
COMMIT
END
rule="POSTROUTING -s {facts.pod_subnet} -j AI-HOW-PODS"
iptables -w -t nat -C $rule 2> /dev/null || iptables -w -t nat -A $rule
"""
