"""The image of each suite of Debian besides the default one, with that suite's SLURM, in real life.

An image takes a minute and a half to build, and a store of its own sees it built: long runs only.
"""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from ai_how.process import run
from real_cluster import START_S, Cluster

pytestmark = pytest.mark.slurm

NODES = ["compute-01", "compute-02"]
FILE = """\
version: "1.0"
host: {{uri: embedded}}
images:
  mine: {{from: {{suite: {suite}}}}}
clusters:
  hpc:
    name: hpc
    base_image_path: mine
    controller: {{cpu_cores: 1, memory_gb: 1, disk_gb: 5}}
    compute_nodes: {{count: 2, cpu_cores: 1, memory_gb: 1, disk_gb: 5}}
"""
RANKS = """\
from mpi4py import MPI
world = MPI.COMM_WORLD
total = world.allreduce(world.rank + 1)
print(f"rank {world.rank} of {world.size} on {MPI.Get_processor_name()} sum {total}", flush=True)
"""
# How a job starts the ranks: SLURM of forky has no PMIx (see `has_pmix`).
SUITES = {
    "bookworm": ("22.05", "srun -N2 --mpi=pmix python3 ranks.py"),
    "forky": ("26.05", "salloc -N2 mpirun python3 ranks.py"),
}
# What SLURM says of a setting that it does not know, or does not want any more.
COMPLAINT = re.compile(
    r"unrecogni[sz]ed|pars(?:e|ing) error|deprecated|defunct|obsolete|ignor(?:ed|ing)"
    r"|no longer|not supported|invalid (?:option|param|value|type|key)",
    re.IGNORECASE,
)


@pytest.fixture(params=SUITES)
def suite(request: pytest.FixtureRequest, is_long: bool) -> str:
    if not is_long:
        pytest.skip("an image of a suite is built and booted in two minutes: --long")
    return request.param


@pytest.fixture
def cluster(suite: str, tmp_path: Path) -> Iterator[Cluster]:
    data = tmp_path / "data"
    made = Cluster(tmp_path, FILE.format(suite=suite), XDG_DATA_HOME=str(data))
    yield made
    made.try_call("hpc", "destroy", "--force", timeout_s=START_S)
    made.try_call("host", "down", "--force")
    shutil.rmtree(data, ignore_errors=True)


def start_as_told(cluster: Cluster, suite: str) -> None:
    """A start that builds the image. Where the mirror is old, its hint is pasted before another."""
    done = cluster.try_call("hpc", "start", timeout_s=START_S)
    if "the lists of packages are out of date" in done.stderr:
        [hint] = re.findall("^hint: (.*)$", done.stderr, re.MULTILINE)
        assert hint.endswith(f"image build suite:{suite} --allow-expired")
        run(["sh", "-c", hint], env=cluster.env, timeout_s=START_S)
        done = cluster.try_call("hpc", "start", timeout_s=START_S)
    assert done.returncode == 0, done.stderr


def complaints(cluster: Cluster, node: str, unit: str) -> list[str]:
    journal = cluster.execute(node, f"journalctl -b -q -o cat -u {unit}").splitlines()
    assert journal
    return [line for line in journal if COMPLAINT.search(line)]


def test_a_cluster_of_a_suite_runs_jobs_with_that_suites_slurm(cluster: Cluster, suite: str):
    version, mpi = SUITES[suite]
    start_as_told(cluster, suite)
    assert f"hpc: ready, SLURM {version}." in cluster.call("hpc", "status")
    assert f"VERSION_CODENAME={suite}" in cluster.execute("compute-01", "cat /etc/os-release")
    assert sorted(cluster.ssh("controller", "srun -N2 hostname").split()) == NODES
    cluster.ssh("controller", "cat > ranks.py", stdin=RANKS)
    ranks = sorted(cluster.ssh("controller", mpi).splitlines())
    assert ranks == [f"rank {rank} of 2 on {node} sum 3" for rank, node in enumerate(NODES)]
    assert complaints(cluster, "controller", "slurmctld") == []
    assert complaints(cluster, "compute-01", "slurmd") == []
    cluster.call("hpc", "stop", timeout_s=START_S)
    cluster.call("hpc", "start", timeout_s=START_S)
    assert sorted(cluster.ssh("controller", "srun -N2 hostname").split()) == NODES
    cluster.call("hpc", "stop", timeout_s=START_S)
    cluster.call("hpc", "destroy", "--force")
    assert not cluster.paths.root.exists()
