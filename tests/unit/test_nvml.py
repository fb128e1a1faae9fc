"""Nodes with NVML: which images they can have, and what is built for it."""

from dataclasses import replace
from pathlib import Path

import pytest

from ai_how.clusters.desired_cluster import DesiredCluster
from ai_how.errors import HostError
from ai_how.hpc.kind import SLURM
from ai_how.images.blueprint import Blueprint
from ai_how.images.manifest import PACKAGES, Image
from cluster_bench import DIGEST, draft_of, make_image, read_hpc

NODES = (
    "compute_nodes: [{cpu_cores: 4, memory_gb: 1, disk_gb: 10, "
    "gpu: {simulated: {type: a100, count: 2, nvml: NVML}}}]"
)
BOTH = ("ai-how-nvml", "slurm-wlm-nvml-plugin")


def desired_with(image: Image | None, nvml: str) -> DesiredCluster:
    made = draft_of(read_hpc(nodes=NODES.replace("NVML", nvml)))
    return replace(made, images={DIGEST: image} if image else {})


def with_packages(image: Image, *names: str) -> Image:
    lines = [f"{name}\t1\tamd64\t{name}\t1\n" for name in names]
    (image.directory / PACKAGES).write_text("".join(lines))
    manifest = image.manifest.model_copy(update={"packages_sha256": "a" * 64})
    return replace(image, manifest=manifest)


@pytest.mark.parametrize("names", [None, (), BOTH[:1], BOTH[1:]])
def test_an_image_without_nvml_is_refused_with_what_has_it(tmp_path: Path, names):
    image = make_image(tmp_path / "image")
    if names is not None:
        image = with_packages(image, *names)
    with pytest.raises(HostError) as caught:
        SLURM.check_software(desired_with(image, "true"))
    assert caught.value.brief == (
        f"compute-01 has `nvml: true`, and its image {image.name} has no NVML"
    )
    assert caught.value.hint == "images: {gpus: {with: simulated-gpus}}  # in the cluster file"
    SLURM.check_software(desired_with(image, "false"))


def test_an_image_with_nvml_is_accepted(tmp_path: Path):
    image = with_packages(make_image(tmp_path / "image"), *BOTH)
    SLURM.check_software(desired_with(image, "true"))
    SLURM.check_software(desired_with(None, "true"))


def test_the_set_decides_the_image_by_its_source_and_others_are_as_before():
    plain = Blueprint(name="mine", sets=("modules",)).recipe("a" * 64)
    assert "set_scripts" not in plain
    ours = Blueprint(name="mine", sets=("simulated-gpus", "modules"))
    assert set(ours.recipe("a" * 64)["set_scripts"]) == {"simulated-gpus"}
    assert ours.components == ("contrib",)
    assert Blueprint(name="mine", sets=("modules",)).components == ()
