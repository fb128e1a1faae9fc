"""The nodes of a virtual SLURM cluster, by `ai-how hpc inventory`."""

import json
import subprocess
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleParserError
from ansible.plugins.inventory import BaseInventoryPlugin, Constructable

DOCUMENTATION = """
name: nodes
short_description: The nodes of a virtual SLURM cluster
description:
  - Asks C(ai-how hpc inventory) for the nodes of a cluster, its groups, partitions and GPUs.
  - The inventory is a YAML file whose name ends in C(ai_how.yml) or C(ai_how.yaml).
  - Nodes that do not run are in C(all) and in their groups, but in no group that ends in C(_up).
extends_documentation_fragment:
  - constructed
options:
  plugin:
    description: The name of this plugin.
    required: true
    choices: [ai_how.cluster.nodes]
  program:
    description: The program C(ai-how).
    type: str
    default: ai-how
  config:
    description:
      - The cluster file, relative to the inventory file.
      - By default the one that C(ai-how) finds, C(./cluster.yaml).
    type: path
    env: [{name: AI_HOW_CONFIG}]
  cluster:
    description: The name of the cluster; its file is not needed then.
    type: str
    env: [{name: AI_HOW_CLUSTER}]
  state_dir:
    description: The directory for the state of clusters.
    type: path
    env: [{name: AI_HOW_STATE_DIR}]
"""

EXAMPLES = """
plugin: ai_how.cluster.nodes
config: cluster.yaml
groups:
  idle: ai_how_role == 'compute' and ai_how_state == 'running'
"""

LONGEST_S = 300


class InventoryModule(BaseInventoryPlugin, Constructable):
    """Reads the answer to `--list`."""

    NAME = "ai_how.cluster.nodes"

    def verify_file(self, path: str) -> bool:
        """Whether the file is one of ours."""
        return super().verify_file(path) and path.endswith(("ai_how.yml", "ai_how.yaml"))

    def parse(self, inventory: Any, loader: Any, path: str, cache: bool = True) -> None:  # noqa: ANN401, FBT001, FBT002  Ansible's own
        """Add hosts, groups and variables. Raises AnsibleParserError with what ai-how says."""
        super().parse(inventory, loader, path, cache)
        self._read_config_data(path)
        listed = self._ask(Path(path).resolve().parent)
        hosts = listed.pop("_meta")["hostvars"]
        everyone = listed.pop("all")
        for name in everyone["hosts"]:
            inventory.add_host(name)
        for name, value in everyone["vars"].items():
            inventory.set_variable("all", name, value)
        for group, content in listed.items():
            inventory.add_group(group)
            for name in content["hosts"]:
                inventory.add_host(name, group=group)
        is_strict = self.get_option("strict")
        for name, values in hosts.items():
            for key, value in values.items():
                inventory.set_variable(name, key, value)
            known = {**everyone["vars"], **values}
            self._set_composite_vars(self.get_option("compose"), known, name, strict=is_strict)
            self._add_host_to_composed_groups(
                self.get_option("groups"), known, name, strict=is_strict
            )
            self._add_host_to_keyed_groups(
                self.get_option("keyed_groups"), known, name, strict=is_strict
            )

    def _ask(self, directory: Path) -> dict[str, Any]:
        words = [self.get_option("program")]
        if state_dir := self.get_option("state_dir"):
            words += ["--state-dir", state_dir]
        if config := self.get_option("config"):
            words += ["--config", str(directory / config)]
        words += ["hpc", "inventory", "--list"]
        if cluster := self.get_option("cluster"):
            words += ["--cluster", cluster]
        try:
            done = subprocess.run(
                words,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=False,
                text=True,
                timeout=LONGEST_S,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise AnsibleParserError(f"{words[0]} cannot be asked: {error}") from error
        if done.returncode != 0:
            raise AnsibleParserError(f"{words[0]} failed: {done.stderr.strip()}")
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer
