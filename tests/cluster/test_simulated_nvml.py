"""Simulated GPUs that SLURM finds by NVML, in a real cluster. The order matters."""

import json
import re

import pytest

from ai_how.waiting import Deadline, wait_until
from real_cluster import ASK_S, START_S, Cluster

pytestmark = [pytest.mark.slurm, pytest.mark.in_order]

FILE = """\
version: "1.0"
images:
  gpus: {with: simulated-gpus}
clusters:
  hpc:
    name: nvml
    base_image_path: gpus
    controller: {cpu_cores: 2, memory_gb: 1, disk_gb: 10}
    compute_nodes:
      - {cpu_cores: 2, memory_gb: 1, disk_gb: 10,
         gpu: {simulated: {type: a100, count: 4, links: 6, nvml: true}}}
      - {cpu_cores: 2, memory_gb: 1, disk_gb: 10,
         gpu: {simulated: {type: a100, count: 2, mig: {3g.20gb: 1, 1g.5gb: 3}, nvml: true}}}
      - {cpu_cores: 2, memory_gb: 1, disk_gb: 10,
         gpu: {simulated: {type: a30, count: 2}}}
"""
TOLD = "gpu: {simulated: {type: a30, count: 2}}"
FOUND = "gpu: {simulated: {type: a30, count: 2, nvml: true}}"
CACHE = "/var/spool/slurmd/conf-cache"
LOOK = """\
import json, os, pynvml
pynvml.nvmlInit()
def facts_of(one):
    return pynvml.nvmlDeviceGetUUID(one)
cards = {}
for number in range(pynvml.nvmlDeviceGetCount()):
    card = pynvml.nvmlDeviceGetHandleByIndex(number)
    slices = range(pynvml.nvmlDeviceGetMaxMigDeviceCount(card))
    cards[facts_of(card)] = [
        facts_of(pynvml.nvmlDeviceGetMigDeviceHandleByIndex(card, one)) for one in slices
    ]
print(json.dumps([cards, os.environ.get("CUDA_VISIBLE_DEVICES", "")]))
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory, is_long):
    if not is_long:
        pytest.skip(
            "tests/integration/test_detected_gpus.py asks the same slurmd without VMs: --long"
        )
    made = Cluster(tmp_path_factory.mktemp("nvml"), FILE)
    made.call("image", "build", timeout_s=START_S)
    made.call("image", "build", "gpus", timeout_s=START_S)
    made.start()
    made.ssh("controller", "cat > look.py", stdin=LOOK)
    yield made
    made.try_call("hpc", "destroy", "--force")
    made.try_call("host", "down", "--force")


def look(cluster, *words):
    """The cards that a job sees by pynvml, with the slices of each, and CUDA_VISIBLE_DEVICES."""
    return json.loads(cluster.ssh("controller", f"srun {' '.join(words)} python3 look.py"))


def start_with(cluster, old, new):
    text = cluster.file.read_text()
    assert old in text
    cluster.file.write_text(text.replace(old, new))
    return cluster.start()


def test_slurm_has_what_it_found(cluster):
    assert cluster.status()["is_ready"]
    counts = {
        name: {one["type"]: one["count"] for one in node["gpus"]}
        for name, node in cluster.nodes().items()
        if name != "controller"
    }
    assert counts == {
        "compute-01": {"a100": 4},
        "compute-02": {"3g.20gb": 2, "1g.5gb": 6},
        "compute-03": {"a30": 2},
    }
    for name, lists in (("compute-01", ["gres.conf"]), ("compute-03", ["fake_gpus.conf"])):
        told = cluster.execute(name, f"cd {CACHE} && grep -l {name} gres.conf; ls fake* || :")
        assert told.split() == lists
    said = cluster.execute("compute-01", "journalctl -b -u slurmd; cat /var/log/slurm/* || :")
    assert "4 GPU system device(s) detected" in said


def test_a_job_sees_its_cards_and_no_other(cluster):
    everything, _ = look(cluster, "-w", "compute-01", "--gres=gpu:4")
    assert len(everything) == 4
    two, visible = look(cluster, "-w", "compute-01", "--gres=gpu:a100:2")
    assert set(two) < set(everything)
    assert (len(two), visible) == (2, "0,1")
    none = cluster.ssh("controller", "srun -w compute-01 python3 look.py")
    assert json.loads(none)[0] == {}


def test_a_job_sees_its_slice_and_the_card_that_it_is_on(cluster):
    everything, _ = look(cluster, "-w", "compute-02", "--gres=gpu:3g.20gb:2,gpu:1g.5gb:6")
    assert [len(slices) for slices in everything.values()] == [4, 4]
    [(card, slices)] = look(cluster, "-w", "compute-02", "--gres=gpu:1g.5gb:1")[0].items()
    _, visible = look(cluster, "-w", "compute-02", "--gres=gpu:1g.5gb:1")
    assert slices == [visible]
    assert visible in everything[card]
    listed = cluster.execute("compute-02", "nvidia-smi -L")
    assert set(re.findall(r"UUID: (MIG-\S+)\)", listed)) == {
        one for slices in everything.values() for one in slices
    }


def test_a_node_that_was_told_finds_its_gpus_itself_and_is_told_again(cluster):
    steps = start_with(cluster, TOLD, FOUND)
    assert not [step for step in steps if step.startswith(("boot/", "restore/"))]
    assert cluster.status()["is_ready"]
    assert len(look(cluster, "-w", "compute-03", "--gres=gpu:a30:2")[0]) == 2
    start_with(cluster, FOUND, TOLD)
    assert cluster.status()["is_ready"]
    said = cluster.ssh("controller", "srun -w compute-03 --gres=gpu:2 python3 look.py 2>&1 || :")
    assert "Driver Not Loaded" in said


def test_a_node_with_other_slices_finds_those(cluster):
    start_with(cluster, "mig: {3g.20gb: 1, 1g.5gb: 3}", "mig: {1g.5gb: 7}")
    assert cluster.status()["is_ready"]
    everything, _ = look(cluster, "-w", "compute-02", "--gres=gpu:1g.5gb:14")
    assert [len(slices) for slices in everything.values()] == [7, 7]


def test_the_gpus_are_found_again_after_a_boot(cluster):
    cluster.call("hpc", "stop", timeout_s=START_S)
    cluster.start()
    assert cluster.status()["is_ready"]
    everything, _ = look(cluster, "-w", "compute-02", "--gres=gpu:1g.5gb:14")
    assert [len(slices) for slices in everything.values()] == [7, 7]


def test_cards_that_are_missing_are_missed(cluster):
    """What SLURM has of a node is what it found there, and not what it was told."""
    cluster.execute("compute-01", "sed -i '/^gpu.3/d' /etc/ai-how/gpus; systemctl restart slurmd")
    wait_until(
        lambda: cluster.nodes()["compute-01"]["slurm"] == "inval", Deadline.after(ASK_S), "inval"
    )
    why = "gres/gpu count reported lower than configured (3 < 4)"
    assert cluster.nodes()["compute-01"]["slurm_reason"].startswith(why)
    cluster.start()
    assert cluster.status()["is_ready"]
