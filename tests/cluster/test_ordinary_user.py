"""A real SLURM cluster for an ordinary user: no root, no group, no KVM, on a stock desktop."""

import os
import pwd
from pathlib import Path

import pytest

from ai_how.images.build import build_default_image
from ai_how.images.store import ImageStore
from ai_how.process import run
from ai_how.state.paths import default_roots
from users import TESTS, made_user, run_as

pytestmark = pytest.mark.slurm

SCRIPT_S = 1800


def test_an_ordinary_user_runs_a_job_across_a_cluster_of_their_own():
    image = build_default_image(ImageStore(default_roots().images))
    with made_user(f"aihow{os.getpid()}c", kept=(".local", ".cache")) as name:
        account = pwd.getpwnam(name)
        # Built by anybody, the recipe gives the same image: a copy saves a minute.
        theirs = Path(account.pw_dir, ".local/share/ai-how/images")
        theirs.mkdir(parents=True)
        run(["cp", "-a", "--reflink=auto", image.directory, theirs])
        run(["chown", "-R", f"{name}:", Path(account.pw_dir, ".local")])
        said = run_as(name, TESTS / "ordinary_cluster.py", timeout_s=SCRIPT_S).stdout
    assert "compute-01" in said.splitlines()
    assert "compute-01: restoring" in said
    assert "there is no cluster hpc" in said
