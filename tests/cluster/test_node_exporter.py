"""An image with `node-exporter`: the exporters of its nodes are read through `hpc metrics`.

It builds an image and boots two nodes. Under emulation the first page of a node takes most of a
minute.
"""

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from real_cluster import START_S, Cluster
from real_prometheus import prometheus, served

pytestmark = [pytest.mark.slurm, pytest.mark.long]

FILE = """\
version: "1.0"
host: {uri: embedded}
images: {exporting: {with: [node-exporter]}}
clusters:
  hpc:
    name: hpc
    base_image_path: exporting
    controller: {cpu_cores: 1, memory_gb: 1, disk_gb: 10}
    compute_nodes: {count: 1, cpu_cores: 1, memory_gb: 1, disk_gb: 10}
"""
CONFIG = """\
scrape_configs:
  - job_name: ai-how
    scrape_interval: 60s
    scrape_timeout: 60s
    file_sd_configs:
      - files: ["{directory}/ai-how-*.json"]
"""
NODES = ("controller", "compute-01")
PAGE_S = 120


@pytest.fixture(scope="module")
def exporting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("exporting"), FILE)
    try:
        made.call("image", "build", timeout_s=START_S)
        made.start("--no-warm")
        yield made
    finally:
        made.try_call("hpc", "destroy", "--force")
        made.try_call("host", "down", "--force")


def test_prometheus_gets_the_pages_of_the_nodes_through_us(
    exporting: Cluster, tmp_path: Path
) -> None:
    with served(exporting, tmp_path, "--targets", str(tmp_path)) as url:
        for node in NODES:  # the first page is slow, and then no longer
            with urllib.request.urlopen(f"{url}/nodes/{node}", timeout=PAGE_S) as answer:  # noqa: S310
                families = list(text_string_to_metric_families(answer.read().decode()))
            assert any(one.name == "node_cpu_seconds" for one in families)
        targets = json.loads((tmp_path / "ai-how-hpc.json").read_text())
        assert [one["labels"].get("node") for one in targets] == [None, *NODES]
        with prometheus(tmp_path / "prometheus", CONFIG.format(directory=tmp_path)) as made:
            made.wait_for(
                "the exporters of both nodes",
                lambda: len(made.query('up{job="node"} == 1')) == len(NODES),
                within_s=300,
            )
            found = made.query('node_uname_info{job="node",cluster="hpc"}')
            assert {one["metric"]["node"] for one in found} == set(NODES)
            assert {one["metric"]["nodename"] for one in found} == set(NODES)
