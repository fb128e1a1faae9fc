"""Clusters of the bare kind on libvirt's test driver, on a host with cards that is a tree of files.

libvirt's test driver only remembers VMs, and forgets them with the last connection: a bench keeps
one open. It binds no driver either: `Drivers` does that in the tree, as libvirt would.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from ai_how.clusters.manager import ClusterManager
from ai_how.errors import LibvirtError
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
from ai_how.vm_management.context import Timeouts
from ai_how.vm_management.lending import read_driver
from bare_kind import BARE
from cluster_bench import make_image
from gpu_host import AUDIO, NVIDIA, VGA, GpuHost

URI = "test:///default"
CARD, CARD_SOUND = "0000:65:00.0", "0000:65:00.1"
OTHER, OTHER_SOUND = "0000:b3:00.0", "0000:b3:00.1"
BOOT = "8a2f4d0e-0000-4000-8000-000000000001"
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
class Drivers:
    """What libvirt does to the drivers of devices with managed='yes', when VMs start and end."""

    host: GpuHost
    before: dict[str, str | None] = field(default_factory=dict)
    """What libvirt would give each device back to; a new libvirtd knows of none."""
    lost_as: str | None = None
    """How it leaves devices of a VM that ends, `vfio-pci` or `none`; else it gives them back."""
    can_reattach: bool = True
    probed: str | None = "by itself"
    """The driver that the kernel chooses at a reattach; by itself, the right one."""
    reattached: list[str] = field(default_factory=list)
    turn: threading.Lock = field(default_factory=threading.Lock)

    def follow(self, client: LibvirtClient) -> None:
        """After VMs were started or ended."""
        with self.turn:
            self._follow(client)

    def _follow(self, client: LibvirtClient) -> None:
        on = [one for one in client.list_domains() if one.state.is_on]
        used = frozenset().union(*(passed_in(one.xml) for one in on))
        for device in used - self.before.keys():
            self.before[device] = self.of(device)
            self.bind(device, "vfio-pci")
        for device in self.before.keys() - used:
            was = self.before.pop(device)
            match self.lost_as:
                case None:
                    self.bind(device, was)
                case "none":
                    self.bind(device, None)

    def reattach(self, device: str) -> None:
        self.reattached.append(device)
        if not self.can_reattach:
            raise LibvirtError(f"{device} is stuck")
        right = "nvidia" if device.endswith(".0") else "snd_hda_intel"
        self.bind(device, right if self.probed == "by itself" else self.probed)

    def of(self, device: str) -> str | None:
        return read_driver(self.host.root, device)

    def bind(self, device: str, driver: str | None) -> None:
        if driver is None:
            (self.host.device(device) / "driver").unlink(missing_ok=True)
        else:
            self.host.bind(device, driver)


@dataclass
class CardBench:
    """A host with two cards, and clusters on it."""

    directory: Path
    host: GpuHost
    roots: Roots
    client: LibvirtClient
    drivers: Drivers
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
            timeouts=Timeouts(rebind_s=0.05),
        )

    def start(
        self,
        name: str,
        *nodes: str,
        only: Sequence[str] = (),
        dry_run: bool = False,
        on_boundary: OnBoundary | None = None,
    ) -> Plan:
        path = self.file(name, *nodes)
        return self.manager(name, on_boundary).start(
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
    host.write("proc/sys/kernel/random/boot_id", f"{BOOT}\n")
    drivers = Drivers(host)
    for name in ("start_domain", "destroy_domain", "shutdown_domain"):
        monkeypatch.setattr(LibvirtClient, name, followed(getattr(LibvirtClient, name), drivers))
    monkeypatch.setattr(LibvirtClient, "reattach_device", lambda _, one: drivers.reattach(one))
    with LibvirtClient(URI) as client:
        client.list_domains()
        yield CardBench(directory, host, roots, client, drivers)
        for one in client.list_domains():
            if one.name != "test":
                client.destroy_domain(one.uuid)
                client.undefine_domain(one.uuid, snapshots_too=True)
        # A connection that a killed run left open keeps them for the next test.
        for network in client.list_networks():
            if network.name != "default":
                client.destroy_network(network.uuid)
                client.undefine_network(network.uuid)


def followed(call: Callable[..., None], drivers: Drivers) -> Callable[..., None]:
    """A call of the client after which the drivers follow."""

    def both(client: LibvirtClient, *words: object, **more: object) -> None:
        call(client, *words, **more)
        drivers.follow(client)

    return both
