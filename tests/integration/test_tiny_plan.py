"""The real plan on the real libvirt and QEMU, broken at every step: nothing of it remains.

The guests have an empty disk and no system; what their agents would say is made up.
"""

import base64
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Network
from itertools import cycle
from pathlib import Path
from shutil import rmtree
from uuid import UUID, uuid4

import pytest

import decoys
from ai_how.clusters.desired_cluster import DesiredCluster
from ai_how.errors import GuestError, HostError, OwnershipError, PlanFailedError
from ai_how.guest.agent import GuestAgent
from ai_how.host.embedded import EmbeddedHost
from ai_how.hpc.kind import SLURM
from ai_how.images.manifest import Image
from ai_how.images.qcow2_header import read_header
from ai_how.libvirt_client.client import LibvirtClient
from ai_how.libvirt_client.vm_state import VmState
from ai_how.plan.interrupts import Interrupts
from ai_how.process import run
from ai_how.state.models import NodeState
from ai_how.state.paths import ClusterPaths, StoragePaths, ensure_private_directory
from ai_how.vm_management.context import PlanContext
from ai_how.vm_management.disks.manager import DiskManager
from ai_how.vm_management.networks.definition import render_network
from ai_how.waiting import Deadline
from cluster_bench import DIGEST, draft_of, make_image, read_hpc
from leaks import files
from plan_faults import BrokenError, Stage, broken
from shapes import NETWORK
from tiny_guest import TINY, remove_tiny_guest, render_tiny_guest, start_tiny_guest

pytestmark = pytest.mark.libvirt

VMS = ("hpc-controller", "hpc-compute-01", "hpc-compute-02")
KEYS = (
    *(f"base/{DIGEST[:12]}", "disks/hpc", "network/hpc", "network-up/hpc"),
    *(f"{word}/{vm}" for vm in VMS for word in ("disk", "domain", "boot", "agent", "services")),
    *("clocks/hpc", "ready/hpc"),
)
MEMORY_MIB = 64


class Obedient:
    """The channel to a guest that does whatever it is told."""

    def agent_command(
        self, _uuid: UUID, command: Mapping[str, object], _timeout_s: float
    ) -> object:
        match command["execute"]:
            case "guest-get-time":
                return time.time_ns()
            case "guest-exec":
                return {"pid": 1}
        return {"exited": True, "exitcode": 0, "out-data": base64.b64encode(b"").decode()}


@dataclass(frozen=True, slots=True, kw_only=True)
class TinyContext(PlanContext):
    """A context whose guests' agents are there as soon as their QEMU runs."""

    def agent(self, uuid: UUID, name: str) -> GuestAgent:
        return GuestAgent(Obedient(), uuid, name)

    def wait_for_agent(self, uuid: UUID, deadline: Deadline) -> None:
        if self.client.get_domain(uuid).state is not VmState.RUNNING:
            raise GuestError(f"VM {uuid} does not run")


def tiny(draft: DesiredCluster) -> DesiredCluster:
    """The same cluster with next to no memory."""
    nodes = tuple(
        (
            replace(node, memory_mib=MEMORY_MIB),
            one.model_copy(update={"memory_mib": MEMORY_MIB, "disk_gib": 1}),
        )
        for node, one in draft.nodes
    )
    state = draft.state.model_copy(update={"nodes": tuple(one for _, one in nodes)})
    return replace(draft, nodes=nodes, state=state)


@dataclass(frozen=True)
class Bench:
    """An embedded host with an image in its store."""

    host: EmbeddedHost
    client: LibvirtClient
    image: Image

    @property
    def storage(self) -> StoragePaths:
        return StoragePaths(self.host.paths.root / "storage")

    def paths(self, name: str) -> ClusterPaths:
        return ClusterPaths(self.host.paths.root.parent / name)

    def stage(self, name: str, third: int) -> Stage:
        """A cluster of that name on its own subnet."""
        subnet, cluster_id = IPv4Network(f"10.213.{third}.0/24"), uuid4()
        draft = draft_of(
            read_hpc(name=name), cluster_id=cluster_id, subnet=subnet, storage=self.storage.root
        )
        paths = ensure_private_directory(self.paths(name).root) and self.paths(name)

        def context(interrupts: Interrupts) -> PlanContext:
            return TinyContext(
                cluster_id=cluster_id,
                cluster_kind=SLURM.name,
                paths=paths,
                client=self.client,
                disks=DiskManager(self.storage),
                stop=interrupts.stop,
            )

        return Stage(tiny(draft), self.image, context)

    @property
    def content(self) -> list[str]:
        """What libvirt has, and what is below the directory of the clusters' disks."""
        vms = [f"VM {one.name} {one.uuid} {one.state}" for one in self.client.list_domains()]
        nets = [f"network {one.name} {one.is_active}" for one in self.client.list_networks()]
        others = (f"VM {decoys.VM} ", f"network {decoys.NETWORK} ")
        objects = [line for line in (*vms, *nets) if not line.startswith(others)]
        return [*objects, *files(self.storage.disks), *map(str, self.storage.disks.glob("*"))]

    @property
    def links(self) -> str:
        return run(self.host.enter(["ip", "-br", "link"])).stdout


@pytest.fixture(scope="module")
def bench(host: EmbeddedHost, client: LibvirtClient) -> Bench:
    return Bench(host, client, make_image(host.paths.root.parent / ".image"))


@pytest.fixture
def stage(bench: Bench) -> Iterator[Stage]:
    stage = bench.stage("hpc", 1)
    assert bench.content == []
    yield stage
    stage.carry_out(stage.plan_destroy())
    assert bench.content == []
    assert stage.draft.state.network.bridge not in bench.links
    rmtree(bench.paths("hpc").root)


def states(bench: Bench) -> dict[str, VmState]:
    every = bench.client.list_domains()
    return {one.name: one.state for one in every if one.name != decoys.VM}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Each step is broken before its effect or after it; in a long run at both moments.

    The unit tests break each at both, on libvirt's test driver; this is for what the real libvirt
    and QEMU leave behind. The steps of two compute nodes are the same.
    """
    if "broken_at" in metafunc.fixturenames:
        ways = [(key, moment) for key in KEYS for moment in ("before", "after")]
        if not metafunc.config.getoption("--long"):
            keys = [key for key in KEYS if not key.endswith("-compute-02")]
            ways = list(zip(keys, cycle(("before", "after")), strict=False))
        metafunc.parametrize("broken_at", ways, ids=" ".join)


def test_a_start_that_fails_anywhere_leaves_nothing_on_the_host(
    bench: Bench, stage: Stage, broken_at: tuple[str, str]
) -> None:
    plan = stage.plan_start()
    assert {step.key for step in plan.steps} == set(KEYS)
    with broken(plan, *broken_at), pytest.raises(PlanFailedError) as caught:
        stage.carry_out(plan)
    assert isinstance(caught.value.__cause__, BrokenError), caught.value
    assert bench.content == []
    assert stage.draft.state.network.bridge not in bench.links


def test_a_cluster_starts_after_one_that_failed_and_comes_back_after_a_stop(
    bench: Bench, stage: Stage
) -> None:
    plan = stage.plan_start()
    with broken(plan, "ready/hpc", "after"), pytest.raises(PlanFailedError):
        stage.carry_out(plan)
    stage.carry_out(stage.plan_start())
    assert states(bench) == dict.fromkeys(sorted(VMS), VmState.RUNNING)
    assert stage.draft.state.network.bridge in bench.links
    for node in stage.draft.state.nodes:
        bench.client.destroy_domain(node.uuid)
    again = [step.key for step in stage.plan_start().steps]
    assert [key for key in again if key.startswith(("disk", "domain", "network"))] == []
    stage.carry_out(stage.plan_start())
    assert states(bench) == dict.fromkeys(sorted(VMS), VmState.RUNNING)


@pytest.mark.parametrize(
    ("moment", "key"),
    [("after intent", "boot/hpc-compute-02"), ("before done", "boot/hpc-compute-02")],
)
def test_a_start_that_died_is_undone_from_its_journal(
    bench: Bench, stage: Stage, moment: str, key: str
) -> None:
    stage.die_while_starting(stage.plan_start(), moment, key)
    assert bench.content != []
    stage.recover()
    assert bench.content == []


@pytest.mark.fault("F44", "a cluster whose name extends ours")
def test_destroy_leaves_a_neighbour_with_a_longer_name_and_foreign_things_alone(
    bench: Bench, stage: Stage
) -> None:
    neighbour = bench.stage("hpc-x", 2)
    # Of the neighbour all is made and nothing started: three guests at once are enough.
    plan = neighbour.plan_start()
    with broken(plan, "boot/hpc-x-controller", "before"), pytest.raises(PlanFailedError):
        neighbour.carry_out(plan)
    stage.carry_out(stage.plan_start())
    made = [s for s in plan.steps if s.kind in {"network", "network-up", "disks", "disk", "domain"}]
    for step in [s for s in plan.steps if s.kind == "base"] + made:
        context = neighbour.make_world(Interrupts())
        step.apply(replace(context, images={DIGEST: bench.image}))
    bench.client.define_network(render_network(NETWORK))
    bench.client.define_domain(render_tiny_guest())
    try:
        mine = set(stage_content(bench, stage))
        others = [line for line in bench.content if line not in mine]
        assert len(others) > 3 + 2 + 4
        stage.carry_out(stage.plan_destroy())
        assert bench.content == others
    finally:
        remove_tiny_guest(bench.client)
        bench.client.undefine_network(NETWORK.uuid)
        neighbour.carry_out(neighbour.plan_destroy())
        rmtree(bench.paths("hpc-x").root)


def stage_content(bench: Bench, stage: Stage) -> list[str]:
    """The lines of a bench's content that are this cluster's."""
    name = stage.draft.state.name
    top = bench.storage.cluster(name)
    wanted = (f"{top}/", f"network {name} ", *(f"VM {one.domain_name} " for one in nodes_of(stage)))
    return [one for one in bench.content if one.startswith(wanted) or one == str(top)]


def nodes_of(stage: Stage) -> tuple[NodeState, ...]:
    return stage.draft.state.nodes


def foreign_vm(name: str) -> str:
    return render_tiny_guest().replace("<name>tiny</name>", f"<name>{name}</name>")


@pytest.mark.fault("F40", "a running VM of a node's name")
def test_a_foreign_vm_of_our_name_is_refused_before_the_first_change(
    bench: Bench, stage: Stage
) -> None:
    start_tiny_guest(bench.client, foreign_vm("hpc-compute-02"))
    before = bench.content
    try:
        with pytest.raises(OwnershipError) as caught:
            stage.plan_start()
        assert (
            caught.value.brief
            == "a VM named hpc-compute-02 exists, but does not belong to this cluster"
        )
        assert caught.value.details == f"its UUID is {TINY}"
        assert bench.content == before
    finally:
        remove_tiny_guest(bench.client)


@pytest.mark.fault("F40", "a VM of a node's name that comes after the plan")
def test_a_foreign_vm_that_comes_in_between_is_left_and_all_else_undone(
    bench: Bench, stage: Stage
) -> None:
    plan = stage.plan_start()
    start_tiny_guest(bench.client, foreign_vm("hpc-compute-02"))
    before = bench.content
    try:
        with pytest.raises(PlanFailedError) as caught:
            stage.carry_out(plan)
        assert isinstance(caught.value.__cause__, OwnershipError)
        assert bench.content == before
    finally:
        remove_tiny_guest(bench.client)


@pytest.mark.fault("F41", "a network of our name")
def test_a_foreign_network_of_our_name_is_refused_before_the_first_change(
    bench: Bench, stage: Stage
) -> None:
    bench.client.define_network(render_network(replace(NETWORK, name="hpc")))
    try:
        with pytest.raises(OwnershipError) as caught:
            stage.plan_start()
        assert (
            caught.value.brief == "a network named hpc exists, but does not belong to this cluster"
        )
        assert caught.value.details.startswith(f"its UUID is {NETWORK.uuid}")
    finally:
        bench.client.undefine_network(NETWORK.uuid)


@pytest.mark.fault("F44", "a foreign VM on our network at destroy")
def test_a_network_that_a_foreign_vm_uses_is_left_and_named(bench: Bench, stage: Stage) -> None:
    stage.carry_out(stage.plan_start())
    bench.client.define_domain(render_tiny_guest(network="hpc"))
    try:
        with pytest.raises(PlanFailedError) as caught:
            stage.carry_out(stage.plan_destroy())
        cause = caught.value.__cause__
        assert isinstance(cause, HostError)
        assert cause.brief == "the network hpc is used by VMs that are not of this cluster"
        assert cause.details == "tiny"
        assert states(bench) == {"tiny": VmState.SHUT_OFF}
    finally:
        remove_tiny_guest(bench.client)


def test_destroying_twice_and_what_is_partly_missing_succeeds(bench: Bench, stage: Stage) -> None:
    stage.carry_out(stage.plan_start())
    first, second = stage.draft.state.nodes[1:]
    bench.client.destroy_domain(first.uuid)
    bench.client.undefine_domain(first.uuid, snapshots_too=False)
    second.disk.unlink()
    bench.client.destroy_network(stage.draft.state.network.uuid)
    stage.carry_out(stage.plan_destroy())
    assert bench.content == []
    stage.carry_out(stage.plan_destroy())
    assert bench.content == []


def test_destroy_keeps_backups_that_stand_alone_and_passes_over_a_missing_disk(
    bench: Bench, stage: Stage, tmp_path: Path
) -> None:
    plan = stage.plan_start()
    for step in plan.steps:
        if step.kind in {"base", "disks", "disk"}:
            step.apply(replace(stage.make_world(Interrupts()), images={DIGEST: bench.image}))
    controller, first, missing = stage.draft.state.nodes
    run(["qemu-io", "-f", "qcow2", "-c", "write -P 0x5a 512k 64k", first.disk])
    missing.disk.unlink()
    stage.carry_out(stage.plan_destroy(tmp_path))
    assert bench.content == []
    lineage = stage.draft.state.lineage.hex[:8]
    backups = [tmp_path / f"{one.domain_name}-{lineage}.qcow2" for one in (controller, first)]
    assert sorted(tmp_path.iterdir()) == sorted(backups)
    for backup in backups:
        header = read_header(backup)
        assert header.backing_file is None
        assert header.virtual_size_bytes == 1 << 30
        assert backup.stat().st_mode & 0o777 == 0o600
    run(["qemu-io", "-f", "qcow2", "-c", "read -P 0x5a 512k 64k", backups[1]])
