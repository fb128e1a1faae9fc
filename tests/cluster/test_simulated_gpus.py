"""docs/simulated-gpus.md as it stands, and what else holds for its cluster. The order matters."""

import re
import signal
from pathlib import Path

import pytest

from ai_how.process import start_daemon
from ai_how.vm_management.saved_machines.store import SavedMachines
from ai_how.waiting import Deadline, wait_until
from pages import DOCS, block_of, commands, run_commands
from real_cluster import ASK_S, START_S, Cluster

pytestmark = [pytest.mark.slurm, pytest.mark.in_order]

PAGE = (DOCS / "simulated-gpus.md").read_text()
FILE = block_of(PAGE, "version:")
ALLOWED, REFUSED = "No such device or address", "Operation not permitted"
# Opens every device file, and says for each what the kernel says.
LOOK = r"""
for file in /dev/nvidia[0-9]* /dev/nvidia-caps/nvidia-cap*; do
  [ ! -e $file ] || cat $file 2>&1
done
echo "$SLURMD_NODENAME $CUDA_VISIBLE_DEVICES"
"""
EIGHT = {f"/dev/nvidia{number}" for number in range(8)}
FAKE = "/var/spool/slurmd/conf-cache/fake_gpus.conf"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory, is_long):
    # One is saved in the background, for the warm start at the end.
    saving = {"AI_HOW_NO_WARM": "0"} if is_long else {}
    made = Cluster(tmp_path_factory.mktemp("gpus"), FILE, **saving)
    made.call("image", "build", timeout_s=START_S)
    for name, start in (("gpus.yaml", "version:"), ("two.sh", "#!/bin/sh"), ("look.sh", "for ")):
        made.file.with_name(name).write_text(block_of(PAGE, start))
    yield made
    made.try_call("hpc", "destroy", "--force")
    made.try_call("host", "down", "--force")


def srun(cluster: Cluster, *words: str) -> tuple[dict[str, set[str]], str]:
    """The device files by what a job is told of them, and its CUDA_VISIBLE_DEVICES."""
    said = cluster.ssh("controller", f"srun {' '.join(words)} sh ./all.sh").splitlines()
    found: dict[str, set[str]] = {ALLOWED: set(), REFUSED: set()}
    for line in said[:-1]:
        path, _, answer = line.removeprefix("cat: ").partition(": ")
        found[answer].add(path)
    return found, said[-1].partition(" ")[2]


def gpus_of(cluster: Cluster) -> dict[str, dict[str, tuple[int, int | None]]]:
    return {
        name: {one["type"]: (one["allotted"], one["count"]) for one in node["gpus"]}
        for name, node in cluster.nodes().items()
    }


def start_with(cluster: Cluster, old: str, new: str) -> list[str]:
    """Start again, with a part of the file changed."""
    text = cluster.file.read_text()
    assert old in text
    cluster.file.write_text(text.replace(old, new))
    return cluster.start()


def test_the_page_shows_what_its_commands_print(cluster):
    shown = list(commands(PAGE))
    assert [command.split()[1] for command, _ in shown] == ["validate", *["hpc"] * 14]
    # What it takes away, the tests below still need.
    assert shown[-1][0].split()[1:3] == ["hpc", "destroy"]
    run_commands(shown[:-1], cluster.file.parent, cluster.state_dir, cluster.env)
    cluster.ssh("controller", "cat > all.sh", stdin=LOOK)


def test_a_job_that_asks_for_no_gpu_can_open_none(cluster):
    for partition in ("cards", "slices"):
        found, visible = srun(cluster, "-p", partition)
        assert found[ALLOWED] == set()
        assert len(found[REFUSED]) == (8 if partition == "cards" else 2 + 2 * 4 * 2)
        assert visible == ""


def test_two_jobs_have_different_gpus_and_each_counts_them_from_0(cluster):
    said = cluster.try_call(
        *("hpc", "ssh", "controller", "--", "salloc --no-shell -n1 --gres=gpu:a100:2")
    ).stderr
    found = re.search(r"Granted job allocation (\d+)", said)
    assert found, said
    first, first_visible = srun(cluster, f"--jobid={found[1]}")
    assert gpus_of(cluster)["compute-01"] == {"a100": (2, 8)}
    second, second_visible = srun(cluster, "-n1", "--gres=gpu:a100:2")
    assert len(first[ALLOWED]) == len(second[ALLOWED]) == 2
    assert not first[ALLOWED] & second[ALLOWED]
    assert first[ALLOWED] | first[REFUSED] == second[ALLOWED] | second[REFUSED] == EIGHT
    assert first_visible == second_visible == "0,1"
    cluster.ssh("controller", "scancel --me")


def test_a_slice_comes_with_its_card_and_without_its_neighbours(cluster):
    found, visible = srun(cluster, "-p", "slices", "--gres=gpu:1g.5gb:1")
    caps = {path for path in found[ALLOWED] if "caps" in path}
    assert len(caps) == 2
    assert len(found[ALLOWED] - caps) == 1
    assert len(found[REFUSED]) == 1 + 2 * 4 * 2 - 2
    listed = cluster.execute("compute-02", "nvidia-smi -L")
    assert visible in re.findall(r"MIG 1g.5gb .*UUID: (MIG-\S+)\)", listed)
    assert len(re.findall("MIG 1g.5gb", listed)) == 6


@pytest.mark.parametrize("asked", ["h100:1", "a100:9"])
def test_slurm_refuses_what_no_node_has(cluster, asked):
    done = cluster.try_call("hpc", "ssh", "controller", "--", f"srun --gres=gpu:{asked} true")
    assert done.returncode != 0
    assert "Requested node configuration is not available" in done.stderr


def test_nodes_know_the_links_between_cards(cluster):
    links = cluster.execute("compute-01", f"cut -d'|' -f4 {FAKE}").split()
    assert links == [",".join("-1" if a == b else "12" for b in range(8)) for a in range(8)]


def test_a_count_that_slurm_refuses_is_shown_and_a_start_mends_it(cluster):
    cluster.execute("compute-01", f"sed -i 1d {FAKE}; systemctl restart slurmd")
    wait_until(
        lambda: cluster.nodes()["compute-01"]["slurm"] == "inval", Deadline.after(ASK_S), "inval"
    )
    why = "gres/gpu count reported lower than configured (7 < 8)"
    assert cluster.nodes()["compute-01"]["slurm_reason"].startswith(why)
    assert not cluster.status()["is_ready"]
    cluster.start()
    assert cluster.status()["is_ready"]
    assert srun(cluster, "--gres=gpu:8")[0] == {ALLOWED: EIGHT, REFUSED: set()}


def test_a_running_node_gets_another_layout(cluster, is_long):
    if not is_long:
        pytest.skip("the next test changes what a node has as well: --long")
    steps = start_with(cluster, "mig: {3g.20gb: 1, 1g.5gb: 3}", "mig: {1g.5gb: 7}")
    assert not [step for step in steps if step.startswith(("boot/", "restore/"))]
    assert gpus_of(cluster)["compute-02"] == {"1g.5gb": (0, 14)}
    found, _ = srun(cluster, "-p", "slices", "--gres=gpu:1g.5gb:14")
    assert len(found[ALLOWED]) == 2 + 2 * 7 * 2
    assert found[REFUSED] == set()


def test_a_running_node_loses_its_gpus_and_gets_them_back(cluster):
    had = "gpu: {simulated: {type: a100, count: 8, links: 12}}"
    start_with(cluster, had, "auto_start: true")
    assert gpus_of(cluster)["compute-01"] == {}
    assert cluster.execute("compute-01", "ls /dev | grep -c 'nvidia[0-9]' || :").strip() == "0"
    assert (
        "not found"
        in cluster.try_call("hpc", "exec", "compute-01", "--", "sh", "-c", "nvidia-smi").stderr
    )
    start_with(cluster, "auto_start: true", had)
    assert cluster.status()["is_ready"]
    assert srun(cluster, "--gres=gpu:8")[0] == {ALLOWED: EIGHT, REFUSED: set()}
    assert cluster.start() == []


def test_nodes_have_the_old_gpus_again_after_a_start_that_was_killed(cluster, is_long):
    if not is_long:
        pytest.skip("tests/driver/test_told_again.py kills at each record: --long")
    text, paths = cluster.file.read_text(), cluster.roots.cluster("gpus")
    cluster.file.write_text(text.replace("count: 8", "count: 4"))
    argv = [*cluster.argv, "-c", str(cluster.file), "hpc", "start"]
    child = start_daemon(argv, log=cluster.file.with_name("killed.log"), env=cluster.env)
    told = {f'"services/gpus-{name}":"made"' for name in ("controller", "compute-01")}
    wait_until(
        lambda: told <= set(re.findall(r'"services/[^"]*":"made"', read_if_there(paths.journal))),
        Deadline.after(START_S),
        "nodes that were told of four GPUs",
    )
    child.send_signal(signal.SIGKILL)
    child.wait()
    cluster.file.write_text(text)
    steps = cluster.start()
    assert {"services/gpus-controller", "services/gpus-compute-01"} <= set(steps)
    assert cluster.status()["is_ready"]
    assert srun(cluster, "--gres=gpu:8")[0] == {ALLOWED: EIGHT, REFUSED: set()}
    assert cluster.start() == []


def read_if_there(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def test_gpus_are_there_again_after_a_stop(cluster, is_long):
    if not is_long:
        pytest.skip("a warm start is given its files in the same way: --long")
    cluster.call("hpc", "stop", timeout_s=START_S)
    assert gpus_of(cluster)["compute-01"] == {"a100": (None, 8)}
    assert "boot/gpus-compute-01" in cluster.start()
    assert cluster.status()["is_ready"]
    assert len(srun(cluster, "--gres=gpu:3")[0][ALLOWED]) == 3
    assert gpus_of(cluster)["compute-02"] == {"1g.5gb": (0, 14)}


def test_gpus_are_there_after_a_warm_start(cluster, is_long):
    if not is_long:
        pytest.skip("a restored node is given its files as a booted one is: --long")
    machines = SavedMachines(cluster.roots.embedded_storage)
    wait_until(machines.list, Deadline.after(START_S), "a saved machine")
    cluster.call("hpc", "destroy", "--force")
    steps = cluster.start()
    assert {"restore/gpus-compute-01", "restore/gpus-compute-02"} <= set(steps)
    assert cluster.status()["is_ready"]
    cluster.ssh("controller", "cat > all.sh", stdin=LOOK)
    assert len(srun(cluster, "--gres=gpu:a100:1")[0][ALLOWED]) == 1
    slices = sum(count for _, count in gpus_of(cluster)["compute-02"].values())
    refused = srun(cluster, "-p", "slices", "--gres=gpu:1")[0][REFUSED]
    assert len(refused) == 1 + (slices - 1) * 2
