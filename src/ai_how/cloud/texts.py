"""The text of configurations and manifests (pure).

It is JSON, which each reader of YAML reads. Written as YAML, words such as `on` would mean a string
to YAML 1.2, and a truth value to the YAML 1.1 that Kubernetes reads.
"""

import json
from collections.abc import Mapping
from typing import Any

Manifest = Mapping[str, Any]


def render(value: Manifest) -> str:
    """The same text for the same value, in the order of its keys."""
    return json.dumps(value, indent=2) + "\n"
