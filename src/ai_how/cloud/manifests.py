"""What a cluster is given by its administrator, and the check that it works (pure).

All of it is valid for Kubernetes 1.20 to 1.36. The roles of nodes, of the controllers, the
scheduler and the proxy are built in (docs/reference/access-authn-authz/rbac on kubernetes.io).
"""

import shlex
from collections.abc import Sequence
from typing import Any

from ai_how.cloud.dns import DNS_PORT
from ai_how.cloud.facts import CLUSTER_DOMAIN, KubeFacts
from ai_how.cloud.leaves import KUBELET_CLIENT_OF_API, NAMES_CLIENT
from ai_how.cloud.texts import Manifest, render

CHECK_NAMESPACE = "ai-how-check"
CHECK_IMAGE = "localhost/ai-how/busybox:1"
_RBAC = "rbac.authorization.k8s.io"
_HTTP_PORT = 8080
_NOBODY = 65534
_SYSTEM = "kube-system"
OURS = {"app.kubernetes.io/managed-by": "ai-how"}
"""By this label it is seen that a Service is not the bundle's."""


def base_manifests(facts: KubeFacts) -> str:
    """What each cluster needs: rights of the API server, and its DNS server if that is ours."""
    items: list[Manifest] = [_kubelet_binding()]
    if facts.has_own_dns:
        items += [*_names_rights(), *_dns_service(facts)]
    return _render(items)


def former_manifests(facts: KubeFacts) -> str:
    """What an earlier start may have made, and this cluster must not have."""
    return _render([] if facts.has_own_dns else _dns_service(facts))


def ready_manifests(facts: KubeFacts, nodes: Sequence[str]) -> str:
    """A Pod on each of these nodes, which becomes ready when it reached the next one's Service.

    So the scheduler, each kubelet, each proxy and the way between two nodes have worked once. With
    one node, its Pod asks for itself. A DNS server of the cluster has known that Service by name.
    The Pods do not wait for the default ServiceAccount of their namespace. They meet the
    PodSecurity level "restricted". What a Pod waits for is in its log.
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
    name = "ai-how:kube-apiserver-to-kubelets"
    return _user_binding(name, "system:kubelet-api-admin", KUBELET_CLIENT_OF_API)


def _user_binding(name: str, role: str, user: str) -> Manifest:
    return {
        "apiVersion": f"{_RBAC}/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": name},
        "roleRef": {"apiGroup": _RBAC, "kind": "ClusterRole", "name": role},
        "subjects": [{"kind": "User", "name": user, "apiGroup": _RBAC}],
    }


def _names_rights() -> list[Manifest]:
    rule = {"apiGroups": [""], "resources": ["services", "endpoints"], "verbs": ["list", "watch"]}
    role = {
        "apiVersion": f"{_RBAC}/v1",
        "kind": "ClusterRole",
        "metadata": {"name": NAMES_CLIENT},
        "rules": [rule],
    }
    return [role, _user_binding(NAMES_CLIENT, NAMES_CLIENT, NAMES_CLIENT)]


def _dns_service(facts: KubeFacts) -> list[Manifest]:
    """Pods ask its address; behind it are the servers of all control planes.

    The label `k8s-app` is that of other clusters. EndpointSlices are made of the Endpoints by the
    controller manager (EndpointSliceMirroring, from 1.19 on).
    """
    metadata = _metadata("kube-dns", _SYSTEM, **{"k8s-app": "kube-dns", **OURS})
    kinds = (("dns", "UDP"), ("dns-tcp", "TCP"))
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata,
        "spec": {
            "clusterIP": str(facts.dns_ip),
            "ports": [{"name": one, "port": 53, "protocol": kind} for one, kind in kinds],
        },
    }
    subset = {
        "addresses": [{"ip": str(one.address)} for one in facts.control_planes],
        "ports": [{"name": one, "port": DNS_PORT, "protocol": kind} for one, kind in kinds],
    }
    endpoints = {
        "apiVersion": "v1",
        "kind": "Endpoints",
        "metadata": metadata,
        "subsets": [subset],
    }
    return [service, endpoints]


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
        "dnsPolicy": "ClusterFirst" if facts.has_dns else "Default",
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
    container; else the container ends, and is started again. The DNS server is asked for the same
    Service: busybox asks it itself, without the libraries of name services.
    """
    address = f"{check_name(asked)}_service_host".upper().replace("-", "_")
    host = f"{check_name(asked)}.{CHECK_NAMESPACE}.svc.{CLUSTER_DOMAIN}"
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
    if facts.has_dns:
        lines += [
            f'until nslookup {host}. 2>&1 | grep -qwF "${address}"; do',
            f'  echo "the DNS server of the cluster does not know {host}"; sleep 1',
            "done",
        ]
    lines += ["touch /tmp/www/ok", "exec sleep 1000000"]
    return "\n".join(lines)
