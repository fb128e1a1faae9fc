"""One real cluster for all tests of what users do with a cluster that is up.

A test leaves it as it was: all nodes idle, no jobs, no files of its own, nothing that listens.
"""

from collections.abc import Iterator

import pytest

from real_cluster import START_S, Cluster

FILE = """\
version: "1.0"
host: {uri: embedded}
clusters:
  hpc:
    name: hpc
    controller: {cpu_cores: 1, memory_gb: 1, disk_gb: 10}
    compute_nodes: {count: 2, cpu_cores: 1, memory_gb: 0.75, disk_gb: 10}
"""


@pytest.fixture(scope="package")
def used(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The program with a cluster that is up: controller, compute-01, compute-02."""
    directory = tmp_path_factory.mktemp("used")
    made = Cluster(directory, FILE)
    try:
        made.call("image", "build", timeout_s=START_S)
        made.start()
        yield made
    finally:
        made.try_call("hpc", "destroy", "--force")
        made.try_call("host", "down", "--force")
