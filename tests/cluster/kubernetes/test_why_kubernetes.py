"""`cloud why`: each cause is made on a real node, named first with its evidence, and mended."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from real_kubernetes import PLANE, WORKER, KubernetesCluster, web

pytestmark = [pytest.mark.slurm, pytest.mark.long]

WRONG = 8
FOUND_S, WELL_S = 900.0, 900.0
CERTIFICATE = "/etc/kubernetes/pki/kubelet-client.crt"
Answer = dict[str, Any]


@dataclass(frozen=True)
class Fault:
    """What breaks a node, what mends it, and what is said of it."""

    node: str
    breaks: str
    mends: str
    says: str
    subject: str = ""
    needs_pod: bool = False
    """Whether it shows when the next Pod comes to the worker."""


def certificate(times: str) -> str:
    """Put a certificate with these times in the place of the kubelet's."""
    options = "-newkey ed25519 -nodes -keyout /dev/null -subj /CN=x"
    return (
        f"cp -p {CERTIFICATE} /root/kept.crt && "
        f"openssl req -x509 {options} {times} -out {CERTIFICATE}"
    )


KEPT = f"cp -p /root/kept.crt {CERTIFICATE}"
FILL = "fallocate -l $(($(stat -fc '%a * %S' /) - 120 * 1024 * 1024)) /filler"
FAULTS = {
    "kubelet-down": Fault(
        WORKER, "systemctl stop kubelet", "systemctl start kubelet", "kubelet.service is inactive"
    ),
    "containerd-down": Fault(
        WORKER,
        "systemctl stop containerd",
        "systemctl start containerd kubelet",
        "containerd.service is inactive",
    ),
    "kube-proxy-down": Fault(
        WORKER, "systemctl stop kube-proxy", "systemctl start kube-proxy", "kube-proxy.service is"
    ),
    "controller-manager-down": Fault(
        PLANE,
        "systemctl stop kube-controller-manager",
        "systemctl start kube-controller-manager",
        "kube-controller-manager.service is inactive",
    ),
    "scheduler-down": Fault(
        PLANE,
        "systemctl stop kube-scheduler",
        "systemctl start kube-scheduler",
        "kube-scheduler.service is inactive",
    ),
    "etcd-down": Fault(
        PLANE, "systemctl stop ai-how-etcd", "systemctl start ai-how-etcd", "etcd on control-plane"
    ),
    "dns-down": Fault(
        PLANE, "systemctl stop kube-dns", "systemctl start kube-dns", "kube-dns.service is inactive"
    ),
    "dns-names-down": Fault(
        PLANE,
        "systemctl stop kube-names",
        "systemctl start kube-names",
        "kube-names.service is inactive",
    ),
    "dns-no-answer": Fault(
        PLANE,
        "systemctl kill --signal=STOP kube-dns",
        "systemctl kill --signal=CONT kube-dns",
        "does not answer: timed out",
    ),
    "api-down": Fault(
        PLANE,
        "systemctl stop kube-apiserver",
        "systemctl start kube-apiserver",
        "kube-apiserver.service is inactive",
    ),
    "port-in-use": Fault(
        PLANE,
        "systemctl stop kube-apiserver; systemd-run -q -u thief busybox nc -lk -p 6443 -e true; "
        "systemctl start --no-block kube-apiserver",
        "systemctl stop thief",
        "port 6443 of control-plane-01",
    ),
    "clock-off": Fault(
        WORKER,
        "systemctl stop ai-how-clock chrony; date -s @$(($(date +%s) - 1203))",
        "date -s @$(($(date +%s) + 1203)); systemctl start ai-how-clock chrony",
        "the clock of worker-01 is",
    ),
    "cni-missing": Fault(
        WORKER,
        "mv /etc/cni/net.d/10-ai-how.conflist /root/",
        "mv /root/10-ai-how.conflist /etc/cni/net.d/",
        "the network of Pods is not set up",
    ),
    "certificate-over": Fault(
        WORKER,
        certificate("-not_before 20200101000000Z -not_after 20210101000000Z"),
        KEPT,
        "ended on Jan 1 00:00:00 2021",
    ),
    "certificate-early": Fault(
        WORKER,
        certificate("-not_before 20900101000000Z -not_after 20910101000000Z"),
        KEPT,
        "is valid from Jan 1 00:00:00 2090",
    ),
    "pause-image-missing": Fault(
        WORKER,
        "ctr -n k8s.io images rm registry.k8s.io/pause:ai-how",
        "systemctl restart ai-how-images",
        "pause",
        needs_pod=True,
    ),
    "cgroup-driver": Fault(
        WORKER,
        "sed -i s/SystemdCgroup.*/SystemdCgroup=false/ /etc/containerd/config.toml; "
        "systemctl restart containerd",
        "sed -i s/SystemdCgroup.*/SystemdCgroup=true/ /etc/containerd/config.toml; "
        "systemctl restart containerd",
        "do not agree on the cgroup driver",
        needs_pod=True,
    ),
    "api-unreachable": Fault(
        WORKER,
        "iptables -I OUTPUT -p tcp --dport 6443 -j REJECT",
        "iptables -D OUTPUT -p tcp --dport 6443 -j REJECT",
        "does not reach the API server",
    ),
    "node-not-registered": Fault(
        PLANE,
        f"kubectl --kubeconfig /etc/kubernetes/admin.conf delete node {WORKER}",
        "true",
        "the API knows no node worker-01",
        subject=WORKER,
    ),
    "node-closed": Fault(
        PLANE,
        f"kubectl --kubeconfig /etc/kubernetes/admin.conf cordon {WORKER}",
        f"kubectl --kubeconfig /etc/kubernetes/admin.conf uncordon {WORKER}",
        "somebody closed it",
        subject=WORKER,
    ),
    "root-full": Fault(WORKER, FILL, "rm /filler", "root file system is full"),
}


def why(sky: KubernetesCluster, *words: str) -> Answer:
    done = sky.try_call("cloud", "why", *words, "--json")
    answer = json.loads(done.stdout)
    assert "error" not in answer, answer
    return answer


def await_cause(sky: KubernetesCluster, cause: str) -> Answer:
    """The answer in which it is the first; what the API says of a node may take its time."""
    end = time.monotonic() + FOUND_S
    while True:
        answer = why(sky)
        found = answer["cause"]
        if found and found["id"] == cause:
            return answer
        assert time.monotonic() < end, answer
        time.sleep(5)


@contextmanager
def broken(sky: KubernetesCluster, fault: Fault) -> Iterator[None]:
    """A fault, and a cluster that is well afterwards."""
    try:
        sky.execute(fault.node, fault.breaks)
        if fault.needs_pod:
            sky.apply(web("next", WORKER))
        yield
    finally:
        sky.execute(fault.node, fault.mends)
        if fault.needs_pod:
            sky.kubectl(
                "delete", "pod", "next", "--ignore-not-found", "--force", "--grace-period=0"
            )
        if fault.subject:
            sky.execute(WORKER, "systemctl restart kubelet")
        sky.await_(lambda: sky.status()["is_ready"], "a cluster that is well", WELL_S)


@pytest.mark.parametrize("cause", FAULTS)
def test_what_is_broken_is_the_first_cause(sky: KubernetesCluster, cause: str) -> None:
    fault = FAULTS[cause]
    with broken(sky, fault):
        found = await_cause(sky, cause)["cause"]
        assert found["subject"] == (fault.subject or fault.node)
        assert fault.says in found["text"], found
        assert found["evidence"]
        assert " cloud " in found["remedy"]
    assert "\x1b" not in json.dumps(found)


def test_a_cluster_that_is_well_is_said_to_be_well(sky: KubernetesCluster) -> None:
    end = time.monotonic() + WELL_S
    while not (answer := why(sky))["is_well"]:
        assert time.monotonic() < end, answer
        time.sleep(5)
