"""What is killed under a real Kubernetes comes back, and nothing that it had is lost."""

import os
import signal
import time
from collections.abc import Iterator

import pytest

from ai_how.libvirt_client.client import LibvirtClient
from ai_how.process import start_daemon
from ai_how.state.cluster_state import read_state
from real_cluster import START_S
from real_kubernetes import PLANE, WORKER, KubernetesCluster, service, web

pytestmark = [pytest.mark.slurm, pytest.mark.long]

BACK_S = 900.0


@pytest.fixture
def kept(sky: KubernetesCluster) -> Iterator[str]:
    """An object that has to be there afterwards: the value of its key `a`."""
    sky.kubectl("create", "configmap", "kept", "--from-literal=a=b")
    yield "b"
    sky.kubectl("delete", "configmap", "kept")


def value_of(sky: KubernetesCluster) -> str:
    done = sky.try_kubectl("get", "configmap", "kept", "-o", "jsonpath={.data.a}")
    return done.stdout


def is_well(sky: KubernetesCluster) -> bool:
    return bool(sky.status()["is_ready"])


@pytest.mark.fault("K01", "SIGKILL to one program at a time")
@pytest.mark.parametrize(
    ("node", "program"),
    [
        (PLANE, "etcd"),
        (PLANE, "kube-apiserver"),
        (PLANE, "kube-controller-manager"),
        (PLANE, "dnsmasq"),
        (WORKER, "kubelet"),
        (WORKER, "containerd"),
        (WORKER, "kube-proxy"),
    ],
)
def test_a_component_that_is_killed_comes_back_by_itself(
    sky: KubernetesCluster, kept: str, node: str, program: str
) -> None:
    old = sky.execute(node, f"pidof {program}").split()[0]
    sky.execute(node, f"kill -KILL {old}")
    sky.await_(
        lambda: sky.execute(node, f"pidof {program} || true").split()[:1] not in ([], [old]),
        "another process",
        BACK_S,
    )
    sky.await_(lambda: value_of(sky) == kept and is_well(sky), "a cluster that is well", BACK_S)


@pytest.mark.fault("K02", "QEMU of a worker is killed under a Pod")
def test_a_node_that_is_lost_is_said_and_comes_back_with_a_start(
    sky: KubernetesCluster, kept: str
) -> None:
    sky.apply(web("there", WORKER), service("there"))
    with LibvirtClient(sky.host.uri) as client:
        state = read_state(sky.paths)
        assert state
        client.destroy_domain(state.get_node(WORKER).uuid)
    seen = {one["name"]: one for one in sky.status()["nodes"]}
    assert seen[WORKER]["state"] == "shut_off"
    assert sky.status()["is_ready"] is False
    sky.start()
    assert is_well(sky)
    assert value_of(sky) == kept
    sky.await_(
        lambda: sky.try_kubectl("exec", "there", "--", "true").returncode == 0, "the Pod", BACK_S
    )
    sky.kubectl("delete", "pod/there", "svc/there", "--force", "--grace-period=0")


@pytest.mark.fault("K03", "a start is killed while its Pods run")
def test_a_start_that_is_killed_in_its_check_leaves_nothing_of_it(
    sky: KubernetesCluster, kept: str
) -> None:
    sky.call("cloud", "stop", WORKER, timeout_s=600)
    argv = [*sky.argv, "-c", str(sky.file), "cloud", "start", WORKER]
    started = start_daemon(argv, log=sky.log)
    try:
        sky.await_(
            lambda: started.poll() is not None or _checks(sky) != "",
            "the Pods of the check",
            BACK_S,
        )
        assert started.poll() is None, "it ended before it could be killed"
    finally:
        os.kill(started.pid, signal.SIGKILL)
        started.wait()
    time.sleep(1)
    sky.call("cloud", "start", timeout_s=START_S)
    assert is_well(sky)
    assert value_of(sky) == kept
    sky.await_(lambda: _checks(sky) == "", "the end of the check's namespace", BACK_S)


def _checks(sky: KubernetesCluster) -> str:
    return sky.try_kubectl("get", "namespace", "ai-how-check", "-o", "name").stdout.strip()
