"""One real Kubernetes cluster, of a control plane and a worker, for all tests here.

A test leaves it as it was: all nodes Ready, no objects of its own.
"""

from collections.abc import Iterator

import pytest

from real_cluster import START_S
from real_kubernetes import KubernetesCluster, bundle_with_manifest, file_of, require_bundle


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
