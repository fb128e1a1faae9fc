"""The scenario of examples/molecule, run by molecule itself."""

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
        "ANSIBLE_NOCOLOR": "1",
    }
    try:
        done = run([tools / "molecule", "test"], cwd=role, env=env, check=False, timeout_s=TEST_S)
        assert done.returncode == 0, done.stdout + done.stderr
    finally:
        run([tools / "ai-how", "host", "down", "--force"], env=env, check=False, timeout_s=TEST_S)
    said = done.stdout + done.stderr
    for step in STEPS:
        assert step in said
    assert "Idempotence completed successfully" in said
    assert not (tmp_path / "state" / "ai-how" / "molecule" / "state.json").exists()
