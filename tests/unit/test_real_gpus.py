"""Real GPUs of nodes in SLURM: only those that the node's own driver can show."""

from dataclasses import replace
from pathlib import Path

import pytest

from ai_how.clusters.desired_cluster import DesiredCluster
from ai_how.clusters.observation import Observed
from ai_how.errors import HostError
from ai_how.hpc.identities import build_identities, config_digest, ensure_secrets, slurm_nodes
from ai_how.hpc.kind import SLURM
from ai_how.hpc.plan import plan_start
from ai_how.hpc.real_gpus import check_mig
from ai_how.hpc.steps import AwaitReady
from ai_how.images.manifest import PACKAGES, Image
from ai_how.images.packages import packages_of
from ai_how.state.paths import ClusterPaths, StoragePaths
from ai_how.vm_management.nodes.device_hardware import DeviceHardware
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
OURS = "ai-how-nvidia-modules"


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
        ((OURS, "libnvidia-ml1", "slurm-wlm-nvml-plugin"), "24.11.5", "nvml"),
        ((OURS, "libnvidia-ml1", "slurm-wlm-nvml-plugin"), "22.05.8", "nvml"),
        ((OURS,), "26.05.5", "nvidia"),
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


def test_the_packages_of_an_image_are_read_once_for_all_nodes(tmp_path: Path):
    image = image_with(tmp_path / "image", *NVML)
    found = packages_of(image)
    (image.directory / PACKAGES).unlink()
    assert packages_of(image) == found
    assert "AutoDetect=nvml" in controller_files(draft(image), tmp_path)["etc/slurm/gres.conf"]


def test_running_nodes_hear_of_cards(tmp_path: Path):
    image = image_with(tmp_path / "image", DRIVER)
    assert config_digest(draft(image)) != config_digest(draft(image, "false"))


def test_ready_gives_a_card_to_the_job_of_a_node_that_has_some(tmp_path: Path):
    image = image_with(tmp_path / "image", DRIVER)
    made = draft(image)
    inputs = rendering_of(made, StoragePaths(tmp_path), ClusterPaths(tmp_path), {DIGEST: image})
    [step] = [s for s in plan_start(made, Observed(), inputs).steps if isinstance(s, AwaitReady)]
    assert (step.nodes, step.gpu_nodes) == (("compute-01", "compute-02"), ("compute-01",))


NVML = (DRIVER, "libnvidia-ml1", "slurm-wlm-nvml-plugin")
BY_FILE = f"compute_nodes: [{{{NODE}, gpu: GPU}}, {{{NODE}}}]"


def with_gpu(gpu: str, image: Image | None) -> DesiredCluster:
    made = draft_of(read_hpc(nodes=BY_FILE.replace("GPU", gpu)))
    return replace(made, images={DIGEST: image} if image else {})


def node_files(desired: DesiredCluster, directory: Path) -> tuple[dict[str, str], tuple[str, ...]]:
    paths = ClusterPaths(directory)
    ensure_secrets(desired.state, paths)
    identity = build_identities(desired, paths, has_host_clock=True)["compute-01"]()
    return {one.path: str(one.content) for one in identity.entries()}, identity.services()


@pytest.mark.parametrize("gpu", ["{count: 2}", '{pci: ["0000:65:00.0", "0000:66:00.0"]}'])
def test_cards_by_the_gpu_section_are_counted(tmp_path: Path, gpu: str) -> None:
    ours, other = slurm_nodes(with_gpu(gpu, image_with(tmp_path / "image", DRIVER)))
    assert (ours.gpus, ours.autodetect) == ({"": 2}, "nvidia")
    assert other.gpus == {}
    assert slurm_nodes(with_gpu(gpu, image_with(tmp_path / "other")))[0].gpus == {}


def test_a_node_divides_its_cards_before_slurmd_and_slurm_has_the_slices(tmp_path: Path) -> None:
    image = image_with(tmp_path / "image", *NVML)
    made = with_gpu('{count: 2, mig: {"1g.10gb": 1, "3g.40gb": 1, "2g.20gb": 1}}', image)
    check_mig(made)
    files, services = node_files(made, tmp_path)
    assert files["etc/ai-how/mig"] == "".join(
        f"{card}\t3g.40gb,2g.20gb,1g.10gb\n" for card in (0, 1)
    )
    assert "etc/ai-how/apply-mig" in files
    assert services.index("ai-how-mig.service") < services.index("slurmd.service")
    conf = controller_files(made, tmp_path)
    assert "Gres=gpu:1g.10gb:2,gpu:2g.20gb:2,gpu:3g.40gb:2 " in conf["etc/slurm/slurm.conf"]
    assert "NodeName=compute-01 AutoDetect=nvml" in conf["etc/slurm/gres.conf"]


def test_cards_are_left_alone_without_mig_and_made_whole_where_it_is_empty(tmp_path: Path) -> None:
    image = image_with(tmp_path / "image", *NVML)
    alone, services = node_files(with_gpu("{count: 1}", image), tmp_path)
    assert "etc/ai-how/mig" not in alone
    assert "ai-how-mig.service" not in services
    whole = with_gpu("{count: 1, mig: {}}", image)
    assert node_files(whole, tmp_path)[0]["etc/ai-how/mig"] == "0\t\n"
    assert slurm_nodes(whole)[0].gpus == {"": 1}
    # A running node is told, though SLURM has the same number.
    assert config_digest(whole) != config_digest(with_gpu("{count: 1}", image))


@pytest.mark.parametrize("names", [(), (DRIVER,), NVML[1:]])
def test_slices_need_an_image_that_can_make_and_find_them(tmp_path: Path, names) -> None:
    image = image_with(tmp_path / "image", *names)
    with pytest.raises(HostError, match="compute-01 has `mig`, and its image"):
        check_mig(with_gpu('{count: 1, mig: {"1g.10gb": 1}}', image))
    check_mig(with_gpu("{count: 1}", image))


def test_to_make_cards_whole_takes_their_driver(tmp_path: Path) -> None:
    whole = "{count: 1, mig: {}}"
    check_mig(with_gpu(whole, image_with(tmp_path / "image", DRIVER)))
    with pytest.raises(HostError, match="lacks NVIDIA's driver"):
        check_mig(with_gpu(whole, image_with(tmp_path / "other")))


RADEON, OTHER = "0000:0b:00.0", "0000:66:00.0"


@pytest.mark.parametrize(
    ("gpu", "foreign", "gpus"),
    [
        ("{count: 2}", (RADEON,), {"": 1}),
        ("{count: 2}", (RADEON, OTHER), {}),
        (f'{{pci: ["0000:65:00.0", "{RADEON}"]}}', (RADEON,), {"": 1}),
        ("{count: 1}", (), {"": 1}),
    ],
)
def test_slurm_gets_no_card_of_another_maker(
    tmp_path: Path, gpu: str, foreign: tuple[str, ...], gpus: dict[str, int]
) -> None:
    made = with_gpu(gpu, image_with(tmp_path / "image", DRIVER))
    chosen = {"compute-01": DeviceHardware(foreign=foreign)}
    made = replace(made, device_hardware=chosen)
    ours, _ = slurm_nodes(made)
    assert (ours.gpus, ours.autodetect) == (gpus, "nvidia" if gpus else None)
    assert SLURM.check_software(made) == tuple(
        f"compute-01 has {', '.join(foreign)}, which SLURM does not get: it is no GPU of NVIDIA"
        for _ in foreign[:1]
    )


def test_a_passed_gpu_of_another_maker_is_not_counted_either(tmp_path: Path) -> None:
    made = draft(image_with(tmp_path / "image", DRIVER))
    chosen = {"compute-01": DeviceHardware(foreign=(OTHER,))}
    assert slurm_nodes(replace(made, device_hardware=chosen))[0].gpus == {"": 1}
