"""What goes together in the images of a Kubernetes cluster's nodes."""

from ai_how.cloud.identities import find_without_dnsmasq, version_of
from ai_how.cloud.versions import check_etcd
from ai_how.clusters.desired_cluster import DesiredCluster
from ai_how.errors import HostError
from ai_how.images.manifest import Image
from ai_how.images.packages import packages_of
from ai_how.images.sets import DNSMASQ
from ai_how.spec.kubernetes_versions import NEWEST_MINOR, OLDEST_MINOR, Version, check_containerd
from ai_how.spec.roles import Role
from ai_how.state.models import NodeState

MOST_BEHIND = 2
"""A kubelet may be so many minor versions older than the API (kubernetes.io, version skew policy).

It is three from 1.28 on.
"""
MOST_BEHIND_NOW, _NOW = 3, 28


def check_versions(desired: DesiredCluster) -> tuple[str, ...]:
    """Raises HostError where versions do not go together; returns what is not proven, a line each.

    The API server must not be older than a kubelet, and containerd and etcd must fit.
    """
    plane = desired.state.get_controller()
    ours = version_of(desired, plane)
    if ours is None:
        return ()
    if not ours.is_known:
        raise HostError(
            f"Kubernetes {ours} is not known to this version of ai-how",
            details=f"It knows 1.{OLDEST_MINOR} to 1.{NEWEST_MINOR}.",
            hint="set kubernetes_config.version to one of these",
        )
    for one in desired.state.nodes:
        if theirs := version_of(desired, one):
            _check_skew(one, theirs, plane, ours)
        if image := desired.images.get(one.image_digest):
            _check_packages(one, theirs or ours, image)
    said = []
    if early := find_without_dnsmasq(desired):
        said.append(
            f"Pods find no Services by name: the image of {early.name} is of an earlier version, "
            f"without {DNSMASQ}. A cluster that is made anew has DNS"
        )
    if not ours.is_proven:
        said.append(
            f"Kubernetes {ours} was not run in the tests of ai-how: its flags are from its docs"
        )
    return tuple(said)


def _check_skew(one: NodeState, theirs: Version, plane: NodeState, ours: Version) -> None:
    behind = ours.minor - theirs.minor
    most = MOST_BEHIND_NOW if ours.minor >= _NOW else MOST_BEHIND
    if one.role is Role.CONTROLLER:
        most = 0
    if 0 <= behind <= most:
        return
    why = (
        "a node must not be newer than the API"
        if behind < 0
        else f"it may be {most} minor versions older than the API, and is {behind}"
    )
    raise HostError(
        f"Kubernetes {theirs} of {one.name} and {ours} of {plane.name} do not go together",
        details=f"{why}.",
        hint="ai-how image list  # then give both an image of one version, by base_image_path",
    )


def _check_packages(one: NodeState, version: Version, image: Image) -> None:
    packages = {each.name: each.version for each in packages_of(image) or ()}
    found = packages.get("containerd")
    reasons = [check_containerd(version, found.partition("~")[0])] if found else []
    if one.role is Role.CONTROLLER and (found := packages.get("etcd-server")):
        reasons.append(check_etcd(version, found.partition("~")[0]))
    for why in reasons:
        if why:
            raise HostError(
                f"the image {image.name} of {one.name} cannot run Kubernetes",
                details=f"{why}.",
                hint="make the image `from: {suite: forky}`, or choose another version",
            )
