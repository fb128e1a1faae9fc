"""Checks of where Kubernetes comes from, and of the images that the nodes of its clusters boot."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from ai_how.spec.images import ImageSpec, is_place, is_url, path_in
from ai_how.spec.kubernetes import IMAGE, KubernetesSourceSpec
from ai_how.spec.kubernetes_versions import Version, check_containerd
from ai_how.spec.models import ClusterFile
from ai_how.spec.problems import Finding, Loc, error_at, warning_at
from ai_how.spec.view import clusters_of

_CONFIG: Loc = ("clusters", "cloud", "kubernetes_config")
_FIELDS = ("version", "bundle", "sha256")
_WITH_CONTAINERD_2 = "forky"
_CONTAINERD = {"bookworm": "1.6.20", "trixie": "1.7.24", _WITH_CONTAINERD_2: "2.1.9"}
"""That of each suite of Debian."""


def check_kubernetes(file: ClusterFile) -> Iterator[Finding]:
    """Yield every contradiction between the fields of `kubernetes` and `kubernetes_config`."""
    for name, image in file.images.items():
        if image.kubernetes:
            loc: Loc = ("images", name, "kubernetes")
            yield from _check_image(name, file.images, image.kubernetes, loc)
    if cloud := file.clusters.cloud:
        config = cloud.kubernetes_config
        if config.distribution == "k3s":
            yield error_at(
                "k3s cannot be started by this version yet; use `upstream`",
                (*_CONFIG, "distribution"),
            )
        yield from _check_source(config, _CONFIG)
        if _is_made_here(file):
            yield from _check_runtime(config.version, None, _CONFIG)
        yield from _check_effect(file, config)
        if config.dns == "bundle" and config.bundle is None and _is_made_here(file):
            yield warning_at(
                "what dl.k8s.io publishes brings no DNS: name a `bundle` with manifests",
                (*_CONFIG, "dns"),
            )
        yield from _check_booted(file)


def bundle_files(file: ClusterFile, directory: Path) -> Iterator[tuple[Loc, Path, bool]]:
    """Each bundle of a file that is a path: its place, its path, and whether it has a digest."""
    places = [(("images", name, "kubernetes"), one.kubernetes) for name, one in file.images.items()]
    sources: list[tuple[Loc, KubernetesSourceSpec | None]] = [*places]
    if cloud := file.clusters.cloud:
        sources.append((_CONFIG, cloud.kubernetes_config))
    for loc, source in sources:
        if source and source.bundle and not is_url(source.bundle):
            yield (*loc, "bundle"), path_in(directory, source.bundle), source.sha256 is not None


def boots_own_image(file: ClusterFile) -> bool:
    """Whether a node boots the image that a file with a Kubernetes cluster has by itself."""
    return file.clusters.cloud is not None and any(
        name in (None, IMAGE) for _, name in _images_of_nodes(file)
    )


def _is_made_here(file: ClusterFile) -> bool:
    """Whether a node boots the image that `kubernetes_config` describes."""
    return IMAGE not in file.images and boots_own_image(file)


def _check_image(
    name: str, images: Mapping[str, ImageSpec], source: KubernetesSourceSpec, loc: Loc
) -> Iterator[Finding]:
    if not (source.version or source.bundle):
        yield error_at("one of `version` and `bundle` is required", loc)
    else:
        yield from _check_source(source, loc)
    road = _road(name, images)
    before = next((one for one in road[1:] if images[one].kubernetes), None)
    if before:
        yield error_at(f"{before}, which it is made from, has Kubernetes already", loc)
    suite = images[road[-1]].from_.suite
    yield from _check_runtime(source.version, suite, loc)


def _check_source(source: KubernetesSourceSpec, loc: Loc) -> Iterator[Finding]:
    if source.bundle and is_url(source.bundle) and not source.sha256:
        yield error_at("a URL needs the `sha256` of its file", (*loc, "bundle"), (*loc, "sha256"))
    if source.sha256 and not (source.version or source.bundle):
        yield error_at("belongs to `bundle` or `version`", (*loc, "sha256"))


def _check_runtime(version: str | None, suite: str | None, loc: Loc) -> Iterator[Finding]:
    """What the suite's containerd does not speak; other bases are not known here."""
    if version is None:
        return
    place = (*loc, "version")
    if check_containerd(Version.parse(version), _CONTAINERD[suite or "trixie"]) is None:
        return
    if suite == _WITH_CONTAINERD_2:
        yield error_at(
            f"Kubernetes before 1.23 does not speak with containerd 2 of {suite}; use "
            "`from: default`",
            place,
            (*loc[:2], "from"),
        )
    else:
        yield warning_at(
            "Kubernetes from 1.36 on needs containerd 2, which of Debian's suites only "
            f"{_WITH_CONTAINERD_2} has: `images: {{{IMAGE}: {{from: {{suite: "
            f"{_WITH_CONTAINERD_2}}}, kubernetes: {{version: {version}}}}}}}`",
            place,
        )


def _check_effect(file: ClusterFile, config: KubernetesSourceSpec) -> Iterator[Finding]:
    """Fields that decide nothing, as the nodes boot an image that the file describes."""
    given = [key for key in _FIELDS if getattr(config, key) is not None]
    if IMAGE in file.images:
        told = f"`images.{IMAGE}` decides it"
    elif not boots_own_image(file):
        told = "the images that the nodes boot decide it"
    else:
        return
    yield from (error_at(f"has no effect: {told}", (*_CONFIG, key)) for key in given)


def _check_booted(file: ClusterFile) -> Iterator[Finding]:
    for loc, name in _images_of_nodes(file):
        if name is None or is_place(name):
            continue
        road = _road(name, file.all_images)
        is_known = name == "default" or (road and _is_built_in(road[-1], file.all_images))
        if is_known and not any(file.all_images[one].kubernetes for one in road):
            yield error_at(
                f"{name} has no Kubernetes: leave the field out, or name an image with "
                "`kubernetes`",
                loc,
                ("images", name),
            )


def _images_of_nodes(file: ClusterFile) -> Iterator[tuple[Loc, str | None]]:
    """What the nodes of the Kubernetes cluster boot, and the field that says so."""
    for cluster in clusters_of(file):
        if cluster.spec is not file.clusters.cloud:
            continue
        usual = cluster.spec.base_image_path
        for node in cluster.nodes:
            own = node.spec.base_image_path
            loc = node.loc if own is not None else cluster.loc
            yield (*loc, "base_image_path"), own if own is not None else usual


def _road(name: str, images: Mapping[str, ImageSpec]) -> list[str]:
    """The image and those of the file that it is made from; each once, also in a circle."""
    road: list[str] = []
    here: str | None = name
    while here is not None and here in images and here not in road:
        road.append(here)
        here = images[here].from_.name
    return road


def _is_built_in(name: str, images: Mapping[str, ImageSpec]) -> bool:
    """Whether it is made from an image of which it is known that it has no Kubernetes."""
    base = images[name].from_
    return base.suite is not None or base.name == "default"
