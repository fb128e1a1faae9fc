"""The set `nvidia`, built: the driver is in the image, and fits its kernel. Nothing loads it here.

A build downloads some 200 MB and compiles the modules.
"""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ai_how.hpc.identities import slurm_nodes
from ai_how.images.build import build_default_image
from ai_how.images.catalogue import ImageCatalogue
from ai_how.images.manifest import Image
from ai_how.images.packages import packages_of
from ai_how.images.sandbox import in_namespace
from ai_how.images.store import ImageStore
from ai_how.process import Completed, run
from ai_how.spec.reader import read_spec_text
from ai_how.state.paths import default_roots
from cluster_bench import DIGEST, draft_of, read_hpc

pytestmark = pytest.mark.slurm

FILE = """\
version: "1.0"
images: {gpu: {with: nvidia}}
clusters:
  hpc:
    name: hpc
    base_image_path: gpu
    controller: {cpu_cores: 1, memory_gb: 1, disk_gb: 10}
    compute_nodes: {count: 1, cpu_cores: 1, memory_gb: 1, disk_gb: 10}
"""
CARDS = "{enabled: true, devices: [{pci_address: '0000:65:00.0', device_type: gpu}]}"
NODE = f"{{cpu_cores: 1, memory_gb: 1, disk_gb: 10, pcie_passthrough: {CARDS}}}"
ASK_S = 300
BANNER = re.compile(rb"Linux version (\S+) \(")
IN_IT = """\
mount -t proc proc "$1/proc"
mount -t tmpfs tmpfs "$1/dev"
: > "$1/dev/null"
mount -o bind /dev/null "$1/dev/null"
exec chroot "$1" sh -euc "$2"
"""


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory, is_long: bool) -> ImageCatalogue:
    if not is_long:
        pytest.skip("it downloads 200 MB and compiles for minutes: --long")
    default = build_default_image(ImageStore(default_roots().images))
    images = tmp_path_factory.mktemp("images")
    run(["cp", "-a", "--reflink=auto", default.directory, images])
    spec, problems = read_spec_text(FILE, "gpu.yaml", {}, directory=images)
    assert spec is not None, problems
    return ImageCatalogue(ImageStore(images), spec)


@pytest.fixture(scope="module")
def image(catalogue: ImageCatalogue) -> Image:
    [made] = catalogue.build(["gpu"], watch=lambda _share, _what: None)
    return made


@pytest.fixture(scope="module")
def root(image: Image, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("system") / "root"
    root.mkdir()
    assert image.tree
    packed = ["tar", "-x", "-p", "--numeric-owner", "--zstd", "-f", image.tree, "-C", root]
    run(in_namespace(packed), timeout_s=ASK_S)
    yield root
    run(in_namespace(["rm", "-rf", root]), timeout_s=ASK_S)


@pytest.fixture(scope="module")
def kernel(image: Image) -> str:
    """The version of the kernel that a node boots, out of its own file."""
    assert image.kernel
    found = BANNER.search(image.kernel.read_bytes())
    assert found is not None
    return found[1].decode()


def call(root: Path, text: str, *, check: bool = True) -> Completed:
    """Run this in the files of the image, without a driver, and without /sys."""
    return run(in_namespace(["sh", "-euc", IN_IT, "sh", root, text]), check=check, timeout_s=ASK_S)


def test_the_modules_are_made_for_the_kernel_that_the_image_boots(root: Path, kernel: str):
    assert [path.name for path in (root / "usr/lib/modules").iterdir()] == [kernel]
    for module in ("nvidia", "nvidia-uvm"):
        file = module.replace("nvidia", "nvidia-current")
        # By the settings of nvidia-kernel-support, as a node does it.
        told = call(root, f"modprobe --set-version {kernel} --show-depends {module}").stdout
        assert file in told
        magic = call(root, f"modinfo --set-version {kernel} -F vermagic {file}").stdout.split()
        assert magic[0] == kernel


def test_all_parts_are_of_one_version_and_no_compiler_is_left(image: Image):
    versions = {one.name: one.version for one in packages_of(image) or ()}
    driver = versions["ai-how-nvidia-modules"]
    for name in ("libcuda1", "libnvidia-ml1", "nvidia-smi", "firmware-nvidia-gsp"):
        assert versions[name] == driver
    assert "slurm-wlm-nvml-plugin" in versions
    left = [one for one in versions if re.match(r"gcc$|gcc-\d+$|make$|dkms|linux-headers|cpp", one)]
    assert left == []
    assert not [one for one in versions if one.startswith(("xserver", "libgl1", "nvidia-driver"))]


def test_nvidia_smi_says_that_the_driver_is_not_loaded(root: Path):
    told = call(root, "nvidia-smi", check=False)
    assert told.returncode == 9
    assert "couldn't communicate with the NVIDIA driver" in told.stdout


def test_cuda_is_there_and_says_that_there_is_no_driver(root: Path):
    ask = "import ctypes; print(ctypes.CDLL('libcuda.so.1').cuInit(0))"
    # CUDA_ERROR_NO_DEVICE
    assert call(root, f'python3 -c "{ask}"').stdout.split() == ["100"]


def test_a_node_without_a_card_loads_nothing_and_no_unit_of_the_packages_starts(root: Path):
    call(root, "sh /usr/lib/ai-how/load-nvidia")
    wanted = {path.name for path in (root / "etc/systemd/system").glob("*.wants/*")}
    wanted |= {path.name for path in (root / "usr/lib/systemd/system").glob("*.wants/*")}
    assert not [one for one in wanted if "nvidia" in one or "modules-load" in one]


def test_nouveau_is_kept_away(root: Path):
    told = call(root, "modprobe --showconfig").stdout.splitlines()
    assert "blacklist nouveau" in told


def test_slurm_finds_cards_of_such_a_node_by_nvml(image: Image):
    made = draft_of(read_hpc(nodes=f"compute_nodes: [{NODE}]"))
    [node] = slurm_nodes(replace(made, images={DIGEST: image}))
    assert (node.gpus, node.autodetect) == ({"": 1}, "nvml")
