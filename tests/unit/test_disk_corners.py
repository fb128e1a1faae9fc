"""The corners of a node's disk: what is durable when, what a failure leaves, which base it has."""

import os
from pathlib import Path

import pytest
from qcow2_writer import BACKING_FORMAT, MIB, Qcow2
from test_disk_manager import ID

from ai_how.errors import HostError, ImageError, OwnershipError
from ai_how.images import qemu_img
from ai_how.images.qcow2_header import read_header
from ai_how.plan.step import Applied
from ai_how.process import run
from ai_how.state.paths import StoragePaths
from ai_how.vm_management.disks.manager import DiskManager
from ai_how.vm_management.disks.space import GIB


@pytest.fixture
def disks(tmp_path) -> DiskManager:
    return DiskManager(StoragePaths(tmp_path / "storage"))


@pytest.fixture
def base(disks) -> Path:
    path = disks.storage.base("0" * 64)
    path.parent.mkdir(parents=True)
    return Qcow2().write(path)


def create(disks: DiskManager, base: Path, **changes: object) -> Applied:
    asked = {"base": base, "size_gib": 1, **changes}
    return disks.create_overlay("demo", ID, "controller", **asked)


def test_a_directory_that_was_made_is_told_from_one_that_was_there(disks):
    assert disks.is_claimed("demo", ID) is False
    assert disks.claim_directory("demo", ID) is Applied.MADE
    assert disks.is_claimed("demo", ID) is True
    assert disks.claim_directory("demo", ID) is Applied.KEPT


def test_a_disk_may_be_as_large_as_its_image(disks, base):
    Qcow2(virtual_bytes=GIB).write(base)
    assert create(disks, base) is Applied.MADE
    assert create(disks, base) is Applied.KEPT


def test_a_disk_is_durable_before_it_has_its_name_and_the_name_before_it_is_told(
    disks, base, monkeypatch
):
    disks.claim_directory("demo", ID)
    order = []
    real_fsync, real_link = os.fsync, os.link

    def fsync(descriptor):
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        order.append(path.name)
        if path.is_dir():
            order.extend(sorted(entry.name for entry in path.iterdir()))
        real_fsync(descriptor)

    def link(*names):
        order.append("link")
        real_link(*names)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "link", link)
    create(disks, base)
    assert order == [".controller.qcow2.part", "link", "demo", ".ai-how", "controller.qcow2"]
    order.clear()
    disks.remove_disk("demo", ID, "controller")
    assert order == ["demo", ".ai-how"]


@pytest.mark.fault("F41", "a file comes up where a disk is being made")
def test_a_file_that_comes_up_meanwhile_is_not_replaced(disks, base, monkeypatch):
    path = disks.storage.disk("demo", "controller")
    real = qemu_img.make_overlay

    def make_overlay(draft, **options):
        real(draft, **options)
        path.write_text("theirs")

    monkeypatch.setattr(qemu_img, "make_overlay", make_overlay)
    with pytest.raises(HostError, match="File exists"):
        create(disks, base)
    assert path.read_text() == "theirs"
    assert sorted(entry.name for entry in path.parent.iterdir()) == [".ai-how", path.name]


def test_the_draft_of_a_killed_run_goes_with_its_disk(disks, base):
    create(disks, base)
    path = disks.storage.disk("demo", "controller")
    draft = path.with_name(f".{path.name}.part")
    draft.touch()
    disks.remove_disk("demo", ID, "controller")
    assert [entry.name for entry in path.parent.iterdir()] == [".ai-how"]
    draft.touch()
    disks.remove_disk("demo", ID, "controller")
    assert not draft.exists()


def test_a_link_in_the_place_of_a_disk_is_neither_followed_nor_removed(disks, base, tmp_path):
    create(disks, base)
    path = disks.storage.disk("demo", "controller")
    path.rename(tmp_path / "theirs")
    path.symlink_to(tmp_path / "theirs")
    with pytest.raises(OwnershipError, match="which ai-how does not create"):
        disks.remove_disk("demo", ID, "controller")
    with pytest.raises(HostError, match="is another disk than the file asks for"):
        create(disks, base)
    path.unlink()
    path.symlink_to(tmp_path / "absent")
    with pytest.raises(HostError, match="is another disk than the file asks for"):
        create(disks, base)


def test_a_disk_that_stands_alone_is_ours(disks, tmp_path):
    alone = tmp_path / "alone.qcow2"
    qemu_img._qemu_img("create", "-q", "-f", "qcow2", alone, "1G", cpu_s=30)
    disks.resize(alone, 2)
    assert read_header(alone).virtual_size_bytes == 2 * GIB


@pytest.mark.fault("S04", "a disk on a base of another format, in another place, or spoilt")
@pytest.mark.parametrize("how", ["format", "place", "spoilt"])
def test_a_disk_is_opened_only_on_a_base_that_qemu_may_open(disks, base, tmp_path, how):
    if how == "place":
        base = base.rename(tmp_path / base.name)
    elif how == "spoilt":
        base.write_bytes(b"no qcow2")
    kind = b"raw" if how == "format" else b"qcow2"
    path = Qcow2(
        virtual_bytes=64 * MIB,
        extensions=[(BACKING_FORMAT, kind)],
        backing_file=os.fsencode(base),
    ).write(tmp_path / "disk.qcow2")
    before = path.read_bytes()
    with pytest.raises(ImageError if how == "spoilt" else OwnershipError) as caught:
        disks.resize(path, 1)
    said = "is refused" if how == "spoilt" else f"is {base}, which is not an image in this storage"
    assert said in caught.value.brief
    assert path.read_bytes() == before


def test_a_base_that_would_be_taken_for_another_format_is_told(disks, base, tmp_path):
    disk = Qcow2(extensions=[(BACKING_FORMAT, b"raw")], backing_file=os.fsencode(base)).write(
        tmp_path / "disk.qcow2"
    )
    said = "the format of its backing file is raw, not qcow2"
    assert disks.find_problems(disk, base) == (said,)


def test_what_is_removed_must_be_marked_or_empty(disks):
    disks.remove_cluster_directory("demo", ID)
    directory = disks.storage.cluster("demo")
    directory.mkdir(parents=True)
    disks.remove_cluster_directory("demo", ID)
    assert not directory.exists()
    disks.claim_directory("demo", ID)
    (directory / "thesis.tex").touch()
    with pytest.raises(OwnershipError, match="contains files that ai-how did not create"):
        disks.remove_cluster_directory("demo", ID)
    assert (directory / ".ai-how").exists()


def test_a_disk_begins_as_a_copy_of_a_saved_one_and_is_never_taken_for_that(disks, base):
    disks.create_overlay("other", ID, "controller", base=base, size_gib=1)
    saved = disks.storage.disk("other", "controller")
    run(["qemu-io", "-f", "qcow2", "-c", "write -P 0x5a 1M 1M", saved])
    assert create(disks, base, saved=saved) is Applied.MADE
    path = disks.storage.disk("demo", "controller")
    assert path.read_bytes() == saved.read_bytes()
    assert path.stat().st_mode & 0o777 == 0o600
    # Nobody knows whether it is still as it was saved.
    with pytest.raises(HostError, match="exists already"):
        create(disks, base, saved=saved)
    assert path.read_bytes() == saved.read_bytes()
