"""Clusters of the bare kind on libvirt's test driver, on a host with cards that is a tree of files.

libvirt's test driver only remembers VMs, and forgets them with the last connection: a bench keeps
one open. It binds no driver either; a test does that itself, as libvirt would.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from ai_how.clusters.manager import ClusterManager
from ai_how.images.manifest import DISK
from ai_how.images.store import ImageStore
from ai_how.libvirt_client.client import LibvirtClient
from ai_how.libvirt_client.host_devices import passed_in
from ai_how.plan.journal import OnBoundary
from ai_how.plan.step import Plan
from ai_how.spec.models import ClusterFile
from ai_how.spec.reader import read_spec
from ai_how.state.cluster_state import read_state
from ai_how.state.paths import Roots, default_roots
from bare_kind import BARE
from cluster_bench import make_image
from gpu_host import AUDIO, NVIDIA, VGA, GpuHost

URI = "test:///default"
CARD, CARD_SOUND = "0000:65:00.0", "0000:65:00.1"
OTHER, OTHER_SOUND = "0000:b3:00.0", "0000:b3:00.1"
FILE = """\
version: "1.0"
clusters:
  hpc:
    name: {name}
    base_image_path: tiny
    controller: {{cpu_cores: 1, memory_gb: 1, disk_gb: 1}}
    compute_nodes:
"""
NODE = "      - {{cpu_cores: 1, memory_gb: 1, disk_gb: 1{more}}}\n"


@dataclass
class CardBench:
    """A host with two cards, and clusters on it."""

    directory: Path
    host: GpuHost
    roots: Roots
    client: LibvirtClient
    warnings: list[str] = field(default_factory=list)

    def file(self, name: str, *nodes: str) -> Path:
        """A cluster file; `nodes` are further fields of each compute node."""
        path = self.directory / f"{name}.yaml"
        rows = "".join(NODE.format(more=f", {one}" if one else "") for one in nodes)
        path.write_text(FILE.format(name=name) + rows)
        return path

    def spec(self, name: str, *nodes: str) -> ClusterFile:
        return read_spec(self.file(name, *nodes), {})

    def manager(self, name: str, on_boundary: OnBoundary | None = None) -> ClusterManager:
        return ClusterManager(
            kind=BARE,
            roots=self.roots,
            name=name,
            connect=URI,
            machine=self.host.root,
            warn=self.warnings.append,
            on_boundary=on_boundary,
        )

    def start(
        self, name: str, *nodes: str, only: Sequence[str] = (), dry_run: bool = False
    ) -> Plan:
        path = self.file(name, *nodes)
        return self.manager(name).start(
            read_spec(path, {}), source=path, only=only, dry_run=dry_run
        )

    def passed(self, vm: str) -> list[str]:
        """The PCI devices of a VM as libvirt has it."""
        seen = self.client.find_domain_by_name(vm)
        return sorted(passed_in(seen.xml)) if seen else []

    def cards(self, cluster: str, node: str) -> tuple[str, ...] | None:
        """What is remembered of a node's choice."""
        state = read_state(self.roots.cluster(cluster))
        return state.get_node(node).cards if state else None


@contextmanager
def card_bench(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[CardBench]:
    monkeypatch.setenv("HOME", str(directory))
    for name in ("XDG_DATA_HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(directory))
    monkeypatch.setattr("ai_how.gpu.nvidia_smi.find_tool", lambda _name: None)
    roots = default_roots(directory / "state")
    image, store = make_image(directory / "image"), ImageStore(roots.images)
    with store.draft() as draft:
        (draft / DISK).write_bytes(image.disk.read_bytes())
        store.add(draft, image.manifest)
    host = GpuHost(directory / "host")
    host.add_geforce(driver="nvidia")
    host.add(OTHER, (NVIDIA, 0x2684), VGA, group=13, driver="nvidia")
    host.add(OTHER_SOUND, (NVIDIA, 0x22BA), AUDIO, group=13, driver="snd_hda_intel")
    with LibvirtClient(URI) as client:
        client.list_domains()
        yield CardBench(directory, host, roots, client)
