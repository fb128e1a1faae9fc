"""The lives of a few clusters, by the command line, on a libvirt in memory: `whole_life.py DIR`.

Everything that a user could leave lying about is made: state, keys, journals, evidence, reports of
bugs, logs, backups, images. DIR/witness gets what was told to others: XML, guests' commands,
journals as they grew. DIR/home is the user's, and does not exist before.
"""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from uuid import UUID

from ai_how.cli import main
from ai_how.clusters import cleanup, cluster_access, known_cluster
from ai_how.errors import GuestError
from ai_how.host.kvm import kvm_verdict
from ai_how.images.manifest import DISK, Manifest
from ai_how.images.store import ImageStore
from ai_how.libvirt_client.facts import DomainInfo, read_mark
from ai_how.state.paths import default_roots
from cluster_bench import make_image
from fake_libvirt import FakeLibvirt

FILE = """\
version: "1.0"
clusters:
  hpc:
    name: {name}
    base_image_path: tiny
    hardware: {{acceleration: {{enable_kvm: false}}}}
    controller: {{cpu_cores: 1, memory_gb: 0.5, disk_gb: 1}}
    compute_nodes: {{count: 2, cpu_cores: 1, memory_gb: 0.5, disk_gb: 1}}
"""


class Witness(FakeLibvirt):
    """Writes down all that it is told, and the journal at that moment; fails where it should."""

    def __init__(self, directory: Path, state: Path) -> None:
        super().__init__()
        self.directory = directory
        self.state = state
        self.has_a_bug = False

    def __enter__(self) -> "Witness":
        return self

    def __exit__(self, *_: object) -> None:
        """It goes on: the clusters are still there for the next command."""

    def note(self, text: str) -> None:
        with self.lock, (self.directory / "told").open("a") as file:
            file.write(f"{text}\n")
            for journal in self.state.glob("*/journal.jsonl"):
                file.write(journal.read_text())

    def define_domain(self, xml: str) -> DomainInfo:
        self.note(xml)
        return super().define_domain(xml)

    def define_network(self, xml: str) -> object:
        self.note(xml)
        return super().define_network(xml)

    def list_domains(self) -> tuple[DomainInfo, ...]:
        if self.has_a_bug:
            raise RuntimeError(f"nobody thought of this: {self.domains}")
        return super().list_domains()

    def start_domain(self, uuid: UUID, **options: object) -> None:
        super().start_domain(uuid, **options)
        mark = read_mark(self.get_domain(uuid).xml)
        console = self.state / mark.cluster / "console"
        if mark.cluster == "fails" and mark.node == "compute-02":
            raise GuestError("compute-02 is broken", details=f"see {console}")

    def agent_command(self, uuid: UUID, command: Mapping[str, object], timeout_s: float) -> object:
        words = {**command, "arguments": {**command.get("arguments", {}), "input-data": "…"}}
        self.note(str(words))
        mark = read_mark(self.get_domain(uuid).xml)
        if mark.cluster == "bugs" and "become" in str(words):
            raise RuntimeError("nobody thought of this guest")
        return super().agent_command(uuid, command, timeout_s)


def add_image(store: ImageStore, scratch: Path) -> None:
    image = make_image(scratch / "image")
    with store.draft() as draft:
        (draft / DISK).write_bytes(image.disk.read_bytes())
        store.add(draft, Manifest(**image.manifest.model_dump()))


def live(directory: Path) -> None:
    home, witness = directory / "home", directory / "witness"
    os.environ["HOME"] = str(home)
    roots = default_roots()
    add_image(ImageStore(roots.images), directory / "scratch")
    assert kvm_verdict(
        kernel=None, cache=roots.kvm_verdict, device=Path("/dev/null"), boot=directory
    ).works
    libvirt = Witness(witness, roots.state)
    for module in (cluster_access, known_cluster, cleanup):
        module.LibvirtClient = lambda *_, **__: libvirt
    ends = {}

    def do(*words: str, expected: int = 0) -> None:
        loud = ("-vv", "--log-file", str(home / "log.txt"), "--connect", "test:///default")
        code = main([*loud, *words])
        ends[" ".join(words)] = code
        if code != expected:
            sys.exit(f"{words} ended with {code}, not {expected}")

    for name in ("lives", "fails", "bugs", "goes"):
        (directory / f"{name}.yaml").write_text(FILE.format(name=name))
    file = str(directory / "lives.yaml")
    for words in (
        *(("start", file, "--dry-run"), ("start", file), ("start", file)),
        *(("status", file), ("status", "--timings", file), ("ssh-config", "--cluster", "lives")),
        *(("stop", file), ("start", file), ("stop", file, "compute-01"), ("start", file)),
    ):
        do("hpc", *words)
    # Its agent says that whatever it is told has ended at once.
    do("hpc", "exec", "controller", "--cluster", "lives", "--", "hostname", expected=3)
    do("--json", "hpc", "status", file)
    do("hpc", "start", str(directory / "fails.yaml"), expected=4)
    do("hpc", "start", str(directory / "bugs.yaml"), expected=4)
    do("hpc", "start", str(directory / "goes.yaml"))
    do("hpc", "destroy", str(directory / "goes.yaml"), "--force", "--backup", str(home / "kept"))
    libvirt.has_a_bug = True
    do("hpc", "status", file, expected=1)
    do("image", "list")
    (witness / "left").write_text("\n".join(libvirt.content.values()))


if __name__ == "__main__":
    live(Path(sys.argv[1]))
