"""The releases of SLURM: which go together, and what each lacks (pure)."""

import re

from ai_how.clusters.desired_cluster import DesiredCluster
from ai_how.errors import HostError
from ai_how.spec.nodes import Role
from ai_how.state.models import NodeState

# Of these the order is known; since 24.05 there are two a year, in May and in November.
_EARLY = {(22, 5): 0, (23, 2): 1, (23, 11): 2}
_FIRST_YEAR, _BEFORE_IT, _NOVEMBER = 24, 3, 11
_MOST_APART = 2
_NO_PMIX = (26, 5)
_RELOADS_GRES = (23, 11)


def release_of(version: str | None) -> tuple[int, int] | None:
    """The release of a version: (24, 11) of 24.11.5; None where it is not known."""
    found = re.match(r"(\d+)\.(\d+)", version or "")
    return (int(found[1]), int(found[2])) if found else None


def releases_between(older: tuple[int, int], newer: tuple[int, int]) -> int:
    """How many releases later `newer` is; less than 0 where it is the older one."""
    return _number(newer) - _number(older)


def has_pmix(version: str | None) -> bool:
    """Whether Debian's packages of this version have the PMIx plugin, as far as is known."""
    release = release_of(version)
    return release is None or release < _NO_PMIX


def has_pmix_of(desired: DesiredCluster, node: NodeState) -> bool:
    """Whether SLURM of the node's image has PMIx; for one that was prepared, what was found."""
    image = desired.images.get(node.image_digest)
    seen = image.manifest.recipe.get("has_pmix") if image else None
    return has_pmix(slurm_version_of(desired, node)) if seen is None else bool(seen)


def reloads_gres(version: str | None) -> bool:
    """Whether slurmctld of this version takes up other GRES without a restart.

    Since 23.11 a reload is a new process; before, "GresPlugins changed … ignored".
    """
    release = release_of(version)
    return release is None or release >= _RELOADS_GRES


def slurm_version_of(desired: DesiredCluster, node: NodeState) -> str | None:
    """The version of SLURM in the node's image; None where that is not known."""
    image = desired.images.get(node.image_digest)
    return image.manifest.slurm_version if image else None


def check_versions(desired: DesiredCluster) -> None:
    """Raises HostError where a slurmd is newer than slurmctld, or too old for it."""
    controller = desired.state.get_controller()
    ours = slurm_version_of(desired, controller)
    release = release_of(ours)
    if release is None:
        return
    for one in desired.state.nodes:
        theirs = slurm_version_of(desired, one)
        its_release = release_of(theirs)
        if one.role is not Role.COMPUTE or its_release is None:
            continue
        apart = releases_between(its_release, release)
        if 0 <= apart <= _MOST_APART:
            continue
        why = (
            "slurmd must not be newer than slurmctld"
            if apart < 0
            else f"slurmd may be {_MOST_APART} releases older than slurmctld, and is {apart}"
        )
        raise HostError(
            f"SLURM {theirs} of {one.name} and SLURM {ours} of the controller do not go together",
            details=f"{why}.",
            hint="ai-how image list  # then give both an image of one suite, by base_image_path",
        )


def _number(release: tuple[int, int]) -> int:
    if release in _EARLY:
        return _EARLY[release]
    year, month = release
    return _BEFORE_IT + (year - _FIRST_YEAR) * 2 + (month >= _NOVEMBER)
