"""Which releases of SLURM go together in a cluster."""

from dataclasses import replace
from pathlib import Path

import pytest

from ai_how.errors import HostError
from ai_how.hpc.identities import build_identities, ensure_secrets
from ai_how.hpc.versions import check_versions, has_pmix, release_of, releases_between
from ai_how.images.manifest import Image
from ai_how.state.paths import ClusterPaths
from cluster_bench import DIGEST, draft_of, make_image, read_hpc

DRAFT = draft_of(read_hpc())
OTHER = "e" * 64


def with_slurm(image: Image, version: str | None) -> Image:
    return replace(image, manifest=image.manifest.model_copy(update={"slurm_version": version}))


@pytest.mark.parametrize(
    ("older", "newer", "apart"),
    [
        ("22.05.8", "22.05.9", 0),
        ("22.05.8", "23.02.1", 1),
        ("22.05.8", "23.11.1", 2),
        ("23.11.1", "24.05.1", 1),
        ("24.05.1", "24.11.5", 1),
        ("24.11.5", "25.05.0", 1),
        ("24.11.5", "26.05.5", 3),
        ("22.05.8", "24.11.5", 4),
        ("26.05.5", "24.11.5", -3),
    ],
)
def test_releases_are_counted_as_they_came(older, newer, apart):
    assert releases_between(release_of(older), release_of(newer)) == apart


@pytest.mark.parametrize(
    ("controller", "compute", "why"),
    [
        ("24.11.5", "24.11.5", None),
        ("24.11.5", "23.11.1", None),
        ("24.11.5", None, None),
        (None, "22.05.8", None),
        ("24.11.5", "25.05.0", "slurmd must not be newer than slurmctld."),
        (
            "24.11.5",
            "22.05.8",
            "slurmd may be 2 releases older than slurmctld, and is 4.",
        ),
    ],
)
def test_a_slurmd_must_go_with_the_slurmctld(tmp_path: Path, controller, compute, why):
    image = make_image(tmp_path / "image")
    nodes = tuple(
        one if one.name == "controller" else one.model_copy(update={"image_digest": OTHER})
        for one in DRAFT.state.nodes
    )
    desired = replace(
        DRAFT,
        state=DRAFT.state.model_copy(update={"nodes": nodes}),
        images={DIGEST: with_slurm(image, controller), OTHER: with_slurm(image, compute)},
    )
    if why is None:
        check_versions(desired)
        return
    with pytest.raises(HostError) as caught:
        check_versions(desired)
    assert caught.value.brief == (
        f"SLURM {compute} of compute-01 and SLURM {controller} of the controller do not go together"
    )
    assert caught.value.details == why


@pytest.mark.parametrize(
    ("version", "mpi"), [(None, "pmix"), ("24.11.5", "pmix"), ("26.05.5", "none")]
)
def test_the_default_of_mpi_is_one_that_the_version_has(tmp_path: Path, version, mpi):
    image = with_slurm(make_image(tmp_path / "image"), version)
    desired = replace(DRAFT, images={DIGEST: image})
    assert has_pmix(version) is (mpi == "pmix")
    paths = ClusterPaths(tmp_path / "demo")
    ensure_secrets(desired.state, paths)
    identity = build_identities(desired, paths, has_host_clock=True)["controller"]()
    assert f"MpiDefault={mpi}\n" in identity.slurm_conf
