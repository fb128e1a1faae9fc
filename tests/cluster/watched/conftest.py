"""One real cluster for all tests of what looks at a cluster: health, why, top, page, metrics.

A test leaves it as it was: all nodes idle, no jobs, no files of its own, no collector.
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
    compute_nodes: {count: 2, cpu_cores: 2, memory_gb: 0.75, disk_gb: 10}
    slurm_config: {partitions: [compute, debug]}
"""


@pytest.fixture(scope="package")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The program with a cluster that is up: controller, compute-01, compute-02."""
    made = Cluster(tmp_path_factory.mktemp("watched"), FILE)
    try:
        made.call("image", "build", timeout_s=START_S)
        made.start()
        yield made
    finally:
        made.try_call("hpc", "destroy", "--force")
        made.try_call("host", "down", "--force")
