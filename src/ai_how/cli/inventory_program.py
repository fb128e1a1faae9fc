"""`ai-how-inventory`: an executable inventory for `ansible-playbook -i`."""

import os
import sys

from ai_how.cli import main as run


def main() -> int:
    """Run `ai-how hpc inventory` with our options: `--list`, or `--host NAME`.

    Ansible passes no others, so the cluster is found as everywhere, by AI_HOW_CONFIG or
    ./cluster.yaml, or by AI_HOW_CLUSTER and AI_HOW_STATE_DIR.
    """
    words = ["hpc", "inventory", *sys.argv[1:]]
    for name, option in (("AI_HOW_CLUSTER", "--cluster"), ("AI_HOW_STATE_DIR", "--state-dir")):
        if value := os.environ.get(name):
            words += [option, value]
    return run(words)
