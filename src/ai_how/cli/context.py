"""The global options, for every verb."""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ai_how import console
from ai_how.cli.kinds import Kind

if TYPE_CHECKING:  # verbs without spec and roots do not load them
    from ai_how.host.place import HypervisorHost
    from ai_how.spec.models import ClusterFile
    from ai_how.state.paths import Roots

DEFAULT_FILE = Path("cluster.yaml")


@dataclass(frozen=True, slots=True)
class Context:
    """The global options of one command line."""

    config: Path | None = None
    connect: str | None = None
    state_dir: Path | None = None
    is_json: bool = False
    verbosity: int = 0
    log_file: Path | None = None
    group: Kind | None = None
    """The kind of clusters to whose group the verb belongs; None for all other verbs."""

    @property
    def kind(self) -> Kind:
        """The kind of the cluster that the verb acts on."""
        if self.group is None:
            raise TypeError("the verb is of no kind of cluster")
        return self.group

    def of(self, kind: Kind) -> "Context":
        """The same, for clusters of this kind."""
        return replace(self, group=kind)

    @property
    def roots(self) -> "Roots":
        from ai_how.state.paths import default_roots

        return default_roots(self.state_dir)

    def find_spec_path(self, argument: Path | None) -> Path | None:
        """The argument, else --config, else an existing ./cluster.yaml; None: the built-in default.

        A file that was named is not checked here: reading it reports that it is missing.
        """
        if argument:
            console.note_file(argument)
        if named := argument or self.config:
            return named
        return DEFAULT_FILE if os.path.lexists(DEFAULT_FILE) else None

    def load_spec(self, argument: Path | None = None) -> "tuple[ClusterFile, Path | None]":
        """The spec and its path. Raises SpecError with every problem that it has."""
        from ai_how.spec.reader import default_spec, read_spec

        path = self.find_spec_path(argument)
        if path is None:
            return default_spec(), None
        return read_spec(path, os.environ, copied_from=self._copied_from(path)), path

    def _copied_from(self, path: Path) -> Path | None:
        """The directory of which a cluster's own copy of its file is, where that was kept."""
        above = path.absolute().parent
        if above.parent != self.roots.state or above.name not in self.roots.cluster_names():
            return None
        kept = self.roots.cluster(above.name).spec_directory
        return Path(kept.read_text("utf-8")) if kept.is_file() else None

    def host_uri(self, spec: "ClusterFile") -> str:
        """Where the VMs run: --connect wins over the file."""
        return self.connect or spec.host.uri

    def place_of(self, spec: "ClusterFile") -> "HypervisorHost":
        """The host of the VMs. Raises HostError if it cannot be used."""
        from ai_how.host.place import resolve_host

        return resolve_host(self.host_uri(spec), self.roots)


def context_of(ctx: typer.Context) -> Context:
    """Our context inside Typer's."""
    found = ctx.find_object(Context)
    if found is None:
        raise TypeError("the verb was called without the global options")
    return found
