"""Images and saved VMs in one file: taken in whole or not at all, and nothing else comes in."""

import hashlib
import io
import os
import tarfile
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest
from test_image_catalogue import DEFAULT, add
from test_killed_copies import killed_at
from test_save_image import GOOD

from ai_how.errors import HostError, ImageError, LockedError
from ai_how.images import qemu_img
from ai_how.images.manifest import BrokenImage, Image
from ai_how.images.packed import LIST, FileList, PackedFile, header
from ai_how.images.qcow2_header import read_header
from ai_how.images.store import ImageStore
from ai_how.process import run
from ai_how.state.lock import held_lock
from ai_how.state.paths import StoragePaths
from ai_how.vm_management.cache_file import Contents, take_cache_in, write_cache
from ai_how.vm_management.saved_machines.generic_vm import MachineKey
from ai_how.vm_management.saved_machines.store import (
    DISK,
    MEMORY,
    SavedMachine,
    SavedMachines,
    SavedManifest,
)

GIB = 1 << 30
XML = (Path(__file__).resolve().parents[1] / "data" / "saved-domain.xml").read_bytes()
MEMORY_OF_OURS = replace(GOOD, xml=XML).render()
HERE = "QEMU 7.2.22, libvirt 9.0.0, an emulated CPU"


class Place:
    """A store of images and a storage, of one user on one machine."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir()
        (root / "images").mkdir()
        self.store = ImageStore(root / "images")
        self.machines = SavedMachines(StoragePaths(root / "storage"))

    def take(self, source: Path, refusal: Callable[..., str | None] = lambda _: None) -> Contents:
        return take_cache_in(source, self.store, self.machines, refusal=refusal)

    @property
    def content(self) -> dict[str, str]:
        """Every file and its digest, but locks and what is noted of digests."""
        return {
            str(path.relative_to(self.root)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(self.root.rglob("*"))
            if path.is_file() and not path.name.endswith(("lock", ".verified"))
            if ".locks" not in path.parts
        }

    @property
    def is_empty(self) -> bool:
        return self.content == {}


def save(place: Place, image: Image, *, memory: bytes = MEMORY_OF_OURS) -> SavedMachine:
    key = MachineKey(hashlib.sha256(b"definition").hexdigest(), HERE)
    base = place.machines.storage.base(image.digest)
    base.parent.mkdir(parents=True, exist_ok=True)
    if not base.exists():
        base.hardlink_to(image.disk)
    with place.machines.making() as draft:
        qemu_img.make_overlay(draft / DISK, base=base, virtual_bytes=GIB)
        (draft / MEMORY).write_bytes(memory)
        digests = {name: hashlib.sha256((draft / name).read_bytes()) for name in (DISK, MEMORY)}
        manifest = SavedManifest(
            key=key.key,
            shape=key.definition_digest,
            host=key.host,
            id=uuid4(),
            made_at=datetime.now(UTC),
            image_digest=image.digest,
            vcpus=1,
            memory_mib=1024,
            memory_bytes=len(memory),
            disk_gib=1,
            memory_sha256=digests[MEMORY].hexdigest(),
            disk_sha256=digests[DISK].hexdigest(),
        )
        return place.machines.add(draft, manifest)


@pytest.fixture
def there(tmp_path: Path) -> Place:
    return Place(tmp_path / "there")


@pytest.fixture
def here(tmp_path: Path) -> Place:
    return Place(tmp_path / "a longer name for here")


@pytest.fixture
def image(there: Place) -> Image:
    return add(there.store, DEFAULT, "default", asked=DEFAULT)


@pytest.fixture
def packed(there: Place, image: Image, tmp_path: Path) -> Path:
    """An image and a saved VM in a file."""
    write_cache(tmp_path / "cache.tar.zst", [image], [save(there, image)])
    return tmp_path / "cache.tar.zst"


def unzipped(path: Path) -> bytearray:
    run(["zstd", "-d", "-q", "-f", path, "-o", path.with_suffix("")])
    return bytearray(path.with_suffix("").read_bytes())


def zipped(content: bytes, target: Path) -> Path:
    plain = target.with_suffix(".plain")
    plain.write_bytes(content)
    run(["zstd", "-q", "-f", plain, "-o", target])
    return target


def of_members(*members: tuple[str, bytes], kind: str = "ai-how cache", target: Path) -> Path:
    """A file of ours with these members, whatever they are; the list is right."""
    files = tuple(
        PackedFile.model_construct(
            name=name, size=len(data), sha256=hashlib.sha256(data).hexdigest()
        )
        for name, data in members
    )
    text = FileList.model_construct(kind=kind, files=files).model_dump_json().encode()
    digest = f"{hashlib.sha256(text).hexdigest()}\n".encode()
    content = b"".join(
        header(name, len(data)) + data + bytes(-len(data) % 512)
        for name, data in (("list.sha256", digest), (LIST, text), *members)
    )
    return zipped(content + bytes(1024), target)


def members_of(path: Path) -> list[tuple[str, bytes]]:
    with tarfile.open(fileobj=io.BytesIO(bytes(unzipped(path)))) as tar:
        return [
            (one.name, tar.extractfile(one).read()) for one in tar if not one.name.startswith("l")
        ]


def test_what_was_exported_is_there_on_another_machine(there, here, image, packed):
    done = here.take(packed)
    assert [(one.image.digest, one.is_new) for one in done.images] == [(image.digest, True)]
    assert [(one.is_new, one.refusal) for one in done.machines] == [(True, None)]
    here.store.verify(done.images[0].image)
    assert here.store.find_built(DEFAULT) == done.images[0].image
    [machine] = here.machines.list()
    [theirs] = there.machines.list()
    assert here.machines.find_damage(machine) is None
    assert machine.manifest.id == theirs.manifest.id
    assert machine.memory.read_bytes() == theirs.memory.read_bytes()
    # Its disk is an overlay on the base of this storage, wherever that is.
    base = here.machines.storage.base(image.digest)
    assert read_header(machine.disk, allow_backing=True).backing_file == str(base)
    base.parent.mkdir()
    base.hardlink_to(done.images[0].image.disk)
    run(["qemu-img", "check", "-q", machine.disk])
    run(["qemu-img", "compare", "-q", machine.disk, theirs.disk])


def test_it_is_a_tar_of_zstd_with_our_files_alone(packed):
    with tarfile.open(fileobj=io.BytesIO(bytes(unzipped(packed)))) as tar:
        names = [one.name.split("/")[0] for one in tar]
    assert sorted(set(names)) == ["images", "list.json", "list.sha256", "saved"]
    assert packed.stat().st_mode & 0o777 == 0o600
    assert not [path for path in packed.parent.iterdir() if path.name.endswith(".part")]


def test_an_import_can_be_repeated_and_keeps_what_is_here(here, packed):
    here.take(packed)
    before = here.content
    done = here.take(packed)
    assert [one.is_new for one in (*done.images, *done.machines)] == [False, False]
    assert here.content == before
    [machine] = here.machines.list()
    machine.memory.chmod(0o600)
    machine.memory.write_bytes(b"damaged")
    assert [one.is_new for one in here.take(packed).machines] == [True]
    assert here.content == before


def test_a_saved_vm_of_another_host_is_left_out_with_the_reason(here, packed):
    done = here.take(packed, lambda manifest: f"it is of {manifest.host}")
    assert [(one.is_new, one.refusal) for one in done.machines] == [(False, f"it is of {HERE}")]
    assert here.machines.list() == ()
    assert len(here.store.list()) == 1
    assert not here.machines.storage.saved.exists()


def test_without_saved_vms_there_are_the_images(there, here, image, tmp_path):
    write_cache(tmp_path / "f", [image], [])
    assert here.take(tmp_path / "f").machines == ()
    assert len(here.store.list()) == 1


def test_every_changed_byte_is_noticed_before_anything_is_taken_in(here, packed, tmp_path, is_long):
    """In the tar: the headers, the list, the manifests, the files, the padding, the end."""
    content = unzipped(packed)
    # Of the long runs of zeros and of the disk, a few; of all else each byte.
    count = 4000 if is_long else 60
    points = sorted({*range(0, len(content), max(1, len(content) // count)), len(content) - 1})
    names = [512 * at for at in range(len(content) // 512) if content[512 * at :][:6].isalpha()]
    for at in (*points, *names[:20]):
        spoilt = bytearray(content)
        spoilt[at] ^= 1 << (at % 8)
        with pytest.raises(ImageError, match="is refused"):
            here.take(zipped(spoilt, tmp_path / "bad"))
        assert here.is_empty, at


def test_every_changed_byte_of_the_file_itself_is_noticed_or_changes_nothing(
    here, packed, tmp_path, is_long
):
    """zstd has bits that mean nothing; whatever is taken in is whole."""
    content, bad = packed.read_bytes(), tmp_path / "bad"
    count = 2000 if is_long else 100
    for at in sorted({*range(24), *range(0, len(content), max(1, len(content) // count))}):
        bad.write_bytes(content[:at] + bytes([content[at] ^ 0x10]) + content[at + 1 :])
        try:
            here.take(bad)
        except ImageError as error:
            assert "is refused" in error.brief  # noqa: PT017
            assert here.is_empty, at
        else:
            here.store.verify(here.store.list()[0])
            assert here.machines.find_damage(here.machines.list()[0]) is None
            return


@pytest.mark.parametrize("share", [0, 0.001, 0.3, 0.9, 0.999])
def test_a_file_that_ends_early_or_goes_on_is_refused(here, packed, tmp_path, share):
    content, plain = packed.read_bytes(), unzipped(packed)
    for spoilt in (
        content[: int(len(content) * share)],
        zipped(plain[: int(len(plain) * share)], tmp_path / "bad").read_bytes(),
        zipped(bytes(plain) + b"x", tmp_path / "bad").read_bytes(),
        zipped(bytes(plain) * 2, tmp_path / "bad").read_bytes(),
        content + content,
        content + b"more",
    ):
        (tmp_path / "bad").write_bytes(spoilt)
        with pytest.raises(ImageError, match="is refused"):
            here.take(tmp_path / "bad")
        assert here.is_empty


@pytest.mark.parametrize("what", ["directory", "pipe", "text", "tar", "tar.zst", "gz", "missing"])
def test_what_is_no_such_file_is_refused_at_once(here, tmp_path, what):
    path = tmp_path / "it"
    match what:
        case "directory":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case "text":
            path.write_text("hello")
        case "tar" | "tar.zst":
            with tarfile.open(path, "w") as tar:
                tar.add(__file__, "images/x")
            if what == "tar.zst":
                zipped(path.read_bytes(), path)
        case "gz":
            run(["sh", "-c", 'echo x | gzip > "$0"', path])
    with pytest.raises(ImageError, match="cannot be read" if what == "missing" else "refused"):
        here.take(path)
    assert here.is_empty


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd",
        "../x",
        "images/../../x/manifest.json",
        f"images/{DEFAULT}/../../x",
        f"images/{DEFAULT}/extra",
        f"images/{DEFAULT}/manifest.json",
        f"images/{'e' * 64}/manifest.json",
        "saved/x/manifest.json",
        "other/x/manifest.json",
        "images//manifest.json",
        "manifest.json",
        "images/" + "a" * 200,
        "images/ü",
    ],
)
def test_a_name_that_does_not_belong_there_is_refused(here, packed, tmp_path, name):
    members = members_of(packed)
    for bad in ([(name, b"x"), *members], [*members, (name, b"x")], [*members, (name, b"{}")]):
        with pytest.raises(ImageError, match="is refused"):
            here.take(of_members(*bad, target=tmp_path / "bad"))
        assert here.is_empty
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, b"x", b"L"])
def test_a_member_that_is_no_file_is_refused(here, packed, tmp_path, kind):
    content = unzipped(packed)
    for at in (0, 1024):
        info = tarfile.TarInfo.frombuf(bytes(content[at : at + 512]), "ascii", "strict")
        info.type, info.linkname = kind, "/etc/passwd"
        spoilt = content[:at] + info.tobuf(tarfile.GNU_FORMAT)[:512] + content[at + 512 :]
        with pytest.raises(ImageError, match="is refused"):
            here.take(zipped(spoilt, tmp_path / "bad"))
    assert here.is_empty


def test_a_file_of_another_kind_or_with_other_members_than_listed_is_refused(
    here, packed, tmp_path
):
    members = members_of(packed)
    with pytest.raises(ImageError, match="it is no ai-how cache"):
        here.take(of_members(*members, kind="other", target=tmp_path / "bad"))
    for bad in (members[1:], members[:-1], [members[1], members[0], *members[2:]], members * 2):
        with pytest.raises(ImageError, match="is refused"):
            here.take(of_members(*bad, target=tmp_path / "bad"))
    assert here.is_empty


def test_a_size_that_nobody_has_room_for_is_refused(here, packed, tmp_path):
    """Nothing of it is written, whatever the file claims."""
    members = members_of(packed)
    files = [
        PackedFile(name=name, size=len(data), sha256=hashlib.sha256(data).hexdigest())
        for name, data in members
    ]
    at = next(number for number, (name, _) in enumerate(members) if name.endswith(MEMORY))
    for size in (1 << 41, (1 << 42) - 1):
        files[at] = files[at].model_copy(update={"size": size})
        text = FileList(kind="ai-how cache", files=tuple(files)).model_dump_json().encode()
        digest = f"{hashlib.sha256(text).hexdigest()}\n".encode()
        parts = [("list.sha256", digest), (LIST, text), *members]
        content = b"".join(
            header(name, size if name.endswith(MEMORY) else len(data))
            + data
            + bytes(-len(data) % 512)
            for name, data in parts
        )
        with pytest.raises(HostError, match="no space left"):
            here.take(zipped(content + bytes(1024), tmp_path / "bad"))
    assert here.is_empty


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"disk_gib": 2}, "its disk is another one than it says"),
        ({"image_digest": "e" * 64}, "its disk is of another image than it says"),
        ({"memory_bytes": 1}, "its memory is another one than it says"),
        ({"host": "another"}, "is of another kind of VM than it says"),
        ({"key": "e" * 64}, "other files than its manifest says"),
        ({"disk_sha256": "e" * 64}, "other files than its manifest says"),
        ({"schema_version": 2}, "is of another version of ai-how"),
    ],
)
def test_a_saved_vm_that_contradicts_its_manifest_is_refused(here, packed, tmp_path, change, why):
    members = members_of(packed)
    at = next(n for n, (name, _) in enumerate(members) if name[:5] == "saved")
    manifest = SavedManifest.model_validate_json(members[at][1]).model_copy(update=change)
    members[at] = (members[at][0], manifest.model_dump_json().encode())
    with pytest.raises(ImageError, match=why):
        here.take(of_members(*members, target=tmp_path / "bad"))
    assert here.is_empty


def test_a_memory_that_libvirt_did_not_write_is_refused(there, here, image, tmp_path):
    machine = save(there, image)
    machine.memory.chmod(0o600)
    machine.memory.write_bytes(b"LibvirtQemudSave" + bytes(200))
    bad = machine.memory.read_bytes()
    manifest = machine.manifest.model_copy(
        update={"memory_sha256": hashlib.sha256(bad).hexdigest(), "memory_bytes": len(bad)}
    )
    (machine.directory / "manifest.json").chmod(0o600)
    (machine.directory / "manifest.json").write_text(manifest.model_dump_json())
    write_cache(tmp_path / "f", [image], [SavedMachine(machine.directory, manifest)])
    with pytest.raises(ImageError, match=r"f is refused: saved/.*save files of version 0"):
        here.take(tmp_path / "f")
    assert here.is_empty


def test_a_memory_with_a_device_of_this_host_is_refused(there, here, image, tmp_path):
    evil = XML.replace(b"</devices>", b"<hostdev mode='subsystem' type='pci'/></devices>")
    machine = save(there, image, memory=replace(GOOD, xml=evil).render())
    write_cache(tmp_path / "f", [image], [machine])
    with pytest.raises(ImageError, match="not that of a VM of ai-how: it has devices/hostdev"):
        here.take(tmp_path / "f")
    assert here.is_empty


def test_what_changed_since_it_was_saved_is_not_exported(there, image, tmp_path):
    machine = save(there, image)
    machine.memory.chmod(0o600)
    with machine.memory.open("r+b") as file:
        file.seek(200)
        file.write(b"x")
    with pytest.raises(ImageError, match=f"{MEMORY} has changed"):
        write_cache(tmp_path / "f", [image], [machine])
    with machine.memory.open("ab") as file:
        file.write(b"x")
    with pytest.raises(ImageError, match=f"{MEMORY} has changed"):
        write_cache(tmp_path / "f", [image], [machine])
    assert not [path for path in tmp_path.iterdir() if "f" in path.name.split(".")]


def test_an_export_replaces_nothing_and_needs_a_place(image, tmp_path):
    (tmp_path / "mine").write_text("precious")
    with pytest.raises(HostError, match="mine is there already"):
        write_cache(tmp_path / "mine", [image], [])
    assert (tmp_path / "mine").read_text() == "precious"
    with pytest.raises(HostError):
        write_cache(tmp_path / "nowhere" / "f", [image], [])


@pytest.mark.fault("F04", "SIGKILL before each change of `cache import`")
def test_an_import_that_is_killed_anywhere_leaves_only_drafts_that_the_next_one_removes(
    packed, tmp_path, points, is_long
):
    number, step, stood = 0, 1 if is_long else 9, 0
    while True:
        place = Place(tmp_path / f"place-{number}")
        is_killed = killed_at(lambda: place.take(packed), number)  # noqa: B023  in this turn
        for one in place.store.list():
            assert not isinstance(one, BrokenImage), number
            place.store.verify(one)
        for machine in place.machines.list():
            assert place.machines.find_damage(machine) is None
        place.take(packed)
        names = {name.split("/")[1] for name in place.content}
        assert names == {DEFAULT, "saved"}, (number, names)
        assert not list(place.root.rglob(".part-*")), number
        if not is_killed:
            break
        number, stood = number + step, stood + 1
    assert number > 60
    points(stood)


@pytest.mark.fault("F04", "SIGKILL to `cache export` while it writes")
def test_an_export_that_is_killed_leaves_nothing_under_its_name(image, tmp_path):
    for number in range(4):
        target = tmp_path / f"f{number}"
        is_killed = killed_at(lambda: write_cache(target, [image], []), number)  # noqa: B023
        assert is_killed != target.exists()


def test_an_import_waits_for_whoever_saves_a_vm_and_says_so(here, packed, monkeypatch):
    monkeypatch.setattr("ai_how.vm_management.saved_machines.store._LOCK_WAIT_S", 0.1)
    with (
        held_lock(here.machines.storage.saved_lock, doing="save a VM"),
        pytest.raises(LockedError, match="save a VM is under way"),
    ):
        here.take(packed)
    assert here.is_empty
