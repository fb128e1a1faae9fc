"""`ai-how-inventory`: an executable inventory for `ansible-playbook -i`."""

import os
import sys

from ai_how.cli import main as run


def main() -> int:
    """Run `ai-how hpc inventory` with our options: `--list`, or `--host NAME`.

    Ansible passes no others, so the cluster is found as everywhere, by AI_HOW_CONFIG,
    AI_HOW_CLUSTER or ./cluster.yaml; AI_HOW_STATE_DIR stands for --state-dir.
    """
    words = ["hpc", "inventory", *sys.argv[1:]]
    if state_dir := os.environ.get("AI_HOW_STATE_DIR"):
        words += ["--state-dir", state_dir]
    return run(words)
