"""Bases and overlays: made once, kept when right, refused when not ours, gone when removed."""

import hashlib
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from qcow2_writer import MIB, Qcow2

from ai_how.errors import HostError, ImageError, OwnershipError
from ai_how.images import qemu_img
from ai_how.images.manifest import DISK, KERNEL, Image, Manifest
from ai_how.images.qcow2_header import read_header
from ai_how.plan.step import Applied
from ai_how.process import run
from ai_how.state.paths import StoragePaths
from ai_how.vm_management.disks.manager import DiskManager
from ai_how.vm_management.disks.space import GIB, DiskNeed, check_space, overlay_need

ID = UUID("11111111-2222-3333-4444-555555555555")


@pytest.fixture
def disks(tmp_path: Path) -> DiskManager:
    return DiskManager(StoragePaths(tmp_path / "storage"))


def make_image(directory: Path, *, content: bytes = b"", name: str = "default") -> Image:
    directory.mkdir(parents=True)
    raw = directory / "raw"
    raw.write_bytes(content + bytes(4 * MIB - len(content)))
    run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, directory / DISK])
    raw.unlink()
    (directory / KERNEL).write_bytes(b"kernel")
    disk_sha256 = hashlib.sha256((directory / DISK).read_bytes()).hexdigest()
    manifest = Manifest(
        digest=hashlib.sha256(name.encode() + content).hexdigest(),
        name=name,
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        virtual_size_bytes=4 * MIB,
        disk_sha256=disk_sha256,
        kernel_sha256=hashlib.sha256(b"kernel").hexdigest(),
        identity="agent",
    )
    return Image(directory, manifest)


@pytest.fixture
def image(tmp_path: Path) -> Image:
    return make_image(tmp_path / "images" / "one", content=b"the image's own bytes")


@pytest.fixture
def base(disks: DiskManager, image: Image) -> Path:
    return disks.ensure_base(image)


def overlay(disks: DiskManager, base: Path, node: str = "controller") -> Path:
    disks.create_overlay("demo", ID, node, base=base, size_gib=1)
    return disks.storage.disk("demo", node)


def drafts(disks: DiskManager) -> list[Path]:
    return list(disks.storage.root.rglob("*.part"))


def test_a_base_is_linked_once_read_only_and_open_to_qemus_user(
    disks: DiskManager, image: Image
) -> None:
    path = disks.ensure_base(image)
    assert path == disks.storage.base(image.digest)
    assert path.samefile(image.disk)
    assert path.stat().st_mode & 0o777 == 0o444
    for directory in (disks.storage.root, disks.storage.bases):
        assert directory.stat().st_mode & 0o777 == 0o711
    before = path.stat()
    assert disks.ensure_base(image) == path
    assert path.stat().st_ino == before.st_ino
    assert drafts(disks) == []


def test_a_base_on_another_file_system_is_copied(tmp_path: Path, disks: DiskManager) -> None:
    image = make_image(tmp_path / "images" / "one", content=b"bytes")
    small = tmp_path / "small"
    small.mkdir()
    said = in_small_file_system(
        small,
        """
        shutil.copytree(image_directory, small / "image")
        image = Image(small / "image", manifest)
        needed = disks.base_need(image)
        path = disks.ensure_base(image)
        print(needed.thin_bytes > 0, path.samefile(image.disk), path.stat().st_nlink)
        print(path.read_bytes() == image.disk.read_bytes(), disks.base_need(image).thin_bytes)
        """,
        image,
        storage=tmp_path / "storage",
    )
    assert said.splitlines() == ["True False 1", "True 0"]


def test_kernel_and_initrd_are_placed_beside_the_base(disks: DiskManager, image: Image) -> None:
    kernel, initrd = disks.ensure_kernel(image)
    assert kernel == disks.storage.base_kernel(image.digest)
    assert kernel.read_bytes() == b"kernel"
    assert initrd is None


def test_a_base_that_changed_is_refused_with_both_digests(disks: DiskManager, image: Image) -> None:
    path = disks.ensure_base(image)
    data = bytearray(path.read_bytes())
    path.unlink()
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ImageError, match="is not what its image's manifest says") as caught:
        disks.ensure_base(image)
    assert f"expected sha256 {image.manifest.disk_sha256}" in (caught.value.details or "")
    assert f"found    sha256 {hashlib.sha256(data).hexdigest()}" in (caught.value.details or "")
    assert caught.value.hint == f"rm -f {path}"
    path.unlink()
    assert disks.ensure_base(image).samefile(image.disk)


@pytest.mark.parametrize("size", [0, 1000, 70000])
def test_a_base_cut_short_is_refused(disks: DiskManager, image: Image, size: int) -> None:
    path = disks.ensure_base(image)
    path.chmod(0o600)
    os.truncate(path, size)
    with pytest.raises(ImageError, match="is not what its image's manifest says"):
        disks.ensure_base(image)


def test_an_image_that_lies_about_its_disk_is_never_placed(
    disks: DiskManager, image: Image
) -> None:
    lying = image.manifest.model_copy(update={"disk_sha256": "0" * 64})
    with pytest.raises(ImageError, match="is not what its image's manifest says"):
        disks.ensure_base(Image(image.directory, lying))
    assert not disks.storage.base(image.digest).exists()
    assert drafts(disks) == []


def test_a_base_that_was_touched_but_not_changed_is_kept(disks: DiskManager, image: Image) -> None:
    path = disks.ensure_base(image)
    os.utime(path)
    assert disks.ensure_base(image) == path


def test_half_a_base_of_a_killed_run_is_not_used(disks: DiskManager, image: Image) -> None:
    disks.storage.bases.mkdir(parents=True)
    target = disks.storage.base(image.digest)
    target.with_name(f".{target.name}.part").write_bytes(b"half")
    assert disks.ensure_base(image).samefile(image.disk)
    assert drafts(disks) == []


@pytest.mark.fault("S19", "a link where a base would be")
def test_a_link_where_a_base_would_be_is_refused(
    disks: DiskManager, image: Image, tmp_path: Path
) -> None:
    disks.storage.bases.mkdir(parents=True)
    victim = tmp_path / "victim"
    victim.write_text("mine")
    disks.storage.base(image.digest).symlink_to(victim)
    with pytest.raises(OwnershipError, match="is not a regular file"):
        disks.ensure_base(image)
    assert victim.read_text() == "mine"


def test_parallel_runs_place_one_base(disks: DiskManager, image: Image) -> None:
    with ThreadPoolExecutor(8) as pool:
        paths = set(pool.map(lambda _: disks.ensure_base(image), range(8)))
    assert paths == {disks.storage.base(image.digest)}
    assert image.disk.stat().st_nlink == 2


def test_only_bases_that_nobody_uses_are_removed(disks: DiskManager, tmp_path: Path) -> None:
    used, below, unused = (
        make_image(tmp_path / "images" / name, content=name.encode(), name=name)
        for name in ("used", "below", "unused")
    )
    for one in (used, below, unused):
        disks.ensure_base(one)
    disks.ensure_kernel(unused)
    overlay(disks, disks.storage.base(below.digest))
    removed = disks.remove_unused_bases({used.digest})
    base, kernel = disks.storage.base(unused.digest), disks.storage.base_kernel(unused.digest)
    assert set(removed) == {base, kernel}
    left = {path.name for path in disks.storage.bases.iterdir() if path.name[0] != "."}
    assert left == {f"{used.digest}.qcow2", f"{below.digest}.qcow2"}
    assert unused.disk.exists()


def test_what_a_killed_run_left_half_written_goes_with_the_unused_bases(
    disks: DiskManager, image: Image
) -> None:
    base = disks.ensure_base(image)
    record = disks.storage.verified(base)
    base.with_name(f".{base.name}.part").write_bytes(b"half")
    record.with_name(f".{record.name}.0123.draft").write_bytes(b"half")
    disks.remove_unused_bases(())
    assert list(disks.storage.bases.iterdir()) == []


def test_no_base_is_removed_while_an_overlay_cannot_be_read(
    disks: DiskManager, image: Image, base: Path
) -> None:
    overlay(disks, base).write_bytes(b"rubbish")
    assert disks.remove_unused_bases(()) == ()
    assert base.exists()


def test_an_overlay_is_thin_private_and_names_its_base(disks: DiskManager, base: Path) -> None:
    applied = disks.create_overlay("demo", ID, "compute-01", base=base, size_gib=20)
    path = disks.storage.disk("demo", "compute-01")
    assert applied is Applied.MADE
    header = read_header(path, allow_backing=True)
    assert (header.backing_file, header.backing_format) == (str(base), "qcow2")
    assert header.virtual_size_bytes == 20 * GIB
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.stat().st_nlink == 1
    assert path.parent.stat().st_mode & 0o777 == 0o711
    assert disks.storage.marker("demo").read_text().strip() == str(ID)
    usage = disks.usage(path)
    assert usage.virtual_bytes == 20 * GIB
    assert usage.allocated_bytes < MIB
    assert disks.find_problems(path, base) == ()


def test_an_overlay_that_is_there_already_is_kept(disks: DiskManager, base: Path) -> None:
    path = overlay(disks, base)
    inode = path.stat().st_ino
    applied = disks.create_overlay("demo", ID, "controller", base=base, size_gib=1)
    assert applied is Applied.KEPT
    assert path.stat().st_ino == inode


def test_a_disk_that_differs_is_refused_with_the_difference(
    disks: DiskManager, base: Path, tmp_path: Path
) -> None:
    path = overlay(disks, base)
    with pytest.raises(HostError, match="is another disk than the file asks for") as caught:
        disks.create_overlay("demo", ID, "controller", base=base, size_gib=2)
    assert caught.value.details == "its size is 1.0 GiB, the file asks for 2.0 GiB"
    other = disks.ensure_base(make_image(tmp_path / "other", name="other"))
    with pytest.raises(HostError) as caught:
        disks.create_overlay("demo", ID, "controller", base=other, size_gib=1)
    assert caught.value.details == f"its backing file is {base}, not {other}"
    assert path.exists()


def test_a_disk_smaller_than_its_image_is_refused(disks: DiskManager, tmp_path: Path) -> None:
    large = Qcow2(virtual_bytes=5 * GIB).write(tmp_path / "large.qcow2")
    with pytest.raises(HostError, match="2 GiB is too small for compute-01") as caught:
        disks.create_overlay("demo", ID, "compute-01", base=large, size_gib=2)
    assert caught.value.details == "the virtual size of its image is 5.0 GiB"
    assert not disks.storage.disks.exists()


@pytest.mark.fault("S02", "names of disks")
def test_names_that_would_leave_the_directory_are_refused(disks: DiskManager, base: Path) -> None:
    for cluster, node in (("..", "a"), ("a/b", "a"), ("demo", "../x"), ("demo", ".hidden")):
        with pytest.raises(HostError, match="is not a valid name of a cluster or node"):
            disks.create_overlay(cluster, ID, node, base=base, size_gib=1)
    for ask in (disks.is_claimed, disks.claim_directory, disks.remove_cluster_directory):
        with pytest.raises(HostError, match="is not a valid name of a cluster or node"):
            ask("../demo", ID)


def test_parallel_nodes_share_one_mark(disks: DiskManager, base: Path) -> None:
    nodes = [f"compute-{number:02}" for number in range(1, 13)]
    with ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(lambda node: overlay(disks, base, node), nodes))
    assert all(disks.find_problems(path, base) == () for path in paths)
    assert drafts(disks) == []


def test_half_an_overlay_of_a_killed_run_is_not_used(disks: DiskManager, base: Path) -> None:
    path = disks.storage.disk("demo", "controller")
    path.parent.mkdir(parents=True)
    path.with_name(f".{path.name}.part").write_bytes(b"half")
    disks.storage.marker("demo").with_name(".ai-how.0123.part").write_text("")
    overlay(disks, base)
    assert disks.find_problems(path, base) == ()


@pytest.mark.fault("S18", "links where drafts and disks would be")
def test_links_in_the_place_of_drafts_and_disks_are_not_followed(
    disks: DiskManager, base: Path, tmp_path: Path
) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    path = overlay(disks, base)
    for name in (f".{path.name}.part", ".compute-01.qcow2.part", "compute-02.qcow2"):
        path.with_name(name).symlink_to(victim)
    overlay(disks, base, "compute-01")
    with pytest.raises(HostError, match="is another disk than the file asks for"):
        overlay(disks, base, "compute-02")
    with pytest.raises(OwnershipError, match="which ai-how does not create"):
        disks.remove_disk("demo", ID, "compute-02")
    assert victim.read_text() == "mine"


def test_a_directory_that_is_not_ours_is_left_alone(
    disks: DiskManager, base: Path, tmp_path: Path
) -> None:
    directory = disks.storage.cluster("demo")
    directory.mkdir(parents=True)
    (directory / "controller.qcow2").write_text("mine")
    for change in (
        lambda: overlay(disks, base),
        lambda: disks.remove_disk("demo", ID, "controller"),
        lambda: disks.remove_cluster_directory("demo", ID),
    ):
        with pytest.raises(OwnershipError, match="has no mark of ai-how"):
            change()
    assert (directory / "controller.qcow2").read_text() == "mine"


def test_a_directory_of_another_cluster_is_left_alone(disks: DiskManager, base: Path) -> None:
    path = overlay(disks, base)
    other = uuid4()
    for change in (
        lambda: disks.create_overlay("demo", other, "controller", base=base, size_gib=1),
        lambda: disks.remove_disk("demo", other, "controller"),
        lambda: disks.remove_cluster_directory("demo", other),
    ):
        with pytest.raises(OwnershipError, match="belongs to another cluster") as caught:
            change()
        assert f"found    id {ID}" in (caught.value.details or "")
    assert path.exists()


@pytest.mark.fault("S19", "a link for a disk directory")
@pytest.mark.fault("F52", "a link for a disk directory")
def test_a_link_in_the_place_of_a_cluster_directory_is_refused(
    disks: DiskManager, base: Path, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    disks.storage.disks.mkdir(parents=True)
    disks.storage.cluster("demo").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OwnershipError, match="is not a directory"):
        overlay(disks, base)
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.fault("S19", "a disk directory that others may write")
@pytest.mark.fault("F52", "a disk directory that others may write")
def test_a_directory_that_others_can_write_to_is_none_of_ours(
    disks: DiskManager, base: Path
) -> None:
    path = overlay(disks, base)
    path.parent.chmod(0o777)
    with pytest.raises(OwnershipError, match="or others can write to it"):
        disks.remove_disk("demo", ID, "controller")
    path.parent.chmod(0o711)
    disks.storage.root.chmod(0o777)
    with pytest.raises(HostError, match="other users can write to"):
        overlay(disks, base, "compute-01")
    assert [one.name for one in path.parent.glob("*.qcow2")] == ["controller.qcow2"]


@pytest.mark.fault("S19", "a storage that others may write")
@pytest.mark.fault("F41", "a file takes a disk's name, and the start is undone")
def test_what_took_a_disks_name_is_not_removed_in_its_place(disks: DiskManager, base: Path) -> None:
    path = overlay(disks, base)
    path.unlink()
    path.write_text("theirs")
    with pytest.raises(OwnershipError, match="is not a disk of this node"):
        disks.remove_disk("demo", ID, "controller", base=base)
    assert path.read_text() == "theirs"
    path.unlink()
    overlay(disks, base)
    disks.remove_disk("demo", ID, "controller", base=base)
    assert not path.exists()


@pytest.mark.fault("F52", "a storage that others may write")
@pytest.mark.parametrize("writable", ["storage", "above"])
def test_a_storage_that_others_can_write_to_is_refused(tmp_path: Path, writable: str) -> None:
    root = tmp_path / "above" / "storage"
    root.mkdir(parents=True)
    open_to_all = root if writable == "storage" else root.parent
    open_to_all.chmod(0o777)
    with pytest.raises(HostError, match="other users can write to") as caught:
        DiskManager(StoragePaths(root)).check_storage()
    assert caught.value.hint == f"chmod go-w {open_to_all}"
    open_to_all.chmod(0o1777)
    if writable == "above":
        DiskManager(StoragePaths(root)).check_storage()
    else:
        with pytest.raises(HostError, match="other users can write to"):
            DiskManager(StoragePaths(root)).check_storage()


@pytest.mark.parametrize("name", ["bases", "disks"])
def test_a_directory_of_the_storage_that_others_can_write_to_is_refused(
    tmp_path: Path, name: str
) -> None:
    directory = tmp_path / "storage" / name
    directory.mkdir(parents=True)
    directory.chmod(0o777)
    with pytest.raises(HostError, match=f"other users can write to {directory}"):
        DiskManager(StoragePaths(directory.parent)).check_storage()


@pytest.mark.fault("S19", "a storage below another user's directory")
@pytest.mark.fault("F52", "a storage below another user's directory")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_a_storage_below_another_users_directory_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "theirs" / "storage"
    root.mkdir(parents=True)
    os.chown(root.parent, 65534, 65534)
    with pytest.raises(HostError, match="belongs to user 65534, who could replace the disks"):
        DiskManager(StoragePaths(root)).check_storage()


def test_removing_is_repeatable_and_leaves_nothing(disks: DiskManager, base: Path) -> None:
    path = overlay(disks, base)
    neighbour = overlay(disks, base, "controller2")
    for _ in range(2):
        disks.remove_disk("demo", ID, "controller")
        assert not path.exists()
    assert neighbour.exists()
    with pytest.raises(OwnershipError, match="contains files that ai-how did not create") as caught:
        disks.remove_cluster_directory("demo", ID)
    assert caught.value.details == "controller2.qcow2"
    assert disks.storage.marker("demo").exists()
    disks.remove_disk("demo", ID, "controller2")
    for _ in range(2):
        disks.remove_cluster_directory("demo", ID)
    assert list(disks.storage.disks.iterdir()) == []
    disks.remove_disk("demo", ID, "controller")
    assert base.exists()


def test_a_directory_whose_removal_was_cut_short_can_be_removed_and_claimed(
    disks: DiskManager, base: Path
) -> None:
    disks.storage.cluster("demo").mkdir(parents=True)
    disks.remove_cluster_directory("demo", ID)
    assert not disks.storage.cluster("demo").exists()
    disks.storage.cluster("demo").mkdir()
    assert overlay(disks, base).exists()


def test_a_disk_grows_and_never_shrinks(disks: DiskManager, base: Path) -> None:
    path = overlay(disks, base)
    disks.resize(path, 3)
    disks.resize(path, 3)
    assert disks.usage(path).virtual_bytes == 3 * GIB
    with pytest.raises(HostError, match=r"has 3\.0 GiB and would shrink to 2 GiB"):
        disks.resize(path, 2)
    assert disks.usage(path).virtual_bytes == 3 * GIB


def test_a_backup_is_flat_compressed_and_whole(
    disks: DiskManager, base: Path, tmp_path: Path
) -> None:
    path = overlay(disks, base)
    run(["qemu-io", "-f", "qcow2", "-c", "write -P 0x5a 1M 1M", path])
    heard: list[float] = []
    target = tmp_path / "backup.qcow2"
    disks.back_up(path, target, on_progress=heard.append)
    assert heard[-1] == 1.0
    assert target.stat().st_mode & 0o777 == 0o600
    assert target.stat().st_size < MIB
    assert read_header(target).backing_file is None
    run(["qemu-img", "compare", "-f", "qcow2", "-F", "qcow2", path, target])
    assert not list(tmp_path.glob(".part-*"))
    with pytest.raises(HostError, match="exists already"):
        disks.back_up(path, target)


@pytest.mark.fault("H09", "a backup that is written other than its disk, or cut, is read back")
@pytest.mark.parametrize("damage", ["other", "cut"])
def test_a_backup_that_does_not_hold_what_its_disk_does_is_none(
    disks: DiskManager, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    path = overlay(disks, base)
    run(["qemu-io", "-f", "qcow2", "-c", "write -P 0x5a 1M 1M", path])
    honest = qemu_img.convert

    def convert(source: Path, target: Path, **options: Any) -> None:
        honest(source, target, **options)
        if damage == "other":
            run(["qemu-io", "-f", "qcow2", "-c", "write -P 0x5b 1M 4k", target])
        else:
            os.truncate(target, target.stat().st_size - 65536)

    monkeypatch.setattr(qemu_img, "convert", convert)
    with pytest.raises(ImageError, match=r"have different content|is damaged|truncated"):
        disks.back_up(path, tmp_path / "backup.qcow2")
    assert not (tmp_path / "backup.qcow2").exists()
    assert not list(tmp_path.glob(".part-*"))


def test_a_disk_on_a_file_that_is_none_of_our_bases_is_not_opened(
    disks: DiskManager, base: Path, tmp_path: Path
) -> None:
    path = overlay(disks, base)
    secret = tmp_path / "secret"
    secret.write_bytes(b"s3cret" * 1000)
    Qcow2(backing_file=str(secret).encode()).write(path)
    with pytest.raises(OwnershipError, match="which is not an image in this storage"):
        disks.back_up(path, tmp_path / "backup.qcow2")
    with pytest.raises(OwnershipError, match="which is not an image in this storage"):
        disks.resize(path, 9)
    assert disks.find_problems(path, base) == (f"its backing file is {secret}, not {base}",)


def test_what_is_wrong_with_a_disk_is_said(disks: DiskManager, base: Path) -> None:
    path = overlay(disks, base)
    path.unlink()
    assert disks.find_problems(path, base) == ("disk missing",)
    with pytest.raises(ImageError, match="No such file"):
        disks.usage(path)
    path.symlink_to(base)
    assert disks.find_problems(path, base) == ("disk is a symbolic link",)
    path.unlink()
    overlay(disks, base)
    os.truncate(path, 4096)
    assert "is it truncated?" in disks.find_problems(path, base)[0]
    base.unlink()
    assert disks.find_problems(path, base)[1] == f"image missing ({base})"


def test_odd_characters_in_the_path_of_a_storage_do_no_harm(tmp_path: Path, image: Image) -> None:
    disks = DiskManager(StoragePaths(tmp_path / "json:{a},b=c nbd:x"))
    base = disks.ensure_base(image)
    path = overlay(disks, base)
    assert disks.find_problems(path, base) == ()
    disks.resize(path, 2)
    disks.back_up(path, tmp_path / "backup,x:y.qcow2")


SMALL = """
import shutil, sys
from pathlib import Path
from uuid import UUID
from ai_how.errors import HostError
from ai_how.images.manifest import Image, Manifest, read_manifest
from ai_how.state.paths import StoragePaths
from ai_how.vm_management.disks.manager import DiskManager
small, image_directory, storage = (Path(word) for word in sys.argv[1:4])
manifest = Manifest.model_validate_json(sys.argv[4])
image = Image(image_directory, manifest)
disks = DiskManager(StoragePaths(storage))
ID = UUID("11111111-2222-3333-4444-555555555555")
def attempt(change):
    try:
        change()
    except HostError as error:
        print(error.brief)
        print(sorted(str(p.relative_to(small)) for p in small.rglob("*")))
"""


def in_small_file_system(
    small: Path, script: str, image: Image, *, storage: Path, size: str = "1m"
) -> str:
    """Run `script` where `small` is a file system of its own; what it printed."""
    lines = "\n".join(line.strip() for line in script.splitlines())
    mount = f'mount -t tmpfs -o size={size},mode=755 none {small} && exec "$@"'
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    argv = ["unshare", *user, "--mount", "sh", "-c", mount, "sh", sys.executable, "-c"]
    words = [SMALL + lines, small, image.directory, storage, image.manifest.model_dump_json()]
    return run([*argv, *words]).stdout


def test_a_full_disk_leaves_nothing_half_done(tmp_path: Path) -> None:
    image = make_image(tmp_path / "image", content=os.urandom(2 * MIB))
    small = tmp_path / "small"
    small.mkdir()
    said = in_small_file_system(
        small,
        """
        attempt(lambda: disks.ensure_base(image))
        (small / "ballast").write_bytes(bytes(900 * 1024))
        attempt(lambda: disks.create_overlay("demo", ID, "a", base=image.disk, size_gib=1))
        shutil.rmtree(small / "storage")
        attempt(lambda: disks.back_up(image.disk, small / "backup.qcow2"))
        """,
        image,
        storage=small / "storage",
    ).splitlines()
    places = ("storage/bases", "storage/disks/demo", "")
    for place, brief in zip(places, said[::2], strict=True):
        assert brief.startswith(f"no space left in {small / place}".rstrip("/"))
    locks = "'storage', 'storage/.locks', 'storage/.locks/bases', 'storage/bases'"
    demo = "'storage/disks', 'storage/disks/demo', 'storage/disks/demo/.ai-how'"
    assert said[1::2] == [f"[{locks}]", f"['ballast', {locks}, {demo}]", "['ballast']"]


def test_space_is_counted_thin_and_at_worst() -> None:
    needs = [DiskNeed("image default", GIB, GIB), overlay_need("a", 20), overlay_need("b", 20)]
    roomy = check_space(needs, free_bytes=100 * GIB, reserve_bytes=GIB)
    assert roomy.warning is None
    assert roomy.thin_bytes < 2 * GIB
    assert 41 * GIB < roomy.worst_case_bytes < 42 * GIB
    tight = check_space(needs, free_bytes=10 * GIB, reserve_bytes=GIB)
    assert tight.warning is not None
    assert "QEMU would pause guests that fill their disks" in tight.warning


def test_what_does_not_even_fit_thin_is_refused_with_its_parts() -> None:
    needs = [DiskNeed("image default", 2 * GIB, 2 * GIB), overlay_need("a", 20)]
    with pytest.raises(HostError, match=r"need 3\.1 GiB, and 2\.5 GiB are free") as caught:
        check_space(needs, free_bytes=GIB * 5 // 2, reserve_bytes=GIB)
    assert "image default: 2.0 GiB" in (caught.value.details or "")
    assert "kept free: 1.0 GiB" in (caught.value.details or "")


def test_what_does_not_fit_is_told_in_a_few_lines_however_many_nodes() -> None:
    needs = [
        *(overlay_need(f"n{number}", 1) for number in range(1000)),
        DiskNeed("image", GIB, GIB),
    ]
    with pytest.raises(HostError) as caught:
        check_space(needs, free_bytes=0, reserve_bytes=GIB)
    lines = (caught.value.details or "").splitlines()
    assert lines[0] == "image: 1.0 GiB"
    assert lines[-2:] == ["993 others: 124.1 GiB together", "kept free: 1.0 GiB"]
    assert len(lines) == 10


def test_free_space_is_told_before_the_storage_exists(disks: DiskManager) -> None:
    assert disks.free_bytes() > 0
    assert not disks.storage.root.exists()
