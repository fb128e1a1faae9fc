"""What a cluster is given by its administrator, and the check that it works (pure).

All of it is valid for Kubernetes 1.20 to 1.36. The roles of nodes, of the controllers, the
scheduler and the proxy are built in (docs/reference/access-authn-authz/rbac on kubernetes.io).
"""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from ai_how.cloud.facts import CLUSTER_DOMAIN, KubeFacts
from ai_how.cloud.leaves import KUBELET_CLIENT_OF_API
from ai_how.cloud.texts import Manifest, render

CHECK_NAMESPACE = "ai-how-check"
CHECK_IMAGE = "localhost/ai-how/busybox:1"
_RBAC = "rbac.authorization.k8s.io"
_HTTP_PORT = 8080
_NOBODY = 65534
_SYSTEM = "kube-system"


def base_manifests(facts: KubeFacts, coredns_image: str | None = None) -> str:
    """What each cluster needs; the image of CoreDNS is that of a cluster with `dns`."""
    items: list[Manifest] = [_kubelet_binding()]
    if facts.dns:
        if coredns_image is None:
            raise ValueError("a cluster with DNS needs an image of CoreDNS")
        items += _coredns(facts, coredns_image)
    return _render(items)


def ready_manifests(facts: KubeFacts, nodes: Sequence[str]) -> str:
    """A Pod on each of these nodes, which becomes ready when it reached the next one's Service.

    So the scheduler, each kubelet, each proxy and the way between two nodes have worked once. With
    one node, its Pod asks for itself. The Pods do not wait for the default ServiceAccount of their
    namespace. They meet the PodSecurity level "restricted". What a Pod waits for is in its log.
    """
    items: list[Manifest] = [_namespace(), _account(), *(_check_service(one) for one in nodes)]
    following = [*nodes[1:], *nodes[:1]]
    items += [_check_pod(facts, *pair) for pair in zip(nodes, following, strict=True)]
    return _render(items)


def check_name(node: str) -> str:
    """The name of a node's Pod and Service in the check."""
    return f"on-{node}"


def _render(items: Sequence[Manifest]) -> str:
    return render({"apiVersion": "v1", "kind": "List", "items": list(items)})


def _kubelet_binding() -> Manifest:
    """For logs, exec and port-forward, the API server calls kubelets."""
    return _cluster_role_binding(
        "ai-how:kube-apiserver-to-kubelets",
        "system:kubelet-api-admin",
        {"kind": "User", "name": KUBELET_CLIENT_OF_API, "apiGroup": _RBAC},
    )


def _cluster_role_binding(name: str, role: str, subject: Manifest) -> Manifest:
    return {
        "apiVersion": f"{_RBAC}/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": name},
        "roleRef": {"apiGroup": _RBAC, "kind": "ClusterRole", "name": role},
        "subjects": [subject],
    }


def _namespace() -> Manifest:
    level = {"pod-security.kubernetes.io/enforce": "restricted"}
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": CHECK_NAMESPACE, "labels": level},
    }


def _account() -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": _metadata("check"),
        "automountServiceAccountToken": False,
    }


def _metadata(name: str, namespace: str = CHECK_NAMESPACE, **labels: str) -> dict[str, Any]:
    return {"name": name, "namespace": namespace, **({"labels": labels} if labels else {})}


def _check_service(node: str) -> Manifest:
    """Its Pod is not ready before another one's is, which asks it.

    The protocol is the default one, but server-side apply in 1.20 takes no port without it.
    """
    name = check_name(node)
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(name),
        "spec": {
            "selector": {"on": node},
            "publishNotReadyAddresses": True,
            "ports": [{"port": 80, "targetPort": _HTTP_PORT, "protocol": "TCP"}],
        },
    }


def _check_pod(facts: KubeFacts, node: str, asked: str) -> Manifest:
    container = {
        "name": "check",
        "image": CHECK_IMAGE,
        "imagePullPolicy": "Never",
        "command": ["/bin/busybox", "sh", "-c", _check_script(facts, node, asked)],
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],  # noqa: S108  in a Pod of its own
        # An exec would start three programs on the node each time.
        "readinessProbe": {
            "httpGet": {"path": "/ok", "port": _HTTP_PORT},
            "periodSeconds": 1,
            "timeoutSeconds": 10,
        },
        "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
    }
    spec = {
        "serviceAccountName": "check",
        "automountServiceAccountToken": False,
        # Not by `nodeName`: the scheduler is to have worked as well.
        "affinity": {"nodeAffinity": _only_on(node)},
        "tolerations": [{"operator": "Exists"}],
        "dnsPolicy": "ClusterFirst" if facts.dns else "Default",
        "terminationGracePeriodSeconds": 1,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": _NOBODY,
            "runAsGroup": _NOBODY,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumes": [{"name": "tmp", "emptyDir": {}}],
        "containers": [container],
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": _metadata(check_name(node), on=node),
        "spec": spec,
    }


def _only_on(node: str) -> Manifest:
    term = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}
    return {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}


def _check_script(facts: KubeFacts, node: str, asked: str) -> str:
    """Serves the node's name, and waits until the asked node's Service answers with its name.

    The address of a Service is in the environment, if the kubelet knew it when it started the
    container; else the container ends, and is started again.
    """
    address = f"{check_name(asked)}_service_host".upper().replace("-", "_")
    host = f"kubernetes.default.svc.{CLUSTER_DOMAIN}"
    # The `wget -T` of Debian 12's busybox-static (1.35) ends with a segmentation fault.
    ask = "timeout 10 /bin/busybox wget -q -O -"
    lines = [
        "mkdir -p /tmp/www",
        f"echo {shlex.quote(node)} > /tmp/www/index.html",
        f"httpd -p {_HTTP_PORT} -h /tmp/www",
        f'if [ -z "${address}" ]; then echo "no address of a Service is known"; exit 1; fi',
        f'until [ "$({ask} http://${address}/)" = {shlex.quote(asked)} ]; do',
        f'  echo "the Service of {asked} does not answer"; sleep 1',
        "done",
    ]
    if facts.dns:
        lines += [
            f"until nslookup {host} > /dev/null; do",
            '  echo "the DNS server of the cluster does not answer"; sleep 1',
            "done",
        ]
    lines += ["touch /tmp/www/ok", "exec sleep 1000000"]
    return "\n".join(lines)


def _coredns(facts: KubeFacts, image: str) -> list[Manifest]:
    """After cluster/addons/dns/coredns/coredns.yaml.base of Kubernetes."""
    corefile = f"""\
.:53 {{
    errors
    health {{
        lameduck 5s
    }}
    ready
    kubernetes {CLUSTER_DOMAIN} in-addr.arpa ip6.arpa {{
        pods insecure
        fallthrough in-addr.arpa ip6.arpa
        ttl 30
    }}
    prometheus :9153
    forward . {facts.gateway}
    cache 30
    reload
    loadbalance
}}
"""
    core, slices = ["endpoints", "services", "pods", "namespaces"], ["endpointslices"]
    reads = ["list", "watch"]
    account = {"kind": "ServiceAccount", "name": "coredns", "namespace": _SYSTEM}
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": _metadata("coredns", _SYSTEM)},
        {
            "apiVersion": f"{_RBAC}/v1",
            "kind": "ClusterRole",
            "metadata": {"name": "system:coredns"},
            "rules": [
                {"apiGroups": [""], "resources": core, "verbs": reads},
                {"apiGroups": ["discovery.k8s.io"], "resources": slices, "verbs": reads},
            ],
        },
        _cluster_role_binding("system:coredns", "system:coredns", account),
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": _metadata("coredns", _SYSTEM),
            "data": {"Corefile": corefile},
        },
        _coredns_deployment(image),
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": _metadata("kube-dns", _SYSTEM, **_DNS_LABELS),
            "spec": {
                "selector": _DNS_LABELS,
                "clusterIP": str(facts.dns_ip),
                "ports": [
                    {"name": "dns", "port": 53, "protocol": "UDP"},
                    {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
                ],
            },
        },
    ]


_DNS_LABELS: Mapping[str, str] = {"k8s-app": "kube-dns"}


def _coredns_deployment(image: str) -> Manifest:
    container = {
        "name": "coredns",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "args": ["-conf", "/etc/coredns/Corefile"],
        "volumeMounts": [{"name": "config", "mountPath": "/etc/coredns", "readOnly": True}],
        "ports": [
            {"name": "dns", "containerPort": 53, "protocol": "UDP"},
            {"name": "dns-tcp", "containerPort": 53, "protocol": "TCP"},
        ],
        "resources": {"requests": {"cpu": "50m", "memory": "70Mi"}, "limits": {"memory": "170Mi"}},
        "readinessProbe": {
            "httpGet": {"path": "/ready", "port": 8181},
            "timeoutSeconds": 10,
        },
        "livenessProbe": {
            "httpGet": {"path": "/health", "port": 8080},
            "initialDelaySeconds": 60,
            "timeoutSeconds": 30,
            "failureThreshold": 5,
        },
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"add": ["NET_BIND_SERVICE"], "drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
    }
    role = "node-role.kubernetes.io"
    spec = {
        "priorityClassName": "system-cluster-critical",
        "serviceAccountName": "coredns",
        "dnsPolicy": "Default",
        "tolerations": [
            {"key": f"{role}/{one}", "operator": "Exists", "effect": "NoSchedule"}
            for one in ("control-plane", "master")
        ],
        "volumes": [{"name": "config", "configMap": {"name": "coredns"}}],
        "containers": [container],
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": _metadata("coredns", _SYSTEM, **_DNS_LABELS),
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": _DNS_LABELS},
            "template": {"metadata": {"labels": _DNS_LABELS}, "spec": spec},
        },
    }
