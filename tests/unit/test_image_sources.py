"""Files and URLs as images: which image of the store each is, and when it is imported again."""

import hashlib
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest
from qcow2_writer import MIB, Qcow2

from ai_how.clusters.desired_cluster import DesiredCluster
from ai_how.clusters.preflight.existing_cluster import check_images
from ai_how.clusters.preflight.node_images import get_image
from ai_how.errors import HostError, ImageError, SpecError
from ai_how.images.build import BuildOptions
from ai_how.images.catalogue import ImageCatalogue
from ai_how.images.exchange import export_image
from ai_how.images.manifest import DISK, Image, Manifest
from ai_how.images.sources import (
    ImageSource,
    find_imported,
    import_source,
    name_of,
    source_of_text,
    stored_name,
)
from ai_how.images.store import ImageStore
from ai_how.spec.reader import read_spec_text
from ai_how.state.models import ClusterState
from bare_kind import BARE
from cluster_bench import draft_of, read_hpc
from prepared_images import preparer_of

SHA = "a" * 64


def quiet(_share: float, _what: str) -> None:
    """Nobody hears."""


def digest_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def write_disk(path: Path, *, mib: int = 1) -> str:
    """A disk that differs by its size; returns its digest."""
    data = Qcow2(virtual_bytes=mib * MIB).render()
    path.write_bytes(data)
    return digest_of(data)


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(tmp_path / "images")


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "debian-13.qcow2"
    write_disk(path)
    return path


def catalogue_of(store: ImageStore, directory: Path, booted: str, images: str) -> ImageCatalogue:
    text = f"""
version: "1.0"
images: {images}
clusters:
  hpc:
    name: hpc
    base_image_path: {booted}
    controller: {{cpu_cores: 1, memory_gb: 1, disk_gb: 5}}
    compute_nodes: {{count: 1, cpu_cores: 1, memory_gb: 1, disk_gb: 5}}
"""
    spec, problems = read_spec_text(text, "cluster.yaml", {}, directory=directory)
    assert spec is not None, problems
    return ImageCatalogue(store, spec, preparer_of(store))


@pytest.mark.parametrize(
    ("place", "name"),
    [
        (Path("/srv/debian-13.qcow2"), "debian-13"),
        (Path("/srv/my disk (2).qcow2"), "my-disk-2-"),
        (Path("/srv/.hidden"), "hidden"),
        (Path("/srv/ä.qcow2"), "image"),
        (Path("/srv/default.qcow2"), "default-disk"),
        (Path("/srv/trixie.img"), "trixie-disk"),
        (Path("/srv/" + "a" * 200 + ".img"), "a" * 80),
        ("https://h/a/Rocky-9.latest.qcow2?token=x", "Rocky-9.latest"),
        ("https://h/a%20b.qcow2", "a-b"),
        ("https://h/", "image"),
    ],
)
def test_every_file_gives_a_name_that_an_image_may_have(place: Path | str, name: str) -> None:
    assert name_of(place) == name


def test_a_path_is_that_of_the_cluster_file_or_of_the_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    places = [
        source_of_text(text, tmp_path).place for text in ("./a.img", "~/a.img", "/a.img", "b/~/a")
    ]
    assert places == [
        tmp_path / "a.img",
        Path("/home/me/a.img"),
        Path("/a.img"),
        tmp_path / "b/~/a",
    ]


def test_a_file_is_imported_once_and_found_without_reading_it_again(
    store: ImageStore, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = source_of_text(str(disk), None)
    assert find_imported(store, source) is None
    image = import_source(store, source, quiet)
    assert (image.name, image.digest) == ("debian-13", digest_of(disk.read_bytes()))
    # Nothing but its attributes may be looked at: root may read whatever the mode is.
    monkeypatch.setattr("ai_how.images.copying.hashlib.file_digest", None)
    monkeypatch.setattr("ai_how.images.importing.copy_sparse", None)
    assert find_imported(store, source) == image
    assert ImageStore(store.paths.root).list() == (image,)


@pytest.mark.parametrize("how", ["written", "replaced", "times"])
def test_a_file_that_changed_is_another_image(store: ImageStore, disk: Path, how: str) -> None:
    source = source_of_text(str(disk), None)
    first = import_source(store, source, quiet)
    if how == "written":
        write_disk(disk, mib=2)
    elif how == "replaced":
        write_disk(disk.with_name("other"), mib=2)
        disk.with_name("other").replace(disk)
    else:  # as by a copy that keeps the times and the size
        before = disk.stat()
        data = bytearray(disk.read_bytes())
        data[-1] ^= 1
        disk.write_bytes(data)
        os.utime(disk, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert find_imported(store, source) is None
    second = import_source(store, source, quiet)
    assert second.digest != first.digest
    assert second.name == first.name
    assert find_imported(store, source) == second
    assert store.list() == (second, first)


def test_a_file_keeps_the_name_under_which_it_was_imported_before(
    store: ImageStore, disk: Path
) -> None:
    store.import_file(disk, name="mine")
    source = source_of_text(str(disk), None)
    assert import_source(store, source, quiet).name == "mine"
    write_disk(disk, mib=2)
    assert stored_name(store, source) == "mine"
    assert import_source(store, source, quiet).name == "mine"


def test_an_image_that_was_removed_is_imported_again(store: ImageStore, disk: Path) -> None:
    source = source_of_text(str(disk), None)
    store.remove(import_source(store, source, quiet), used_by={})
    assert find_imported(store, source) is None
    assert find_imported(store, source_of_text(str(disk), None)) is None
    assert import_source(store, source, quiet) == find_imported(store, source)


def test_records_of_images_that_are_gone_are_removed(store: ImageStore, tmp_path: Path) -> None:
    for number in (1, 2):
        write_disk(tmp_path / f"{number}.qcow2", mib=number)
        source = source_of_text(str(tmp_path / f"{number}.qcow2"), None)
        image = import_source(store, source, quiet)
        assert len(list(store.paths.sources.iterdir())) == 1
        store.remove(image, used_by={})


@pytest.mark.parametrize("record", [b"", b"{}", b"\xff", b'{"image": "../../etc"}'])
def test_a_damaged_record_is_as_none(store: ImageStore, disk: Path, record: bytes) -> None:
    source = source_of_text(str(disk), None)
    image = import_source(store, source, quiet)
    [path] = store.paths.sources.iterdir()
    path.write_bytes(record)
    assert find_imported(store, source) is None
    assert import_source(store, source, quiet) == image == find_imported(store, source)


def test_the_digest_of_a_file_is_required(store: ImageStore, disk: Path) -> None:
    right = digest_of(disk.read_bytes())
    assert import_source(store, ImageSource(disk, "x", sha256=right), quiet).digest == right
    assert find_imported(store, ImageSource(disk, "x", sha256=right)) is not None
    wrong = ImageSource(disk, "x", sha256=SHA)
    assert find_imported(store, wrong) is None
    with pytest.raises(ImageError, match="does not have the expected sha256"):
        import_source(store, wrong, quiet)


def test_a_sha512_of_a_file_is_required_as_well(store: ImageStore, disk: Path) -> None:
    right = hashlib.sha512(disk.read_bytes()).hexdigest()
    image = import_source(store, ImageSource(disk, "x", sha512=right), quiet)
    assert find_imported(store, ImageSource(disk, "x", sha512=right)) == image
    # Nobody has compared the file with another one.
    wrong = ImageSource(disk, "x", sha512="0" * 128)
    assert find_imported(store, wrong) is None
    with pytest.raises(ImageError, match="does not have the expected sha512"):
        import_source(store, wrong, quiet)


def test_a_file_that_changes_while_it_is_copied_is_refused(store: ImageStore, disk: Path) -> None:
    def write(_share: float, what: str) -> None:
        if what.startswith("copying"):
            with disk.open("ab") as file:
                file.write(b"x")

    with pytest.raises(ImageError, match=r"debian-13\.qcow2 changed while it was copied"):
        import_source(store, source_of_text(str(disk), None), write)
    assert store.list() == ()
    assert not store.paths.sources.exists()


def test_a_file_that_is_gone_is_named(store: ImageStore, disk: Path) -> None:
    source = source_of_text(str(disk), None)
    import_source(store, source, quiet)
    disk.unlink()
    with pytest.raises(ImageError, match="No such file") as caught:
        find_imported(store, source)
    assert caught.value.hint == f"ls -l {disk}"
    assert stored_name(store, source) == "debian-13"


def test_the_firmware_that_the_file_says_is_in_the_manifest(store: ImageStore, disk: Path) -> None:
    image = import_source(store, ImageSource(disk, "x", firmware="uefi"), quiet)
    assert image.manifest.firmware == "uefi"
    assert find_imported(store, ImageSource(disk, "x")) == image
    with pytest.raises(ImageError, match="was imported for uefi, not for bios") as caught:
        find_imported(store, ImageSource(disk, "x", firmware="bios"))
    assert (caught.value.hint or "").startswith(f"ai-how image rm {image.digest[:12]} ")


def test_an_earlier_ai_how_reads_the_manifest_of_an_image_without_firmware(
    store: ImageStore, disk: Path
) -> None:
    image = store.import_file(disk)
    assert '"firmware"' not in (image.directory / "manifest.json").read_text()
    write_disk(disk, mib=2)
    image = store.import_file(disk, firmware="bios")
    assert '"firmware": "bios"' in (image.directory / "manifest.json").read_text()


@pytest.mark.parametrize(
    ("booted", "images"),
    [
        ("./debian-13.qcow2", "{}"),
        ("mine", "{mine: {from: {path: debian-13.qcow2}}}"),
        ("mine", "{mine: {from: ./debian-13.qcow2}}"),
        ("other", "{mine: {from: ./debian-13.qcow2}, other: {from: mine}}"),
    ],
)
def test_the_catalogue_finds_and_imports_what_a_file_names(
    store: ImageStore, disk: Path, booted: str, images: str
) -> None:
    catalogue = catalogue_of(store, disk.parent, booted, images)
    name = "debian-13-prepared" if booted == "./debian-13.qcow2" else "mine-prepared"
    assert catalogue.is_ours(booted)
    assert catalogue.find(booted) is None
    assert catalogue.stored_name(booted) == name
    [missing] = catalogue.missing([booted])
    catalogue.require_base(booted)
    heard: list[float] = []
    [image] = catalogue.build([missing], watch=lambda share, _: heard.append(share))
    assert heard == sorted(heard)
    assert heard[-1] == 1.0
    assert image.name == name == catalogue.stored_name(booted)
    assert catalogue.find(booted) == image
    assert catalogue.missing([booted]) == ()


def test_one_file_under_two_names_is_one_image(store: ImageStore, disk: Path) -> None:
    images = "{a: {from: ./debian-13.qcow2}, b: {from: {path: ./debian-13.qcow2}}}"
    catalogue = catalogue_of(store, disk.parent, "a", images)
    [one, other] = catalogue.build(["a", "b"], watch=quiet)
    assert one == other
    assert {image.name for image in store.list()} == {"a", "a-prepared"}


def test_where_a_relative_path_begins_must_be_known(store: ImageStore, disk: Path) -> None:
    catalogue = catalogue_of(store, disk.parent, "./debian-13.qcow2", "{}")
    lost = ImageCatalogue(store, catalogue.file.placed_in(None))
    with pytest.raises(ImageError, match=r"debian-13\.qcow2 is relative to its cluster file"):
        lost.find("./debian-13.qcow2")
    assert lost.stored_name("./debian-13.qcow2") == "debian-13-prepared"


def test_a_start_needs_the_file_that_a_new_node_boots(store: ImageStore, disk: Path) -> None:
    catalogue = catalogue_of(store, disk.parent, "./debian-13.qcow2", "{}")
    with pytest.raises(HostError, match=r"\./debian-13\.qcow2 is not imported yet") as caught:
        get_image("./debian-13.qcow2", catalogue, BARE)
    assert caught.value.hint == "ai-how image build ./debian-13.qcow2"
    [image] = catalogue.build(["./debian-13.qcow2"], watch=quiet)
    assert get_image("./debian-13.qcow2", catalogue, BARE) == image
    disk.unlink()
    with pytest.raises(HostError, match=r"debian-13\.qcow2 cannot be read: No such file"):
        get_image("./debian-13.qcow2", catalogue, BARE)


def on(image: Image, asked: str) -> tuple[DesiredCluster, ClusterState]:
    """A cluster whose nodes exist on this image, and what its file asks for now."""
    hpc = read_hpc(f"base_image_path: {asked}")
    state = draft_of(hpc).state
    nodes = [one.model_copy(update={"image_digest": image.digest}) for one in state.nodes]
    state = state.model_copy(update={"nodes": tuple(nodes)})
    return draft_of(hpc, state), state


def test_existing_nodes_keep_the_image_of_a_file_that_changed(
    store: ImageStore, disk: Path
) -> None:
    asked = "./debian-13.qcow2"
    catalogue = catalogue_of(store, disk.parent, asked, "{}")
    [first] = catalogue.build([asked], watch=quiet)
    cluster = on(first, asked)
    assert list(check_images(*cluster, catalogue)) == []
    write_disk(disk, mib=2)
    [warning] = check_images(*cluster, catalogue)
    assert warning.endswith(
        f"on the image debian-13-prepared {first.digest[:12]}, which is not the newest"
    )
    catalogue.build(catalogue.missing([asked]), watch=quiet)
    assert list(check_images(*cluster, catalogue)) == [warning]
    disk.unlink()
    assert list(check_images(*cluster, catalogue)) == []


def test_existing_nodes_cannot_get_the_image_of_another_file(store: ImageStore, disk: Path) -> None:
    write_disk(disk.with_name("other.qcow2"), mib=2)
    catalogue = catalogue_of(store, disk.parent, "./other.qcow2", "{}")
    [first] = catalogue.build(["./debian-13.qcow2"], watch=quiet)
    with pytest.raises(SpecError, match="is based on debian-13-prepared; the file asks for other"):
        list(check_images(*on(first, "./other.qcow2"), catalogue))


def test_to_take_a_file_anew_does_not_copy_what_is_the_same(store: ImageStore, disk: Path) -> None:
    catalogue = catalogue_of(store, disk.parent, "./debian-13.qcow2", "{}")
    [image] = catalogue.build(["./debian-13.qcow2"], watch=quiet)
    heard: list[str] = []
    [again] = catalogue.build(
        ["./debian-13.qcow2"],
        watch=lambda _share, what: heard.append(what),
        options=BuildOptions(refresh=True),
    )
    # It is prepared anew, with newer packages.
    assert again.name == image.name
    assert again.digest != image.digest
    assert catalogue.find("./debian-13.qcow2") == again
    assert not [what for what in heard if "copying" in what]


def test_a_disk_that_is_prepared_may_be_removed(store: ImageStore, disk: Path) -> None:
    digest = digest_of(disk.read_bytes())
    images = f"{{mine: {{from: {{url: 'https://h/x.qcow2', sha256: {digest}}}}}}}"
    store.import_file(disk)
    catalogue = catalogue_of(store, disk.parent, "mine", images)
    [made] = catalogue.build(["mine"], watch=quiet)
    theirs = store.get(digest)
    store.remove(theirs, used_by={})
    assert catalogue.find("mine") == made
    assert catalogue.missing(["mine"]) == ()


@pytest.mark.parametrize("booted", ["./debian-13.qcow2", "debian-13"])
def test_what_is_there_already_shows_no_progress(
    store: ImageStore, disk: Path, booted: str
) -> None:
    catalogue = catalogue_of(store, disk.parent, "./debian-13.qcow2", "{}")
    [image] = catalogue.build(["./debian-13.qcow2"], watch=quiet)
    heard: list[float] = []
    again = catalogue.build([booted], watch=lambda share, _what: heard.append(share))
    assert again == (image,)
    assert heard == []


def test_a_disk_of_the_store_is_prepared_by_its_name(store: ImageStore, disk: Path) -> None:
    store.import_file(disk, name="theirs")
    catalogue = catalogue_of(store, disk.parent, "theirs", "{}")
    assert catalogue.missing(["theirs"]) == ("theirs",)
    with pytest.raises(HostError, match="the image theirs is not prepared yet") as caught:
        get_image("theirs", catalogue, BARE)
    assert caught.value.hint == "ai-how image build theirs"
    [made] = catalogue.build(["theirs"], watch=quiet)
    assert made.name == "theirs-prepared" == catalogue.stored_name("theirs")
    assert get_image("theirs", catalogue, BARE) == made
    # And what was made of it has a name of its own.
    assert catalogue_of(store, disk.parent, "theirs-prepared", "{}").find(made.name) == made


def test_without_a_host_a_disk_is_not_prepared(store: ImageStore, disk: Path) -> None:
    store.import_file(disk, name="theirs")
    catalogue = ImageCatalogue(store, catalogue_of(store, disk.parent, "theirs", "{}").file)
    with pytest.raises(ImageError, match="theirs has to be prepared for a cluster, in a VM"):
        catalogue.build(["theirs"], watch=quiet)


def test_an_exported_image_may_be_named_by_its_file(store: ImageStore, disk: Path) -> None:
    elsewhere = ImageStore(disk.parent / "elsewhere")
    image = add_ours(elsewhere)
    file = disk.with_name("science.tar")
    export_image(image, file)
    catalogue = catalogue_of(store, disk.parent, "mine", "{mine: {from: ./science.tar}}")
    [found] = catalogue.build(["mine"], watch=quiet)
    assert (found.name, found.digest) == (image.name, image.digest)
    assert found.manifest.identity == "agent"
    assert catalogue.find("mine") == found
    assert catalogue.stored_name("mine") == image.name
    digest = digest_of(file.read_bytes())
    assert find_imported(store, ImageSource(file, "x", sha256=digest)) == found
    assert find_imported(store, ImageSource(file, "x", sha256=SHA)) is None


def add_ours(store: ImageStore) -> Image:
    """An image as we build them."""
    data = Qcow2(virtual_bytes=MIB).render()
    manifest = Manifest(
        digest=SHA,
        name="science",
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        virtual_size_bytes=MIB,
        disk_sha256=digest_of(data),
        identity="agent",
    )
    with store.draft() as draft:
        (draft / DISK).write_bytes(data)
        return store.add(draft, manifest)


@pytest.mark.parametrize("text", ["ftp://h/a.img", "http://h/a.img", "https://h/a.img#md5=1"])
def test_what_is_no_address_is_refused_by_the_command_as_well(
    store: ImageStore, disk: Path, text: str
) -> None:
    catalogue = catalogue_of(store, disk.parent, "default", "{}")
    with pytest.raises(ImageError, match="is refused") as caught:
        catalogue.build([text], watch=quiet)
    assert caught.value.details == "Allowed: an https:// URL without #."
