"""One real Kubernetes cluster, of a control plane and a worker, for all tests here.

A test leaves it as it was: all nodes Ready, no objects of its own.
"""

from collections.abc import Iterator

import pytest

from real_cluster import START_S
from real_kubernetes import (
    PLANE,
    WORKER,
    KubernetesCluster,
    are_ready,
    bundle_with_manifest,
    file_of,
    require_bundle,
    service,
    web,
)


@pytest.fixture(scope="package")
def sky(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubernetesCluster]:
    """The program with a cluster that is up: control-plane-01, worker-01."""
    require_bundle()
    directory = tmp_path_factory.mktemp("kubernetes")
    made = KubernetesCluster(directory, file_of(bundle_with_manifest(directory)))
    try:
        made.call("image", "build", "kubernetes", timeout_s=START_S)
        made.start()
        yield made
    finally:
        made.try_call("cloud", "destroy", "--force")
        made.try_call("host", "down", "--force")


@pytest.fixture
def pods(sky: KubernetesCluster) -> Iterator[dict[str, str]]:
    """A Pod on each node, each with a Service: the addresses of the Services by name."""
    names = {"on-plane": PLANE, "on-worker": WORKER}
    sky.apply(*(web(name, node) for name, node in names.items()), *map(service, names))
    sky.await_(lambda: are_ready(sky, *names), "the Pods")
    yield {one["metadata"]["name"]: one["spec"]["clusterIP"] for one in sky.objects("svc")}
    words = ["--ignore-not-found", "--grace-period=0", "--force"]
    sky.kubectl("delete", *words, *(f"{kind}/{name}" for name in names for kind in ("pod", "svc")))
