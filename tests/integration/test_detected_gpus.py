"""Simulated GPUs by NVML: the real slurmd and pynvml of an image with our library, without a VM.

slurmd is started as `slurmd -G`, which looks for the GPUs, prints them, and ends. It gets the files
of a node's identity, made by the node's own script, in namespaces that end with it.
"""

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from ai_how.clusters.desired_cluster import DesiredCluster
from ai_how.hpc.identities import build_identities, ensure_secrets
from ai_how.images.build import build_default_image
from ai_how.images.catalogue import ImageCatalogue
from ai_how.images.manifest import PACKAGES, Image
from ai_how.images.packages import packages_of
from ai_how.images.store import ImageStore
from ai_how.process import Completed, run
from ai_how.spec.reader import read_spec_text
from ai_how.state.paths import ClusterPaths, default_roots
from cluster_bench import DIGEST, draft_of, read_hpc

pytestmark = pytest.mark.libvirt

IMAGE = """\
version: "1.0"
images: {gpus: {with: simulated-gpus}}
clusters:
  hpc:
    name: hpc
    base_image_path: gpus
    controller: {cpu_cores: 1, memory_gb: 1, disk_gb: 5}
    compute_nodes: {count: 1, cpu_cores: 1, memory_gb: 1, disk_gb: 5}
"""
OTHER = "{type: a30, count: 1, nvml: true}"  # of another node of the cluster
ASK_S = 120
TOPOLOGY = "hardware: {acceleration: {cpu_topology: {sockets: 2, cores: 2, threads: 1}}}"
# On a machine with two sockets of two cores.
ASK_SLURMD = "HWLOC_SYNTHETIC='socket:2 core:2 pu:1' slurmd -G -N compute-01"
# What NVIDIA's driver shows of two cards, after its documents.
DRIVER = """\
mount -t tmpfs tmpfs /proc/driver
mount -t tmpfs tmpfs /sys/bus
for card in 0 1; do
  bus=0000:0$((card + 7)):00.0
  mkdir -p /proc/driver/nvidia/gpus/$bus /sys/bus/pci/drivers/nvidia/$bus
  printf 'Model: \\t\\t NVIDIA A100-SXM4-40GB\\nIRQ:   \\t\\t 40\\nGPU UUID: \\t GPU-%s\\n' $card \
    > /proc/driver/nvidia/gpus/$bus/information
  printf 'Bus Location: \\t %s\\nDevice Minor: \\t %s\\n' $bus $card \
    >> /proc/driver/nvidia/gpus/$bus/information
  echo $((card * 2))-$((card * 2 + 1)) > /sys/bus/pci/drivers/nvidia/$bus/local_cpulist
  mknod -m 0666 /dev/nvidia$card c 195 $card
done
"""
FAKE = "etc/slurm/fake_gpus.conf"
# What needs a running cluster is left out of slurm.conf: munge, and the cgroups of a booted system.
IN_IT = """\
mount -t proc proc "$1/proc"
mount -o bind /sys "$1/sys"
mount -t tmpfs tmpfs "$1/run"
mount -t tmpfs tmpfs "$1/dev"
mknod -m 0666 "$1/dev/null" c 1 3
exec chroot "$1" sh -euc "$2"
"""
FOUND = re.compile(
    r"Gres Name=gpu Type=(?P<type>\S+) Count=1 Index=\d+ ID=\d+ File=(?P<files>\S+)"
    r"( Cores=(?P<cores>\S+))?( CoreCnt=\d+)?( Links=(?P<links>\S+))? Flags=\S+"
    r"( UniqueId=(?P<uuid>\S+))?"
)
LIST = """
import json, pynvml as nvml
def card_of(card):
    pci = nvml.nvmlDeviceGetPciInfo(card)
    assert nvml.nvmlDeviceGetUUID(nvml.nvmlDeviceGetHandleByPciBusId(pci.busId)) == uuid_of(card)
    return {
        "minor": nvml.nvmlDeviceGetMinorNumber(card),
        "bus": pci.busId,
        "mig": nvml.nvmlDeviceGetMigMode(card),
        "slices": [facts_of(one) for one in slices_of(card)],
        **facts_of(card),
    }
def uuid_of(one):
    return nvml.nvmlDeviceGetUUID(one)
def slices_of(card):
    for number in range(nvml.nvmlDeviceGetMaxMigDeviceCount(card)):
        one = nvml.nvmlDeviceGetMigDeviceHandleByIndex(card, number)
        parent = nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(one)
        assert uuid_of(parent) == uuid_of(card)
        attributes = nvml.nvmlDeviceGetAttributes_v2(one)
        assert attributes.memorySizeMB << 20 == nvml.nvmlDeviceGetMemoryInfo(one).total
        yield one
def facts_of(one):
    assert uuid_of(nvml.nvmlDeviceGetHandleByUUID(uuid_of(one))) == uuid_of(one)
    memory = nvml.nvmlDeviceGetMemoryInfo(one, nvml.nvmlMemory_v2)
    return {"name": nvml.nvmlDeviceGetName(one), "uuid": uuid_of(one), "bytes": memory.total}
def refused(ask, *words):
    try:
        return str(ask(*words))
    except nvml.NVMLError as error:
        return str(error)
nvml.nvmlInit()
nvml.nvmlInit()
nvml.nvmlShutdown()
cards = [nvml.nvmlDeviceGetHandleByIndex(n) for n in range(nvml.nvmlDeviceGetCount())]
print(json.dumps({
    "cards": [card_of(one) for one in cards],
    "driver": nvml.nvmlSystemGetDriverVersion(),
    "refused": [
        *[refused(ask, cards[0]) for ask in (nvml.nvmlDeviceGetUtilizationRates,
            nvml.nvmlDeviceGetPowerUsage, nvml.nvmlDeviceGetCudaComputeCapability)],
        refused(nvml.nvmlDeviceGetTemperature, cards[0], nvml.NVML_TEMPERATURE_GPU),
        refused(nvml.nvmlDeviceGetHandleByIndex, len(cards)),
        refused(nvml.nvmlDeviceGetHandleByUUID, "GPU-of-nobody"),
        refused(nvml.nvmlDeviceGetMemoryBusWidth, cards[0]),
    ],
}))
nvml.nvmlShutdown()
print(refused(nvml.nvmlDeviceGetCount))
"""


def node_with(gpu: str) -> str:
    return f"{{cpu_cores: 4, memory_gb: 1, disk_gb: 10, gpu: {{simulated: {gpu}}}}}"


def read_found(done: Completed) -> list[dict[str, str | None]]:
    """What slurmd has found."""
    said = done.stdout + done.stderr
    found = [one.groupdict() for one in FOUND.finditer(said)]
    assert len(found) == said.count("Gres Name="), said
    return found


@dataclass(frozen=True, slots=True)
class System:
    """The files of an image, as those of a node of this cluster."""

    root: Path

    def become(self, directory: Path, gpu: str) -> None:
        """Take the files of a node with these GPUs, and the configuration of its controller."""
        nodes = f"compute_nodes: [{node_with(gpu)}, {node_with(OTHER)}]"
        self.become_node_of(draft_of(read_hpc(TOPOLOGY, nodes=nodes)), directory)

    def become_node_of(self, desired: DesiredCluster, directory: Path) -> None:
        paths = ClusterPaths(directory)
        ensure_secrets(desired.state, paths)
        made = build_identities(desired, paths, has_host_clock=True)
        slurm = [one for one in made["controller"]().entries() if one.path.startswith("etc/slurm/")]
        for entry in (*slurm, *made["compute-01"]().gpu_files):
            assert isinstance(entry.content, str)
            content = entry.content
            if entry.path.endswith("slurm.conf"):
                content = content.replace("/munge", "/none")
            if entry.path.endswith("cgroup.conf"):
                content = content.replace("cgroup/v2", "disabled")
            place = self.root / entry.path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(content)

    def call(self, script: str, *, check: bool = True) -> Completed:
        """Run this after the node's own script; nothing but changed files is left of it."""
        text = f"/bin/busybox sh /etc/ai-how/make-gpus\n{script}"
        return self.call_bare(text, check=check)

    def call_bare(self, text: str, *, check: bool = True) -> Completed:
        spaces = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--uts", "--ipc"]
        return run(
            [*spaces, "sh", "-euc", IN_IT, "sh", self.root, text], check=check, timeout_s=ASK_S
        )

    def find_gpus(self) -> list[dict[str, str | None]]:
        # Beside slurm.conf: here that is no copy of the controller's.
        done = self.call(
            "fake=/var/spool/slurmd/conf-cache/fake_gpus.conf\n"
            "rm -f /etc/slurm/fake_gpus.conf\n"
            f"[ ! -e $fake ] || cp $fake /etc/slurm/\n{ASK_SLURMD}"
        )
        return read_found(done)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    """The default image with the set: our library is compiled there, with warnings as errors."""
    default = build_default_image(ImageStore(default_roots().images))
    images = tmp_path_factory.mktemp("images")
    run(["cp", "-a", "--reflink=auto", default.directory, images])
    spec, problems = read_spec_text(IMAGE, "gpus.yaml", {}, directory=images)
    assert spec is not None, problems
    [made] = ImageCatalogue(ImageStore(images), spec).build(
        ["gpus"], watch=lambda _share, _what: None
    )
    return made


@pytest.fixture(scope="module")
def system(image: Image, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    root = tmp_path_factory.mktemp("system")
    assert image.tree
    packed = ["tar", "-x", "-p", "--numeric-owner", "--zstd", "-f", image.tree, "-C", root]
    run(packed, timeout_s=ASK_S)
    yield System(root)
    shutil.rmtree(root)


def test_the_set_leaves_no_compiler_and_keeps_where_its_packages_are_from(
    image: Image, system: System, tmp_path: Path
) -> None:
    names = {one.name for one in packages_of(image) or ()}
    assert {"ai-how-nvml", "slurm-wlm-nvml-plugin", "python3-pynvml"} <= names
    assert not names & {"gcc", "gcc-14", "cpp", "binutils", "libc6-dev", "linux-libc-dev"}
    sources = (system.root / "etc/apt/sources.list").read_text().splitlines()
    assert all(line.endswith(" main contrib") for line in sources)
    system.become(tmp_path, GPUS["whole"])
    assert system.call("apt-get check -qq 2>&1").stdout == ""


def by_nvml(gpus: str) -> str:
    return gpus.replace("{type", "{nvml: true, type", 1)


def by_file(found: list[dict[str, str | None]]) -> list[dict[str, str | None]]:
    for one in found:
        # NVML says of each card that there are none; who is told of none says so at once.
        if not re.search("[1-9]", (one["links"] or "").replace("-1", "")):
            one["links"] = None
    return sorted(found, key=lambda one: (one["files"] or "", one["type"] or ""))


def look(system: System, before: str = "true") -> tuple[dict[str, Any], str]:
    """What a program with pynvml prints, and what it is told after the end of its session."""
    (system.root / "look.py").write_text(LIST)
    facts, after = system.call(f"{before}\npython3 /look.py").stdout.splitlines()
    return json.loads(facts), after


GPUS = {
    "whole": "{type: a100, count: 3, links: [[-1, 4, 2], [4, -1, 12], [2, 12, -1]]}",
    "without links": "{type: rtx4090, memory_gb: 24, count: 2}",
    "slices": "{type: a100, count: 2, mig: {3g.20gb: 1, 2g.10gb: 1, 1g.5gb: 1}}",
    "sixteen": "{type: h200, count: 16, mig: {1g.18gb: 7}}",
}


@pytest.mark.parametrize("gpus", GPUS.values(), ids=GPUS)
def test_slurm_detects_by_nvml_what_it_would_be_told(
    system: System, tmp_path: Path, gpus: str
) -> None:
    """Types, device files, cores, links and UUIDs: as by fake_gpus.conf, which says each."""
    system.become(tmp_path, gpus)
    told = system.find_gpus()
    assert told
    assert (system.root / FAKE).exists()
    system.become(tmp_path, by_nvml(gpus))
    detected = system.find_gpus()
    assert not (system.root / FAKE).exists()
    assert by_file(detected) == by_file(told)


def test_slurm_detects_nothing_for_a_node_that_is_told(system: System, tmp_path: Path) -> None:
    """Its library knows no cards then, and pynvml says so."""
    system.become(tmp_path, GPUS["whole"])
    said = system.call("python3 -c 'import pynvml; pynvml.nvmlInit()' 2>&1 | tail -n1").stdout
    assert said == "pynvml.NVMLError_DriverNotLoaded: Driver Not Loaded\n"


def test_the_drivers_files_come_and_go_with_the_slices(system: System, tmp_path: Path) -> None:
    system.become(tmp_path, by_nvml(GPUS["slices"]))
    minors = "/proc/driver/nvidia-caps/mig-minors"
    again = "/bin/busybox sh /etc/ai-how/make-gpus"
    said = system.call(
        f"cat {minors}; {again}; wc -l < {minors}\n"
        f": > /etc/ai-how/gpus; {again}; ls {minors} /dev/nvidia* 2>&1 || :"
    ).stdout.splitlines()
    assert said[:4] == [
        "gpu0/gi1/access 12",
        "gpu0/gi1/ci0/access 13",
        "gpu0/gi3/access 30",
        "gpu0/gi3/ci0/access 31",
    ]
    # Two lines for each of three slices of two cards.
    assert said[12] == "12"
    assert [line for line in said[13:] if "No such file" not in line] == ["/dev/nvidia-caps:"]


def test_programs_see_the_cards_by_pynvml(system: System, tmp_path: Path) -> None:
    system.become(tmp_path, by_nvml(GPUS["whole"]))
    seen, after = look(system)
    assert [one["minor"] for one in seen["cards"]] == [0, 1, 2]
    assert [one["bus"] for one in seen["cards"]] == [f"0000FFFF:0{n}:00.0" for n in (1, 2, 3)]
    for one in seen["cards"]:
        assert (one["name"], one["bytes"]) == ("Simulated a100 40GB", 40 << 30)
        assert (one["mig"], one["slices"]) == ([0, 0], [])
        assert re.fullmatch("GPU-[0-9a-f-]{36}", one["uuid"])
    assert len({one["uuid"] for one in seen["cards"]}) == 3
    assert seen["driver"] == "550.0.0+simulated"
    assert after == "Uninitialized"


def test_a_program_is_told_no_number_that_only_a_card_has(system: System, tmp_path: Path) -> None:
    system.become(tmp_path, by_nvml(GPUS["whole"]))
    *numbers, index, uuid, unknown = look(system)[0]["refused"]
    assert numbers == ["Not Supported"] * 4
    assert (index, uuid, unknown) == ("Invalid Argument", "Not Found", "Function Not Found")


def test_programs_see_slices_by_pynvml(system: System, tmp_path: Path) -> None:
    system.become(tmp_path, by_nvml(GPUS["slices"]))
    cards = look(system)[0]["cards"]
    listed = system.call("sh /etc/ai-how/nvidia-smi -L").stdout
    for card in cards:
        assert card["mig"] == [1, 1]
        assert [(one["name"], one["bytes"] >> 30) for one in card["slices"]] == [
            ("Simulated a100 40GB MIG 3g.20gb", 20),
            ("Simulated a100 40GB MIG 2g.10gb", 10),
            ("Simulated a100 40GB MIG 1g.5gb", 5),
        ]
    uuids = [one["uuid"] for card in cards for one in (card, *card["slices"])]
    assert re.findall(r"UUID: (\S+)\)", listed) == uuids


def test_a_program_sees_only_what_it_may_open_numbered_from_0(
    system: System, tmp_path: Path
) -> None:
    """Here the files are gone; in a job the device filter of its cgroup refuses them."""
    system.become(tmp_path, by_nvml(GPUS["slices"]))
    [card] = look(system, "rm /dev/nvidia0 /dev/nvidia-caps/nvidia-cap147")[0]["cards"]
    assert card["minor"] == 1
    assert [one["name"][-7:] for one in card["slices"]] == ["2g.10gb", " 1g.5gb"]
    system.become(tmp_path, by_nvml(GPUS["whole"]))
    cards = look(system, "rm /dev/nvidia1")[0]["cards"]
    assert [one["minor"] for one in cards] == [0, 2]


def test_a_damaged_list_ends_no_program(system: System, tmp_path: Path) -> None:
    """Too many cards and slices, words that are no numbers, lines without an end."""
    system.become(tmp_path, by_nvml(GPUS["whole"]))
    rows = ["gpu", "bus\t99\tx", "links\t0\t,,9", "slice\t0", "mig\t0", f"gpu\t0\t{'x' * 700}"]
    gpus = [f"gpu\t{n}\tName\tGPU-{n}\t1\t/dev/null\n" for n in range(40)]
    some = "bus\t0\t0000:01:00.0\n" + "mig\t15\tx\tMIG-x\t1\t/dev/null\n" * 40
    text = "\n".join([*rows, *gpus[:16], some, *gpus[16:], "links\t0\t-1,99999999"])
    (system.root / "damaged").write_text(text)
    ask = (
        "import pynvml as n; n.nvmlInit(); print(n.nvmlDeviceGetCount(), "
        "n.nvmlDeviceGetMaxMigDeviceCount(n.nvmlDeviceGetHandleByIndex(15)))"
    )
    assert system.call(f'AI_HOW_GPUS=/damaged python3 -c "{ask}"').stdout == "16 8\n"


def test_slurm_detects_real_cards_by_what_their_driver_shows(
    image: Image, system: System, tmp_path: Path
) -> None:
    """The plugin and the configuration are real; the driver is made of files."""
    devices = ", ".join(f"{{pci_address: '0000:0{n}:00.0', device_type: gpu}}" for n in (7, 8))
    node = "cpu_cores: 4, memory_gb: 1, disk_gb: 10"
    nodes = (
        f"compute_nodes: [{{{node}, pcie_passthrough: {{enabled: true, devices: [{devices}]}}}}]"
    )
    known = tmp_path / "known"
    known.mkdir()
    (known / PACKAGES).write_text("nvidia-kernel-dkms\t550\tamd64\tx\t550\n")
    with_driver = replace(image, directory=known)
    desired = replace(draft_of(read_hpc(TOPOLOGY, nodes=nodes)), images={DIGEST: with_driver})
    system.become_node_of(desired, tmp_path)
    (system.root / FAKE).unlink(missing_ok=True)
    found = read_found(system.call_bare(DRIVER + ASK_SLURMD))
    assert [(one["files"], one["cores"]) for one in found] == [
        ("/dev/nvidia0", "0-1"),
        ("/dev/nvidia1", "2-3"),
    ]
    # Where the driver has not come up, SLURM has none.
    done = system.call_bare(ASK_SLURMD)
    assert read_found(done) == []
    assert "System GPU detection failed" in done.stderr
