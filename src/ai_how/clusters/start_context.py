"""The inputs of a start."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from ai_how.clusters.kind import ClusterKind, ClusterSection
from ai_how.clusters.preflight.capacity import Warn
from ai_how.clusters.preflight.node_images import catalogue_of
from ai_how.host.place import HypervisorHost
from ai_how.images.catalogue import ImageCatalogue
from ai_how.libvirt_client.client import LibvirtClient
from ai_how.spec.models import ClusterFile
from ai_how.state.paths import ClusterPaths, Roots


@dataclass(frozen=True, slots=True, kw_only=True)
class StartContext:
    """The inputs of one start: the spec, the cluster and the host."""

    kind: ClusterKind
    file: ClusterFile
    roots: Roots
    place: HypervisorHost
    client: LibvirtClient
    warn: Warn
    only: Collection[str] = ()
    is_warm: bool = True
    resumes: bool = True
    machine: Path = Path("/")
    """Contains the /sys, /proc and /usr that tell of the host's devices."""

    @property
    def paths(self) -> ClusterPaths:
        return self.roots.cluster(self.section.name)

    @property
    def section(self) -> ClusterSection:
        return self.kind.section_of(self.file)

    @property
    def catalogue(self) -> ImageCatalogue:
        return catalogue_of(self.roots, self.file)
