"""Cloud images of others as nodes: imported, prepared once, booted by their own boot loader.

The images are built from Debian's packages as its cloud images are, and have no SLURM. What they
lack comes from an apt repository that the test serves, as a proxy of this host, over the uplink.
"""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ai_how.images.store import ImageStore
from ai_how.process import run
from apt_proxy import Repository, serving_as_proxy
from real_cluster import START_S, Cluster
from stock_image import StockImage, get_stock_image

pytestmark = pytest.mark.slurm

NODES = ["compute-01", "compute-02"]
SENTINEL = "Sesame-9137-open"
PREPARE_S = 2400
FILE = """\
version: "1.0"
host: {uri: embedded}
images:
  theirs: {from: {path: ./theirs.qcow2}}
clusters:
  hpc:
    name: hpc
    base_image_path: theirs
    controller: {cpu_cores: 1, memory_gb: 1, disk_gb: 6}
    compute_nodes: {count: 2, cpu_cores: 1, memory_gb: 1, disk_gb: 6}
"""
RANKS = """\
from mpi4py import MPI
world = MPI.COMM_WORLD
total = world.allreduce(world.rank + 1)
print(f"rank {world.rank} of {world.size} on {MPI.Get_processor_name()} sum {total}", flush=True)
"""
EVERY = (("trixie", "bios"), ("trixie", "uefi"), ("bookworm", "bios"), ("bookworm", "uefi"))


@dataclass(frozen=True, slots=True)
class World:
    """A cluster of a stock image, and the repository of that."""

    cluster: Cluster
    image: StockImage
    repository: Repository

    @property
    def store(self) -> ImageStore:
        return ImageStore(self.cluster.file.parent / "data/ai-how/images")

    def names(self) -> set[str]:
        return {image.name for image in self.store.list()}


@pytest.fixture(scope="module", params=EVERY, ids="-".join)
def world(
    request: pytest.FixtureRequest, is_long: bool, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    if not is_long:
        pytest.skip("to prepare an image takes ten minutes under emulation: --long")
    image = get_stock_image(*request.param)
    directory = tmp_path_factory.mktemp("other")
    (directory / "theirs.qcow2").symlink_to(image.disk)
    with serving_as_proxy(image.repository) as repository:
        proxy = f"http://someone:{SENTINEL}@127.0.0.1:{repository.port}"
        cluster = Cluster(
            directory,
            FILE,
            XDG_DATA_HOME=str(directory / "data"),
            http_proxy=proxy,
            no_proxy="127.0.0.1",
        )
        yield World(cluster, image, repository)
        cluster.try_call("hpc", "destroy", "--force", timeout_s=START_S)
        cluster.try_call("host", "down", "--force")
        shutil.rmtree(directory / "data", ignore_errors=True)


def leftovers(cluster: Cluster) -> list[Path]:
    return [*cluster.roots.embedded_storage.preparing.glob("*")]


@pytest.mark.fault("H20", "a system of others is prepared, becomes nodes, and starts again")
def test_a_stock_image_becomes_a_cluster_that_runs_jobs(world: World) -> None:
    cluster = world.cluster
    done = cluster.try_call("hpc", "start", timeout_s=PREPARE_S)
    assert done.returncode == 0, done.stderr + console_of(cluster)
    assert world.names() == {"theirs", "theirs-prepared"}
    assert leftovers(cluster) == []
    assert any(path.endswith(".deb") for path in world.repository.asked)
    made = world.store.get("theirs-prepared").manifest
    assert made.identity == "agent"
    assert made.kernel_sha256 is None
    assert made.firmware == ("uefi" if world.image.firmware == "uefi" else None)
    assert made.recipe["prepared_from"] == world.store.get("theirs").digest
    assert f"hpc: ready, SLURM {made.slurm_version}" in cluster.call("hpc", "status")
    assert sorted(cluster.ssh("controller", "srun -N2 hostname").split()) == NODES
    cluster.ssh("controller", "cat > ranks.py", stdin=RANKS)
    ranks = sorted(cluster.ssh("controller", "srun -N2 python3 ranks.py").splitlines())
    assert ranks == [f"rank {rank} of 2 on {node} sum 3" for rank, node in enumerate(NODES)]


def console_of(cluster: Cluster) -> str:
    logs = sorted(path for path in cluster.paths.root.rglob("*console*") if path.is_file())
    return "\n".join(f"{path}: {path.read_text(errors='replace')[-6000:]}" for path in logs)


def test_it_is_the_image_of_others(world: World) -> None:
    cluster = world.cluster
    assert f"VERSION_CODENAME={world.image.suite}" in cluster.execute(
        "compute-01", "cat /etc/os-release"
    )
    # By its own boot loader: the arguments are those of its GRUB.
    cmdline = cluster.execute("compute-01", "cat /proc/cmdline")
    assert "BOOT_IMAGE=/boot/vmlinuz" in cmdline
    is_uefi = "[ -d /sys/firmware/efi ] && echo uefi || echo bios"
    assert cluster.execute("compute-01", is_uefi).strip() == world.image.firmware
    # The partition has all of the disk of the node.
    size = int(cluster.execute("compute-01", "df --output=size -BM / | tail -n 1").strip()[:-1])
    assert size > 5000


def test_nodes_have_nothing_in_common_that_is_theirs_alone(world: World) -> None:
    cluster = world.cluster
    ask = "cat /etc/machine-id /proc/sys/kernel/random/boot_id /etc/ssh/ssh_host_ed25519_key.pub"
    told = [cluster.execute(node, ask).split() for node in ("controller", *NODES)]
    for values in zip(*told, strict=True):
        if not values[0].startswith("ssh-"):
            assert len(set(values)) == 3, values
    # What let us in to prepare it is gone, and what would be the same in all nodes.
    gone = (
        *("/home/ai-how-prepare", "/root/.ssh/authorized_keys", "/var/lib/cloud/instance"),
        *("/etc/ssh/ssh_host_rsa_key", "/etc/munge/munge.key.dpkg-old", "/etc/passwd-"),
        "/etc/sudoers.d/90-cloud-init-users",
    )
    look = f"for path in {' '.join(gone)}; do [ ! -e $path ] || echo $path; done"
    assert cluster.execute("compute-01", look) == ""
    assert cluster.execute("compute-01", "grep -rl ai-how-prepare /etc || :") == ""


def strings_of(disk: Path, wanted: bytes) -> int:
    """How often these bytes are on a disk, as a guest sees it."""
    raw = disk.with_name("raw")
    run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", disk, raw])
    try:
        done = run(["grep", "-c", "-a", "-F", wanted.decode(), raw], check=False)
        return int(done.stdout)
    finally:
        raw.unlink()


def test_no_password_of_a_proxy_is_on_the_disk(world: World, tmp_path: Path) -> None:
    disk = tmp_path / "disk.qcow2"
    disk.symlink_to(world.store.get("theirs-prepared").disk)
    assert strings_of(disk, b"GRUB") > 0, "the look itself finds something"
    assert strings_of(disk, SENTINEL.encode()) == 0


def test_it_stops_and_starts_with_its_identity(world: World) -> None:
    cluster = world.cluster
    before = cluster.execute("compute-01", "cat /etc/machine-id")
    cluster.call("hpc", "stop", timeout_s=START_S)
    cluster.call("hpc", "start", timeout_s=START_S)
    assert cluster.execute("compute-01", "cat /etc/machine-id") == before
    assert cluster.execute("compute-01", "cat /proc/sys/kernel/hostname").strip() == "compute-01"
    assert sorted(cluster.ssh("controller", "srun -N2 hostname").split()) == NODES


def test_a_second_cluster_prepares_nothing_and_is_restored(world: World) -> None:
    cluster = world.cluster
    asked = len(world.repository.asked)
    cluster.call("image", "warm", timeout_s=START_S)
    cluster.call("hpc", "destroy", "--force", timeout_s=START_S)
    cluster.env["AI_HOW_NO_WARM"] = "0"  # tests boot every node, unless they ask otherwise
    wanted = {f"restore/hpc-{name}" for name in ("controller", *NODES)}
    assert wanted <= set(cluster.start())
    for node in ("controller", *NODES):
        assert cluster.execute(node, "ls -d /run/ai-how-restored").strip()
    assert sorted(cluster.ssh("controller", "srun -N2 hostname").split()) == NODES
    assert len(world.repository.asked) == asked
    assert world.names() == {"theirs", "theirs-prepared"}


def test_what_is_in_it_is_told(world: World) -> None:
    cluster = world.cluster
    shown = json.loads(cluster.call("--json", "image", "show", "theirs-prepared"))
    assert {"slurmctld", "munge", "qemu-guest-agent", "cloud-init"} <= {
        one["name"] for one in shown["packages"]
    }
    text = cluster.call("image", "show", "theirs-prepared")
    assert "theirs" in text
    assert "Debian GNU/Linux" in text
    cluster.call("hpc", "destroy", "--force", timeout_s=START_S)
