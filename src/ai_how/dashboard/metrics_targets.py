"""What Prometheus is to scrape of a cluster, for its `file_sd_configs` (pure)."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote


@dataclass(frozen=True, slots=True)
class ScrapedNode:
    """A node, and which exporters it has."""

    name: str
    has_node_exporter: bool = False
    has_gpus: bool = False


def render_targets(cluster: str, endpoint: str, nodes: Sequence[ScrapedNode]) -> str:
    """The JSON. `endpoint` is where `/metrics` is served; the nodes are reached through it.

    It passes their pages on, since on the embedded host nobody else is in their network. The labels
    `job` and `instance` are those that dashboards for these exporters expect.
    """
    found: list[dict[str, object]] = [
        {"targets": [endpoint], "labels": {"job": "ai-how", "instance": endpoint}}
    ]
    for node in nodes:
        path = f"/metrics/nodes/{quote(node.name, safe='')}"
        if node.has_node_exporter:
            found.append(_of_node(endpoint, cluster, node.name, "node", path))
        if node.has_gpus:
            found.append(_of_node(endpoint, cluster, node.name, "dcgm", f"{path}/dcgm"))
    return json.dumps(found, indent=2) + "\n"


def _of_node(endpoint: str, cluster: str, node: str, job: str, path: str) -> dict[str, object]:
    labels = {
        "job": job,
        "instance": f"{cluster}/{node}",
        "cluster": cluster,
        "node": node,
        "__metrics_path__": path,
    }
    return {"targets": [endpoint], "labels": labels}
