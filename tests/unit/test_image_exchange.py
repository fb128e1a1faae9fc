"""Exported images: whole or not at all, and nothing but the files of an image comes in."""

import hashlib
import io
import json
import os
import tarfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cli_runner import Cli
from test_image_catalogue import DEFAULT, add

from ai_how.errors import HostError, ImageError
from ai_how.images.blueprint import Blueprint
from ai_how.images.derive import find_start
from ai_how.images.exchange import export_image
from ai_how.images.manifest import DISK, MANIFEST, BrokenImage, Image
from ai_how.images.store import ImageStore


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    (tmp_path / "images").mkdir()
    return ImageStore(tmp_path / "images")


@pytest.fixture
def image(store: ImageStore) -> Image:
    return add(store, DEFAULT, "default", asked=DEFAULT)


@pytest.fixture
def other(tmp_path: Path) -> ImageStore:
    (tmp_path / "other").mkdir()
    return ImageStore(tmp_path / "other")


def members(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as packed:
        return {one.name: packed.extractfile(one).read() for one in packed}


def write(path: Path, *entries: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as packed:
        for info, data in entries:
            info.size = len(data)
            packed.addfile(info, io.BytesIO(data))
    return path


def entry(name: str, data: bytes, kind: bytes = tarfile.REGTYPE) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type = kind
    info.linkname = "/etc/passwd" if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE) else ""
    return info, data


def test_an_image_is_the_same_on_another_machine(image, store, other, tmp_path):
    export_image(image, tmp_path / "default.tar")
    taken = other.import_file(tmp_path / "default.tar")
    marks = {"is_imported": True, "created_at": taken.manifest.created_at}
    assert taken.manifest == image.manifest.model_copy(update=marks)
    assert abs(datetime.now(UTC) - taken.manifest.created_at) < timedelta(minutes=5)
    other.verify(taken)
    assert other.find_built(DEFAULT) == taken
    assert other.import_file(tmp_path / "default.tar") == taken


def test_an_imported_image_is_taken_only_where_none_was_built_here(store, other, tmp_path):
    """Even if its manifest says that it is newer, and that it was not imported."""
    theirs = add(store, "e" * 64, "default", asked=DEFAULT, year=2090)
    export_image(theirs, tmp_path / "theirs.tar")
    taken = other.import_file(tmp_path / "theirs.tar")
    assert other.find_built(DEFAULT) == taken
    ours = add(other, "d" * 64, "default", asked=DEFAULT, year=2020)
    assert other.find_built(DEFAULT) == ours
    assert "is_imported" not in (ours.directory / MANIFEST).read_text()


def test_a_build_does_not_go_on_from_an_imported_image(store, other, tmp_path):
    blueprint = Blueprint(name="mine", packages=("a",))
    recipe = blueprint.recipe(DEFAULT)
    image = add(store, "c" * 64, "mine", tree=True)
    path = image.directory / MANIFEST
    path.chmod(0o644)
    path.write_text(image.manifest.model_copy(update={"recipe": recipe}).model_dump_json())
    wanted = Blueprint(name="mine", packages=("a", "b")).recipe(DEFAULT)
    [image] = store.list()
    assert find_start(store, wanted) == image
    export_image(image, tmp_path / "mine.tar")
    other.import_file(tmp_path / "mine.tar")
    assert find_start(other, wanted) is None


def test_import_says_what_the_image_is_used_for(store, image, tmp_path, monkeypatch, capsys):
    export_image(image, tmp_path / "default.tar")
    export_image(add(store, "c" * 64, "mine"), tmp_path / "mine.tar")
    cli = Cli(tmp_path, monkeypatch, capsys)
    for name in ("default", "mine"):
        said = cli("image", "import", tmp_path / f"{name}.tar").out
        assert f"it is used for {name} unless one is built here:\n" in said
        assert f"  ai-how image build {name} --refresh\n" in said


def test_an_export_never_replaces_a_file(image, tmp_path):
    (tmp_path / "mine").write_text("precious")
    with pytest.raises(HostError, match="mine is there already"):
        export_image(image, tmp_path / "mine")
    assert (tmp_path / "mine").read_text() == "precious"


def test_two_exports_to_one_file_leave_each_others_drafts_alone(image, tmp_path):
    former, same = tmp_path / ".file.part", tmp_path / f".file.{os.getpid()}.part"
    former.write_text("of another process")
    export_image(image, tmp_path / "file")
    assert former.read_text() == "of another process"
    same.write_text("of another host")
    (tmp_path / "file").unlink()
    with pytest.raises(HostError):
        export_image(image, tmp_path / "file")
    assert same.read_text() == "of another host"


def test_what_appears_during_an_export_is_not_replaced(image, tmp_path):
    with pytest.raises(HostError, match="file is there already"):
        export_image(
            image, tmp_path / "file", on_progress=lambda _: (tmp_path / "file").write_text("new")
        )
    assert [path.name for path in tmp_path.glob("*file*")] == ["file"]
    assert (tmp_path / "file").read_text() == "new"


def test_an_image_that_has_changed_is_not_exported(image, tmp_path):
    image.disk.chmod(0o644)
    with image.disk.open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"x")
    with pytest.raises(ImageError, match=r"disk\.qcow2 has changed"):
        export_image(image, tmp_path / "file")
    assert not list(tmp_path.glob("*file*"))


@pytest.mark.fault("S04", "an exported image with what is none of its files")
@pytest.mark.parametrize(
    ("extra", "why"),
    [
        (entry("../../evil", b"x"), "which is no file of an image"),
        (entry("/etc/passwd", b"x"), "which is no file of an image"),
        (entry("more", b"x"), "which is no file of an image"),
        (entry("tree.tar.zst", b"", tarfile.SYMTYPE), "which is no file of an image"),
        (entry("tree.tar.zst", b"", tarfile.LNKTYPE), "which is no file of an image"),
        (entry("tree.tar.zst", b"", tarfile.CHRTYPE), "which is no file of an image"),
        (entry("tree.tar.zst", b"", tarfile.FIFOTYPE), "which is no file of an image"),
        (entry("tree.tar.zst", b"", tarfile.DIRTYPE), "which is no file of an image"),
        (entry("tree.tar.zst", b"x"), "tree.tar.zst differs from its manifest"),
        (entry("disk.qcow2", b"x"), "disk.qcow2 is not where it belongs"),
        (entry("manifest.json", b"x"), "manifest.json is not where it belongs"),
    ],
)
def test_what_is_no_file_of_the_image_is_refused(image, other, tmp_path, extra, why):
    export_image(image, tmp_path / "good")
    files = [entry(name, data) for name, data in members(tmp_path / "good").items()]
    hostile = write(tmp_path / "hostile", *files, extra)
    with pytest.raises(ImageError) as caught:
        other.import_file(hostile)
    assert caught.value.brief.startswith(f"{hostile} is refused: ")
    assert caught.value.brief.endswith(why)
    assert other.list() == ()
    assert not list(other.paths.root.glob(".part-*"))


@pytest.mark.fault("S04", "an exported image that was changed on its way")
def test_each_byte_is_verified(image, other, tmp_path):
    export_image(image, tmp_path / "good")
    files = members(tmp_path / "good")
    files[DISK] = files[DISK][:-1] + b"\1"
    changed = write(tmp_path / "changed", *(entry(*one) for one in files.items()))
    with pytest.raises(ImageError) as caught:
        other.import_file(changed)
    assert caught.value.brief == f"{changed} is refused: {DISK} differs from its manifest"
    assert hashlib.sha256(files[DISK]).hexdigest() in (caught.value.details or "")


@pytest.mark.fault("S04", "an exported image with a file of an impossible size")
@pytest.mark.parametrize("size", [-1, -512, -(1 << 20), 1 << 50])
@pytest.mark.parametrize("name", [MANIFEST, DISK])
def test_a_file_of_an_impossible_size_is_refused(image, other, tmp_path, name, size):
    export_image(image, tmp_path / "good")
    info = tarfile.TarInfo(name)
    data = bytearray((tmp_path / "good").read_bytes())
    with tarfile.open(tmp_path / "good") as packed:
        at = packed.getmember(name).offset
    info.size = size
    data[at : at + 512] = info.tobuf(tarfile.GNU_FORMAT)
    (tmp_path / "bent").write_bytes(data)
    with pytest.raises(ImageError) as caught:
        other.import_file(tmp_path / "bent")
    assert caught.value.brief.endswith(f"is refused: {name} cannot have {size} bytes")
    assert other.list() == ()


@pytest.mark.parametrize("kept", [700, 2000, 200_000])
def test_a_file_that_was_cut_is_refused(image, other, tmp_path, kept):
    export_image(image, tmp_path / "good")
    cut = tmp_path / "cut"
    cut.write_bytes((tmp_path / "good").read_bytes()[:kept])
    with pytest.raises(ImageError, match="cut is refused"):
        other.import_file(cut)


def test_the_manifest_comes_first_and_is_small(image, other, tmp_path):
    export_image(image, tmp_path / "good")
    files = members(tmp_path / "good")
    late = write(tmp_path / "late", *(entry(*one) for one in reversed(files.items())))
    with pytest.raises(ImageError, match="is not where it belongs"):
        other.import_file(late)
    large = write(tmp_path / "large", entry(MANIFEST, bytes(2 << 20)))
    with pytest.raises(ImageError, match="is too large"):
        other.import_file(large)


@pytest.mark.fault("S04", "an exported image whose manifest has values of wrong types")
@pytest.mark.parametrize(
    "change",
    [
        {"created_at": "2026-01-01T00:00:00"},
        {"recipe": {"with": 3}},
        {"recipe": {"packages": [1]}},
        {"recipe": {"run": [{"sha256": None}]}},
        {"recipe": {"run": "x"}},
        {"recipe": {"base": "0", "files": ["x"]}},
        {"recipe": {"all_packages": None}},
    ],
)
def test_a_manifest_of_wrong_types_is_refused_and_breaks_no_verb(
    image, store, other, tmp_path, change
):
    export_image(image, tmp_path / "good")
    files = members(tmp_path / "good")
    changed = json.dumps(json.loads(files[MANIFEST]) | change).encode()
    files[MANIFEST] = changed
    hostile = write(tmp_path / "hostile", *(entry(*one) for one in files.items()))
    with pytest.raises(ImageError, match="is not a manifest") as caught:
        other.import_file(hostile)
    assert next(iter(change)) in (caught.value.details or "")
    assert other.list() == ()
    # One that is in the store all the same, beside others.
    add(store, "a" * 64, "mine")
    path = image.directory / MANIFEST
    path.chmod(0o644)
    path.write_bytes(changed)
    assert [type(one) for one in store.list()] == [Image, BrokenImage]


def test_a_recipe_without_all_its_parts_is_no_start(store):
    image = add(store, "b" * 64, "earlier", tree=True)
    path = image.directory / MANIFEST
    recipe = {"base": DEFAULT, "scripts": {}, "documented": []}
    path.chmod(0o644)
    path.write_text(image.manifest.model_copy(update={"recipe": recipe}).model_dump_json())
    assert find_start(store, recipe | {"all_packages": [], "files": {}, "run": []}) is None


def test_another_name_or_digest_is_refused(image, other, tmp_path):
    export_image(image, tmp_path / "good")
    with pytest.raises(ImageError, match="an exported image keeps its name"):
        other.import_file(tmp_path / "good", name="mine")
    with pytest.raises(ImageError, match="does not have the expected sha256"):
        other.import_file(tmp_path / "good", sha256="0" * 64)
