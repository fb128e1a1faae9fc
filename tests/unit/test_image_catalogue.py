"""Which image a name of the cluster file is: digests, the store, and what is missing."""

import hashlib
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest
from qcow2_writer import MIB, Qcow2

from ai_how.errors import HostError, ImageError
from ai_how.images.blueprint import Blueprint, BuildStep, CopiedFile, digest_of, digest_of_recipe
from ai_how.images.bundles import Bundle
from ai_how.images.catalogue import ImageCatalogue
from ai_how.images.derive import find_start
from ai_how.images.manifest import DISK, MANIFEST, PACKAGES, TREE, Image, Manifest
from ai_how.images.packages import (
    Package,
    VersionChange,
    compare,
    find_slurm_version,
    packages_of,
    read_packages,
)
from ai_how.images.recipe import ROOT, default_recipe, suite_recipe
from ai_how.images.store import ImageStore
from ai_how.process import run
from ai_how.spec.kubernetes import DEFAULT_VERSION
from ai_how.spec.reader import read_spec_text

CLUSTER = """
version: "1.0"
clusters:
  hpc:
    name: hpc
    controller: {cpu_cores: 1, memory_gb: 1, disk_gb: 5}
    compute_nodes: {count: 1, cpu_cores: 1, memory_gb: 1, disk_gb: 5}
"""
DEFAULT = default_recipe().digest
JQ = "jq\t1.7.1-6\tamd64\tjq\t1.7.1-6\n"


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    images = tmp_path / "images"
    images.mkdir()
    return ImageStore(images)


def add(
    store: ImageStore,
    digest: str,
    name: str,
    *,
    asked: str | None = None,
    year: int = 2026,
    tree: bool = False,
) -> Image:
    disk = Qcow2(virtual_bytes=MIB).render()
    manifest = Manifest(
        digest=digest,
        asked_digest=asked,
        name=name,
        created_at=datetime(year, 1, 1, tzinfo=UTC),
        virtual_size_bytes=MIB,
        disk_sha256=hashlib.sha256(disk).hexdigest(),
        packages_sha256=hashlib.sha256(JQ.encode()).hexdigest(),
        tree_sha256=hashlib.sha256(b"tree").hexdigest() if tree else None,
        identity="agent",
    )
    with store.draft() as draft:
        (draft / DISK).write_bytes(disk)
        if tree:
            (draft / TREE).write_bytes(b"tree")
        (draft / PACKAGES).write_text(JQ)
        return store.add(draft, manifest)


def catalogue_of(store: ImageStore, images: str, directory: Path | None = None) -> ImageCatalogue:
    text = f"images: {images}{CLUSTER}"
    spec, problems = read_spec_text(text, "cluster.yaml", {}, directory=directory)
    assert spec is not None, problems
    return ImageCatalogue(store, spec)


def digest_on(base: str, blueprint: Blueprint) -> str:
    return digest_of_recipe(blueprint.recipe(base))


def test_all_that_decides_an_image_is_in_its_digest(tmp_path: Path) -> None:
    file, script = tmp_path / "file", tmp_path / "script"
    file.write_text("one")
    script.write_text("one")
    files, steps = (CopiedFile("/opt/x", file),), (BuildStep("./script", script),)
    base = Blueprint(name="mine", packages=("a", "b"), files=files, steps=steps)
    seen = {
        digest_on(DEFAULT, base),
        digest_on("0" * 64, base),
        digest_on(DEFAULT, Blueprint(name="mine", packages=("a",), files=files, steps=steps)),
        digest_on(DEFAULT, Blueprint(name="mine", sets=("modules",), files=files, steps=steps)),
        digest_on(DEFAULT, Blueprint(name="mine", packages=("a", "b"), files=files)),
        digest_on(DEFAULT, Blueprint(name="mine", packages=("a", "b"), steps=steps)),
    }
    file.chmod(0o755)
    seen.add(digest_on(DEFAULT, base))
    file.write_text("two")
    seen.add(digest_on(DEFAULT, base))
    script.write_text("two")
    seen.add(digest_on(DEFAULT, base))
    assert len(seen) == 9


def test_neither_the_name_nor_the_order_of_packages_is_in_the_digest() -> None:
    one = Blueprint(name="mine", packages=("a", "b"))
    assert digest_on(DEFAULT, one) == digest_on(
        DEFAULT, Blueprint(name="other", packages=("b", "a"))
    )


def test_the_digest_of_a_directory_is_that_of_all_below_it(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    seen = {digest_of(tmp_path)}
    (tmp_path / "below" / "file").touch()
    seen.add(digest_of(tmp_path))
    (tmp_path / "below" / "link").symlink_to("/nowhere")
    seen.add(digest_of(tmp_path))
    (tmp_path / "below").chmod(0o700)
    seen.add(digest_of(tmp_path))
    assert len(seen) == 4


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="gone cannot be copied to an image: No such file"):
        digest_of(tmp_path / "gone")


def test_an_image_is_found_by_all_that_decides_it(store: ImageStore) -> None:
    catalogue = catalogue_of(store, "{mine: {packages: jq}}")
    assert catalogue.find("mine") is None
    assert catalogue.missing(["mine", None]) == ("default", "mine")
    add(store, DEFAULT, "default")
    assert catalogue.missing(["mine", None]) == ("mine",)
    mine = add(store, digest_on(DEFAULT, Blueprint(name="mine", packages=("jq",))), "mine")
    assert catalogue.find("mine") == mine
    assert catalogue.missing(["mine", None]) == ()
    assert catalogue_of(store, "{mine: {packages: bc}}").find("mine") is None


def test_the_newest_image_of_a_recipe_is_taken_and_what_is_made_from_it_is_built_again(
    store: ImageStore,
) -> None:
    catalogue = catalogue_of(store, "{mine: {packages: jq}}")
    add(store, DEFAULT, "default", asked=DEFAULT)
    add(store, digest_on(DEFAULT, Blueprint(name="mine", packages=("jq",))), "mine")
    newer = add(store, "f" * 64, "default", asked=DEFAULT, year=2027)
    assert catalogue.find(None) == newer
    assert catalogue.missing(["mine"]) == ("mine",)


def test_an_image_without_additions_is_its_base(store: ImageStore) -> None:
    catalogue = catalogue_of(store, "{mine: {}, old: {from: {suite: bookworm}}}")
    assert catalogue.missing(["mine", "old"]) == ("default", "suite:bookworm")
    default = add(store, DEFAULT, "default")
    old = add(store, suite_recipe("bookworm").digest, "bookworm")
    assert catalogue.find("mine") == default
    assert catalogue.find("old") == old
    assert catalogue.stored_name("mine") == "default"
    assert catalogue.stored_name("old") == "bookworm"
    assert catalogue.stored_name("elsewhere") == "elsewhere"


def test_a_base_may_be_one_of_the_store(store: ImageStore) -> None:
    catalogue = catalogue_of(store, "{mine: {from: theirs, packages: jq}}")
    with pytest.raises(HostError, match="made from theirs, and there is no such image"):
        catalogue.require_base("mine")
    base = add(store, "a" * 64, "theirs")
    catalogue.require_base("mine")
    mine = add(store, digest_on(base.digest, Blueprint(name="mine", packages=("jq",))), "mine")
    assert catalogue.find("mine") == mine


def test_a_disk_that_was_imported_is_no_base_and_the_remedy_is_another(
    store: ImageStore, tmp_path: Path
) -> None:
    (tmp_path / "theirs.qcow2").write_bytes(Qcow2(virtual_bytes=MIB).render())
    disk = store.import_file(tmp_path / "theirs.qcow2")
    catalogue = catalogue_of(store, "{mine: {from: theirs, packages: jq}}")
    with pytest.raises(ImageError) as caught:
        catalogue.build(["mine"], watch=lambda _share, _what: None)
    assert caught.value.brief == f"mine cannot be made from theirs {disk.digest[:12]}"
    assert caught.value.details == "An image that was imported as a disk has no tree of files."
    assert caught.value.hint == "from: default  # of the image mine in the cluster file"


def test_an_image_of_an_earlier_ai_how_is_built_again_for_what_is_made_from_it(
    store: ImageStore,
) -> None:
    base = add(store, "a" * 64, "theirs")
    catalogue = catalogue_of(store, "{mine: {from: theirs, packages: jq}}")
    with pytest.raises(ImageError, match="mine cannot be made from theirs") as caught:
        catalogue.build(["mine"], watch=lambda _share, _what: None)
    assert caught.value.hint == f"ai-how image rm {base.digest[:12]}  # then build it again"


def test_a_build_goes_on_from_the_image_that_has_most_of_it(store: ImageStore) -> None:
    def made(digest: str, blueprint: Blueprint, base: str = DEFAULT) -> Image:
        image = add(store, digest * 64, "earlier", tree=True)
        recipe = blueprint.recipe(base)
        manifest = image.manifest.model_copy(update={"recipe": recipe})
        path = image.directory / MANIFEST
        path.chmod(0o644)
        path.write_text(manifest.model_dump_json())
        return Image(image.directory, manifest)

    wanted = Blueprint(name="mine", packages=("a", "b", "c")).recipe(DEFAULT)
    assert find_start(store, wanted) is None
    made("1", Blueprint(name="earlier", packages=("a",)))
    made("2", Blueprint(name="earlier", packages=("a", "b", "d")))
    made("3", Blueprint(name="earlier", packages=("a", "b"), steps=(BuildStep("true"),)))
    made("4", Blueprint(name="earlier", packages=("a", "b")), base="0" * 64)
    made("5", Blueprint(name="earlier", packages=("a", "b"), sets=("devel",)))
    best = made("6", Blueprint(name="earlier", packages=("a", "b")))
    assert find_start(store, wanted) == best


@pytest.mark.parametrize(("built", "goes_on"), [({}, True), ({"simulated-gpus": "0"}, False)])
def test_a_build_goes_on_from_no_image_with_another_version_of_what_a_set_builds(
    store: ImageStore, built: dict[str, str], goes_on: bool
) -> None:
    image = add(store, "1" * 64, "earlier", tree=True)
    recipe = Blueprint(name="earlier", sets=("simulated-gpus",)).recipe(DEFAULT)
    recipe["set_scripts"] |= built
    path = image.directory / MANIFEST
    path.chmod(0o644)
    path.write_text(image.manifest.model_copy(update={"recipe": recipe}).model_dump_json())
    wanted = Blueprint(name="mine", sets=("simulated-gpus",), packages=("jq",)).recipe(DEFAULT)
    assert bool(find_start(store, wanted)) is goes_on


def test_a_name_that_nobody_describes_is_refused(store: ImageStore) -> None:
    catalogue = catalogue_of(store, "{mine: {packages: jq}}")
    with pytest.raises(ImageError) as caught:
        catalogue.build(["mien"], watch=lambda _share, _what: None)
    assert caught.value.brief == "no image mien is described"
    assert caught.value.hint == "ai-how image build mine"


def test_files_of_an_unknown_directory_are_not_looked_for(store: ImageStore) -> None:
    add(store, DEFAULT, "default")
    catalogue = catalogue_of(store, "{mine: {run: ./install.sh}}")
    with pytest.raises(ImageError, match="needs files that lie beside its cluster file"):
        catalogue.find("mine")


def package(name: str, version: str) -> Package:
    return Package(name, version, "amd64", name, version)


def test_two_lists_of_packages_are_compared_by_name() -> None:
    found = compare(
        (package("a", "1"), package("b", "1"), package("c", "1")),
        (package("b", "2"), package("c", "1"), package("d", "1")),
    )
    assert found.added == (package("d", "1"),)
    assert found.removed == (package("a", "1"),)
    assert found.changed == (VersionChange("b", "1", "2"),)


def test_packages_are_those_of_the_list_beside_the_disk(store: ImageStore, tmp_path: Path) -> None:
    image = add(store, DEFAULT, "default")
    assert packages_of(image) == (package("jq", "1.7.1-6"),)
    (tmp_path / "broken").write_text("jq\n")
    with pytest.raises(ImageError, match="is not a list of packages"):
        read_packages(tmp_path / "broken")


@pytest.mark.parametrize(
    ("version", "slurm"),
    [("24.11.5-4+deb13u1", "24.11.5"), ("22.05.8-4+deb12u3", "22.05.8"), ("26.05.5-1", "26.05.5")],
)
def test_the_version_of_slurm_is_without_that_of_debian(version: str, slurm: str) -> None:
    assert find_slurm_version((package("bash", "5"), package("slurm-client", version))) == slurm
    assert find_slurm_version((package("bash", "5"),)) is None


def test_the_exporter_starts_with_slurm_and_neither_waits_for_the_other() -> None:
    mine = Blueprint(name="mine", sets=("node-exporter",))
    assert mine.all_packages == ("prometheus-node-exporter",)
    texts = {one.target: one.source.read_text() for one in mine.all_files}
    for service in ("slurmd", "slurmctld"):
        text = texts[f"/etc/systemd/system/{service}.service.d/node-exporter.conf"]
        assert "Wants=prometheus-node-exporter.service" in text
        assert "After=" not in text
        assert "Before=" not in text


def test_a_node_with_containers_prepares_for_podman_before_slurm_starts() -> None:
    files = {
        one.target: one.source.read_text()
        for one in Blueprint(name="mine", sets=("containers",)).all_files
    }
    prepares = "ai-how-containers.service"
    unit = files[f"/etc/systemd/system/{prepares}"]
    assert "Before=slurmd.service slurmctld.service" in unit
    assert "rm -rf /tmp/storage-run-*" in unit
    assert "modprobe tun && chmod 0666 /dev/net/tun" in unit
    for service in ("slurmd", "slurmctld"):
        wants = files[f"/etc/systemd/system/{service}.service.d/containers.conf"]
        assert wants == f"[Unit]\nWants={prepares}\n"


def test_the_settings_that_a_suite_has_for_other_hosts_are_taken_out(tmp_path: Path) -> None:
    """The commands of our scripts about them, on files as Debian has them."""
    files = {
        "etc/openmpi/openmpi-mca-params.conf": "# a\nbtl_tcp_if_include=lo\n",
        "usr/lib/tmpfiles.d/tmp.conf": "# D\nD /tmp 1777 root root -\n#q /var/tmp 1777\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "etc/tmpfiles.d").mkdir()
    scripts = [(ROOT / name).read_text() for name in ("node.sh", "customize.sh")]
    lines = "\n".join(scripts).splitlines()
    ours = [line for line in lines if "btl_tcp_if_include" in line or "tmpfiles.d/tmp.conf" in line]
    run(["sh", "-euc", "\n".join(ours)], env={**os.environ, "root": str(tmp_path)})
    of_mpi = (tmp_path / "etc/openmpi/openmpi-mca-params.conf").read_text()
    assert of_mpi == "# a\n# btl_tcp_if_include=lo\n"
    of_tmp = (tmp_path / "etc/tmpfiles.d/tmp.conf").read_text()
    assert of_tmp == "# D\nq /tmp 1777 root root -\n#q /var/tmp 1777\n"


CLOUD = """
version: "1.0"
clusters:
  cloud:
    name: cloud
    control_plane: {cpu_cores: 1, memory_gb: 1, disk_gb: 5}
    worker_nodes: {count: 1, cpu_cores: 1, memory_gb: 1, disk_gb: 5}
"""


def cloud_catalogue(store: ImageStore, lines: str, directory: Path) -> ImageCatalogue:
    spec, problems = read_spec_text(CLOUD + lines, "cluster.yaml", {}, directory=directory)
    assert spec is not None, problems
    return ImageCatalogue(store, spec, bundles=directory / "bundles")


def test_a_kubernetes_cluster_has_an_image_by_itself(store: ImageStore, tmp_path: Path) -> None:
    catalogue = cloud_catalogue(store, "    kubernetes_config: {version: 1.33.1}\n", tmp_path)
    assert catalogue.is_ours("kubernetes")
    assert catalogue.find("kubernetes") is None
    assert catalogue.missing(["kubernetes"]) == ("default", "kubernetes")
    assert catalogue.stored_name("kubernetes") == "kubernetes"
    base = add(store, "1" * 64, "default", asked=DEFAULT, tree=True)
    blueprint = Blueprint(name="x", bundle=Bundle(tmp_path / "elsewhere", version="1.33.1"))
    made = add(store, "2" * 64, "kubernetes", asked=digest_on(base.digest, blueprint))
    assert catalogue.find("kubernetes") == made
    assert catalogue.missing(["kubernetes"]) == ()
    other = cloud_catalogue(store, "    kubernetes_config: {version: 1.33.2}\n", tmp_path)
    assert other.find("kubernetes") is None
    assert other.asked_digest("kubernetes") != catalogue.asked_digest("kubernetes")


def test_without_a_version_it_is_the_usual_one(store: ImageStore, tmp_path: Path) -> None:
    usual = cloud_catalogue(store, "", tmp_path).asked_digest("kubernetes")
    lines = f"    kubernetes_config: {{version: {DEFAULT_VERSION}}}\n"
    assert cloud_catalogue(store, lines, tmp_path).asked_digest("kubernetes") == usual


def test_an_image_of_the_file_with_that_name_is_that_image(
    store: ImageStore, tmp_path: Path
) -> None:
    own = "images: {kubernetes: {packages: jq, kubernetes: {version: 1.34.2}}}\n"
    catalogue = cloud_catalogue(store, own, tmp_path)
    assert set(catalogue.file.all_images) == {"kubernetes"}
    without = cloud_catalogue(store, "", tmp_path)
    assert catalogue.asked_digest("kubernetes") != without.asked_digest("kubernetes")


def test_a_slurm_cluster_has_none(store: ImageStore) -> None:
    assert not catalogue_of(store, "{}").is_ours("kubernetes")


def test_a_build_starts_from_no_image_with_another_kubernetes(
    store: ImageStore, tmp_path: Path
) -> None:
    one = Blueprint(name="x", bundle=Bundle(tmp_path, version="1.33.1"))
    more = Blueprint(name="x", packages=("jq",), bundle=one.bundle)
    other = Blueprint(name="x", packages=("jq",), bundle=Bundle(tmp_path, version="1.33.2"))
    none = Blueprint(name="x", packages=(*one.all_packages, "jq"))
    base = "1" * 64
    image = add(store, "2" * 64, "x", tree=True)
    manifest = image.directory / MANIFEST
    manifest.chmod(0o644)
    recipe = one.recipe(base)
    manifest.write_text(image.manifest.model_copy(update={"recipe": recipe}).text)
    found = find_start(store, more.recipe(base))
    assert found is not None
    assert found.digest == image.digest
    assert find_start(store, other.recipe(base)) is None
    assert find_start(store, none.recipe(base)) is None


def test_the_version_of_kubernetes_is_in_the_manifest_of_those_that_have_it() -> None:
    manifest = Manifest(
        digest="1" * 64,
        name="x",
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        virtual_size_bytes=MIB,
        disk_sha256="0" * 64,
        identity="agent",
    )
    assert "kubernetes" not in manifest.text
    with_it = manifest.model_copy(update={"kubernetes_version": "1.34.2"})
    assert Manifest.model_validate_json(with_it.text).kubernetes_version == "1.34.2"


def test_a_bundle_that_is_not_to_be_had_is_said_before_a_base_is_built(
    store: ImageStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(*_: object, **__: object) -> None:
        raise AssertionError("the base is built")

    monkeypatch.setattr("ai_how.images.catalogue.build_suite_image", build)
    (tmp_path / "empty").mkdir()
    lines = "    kubernetes_config: {bundle: ./empty}\n"
    catalogue = cloud_catalogue(store, lines, tmp_path)
    with pytest.raises(ImageError, match="empty lacks kube-apiserver, "):
        catalogue.build(["kubernetes"], watch=lambda _share, _what: None)
