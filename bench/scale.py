#!/usr/bin/env python3
"""What a cluster's life costs ai-how itself, by its number of nodes: `bench/scale.py 4 16 64 256`.

Libvirt is its own test driver, in this process; disks, keys, state and journal are real, and the
guests do at once whatever they are told. So what is left is our own share, and what is written to
disk: what grows faster than the nodes shows. Run it with the project's Python; `--json FILE` keeps
the figures.
"""

import argparse
import base64
import io
import itertools
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from uuid import UUID

import libvirt

from ai_how.cli.cluster_view import show_status
from ai_how.cli.kinds import HPC
from ai_how.clusters.observation import observe
from ai_how.clusters.plan_runner import PlanRunner
from ai_how.clusters.plans.destroy import plan_destroy
from ai_how.clusters.preflight import capacity
from ai_how.clusters.start import prepare_start
from ai_how.clusters.start_context import StartContext
from ai_how.clusters.status import find_disk_problems, status_of
from ai_how.console.live_nodes import LiveNodes
from ai_how.host.place import resolve_host
from ai_how.hpc.kind import SLURM
from ai_how.hpc.stop_plan import plan_stop
from ai_how.images.copying import sha256_of
from ai_how.images.manifest import DISK, Manifest
from ai_how.images.store import ImageStore
from ai_how.libvirt_client.client import LibvirtClient
from ai_how.libvirt_client.vm_state import VmState
from ai_how.process import run
from ai_how.spec.reader import read_spec_text
from ai_how.state.cluster_state import read_state
from ai_how.state.models import ClusterState
from ai_how.state.paths import Roots, default_roots, ensure_private_directory
from ai_how.vm_management.context import Timeouts
from ai_how.vm_management.disks.manager import DiskManager
from ai_how.vm_management.disks.space import SpaceReport
from ai_how.waiting import Deadline

NODES = (4, 16, 64, 256)
SPEC = """\
version: "1.0"
clusters:
  hpc:
    name: hpc
    base_image_path: tiny
    hardware: {{acceleration: {{enable_kvm: false}}}}
    controller: {{cpu_cores: 1, memory_gb: 0.5, disk_gb: 1}}
    compute_nodes: {{count: {computes}, cpu_cores: 1, memory_gb: 0.5, disk_gb: 1}}
"""
TEST_NODE = "<node><memory>4294967296</memory></node>"  # in KiB: more than any cluster asks for
# What is replaced while we measure: a module of libvirt's own, and a look at the host.
LIBRARY, CHECK = "libvirtmod", "check_space"
READ, PLAN, START, STATUS, AGAIN, STOP, DESTROY = (
    *("read file", "plan", "start", "status", "start again", "stop", "destroy"),
)


class Obedient(LibvirtClient):
    """A client whose guests are there as soon as their VM runs, and do all that they are told."""

    def wait_for_agent(
        self, uuid: UUID, deadline: Deadline, stop: threading.Event | None = None
    ) -> None:
        self.get_domain(uuid)

    def agent_command(
        self, uuid: UUID, command: Mapping[str, object], timeout_s: float = 5
    ) -> object:
        match command:
            case {"execute": "guest-get-time"}:
                return time.time_ns()
            case {"execute": "guest-exec", "arguments": {"path": path, "arg": words}}:
                if words == ["poweroff"]:
                    self.destroy_domain(uuid)
                return {"pid": 2 if path == "sinfo" else 1}
            case {"execute": "guest-exec-status", "arguments": {"pid": pid}}:
                said = self._sinfo() if pid == 2 else ""  # noqa: PLR2004
                data = base64.b64encode(said.encode()).decode()
                return {"exited": True, "exitcode": 0, "out-data": data}
        return {}

    def _sinfo(self) -> str:
        return "".join(
            f"{one.mark.node}|{'idle' if one.state is VmState.RUNNING else 'down*'}|none\n"
            for one in self.list_domains()
            if one.mark and one.mark.node != "controller"
        )


class CountedCalls:
    """libvirt's C library, with a count of the calls to it, save those of its event loop."""

    def __init__(self) -> None:
        self._library = getattr(libvirt, LIBRARY)
        self._next = itertools.count()

    def __getattr__(self, name: str) -> object:
        found = getattr(self._library, name)
        if not callable(found) or name.startswith("virEvent"):
            return found

        def counted(*words: object) -> object:
            next(self._next)
            return found(*words)

        return counted

    def read(self) -> int:
        """How many there were; reading counts as one."""
        return next(self._next)

    def __enter__(self) -> "CountedCalls":
        setattr(libvirt, LIBRARY, self)
        return self

    def __exit__(self, *_: object) -> None:
        setattr(libvirt, LIBRARY, self._library)


@contextmanager
def plenty_of_room() -> Iterator[None]:
    """No disk is ever written to, so what all would need of the host is not asked."""
    real = getattr(capacity, CHECK)
    setattr(capacity, CHECK, lambda *_, **__: SpaceReport(0, 0, 0, None))
    try:
        yield
    finally:
        setattr(capacity, CHECK, real)


@dataclass
class Figures:
    """What one cluster cost; CPU seconds are ours and, apart, those of the programs that we ran."""

    nodes: int
    cpu_s: dict[str, float] = field(default_factory=dict)
    programs_cpu_s: dict[str, float] = field(default_factory=dict)
    wall_s: dict[str, float] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)
    steps: int = 0
    xml_bytes: int = 0
    journal_bytes: int = 0
    state_bytes: int = 0
    status_bytes: int = 0
    identity_bytes: int = 0
    """All nodes' archives: each holds /etc/hosts, so they grow with the square."""


@dataclass
class Bench:
    """One cluster on the test driver, in directories of its own."""

    root: Path
    figures: Figures
    calls: CountedCalls

    @property
    def roots(self) -> Roots:
        own = {"data": self.root / "data", "cache": self.root / "cache"}
        return replace(default_roots(self.root / "state"), **own)

    def measure(self, what: str, act: Callable[[], object]) -> None:
        """Do it once, and keep what it cost."""
        before, calls, began = os.times(), self.calls.read(), time.monotonic()
        act()
        after, wall_s = os.times(), time.monotonic() - began
        self.figures.calls[what] = self.calls.read() - calls - 1
        own_s = after.user + after.system - before.user - before.system
        programs_s = sum(after[2:4]) - sum(before[2:4])
        self.figures.cpu_s[what] = round(own_s, 3)
        self.figures.programs_cpu_s[what] = round(programs_s, 3)
        self.figures.wall_s[what] = round(wall_s, 3)


def add_image(store: ImageStore) -> None:
    """An image of 1 MiB by the name tiny, that calls itself one for SLURM nodes."""
    with store.draft() as draft:
        run(["qemu-img", "create", "-q", "-f", "qcow2", draft / DISK, "1M"])
        store.add(
            draft,
            Manifest.model_validate(
                {
                    "digest": "0" * 64,
                    "name": "tiny",
                    "created_at": "2026-01-01T00:00:00Z",
                    "virtual_size_bytes": 2**20,
                    "disk_sha256": sha256_of(draft / DISK),
                    "identity": "agent",
                }
            ),
        )


def live(bench: Bench, client: LibvirtClient) -> None:
    """A cluster's life, verb by verb."""
    figures, roots = bench.figures, bench.roots
    paths = roots.cluster("hpc")
    ensure_private_directory(roots.state)
    ensure_private_directory(paths.root)
    text = SPEC.format(computes=figures.nodes - 1)
    bench.measure(READ, lambda: read_spec_text(text, "cluster.yaml", {}))
    spec, problems = read_spec_text(text, "cluster.yaml", {})
    if spec is None:
        raise ValueError(problems)
    place = resolve_host(f"test://{bench.root / 'node.xml'}", roots)
    carrier = PlanRunner(
        roots=roots,
        paths=paths,
        kind=SLURM,
        place=place,
        client=client,
        observer=LiveNodes(
            "hpc",
            [f"compute-{n:02}" for n in range(1, figures.nodes)],
            awaiting=SLURM.diagnosis.awaiting,
        ),
        warn=lambda _line: None,
        timeouts=Timeouts(),
        on_boundary=lambda moment, _key: weigh(moment),
    )

    def weigh(moment: str) -> None:
        if moment == "before end" and not figures.journal_bytes:
            figures.journal_bytes = paths.journal.stat().st_size

    context = StartContext(
        kind=SLURM,
        file=spec,
        roots=roots,
        place=place,
        client=client,
        warn=lambda _line: None,
    )
    start = prepare_start(context)
    bench.measure(PLAN, lambda: prepare_start(context))
    figures.steps = len(start.plan.steps)
    figures.xml_bytes = sum(len(getattr(step, "xml", "")) for step in start.plan.steps)
    bench.measure(
        START,
        lambda: carrier.bring_up(
            start, carrier.journal(start.plan, start.desired.state), keep_on_failure=False
        ),
    )
    figures.identity_bytes = sum(len(archive()) for archive in start.archives.values())
    figures.state_bytes = paths.state.stat().st_size
    state = read_state(paths)
    if state is None:
        raise ValueError(paths.state)
    bench.measure(STATUS, lambda: status(bench, state, client))
    bench.measure(AGAIN, lambda: prepare_start(context))
    bench.measure(
        STOP,
        lambda: carrier.carry_on(plan_stop(state, observe(client, state, SLURM)), state, only=[]),
    )
    bench.measure(DESTROY, lambda: carrier.carry_on(plan_destroy(state), state, backups=None))


def status(bench: Bench, state: ClusterState, client: LibvirtClient) -> None:
    place = resolve_host(state.host_uri, bench.roots)
    seen = observe(client, state, SLURM)
    problems = find_disk_problems(state, DiskManager(place.storage))
    with redirect_stdout(io.StringIO()) as shown:
        show_status(status_of(SLURM, state, seen, client.stats(seen.domains), problems), HPC)
    bench.figures.status_bytes = len(shown.getvalue())


def measure(nodes: int) -> Figures:
    """The figures of a cluster of so many nodes, the controller among them."""
    figures = Figures(nodes)
    with tempfile.TemporaryDirectory(prefix="ai-how-scale-") as directory, CountedCalls() as calls:
        bench = Bench(Path(directory), figures, calls)
        (bench.root / "node.xml").write_text(TEST_NODE)
        add_image(ImageStore(bench.roots.images))
        uri = f"test://{bench.root / 'node.xml'}"
        with Obedient(uri) as client, plenty_of_room(), redirect_stdout(io.StringIO()):
            live(bench, client)
    return figures


def render(measured: list[Figures]) -> str:
    """A line for each figure, a column for each number of nodes."""
    rows: dict[str, list[str]] = {}
    for one in measured:
        for what, cpu_s in one.cpu_s.items():
            rows.setdefault(f"{what}: CPU s", []).append(f"{cpu_s:.2f}")
        for what, cpu_s in one.programs_cpu_s.items():
            if what == START:
                rows.setdefault(f"{what}: CPU s of programs", []).append(f"{cpu_s:.2f}")
        for what, calls in one.calls.items():
            rows.setdefault(f"{what}: libvirt calls", []).append(str(calls))
        for what in ("steps", "xml", "journal", "state", "status", "identity"):
            name = what if what == "steps" else f"{what}_bytes"
            rows.setdefault(name.replace("_", " "), []).append(str(getattr(one, name)))
    width = max(map(len, rows))
    head = "".join(f"{one.nodes:>12}" for one in measured)
    lines = [
        f"{name:<{width}}{''.join(f'{cell:>12}' for cell in row)}" for name, row in rows.items()
    ]
    return "\n".join([f"{'nodes':<{width}}{head}", *lines])


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure what ai-how itself costs, by nodes.")
    parser.add_argument("nodes", type=int, nargs="*", help=f"default: {' '.join(map(str, NODES))}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    options = parser.parse_args()
    measured = [measure(nodes) for nodes in options.nodes or NODES]
    print(render(measured))
    if options.json:
        options.json.write_text(json.dumps([asdict(one) for one in measured], indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
