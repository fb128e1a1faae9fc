"""An image with the real Kubernetes of a bundle: what is in it, and that its parts run together."""

import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ai_how.errors import ImageError
from ai_how.images.build import build_default_image
from ai_how.images.bundle_layout import PROGRAMS
from ai_how.images.catalogue import ImageCatalogue
from ai_how.images.manifest import Image
from ai_how.images.packages import packages_of
from ai_how.images.sandbox import in_namespace
from ai_how.images.store import ImageStore
from ai_how.process import run
from ai_how.spec.reader import read_spec_text
from ai_how.state.paths import default_roots
from native_kubernetes import BINARIES, skip_without_binaries

pytestmark = [pytest.mark.slurm, pytest.mark.long]

FILE = """\
version: "1.0"
images:
  more: {{from: kubernetes, packages: tree}}
clusters:
  cloud:
    name: cloud
    control_plane: {{cpu_cores: 1, memory_gb: 1, disk_gb: 10}}
    worker_nodes:
      - {{cpu_cores: 1, memory_gb: 1, disk_gb: 10, base_image_path: more}}
    kubernetes_config: {{bundle: "{bundle}"}}
"""
ASK_S = 300
IMAGES = ["busybox.tar localhost/ai-how/busybox:1", "pause.tar registry.k8s.io/pause:ai-how"]
# In the tree of the image, with nothing of the host. There is no systemd, and no network of Pods.
IN_IT = """\
mount -t proc proc "$1/proc"
mount -t tmpfs tmpfs "$1/dev"
: > "$1/dev/null"
mount -o bind /dev/null "$1/dev/null"
mount -t tmpfs tmpfs "$1/run"
mount -t tmpfs tmpfs "$1/tmp"
mkdir -p "$1/var/lib/containerd"
mount -t tmpfs tmpfs "$1/var/lib/containerd"
exec chroot "$1" sh -euc "$2"
"""
LOAD = """\
containerd > /tmp/containerd.log 2>&1 &
count=0
until [ -S /run/containerd/containerd.sock ] || [ "$count" = 300 ]; do
  sleep 0.1
  count=$((count + 1))
done
sh /usr/lib/ai-how/load-images > /tmp/first
sh /usr/lib/ai-how/load-images > /tmp/second
[ ! -s /tmp/second ]
ctr --namespace k8s.io images list --quiet | grep -v ^sha256
kill $!
"""


def catalogue_of(store: ImageStore, bundle: Path, directory: Path) -> ImageCatalogue:
    text = FILE.format(bundle=bundle)
    spec, problems = read_spec_text(text, "cloud.yaml", {}, directory=directory)
    assert spec is not None, problems
    return ImageCatalogue(store, spec, bundles=directory / "bundles")


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> ImageCatalogue:
    skip_without_binaries()
    default = build_default_image(ImageStore(default_roots().images))
    images = tmp_path_factory.mktemp("images")
    run(["cp", "-a", "--reflink=auto", default.directory, images])
    directory = tmp_path_factory.mktemp("file")
    return catalogue_of(ImageStore(images), BINARIES.parents[2], directory)


@pytest.fixture(scope="module")
def image(catalogue: ImageCatalogue) -> Image:
    [made] = catalogue.build(["kubernetes"], watch=lambda _share, _what: None)
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


def ask(root: Path, command: str) -> str:
    words = in_namespace(["sh", "-ec", IN_IT, "sh", root, command])
    return run(words, timeout_s=ASK_S).stdout


def test_it_is_the_image_of_the_file(catalogue: ImageCatalogue, image: Image) -> None:
    assert catalogue.find("kubernetes") == image
    assert image.manifest.kubernetes_version == "1.20.2"
    assert image.manifest.recipe["kubernetes"].keys() == {"directory"}
    names = {one.name for one in packages_of(image) or ()}
    assert {"containerd", "runc", "containernetworking-plugins", "etcd-server", "haproxy"} <= names
    assert "dnsmasq-base" in names


def test_its_programs_are_those_of_the_bundle(root: Path) -> None:
    place = root / "usr/lib/kubernetes"
    assert {path.name for path in (place / "bin").iterdir()} == set(PROGRAMS)
    for program in PROGRAMS:
        path = place / "bin" / program
        assert path.stat().st_mode & 0o7777 == 0o755
        assert path.stat().st_size == (BINARIES / program).stat().st_size
    assert (place / "version").read_text() == "v1.20.2\n"
    assert (place / "images" / "names").read_text().splitlines() == IMAGES
    assert ask(root, "kubectl version --client --short") == "Client Version: v1.20.2\n"


def test_nothing_of_it_starts_by_itself(root: Path) -> None:
    started = {"containerd", "etcd", "haproxy", "ai-how-images", "kubelet", "dnsmasq"}
    wants = [path.name for path in (root / "etc/systemd/system").glob("*.wants/*")]
    wants += [path.name for path in (root / "usr/lib/systemd/system").glob("*.wants/*")]
    assert not {name.partition(".")[0] for name in wants} & started


def test_modules_of_containers_are_kept_unpacked(root: Path) -> None:
    [modules] = (root / "usr/lib/modules").iterdir()
    kept = {path.stem: path for path in modules.rglob("*.ko")}
    assert {"overlay", "br_netfilter", "veth", "nf_nat", "xt_MASQUERADE", "ip_vs_rr"} <= set(kept)
    for path in kept.values():
        assert not path.read_bytes().endswith(b"~Module signature appended~\n"), path
    shown = ask(root, f"modprobe --set-version {modules.name} --show-depends br_netfilter")
    assert ".xz" not in shown
    assert shown.splitlines()[-1].split()[1].endswith("/br_netfilter.ko")


def test_containerd_takes_its_settings_and_images(root: Path) -> None:
    dumped = ask(root, "containerd config dump")
    assert "registry.k8s.io/pause:ai-how" in dumped
    assert "SystemdCgroup = true" in dumped
    assert ask(root, LOAD).split() == [line.split()[1] for line in IMAGES]


def test_what_is_made_from_it_has_it(catalogue: ImageCatalogue, image: Image) -> None:
    [made] = catalogue.build(["more"], watch=lambda _share, _what: None)
    assert made.digest != image.digest
    assert made.manifest.kubernetes_version == "1.20.2"


@pytest.mark.parametrize("damage", ["program", "image"])
def test_a_bundle_that_no_node_could_use_is_refused(
    catalogue: ImageCatalogue, image: Image, damage: str, tmp_path: Path
) -> None:
    """Before that nothing has run its programs, and nothing has looked into its images."""
    bundle = tmp_path / "bundle"
    run(["cp", "-a", "--reflink=auto", BINARIES.parents[2].resolve(), bundle])
    (bundle / "kubernetes" / "images").mkdir()
    if damage == "program":
        program = bundle / "kubernetes/server/bin/kube-proxy"
        content = bytearray(program.read_bytes())
        struct.pack_into("<H", content, 0x38, 0)  # it has nothing to load
        program.write_bytes(content)
        said = "kube-proxy of the bundle does not run in this image"
    else:
        (bundle / "kubernetes/images/broken.tar").write_bytes(b"no tar")
        said = "broken.tar of the bundle is no container image"
    broken = catalogue_of(catalogue.store, bundle, tmp_path)
    with pytest.raises(ImageError) as caught:
        broken.build(["kubernetes"], watch=lambda _share, _what: None)
    assert said in (caught.value.details or "")
    assert replace(catalogue, preparer=None).find("kubernetes") == image
    assert not list(catalogue.store.paths.root.glob(".part-*"))
