"""What the first version wrote is read, carried on with, undone and destroyed by this one.

The files below tests/data/state/v1 were written by that version; they are never written anew.
"""

import json
import shutil
from pathlib import Path

import pytest

from ai_how.clusters.plans.destroy import plan_destroy
from ai_how.hpc.manager import HpcManager
from ai_how.hpc.plan import STEP_TYPES
from ai_how.plan.executor import OnFailure, execute
from ai_how.plan.interrupts import Interrupts
from ai_how.plan.journal import Journal
from ai_how.plan.observer import Observer
from ai_how.plan.records import decode_line, encode_line
from ai_how.plan.undo import roll_back
from ai_how.process import run
from ai_how.state import cluster_state
from ai_how.state.cluster_state import backup_serials, read_state, restore_state, write_state
from ai_how.state.models import ClusterState
from ai_how.state.paths import ClusterPaths, Roots, StoragePaths, default_roots
from ai_how.vm_management.context import PlanContext
from ai_how.vm_management.disks.manager import DiskManager
from cluster_bench import CLUSTER_ID
from fake_libvirt import FakeLibvirt

FIRST = Path(__file__).resolve().parents[1] / "data" / "state" / "v1"
# Where the first version had its disks, and wrote down that they are.
STORAGE = "/srv/ai-how"

NODES = ("controller", "compute-01", "compute-02")
KINDS = {
    "start": {
        *("base", "disks", "network", "network-up"),
        *("disk", "domain", "boot", "agent", "services"),
    },
    "grow": {"network-up", "grow", "boot", "agent", "services", "clocks", "ready"},
    "stop": {"slurm", "off"},
    "destroy": {"undefine", "backup", "remove-disk", "remove-network", "remove-disks"},
}
LEFT_BY_START = [
    "services/hpc-controller",
    *(f"agent/hpc-{name}" for name in ("compute-02", "controller")),
    *(f"{word}/hpc-{name}" for word in ("boot", "domain", "disk") for name in reversed(NODES)),
    *("network-up/hpc", "network/hpc", "disks/hpc", "base/8950abfda7b7"),
]

pytestmark = pytest.mark.fault("F64", "files of the first version")


@pytest.fixture
def roots(tmp_path, monkeypatch) -> Roots:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return default_roots(tmp_path / "state")


@pytest.fixture
def paths(roots) -> ClusterPaths:
    """The directory as the first version left it; git keeps no modes."""
    paths = roots.cluster("hpc")
    shutil.copytree(FIRST / "hpc", paths.root)
    for path in (roots.state, paths.root, *paths.root.rglob("*")):
        path.chmod(0o700 if path.is_dir() else 0o600)
    return paths


@pytest.fixture
def storage(tmp_path) -> StoragePaths:
    return StoragePaths(tmp_path / "storage")


@pytest.fixture
def libvirt(storage) -> FakeLibvirt:
    """The cluster runs, with the disks and the definitions that the first version made."""
    disks, libvirt = DiskManager(storage), FakeLibvirt()
    disks.claim_directory("hpc", CLUSTER_ID)
    storage.bases.mkdir(exist_ok=True)
    network = libvirt.define_network((FIRST / "hpc" / "xml" / "network-hpc.xml").read_text())
    assert network is not None
    libvirt.start_network(network.uuid)
    for name in NODES:
        text = (FIRST / "hpc" / "xml" / f"hpc-{name}.xml").read_text()
        vm = libvirt.define_domain(text.replace(STORAGE, str(storage.root)))
        base = storage.base(_digest_in(text))
        if not base.exists():
            run(["qemu-img", "create", "-q", "-f", "qcow2", base, "1M"])
        disk = storage.disk("hpc", name)
        run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", disk, "1G"])
        libvirt.start_domain(vm.uuid)
    return libvirt


def _digest_in(xml: str) -> str:
    return xml.split(f"{STORAGE}/bases/")[1].split(".qcow2", maxsplit=1)[0]


def world_of(paths: ClusterPaths, storage: StoragePaths, libvirt: FakeLibvirt) -> PlanContext:
    return PlanContext(
        cluster_id=CLUSTER_ID,
        cluster_kind="hpc",
        paths=paths,
        client=libvirt,
        disks=DiskManager(storage),
    )


def placed(state: ClusterState, storage: StoragePaths) -> ClusterState:
    """The state with its disks where they are in this test."""
    nodes = tuple(
        node.model_copy(update={"disk": storage.disk(state.name, node.name)})
        for node in state.nodes
    )
    return state.model_copy(update={"nodes": nodes})


def test_its_names_on_disk_are_ours(paths):
    names = {
        "cluster.yaml": paths.spec,
        "state.json": paths.state,
        "backups": paths.backups,
        "journal.jsonl": paths.journal,
        "lock": paths.lock,
        "secrets/munge.key": paths.munge_key,
        "secrets/controller.ssh_host_ed25519_key": paths.host_key("controller"),
        "ssh/id_ed25519": paths.ssh_key,
        "ssh/known_hosts": paths.known_hosts,
        "ssh/config": paths.ssh_config,
        "xml": paths.xml,
        "console/controller.log": paths.console_log("controller"),
    }
    assert {name: str(path.relative_to(paths.root)) for name, path in names.items()} == {
        name: name for name in names
    }


def test_its_state_is_read_written_on_and_restored(paths):
    state = read_state(paths)
    assert state is not None
    assert (state.serial, state.lineage, state.name) == (2, CLUSTER_ID, "hpc")
    assert tuple(node.name for node in state.nodes) == NODES
    assert [str(node.ip) for node in state.nodes] == ["10.77.0.10", "10.77.0.11", "10.77.0.12"]
    assert state.get_node("controller").stages_s == {"boot": 0.4, "agent": 21.5, "services": 3.25}
    assert write_state(paths, state).serial == 3
    assert backup_serials(paths) == (1, 2)
    restored = restore_state(paths, 1)
    assert restored.serial == 4
    assert restored.nodes == state.nodes


def test_status_and_ssh_work_from_its_state(paths, roots):
    manager = HpcManager(roots=roots, name="hpc")
    status = manager.status()
    assert [node.name for node in status.nodes] == list(NODES)
    assert not status.is_ready
    assert manager.get_state().get_node("compute-02").mac.startswith("52:54:")


def test_its_cluster_is_destroyed_to_the_last_file(paths, storage, libvirt):
    state = read_state(paths)
    assert state is not None
    plan = plan_destroy(placed(state, storage))
    interrupts = Interrupts()
    with Journal.create(
        paths.journal, verb="destroy", op_id=CLUSTER_ID, cluster="hpc", note={}
    ) as journal:
        execute(
            plan,
            world_of(paths, storage, libvirt),
            journal,
            observer=Observer(),
            interrupts=interrupts,
            on_failure=OnFailure.CONTINUE,
        )
        journal.close()
    assert libvirt.content == {}
    assert not storage.cluster("hpc").exists()


@pytest.mark.parametrize("name", KINDS)
def test_every_step_in_its_journals_is_known(name):
    seen = Journal.read(FIRST / f"{name}.jsonl", STEP_TYPES)
    assert seen is not None
    assert {step.kind for step in seen.begun} == KINDS[name]
    assert (seen.verb, seen.cluster) == ("start" if name == "grow" else name, "hpc")
    assert seen.note["cluster_id"] == str(CLUSTER_ID)
    assert all(step.describe() for step in seen.begun)


def test_its_start_that_was_cut_short_is_undone(paths, storage, libvirt):
    lines = (FIRST / "start.jsonl").read_bytes().splitlines(keepends=True)
    records = [decode_line(line) for line in lines]
    assert records.index(None) == len(lines) - 1, "only the last one was torn"
    text = json.dumps(records[:-1]).replace(STORAGE, str(storage.root))
    paths.journal.write_bytes(b"".join(map(encode_line, json.loads(text))) + lines[-1])
    seen = Journal.read(paths.journal, STEP_TYPES)
    assert seen is not None
    assert [step.key for step in seen.remaining] == LEFT_BY_START
    world = world_of(paths, storage, libvirt)
    roll_back(seen, world, observer=Observer(), interrupts=Interrupts())
    assert libvirt.content == {}
    assert not storage.cluster("hpc").exists()
    assert not paths.journal.exists()


def test_a_later_version_reads_it_and_writes_its_own(paths, monkeypatch):
    """That of today, when there is a second schema: a first state needs no more than its fields."""
    monkeypatch.setattr(cluster_state, "SCHEMA_VERSION", 2)
    state = read_state(paths)
    assert state is not None
    assert state.schema_version == 2
    write_state(paths, state)
    assert json.loads(paths.state.read_text())["schema_version"] == 2
