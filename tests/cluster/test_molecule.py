"""The scenario of examples/molecule, run by molecule itself."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from ai_how.process import run

pytestmark = pytest.mark.slurm

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "molecule"
TEST_S = 3600
STEPS = ("create", "converge", "idempotence", "verify", "destroy")


def test_a_role_is_created_converged_verified_and_destroyed(is_long: bool, tmp_path: Path) -> None:
    if not is_long:
        pytest.skip("a cluster of its own and five runs of Ansible: --long")
    role = tmp_path / "notice"
    shutil.copytree(EXAMPLE, role)
    tools = Path(sys.executable).parent
    env = {
        "PATH": f"{tools}:/usr/bin:/bin",
        "XDG_STATE_HOME": str(tmp_path / "state"),
        "AI_HOW_CONNECT": "embedded",
        "AI_HOW_NO_WARM": "0",
        # What molecule remembers of a scenario is else in the home, by the name of its directory.
        "MOLECULE_EPHEMERAL_DIRECTORY": str(tmp_path / "molecule"),
        "ANSIBLE_NOCOLOR": "1",
        "NO_COLOR": "1",
    }
    file = role / "molecule" / "default" / "cluster.yaml"

    def call(tool: str, *words: str | Path) -> str:
        done = run([tools / tool, *words], cwd=role, env=env, check=False, timeout_s=TEST_S)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    try:
        call("ai-how", "image", "warm", file)
        said = call("molecule", "create")
        seen = json.loads(call("ai-how", "hpc", "status", "--json", file))
        said += call("molecule", "test")
    finally:
        run([tools / "ai-how", "host", "down", "--force"], env=env, check=False, timeout_s=TEST_S)
    assert [node["reason"] for node in seen["nodes"]] == ["restored", "restored"]
    for step in STEPS:
        assert f"{step}] Executed: Successful" in said, said
    _, _, repeated = said.split("PLAY [Converge]")
    assert repeated.partition("PLAY [")[0].count("changed=0") == len(seen["nodes"]), said
    assert not (tmp_path / "state" / "ai-how" / "molecule" / "state.json").exists()
