"""What can be wrong with Kubernetes on a node: ids, severities, meanings, remedies.

An id is never changed or reused. docs/troubleshooting.md lists them all.
"""

from collections.abc import Mapping
from enum import StrEnum

from ai_how.clusters.diagnosis import catalogue
from ai_how.clusters.diagnosis.catalogue import CRITICAL, NOTICE, WARNING, Entry


class KubernetesCause(StrEnum):
    """The ids of what keeps a node from being Ready."""

    CLOCK_OFF = "clock-off"
    CERTIFICATE_OVER = "certificate-over"
    CERTIFICATE_EARLY = "certificate-early"
    CERTIFICATE_SOON = "certificate-soon"
    ETCD_DOWN = "etcd-down"
    ETCD_NO_QUORUM = "etcd-no-quorum"
    ETCD_FULL = "etcd-full"
    PORT_IN_USE = "port-in-use"
    API_DOWN = "api-down"
    API_UNREACHABLE = "api-unreachable"
    MANAGER_DOWN = "controller-manager-down"
    SCHEDULER_DOWN = "scheduler-down"
    CONTAINERD_DOWN = "containerd-down"
    CNI_MISSING = "cni-missing"
    PAUSE_MISSING = "pause-image-missing"
    CGROUP_DRIVER = "cgroup-driver"
    KUBELET_DOWN = "kubelet-down"
    PROXY_DOWN = "kube-proxy-down"
    DNS_DOWN = "dns-down"
    DNS_NAMES_DOWN = "dns-names-down"
    DNS_NO_ANSWER = "dns-no-answer"
    DISK_PRESSURE = "disk-pressure"
    MEMORY_PRESSURE = "memory-pressure"
    NOT_REGISTERED = "node-not-registered"
    NOT_READY = "node-not-ready"
    CLOSED = "node-closed"


KUBERNETES: Mapping[str, Entry] = {
    KubernetesCause.CLOCK_OFF: Entry(
        CRITICAL,
        "the clock of the node differs: certificates and leases are judged by it",
        "ai-how {kind} start",
    ),
    KubernetesCause.CERTIFICATE_OVER: Entry(
        CRITICAL, "a certificate of the node is over", "ai-how {kind} start --rotate-certs"
    ),
    KubernetesCause.CERTIFICATE_EARLY: Entry(
        CRITICAL,
        "a certificate of the node is not valid yet: a clock was set back",
        "ai-how {kind} start --rotate-certs",
    ),
    KubernetesCause.CERTIFICATE_SOON: Entry(
        WARNING, "a certificate of the node ends soon", "ai-how {kind} start --rotate-certs"
    ),
    KubernetesCause.ETCD_DOWN: Entry(
        CRITICAL,
        "etcd, the database of the API, does not run",
        "ai-how {kind} logs {node} -u ai-how-etcd",
    ),
    KubernetesCause.ETCD_NO_QUORUM: Entry(
        CRITICAL,
        "etcd has no leader: more than half of the control planes must be up",
        "ai-how {kind} start",
    ),
    KubernetesCause.ETCD_FULL: Entry(
        CRITICAL,
        "etcd has no room, and takes no changes",
        "ai-how {kind} exec {node} -- df -h /var/lib/etcd",
    ),
    KubernetesCause.PORT_IN_USE: Entry(
        CRITICAL,
        "another program has the port of a component",
        "ai-how {kind} exec {node} -- ss -ltnp",
    ),
    KubernetesCause.API_DOWN: Entry(
        CRITICAL, "the API server does not answer", "ai-how {kind} logs {node} -u kube-apiserver"
    ),
    KubernetesCause.API_UNREACHABLE: Entry(
        CRITICAL,
        "the node does not reach the API server",
        "ai-how {kind} exec {node} -- ping -c 3 {plane}",
    ),
    KubernetesCause.MANAGER_DOWN: Entry(
        CRITICAL,
        "the controller manager does not run: nothing follows what is asked for",
        "ai-how {kind} exec {node} -- systemctl restart kube-controller-manager",
    ),
    KubernetesCause.SCHEDULER_DOWN: Entry(
        CRITICAL,
        "the scheduler does not run: new Pods stay Pending",
        "ai-how {kind} exec {node} -- systemctl restart kube-scheduler",
    ),
    KubernetesCause.CONTAINERD_DOWN: Entry(
        CRITICAL,
        "containerd does not run: no container starts",
        "ai-how {kind} exec {node} -- systemctl restart containerd",
    ),
    KubernetesCause.CNI_MISSING: Entry(
        CRITICAL,
        "the network of Pods is not set up on the node",
        "ai-how {kind} start  # gives the node its files again",
    ),
    KubernetesCause.PAUSE_MISSING: Entry(
        CRITICAL,
        "the image that every Pod needs is not on the node, and none is downloaded",
        "ai-how {kind} exec {node} -- systemctl restart ai-how-images",
    ),
    KubernetesCause.CGROUP_DRIVER: Entry(
        CRITICAL,
        "kubelet and containerd do not agree on who makes cgroups",
        "ai-how {kind} exec {node} -- grep SystemdCgroup /etc/containerd/config.toml",
    ),
    KubernetesCause.KUBELET_DOWN: Entry(
        CRITICAL,
        "the kubelet does not run",
        "ai-how {kind} exec {node} -- systemctl restart kubelet",
    ),
    KubernetesCause.PROXY_DOWN: Entry(
        CRITICAL,
        "kube-proxy does not run: Services are not reached from the node",
        "ai-how {kind} exec {node} -- systemctl restart kube-proxy",
    ),
    KubernetesCause.DNS_DOWN: Entry(
        CRITICAL,
        "the DNS server of Pods does not run",
        "ai-how {kind} logs {node} -u kube-dns",
    ),
    KubernetesCause.DNS_NAMES_DOWN: Entry(
        CRITICAL,
        "what tells the DNS server of new Services does not run",
        "ai-how {kind} logs {node} -u kube-names",
    ),
    KubernetesCause.DNS_NO_ANSWER: Entry(
        CRITICAL,
        "the DNS server of Pods does not answer, or does not know the cluster's names",
        "ai-how {kind} exec {node} -- systemctl restart kube-names kube-dns",
    ),
    KubernetesCause.DISK_PRESSURE: Entry(
        CRITICAL,
        "the node has too little room, and evicts Pods",
        "ai-how {kind} exec {node} -- df -h /",
    ),
    KubernetesCause.MEMORY_PRESSURE: Entry(
        WARNING,
        "the node has too little memory, and evicts Pods",
        "ai-how {kind} exec {node} -- free -m",
    ),
    KubernetesCause.NOT_REGISTERED: Entry(
        CRITICAL, "the API knows no such node", "ai-how {kind} logs {node} -u kubelet"
    ),
    KubernetesCause.NOT_READY: Entry(
        CRITICAL, "the node is NotReady", "ai-how {kind} logs {node} -u kubelet"
    ),
    KubernetesCause.CLOSED: Entry(
        NOTICE,
        "the node takes no new Pods: somebody closed it",
        "ai-how {kind} kubectl -- uncordon {node}",
    ),
}

CATALOGUE: Mapping[str, Entry] = {**catalogue.CATALOGUE, **KUBERNETES}
"""All that can be found in a Kubernetes cluster."""
