"""Real GPUs of nodes in SLURM: only those that the node's own driver can show."""

from dataclasses import replace
from pathlib import Path

import pytest

from ai_how.clusters.desired_cluster import DesiredCluster
from ai_how.clusters.observation import Observed
from ai_how.hpc.identities import build_identities, config_digest, ensure_secrets, slurm_nodes
from ai_how.hpc.plan import plan_start
from ai_how.hpc.steps import AwaitReady
from ai_how.images.manifest import PACKAGES, Image
from ai_how.state.paths import ClusterPaths, StoragePaths
from cluster_bench import DIGEST, draft_of, make_image, read_hpc, rendering_of

# Two cards, one of them with its audio function, and what is no GPU.
DEVICES = (
    "{pci_address: '0000:65:00.0', device_type: gpu}, "
    "{pci_address: '0000:65:00.1', device_type: audio}, "
    "{pci_address: '0000:66:00.0', device_type: gpu}, "
    "{pci_address: '0000:66:00.1', device_type: gpu}, "
    "{pci_address: '0000:01:00.0', device_type: network}"
)
NODE = "cpu_cores: 4, memory_gb: 1, disk_gb: 10"
NODES = (
    f"compute_nodes: [{{{NODE}, pcie_passthrough: {{enabled: ENABLED, devices: [{DEVICES}]}}}}, "
    f"{{{NODE}}}]"
)
DRIVER = "nvidia-kernel-dkms"


def image_with(directory: Path, *names: str, slurm: str | None = "24.11.5") -> Image:
    image = make_image(directory)
    (directory / PACKAGES).write_text("".join(f"{one}\t1\tamd64\t{one}\t1\n" for one in names))
    update = {"packages_sha256": "a" * 64, "slurm_version": slurm}
    return replace(image, manifest=image.manifest.model_copy(update=update))


def draft(image: Image | None, enabled: str = "true") -> DesiredCluster:
    made = draft_of(read_hpc(nodes=NODES.replace("ENABLED", enabled)))
    return replace(made, images={DIGEST: image} if image else {})


def controller_files(desired: DesiredCluster, directory: Path) -> dict[str, str]:
    paths = ClusterPaths(directory)
    ensure_secrets(desired.state, paths)
    identity = build_identities(desired, paths, has_host_clock=True)["controller"]()
    return {one.path: str(one.content) for one in identity.entries()}


@pytest.mark.parametrize(
    ("names", "slurm", "autodetect"),
    [
        ((DRIVER,), "24.11.5", "nvidia"),
        (("nvidia-open-kernel-dkms",), "26.05.5", "nvidia"),
        (("nvidia-tesla-535-kernel-dkms",), "24.11.5", "nvidia"),
        (("nvidia-dkms-550-server",), "24.11.5", "nvidia"),
        (("kmod-nvidia-latest-dkms",), "24.11.5", "nvidia"),
        ((DRIVER, "libnvidia-ml1", "slurm-wlm-nvml-plugin"), "24.11.5", "nvml"),
        ((DRIVER, "libnvidia-tesla-535-ml1", "slurm-wlm-nvml-plugin"), "22.05.8", "nvml"),
        # Our library knows no card.
        ((DRIVER, "ai-how-nvml", "slurm-wlm-nvml-plugin"), "24.11.5", "nvidia"),
        ((DRIVER,), "22.05.8", None),
        ((DRIVER,), None, None),
        (("libnvidia-ml1", "slurm-wlm-nvml-plugin", "nvidia-settings"), "24.11.5", None),
        ((), "24.11.5", None),
    ],
)
def test_slurm_has_the_cards_that_the_image_can_show(tmp_path: Path, names, slurm, autodetect):
    image = image_with(tmp_path / "image", *names, slurm=slurm)
    ours, other = slurm_nodes(draft(image))
    assert (ours.gpus, ours.autodetect) == (({"": 2}, autodetect) if autodetect else ({}, None))
    assert (other.gpus, other.autodetect) == ({}, None)


def test_cards_are_counted_and_found_and_jobs_are_held_to_theirs(tmp_path: Path):
    made = draft(image_with(tmp_path / "image", DRIVER))
    files = controller_files(made, tmp_path)
    conf = files["etc/slurm/slurm.conf"].splitlines()
    assert "GresTypes=gpu" in conf
    [line] = [one for one in conf if one.startswith("NodeName=compute-01")]
    assert "Gres=gpu:2" in line.split()
    assert files["etc/slurm/gres.conf"].splitlines()[1:] == [
        "NodeName=compute-01 AutoDetect=nvidia"
    ]
    assert "ConstrainDevices=yes\n" in files["etc/slurm/cgroup.conf"]
    # What is saved has no field for them: older versions read it.
    assert all("gpus" not in node for node in made.state.as_record()["nodes"])


@pytest.mark.parametrize(("names", "enabled"), [((), "true"), ((DRIVER,), "false")])
def test_a_card_that_slurm_cannot_find_changes_nothing(tmp_path: Path, names, enabled):
    made = draft(image_with(tmp_path / "image", *names), enabled)
    files = controller_files(made, tmp_path)
    assert "etc/slurm/gres.conf" not in files
    assert "gpu" not in files["etc/slurm/slurm.conf"].lower()
    assert "ConstrainDevices" not in files["etc/slurm/cgroup.conf"]


def test_running_nodes_hear_of_cards(tmp_path: Path):
    image = image_with(tmp_path / "image", DRIVER)
    assert config_digest(draft(image)) != config_digest(draft(image, "false"))


def test_ready_gives_a_card_to_the_job_of_a_node_that_has_some(tmp_path: Path):
    image = image_with(tmp_path / "image", DRIVER)
    made = draft(image)
    inputs = rendering_of(made, StoragePaths(tmp_path), ClusterPaths(tmp_path), {DIGEST: image})
    [step] = [s for s in plan_start(made, Observed(), inputs).steps if isinstance(s, AwaitReady)]
    assert (step.nodes, step.gpu_nodes) == (("compute-01", "compute-02"), ("compute-01",))
