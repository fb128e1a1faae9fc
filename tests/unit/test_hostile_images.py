"""Images that want to read other files, or to exhaust whoever opens them, at the door.

`ai-how image import` refuses each before any qemu-img runs, and nothing of it remains. What is
harmless passes.
"""

import hashlib
import os
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from cli_runner import Cli
from qcow2_writer import BACKING_FORMAT, DATA_FILE, MIB, Qcow2
from test_qcow2_header import REFUSED, rendered

from ai_how.errors import ImageError
from ai_how.images import qemu_img
from ai_how.images.store import ImageStore
from ai_how.process import get_tool, run

GOOD = Qcow2()
SHADOW = b"/etc/shadow"
NBD = b'json:{"driver":"nbd","server":{"type":"inet","host":"127.0.0.1","port":"10809"}}'
VMDK = """# Disk DescriptorFile
version=1
CID=fffffffe
parentCID=ffffffff
createType="monolithicFlat"
RW 8 FLAT "/etc/passwd" 0
"""


def backed(name: bytes, **changes: object) -> bytes:
    return replace(GOOD, backing_file=name, **changes).render()


WITH_BACKING = {
    "an absolute path": backed(SHADOW),
    "a relative path": backed(b"../../../../etc/shadow"),
    "version 2": backed(SHADOW, version=2),
    "a format of its own": backed(SHADOW, extensions=[(BACKING_FORMAT, b"raw")]),
    "a device": backed(b"/dev/vda"),
    "a name of 1023 bytes": backed(b"/" + b"a" * 1022),
    "an offset without a name": replace(GOOD, backing_offset=1024).render(),
    "an offset beyond the end": replace(GOOD, backing_offset=1 << 62).render(),
    "a format without a file": replace(GOOD, extensions=[(BACKING_FORMAT, b"raw")]).render(),
}
WITH_DATA_FILE = {
    "the bit": replace(GOOD, incompatible=4).render(),
    "the bit and the name": replace(
        GOOD, incompatible=4, extensions=[(DATA_FILE, b"/etc/passwd")]
    ).render(),
    "the name alone": replace(GOOD, extensions=[(DATA_FILE, b"/etc/passwd")]).render(),
    "the raw bit as well": replace(
        GOOD, incompatible=4, autoclear=2, extensions=[(DATA_FILE, b"/etc/passwd")]
    ).render(),
    "the name after many others": replace(
        GOOD, extensions=[*((0x1000 + n, b"x") for n in range(40)), (DATA_FILE, b"/etc/passwd")]
    ).render(),
    "version 2": replace(GOOD, version=2, extensions=[(DATA_FILE, b"/etc/passwd")]).render(),
}
WITH_PROTOCOL = {
    "json:": backed(NBD),
    "nbd:": backed(b"nbd:127.0.0.1:10809"),
    "https:": backed(b"https://127.0.0.1/disk.qcow2"),
    "fat:": backed(b"fat:rw:/etc"),
    "file:": backed(b"file:/etc/shadow"),
    "json: in a data file": replace(GOOD, incompatible=4, extensions=[(DATA_FILE, NBD)]).render(),
    "json: for the whole file": NBD,
    "a VMDK that names /etc/passwd": VMDK.encode(),
    "the same below comments": b"# a\n\n#\n" + VMDK.encode(),
    "a VMDK without its first line": VMDK.partition("\n")[2].encode(),
}
# A "raw" disk that is another format to whoever probes it next.
DISGUISED = {
    "qcow": b"QFI\xfb\0\0\0\1" + bytes(504),
    "VMDK": b"KDMV\1\0\0\0" + bytes(504),
    "VHDX": b"vhdxfile" + bytes(504),
    "VHD": bytes(512) + b"conectix" + bytes(504),
    "VDI": bytes(64) + b"\x7f\x10\xda\xbe" + bytes(444),
    "LUKS": b"LUKS\xba\xbe\0\1" + bytes(504),
    "QED": b"QED\0" + bytes(508),
    "DMG": bytes(512) + b"koly" + bytes(508),
    "gzip": b"\x1f\x8b\x08" + bytes(509),
    "xz": b"\xfd7zXZ\0" + bytes(506),
}
# Everything else that the header check knows: sizes, tables, features, encryption, snapshots.
BENT = {label: rendered(label, image) for label, (image, _reason) in REFUSED.items()} | {
    "a petabyte in version 2": replace(
        GOOD, version=2, virtual_bytes=1 << 50, l1_entries=1
    ).render(),
    "an L1 table of 256 MiB": replace(GOOD, l1_entries=32 << 20).render(),
    **{f"cut at {size}": GOOD.render()[:size] for size in (4, 72, 104, 4096, 65536, 3 * 65536)},
    "an internal snapshot": replace(GOOD, snapshots=1).render(),
}
del BENT["another magic"]  # to everybody that is a raw disk, and no harm to anybody


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where each call of qemu-img writes its words down, before it does what it should."""
    log = tmp_path / "calls"
    put_qemu_img(tmp_path, monkeypatch, f'echo "$*" >>{log}\nexec {get_tool("qemu-img")} "$@"')
    return log


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    home = tmp_path / "home"
    home.mkdir()
    return Cli(home, monkeypatch, capsys)


def put_qemu_img(directory: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    tool = directory / "bin" / "qemu-img"
    tool.parent.mkdir(exist_ok=True)
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    if not os.environ["PATH"].startswith(str(tool.parent)):
        monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")


def assert_refused(cli: Cli, calls: Path, content: bytes) -> None:
    """Refused in words, unread by QEMU, at once, and nothing is left of it."""
    image = cli.home / "foreign.img"
    image.write_bytes(content)
    begun = time.process_time()
    ended = cli("image", "import", image)
    assert time.process_time() - begun < 1
    assert ended.code == ImageError.exit_code, ended
    assert f"error: {image} is refused: " in ended.err
    assert not calls.exists(), calls.read_text()
    store = ImageStore(cli.roots.images)
    assert store.list() == ()
    assert [path.name for path in store.paths.root.iterdir()] == [".lock"]


@pytest.mark.fault("S04", "headers with backing files")
@pytest.mark.parametrize("case", WITH_BACKING)
def test_an_image_that_stands_on_another_file_is_refused(cli, calls, case):
    assert_refused(cli, calls, WITH_BACKING[case])


@pytest.mark.fault("S05", "headers with external data files")
@pytest.mark.parametrize("case", WITH_DATA_FILE)
def test_an_image_whose_data_are_elsewhere_is_refused(cli, calls, case):
    assert_refused(cli, calls, WITH_DATA_FILE[case])


@pytest.mark.fault("S06", "json:, protocols, VMDK extents")
@pytest.mark.parametrize("case", WITH_PROTOCOL)
def test_an_image_that_names_a_protocol_is_refused(cli, calls, case):
    assert_refused(cli, calls, WITH_PROTOCOL[case])


@pytest.mark.fault("S06", "other formats that call themselves raw")
@pytest.mark.parametrize("case", DISGUISED)
def test_a_raw_disk_that_is_another_format_inside_is_refused(cli, calls, case):
    assert_refused(cli, calls, DISGUISED[case])


@pytest.mark.fault("S07", "sizes, tables and features of a header")
@pytest.mark.parametrize("case", BENT)
def test_an_image_that_would_exhaust_or_puzzle_its_reader_is_refused(cli, calls, case):
    assert_refused(cli, calls, BENT[case])


@pytest.mark.fault("S07", "a sparse file of 9 TiB")
def test_a_raw_disk_that_claims_to_be_endless_is_refused_before_it_is_read(cli, calls):
    image = cli.home / "foreign.img"
    with image.open("wb") as file:
        file.truncate(9 << 40)
    begun = time.process_time()
    ended = cli("image", "import", image)
    assert time.process_time() - begun < 1
    assert "is refused: it is larger than" in ended.err
    assert not calls.exists()


@pytest.mark.fault("S07", "a pipe, a directory, a link to a device")
@pytest.mark.parametrize("kind", ["pipe", "directory", "device", "nothing"])
def test_what_is_no_file_is_refused_and_not_waited_for(cli, calls, kind):
    path = cli.home / "foreign.img"
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "directory":
            path.mkdir()
        case "device":
            path.symlink_to("/dev/zero")
    ended = cli("image", "import", path)
    assert ended.code == ImageError.exit_code
    assert "cannot be read" in ended.err or "is not a regular file" in ended.err
    assert not calls.exists()


# --- what is harmless


def made_by_qemu(directory: Path, *options: str) -> tuple[Path, bytes]:
    """An image, and what is on it."""
    raw = directory / "data.raw"
    raw.write_bytes(b"boot" + os.urandom(MIB - 4) + bytes(MIB))
    path = directory / "cloud.qcow2"
    run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", *options, raw, path])
    return path, raw.read_bytes()


@pytest.mark.fault("S04", "images of qemu-img, which must pass")
@pytest.mark.parametrize(
    "options",
    [
        ("-o", "compat=0.10"),
        ("-o", "compat=1.1"),
        ("-c",),
        ("-c", "-o", "compression_type=zstd"),
        ("-o", "lazy_refcounts=on"),
        ("-o", "lazy_refcounts=off"),
        ("-o", "preallocation=full"),
        *(("-o", f"cluster_size={512 << step}") for step in range(0, 13, 2)),
    ],
    ids=" ".join,
)
def test_an_honest_image_is_taken_and_keeps_what_is_on_it(cli, calls, tmp_path, options):
    path, data = made_by_qemu(tmp_path, *options)
    calls.unlink()
    ended = cli("image", "import", path, "--name", "honest")
    assert ended.code == 0, ended.err
    assert [line.split()[0] for line in calls.read_text().splitlines()] == ["info", "check"]
    image = ImageStore(cli.roots.images).get("honest")
    run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", image.disk, tmp_path / "back"])
    assert (tmp_path / "back").read_bytes() == data


@pytest.mark.fault("S06", "a raw disk, which must pass")
def test_an_honest_raw_disk_is_taken_as_raw_and_nothing_else(cli, calls, tmp_path):
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(510) + b"\x55\xaa" + os.urandom(MIB - 512))
    assert cli("image", "import", path, "--name", "honest").code == 0
    first = calls.read_text().splitlines()[0]
    assert first.startswith("convert -p -f raw -O qcow2 /")


# --- the limits that qemu-img runs under


@pytest.mark.fault("S07", "a qemu-img that wants 3 GiB")
def test_a_qemu_img_that_eats_memory_gets_no_more_than_its_share(cli, tmp_path, monkeypatch):
    path, _ = made_by_qemu(tmp_path)
    eater = tmp_path / "eater.py"
    eater.write_text(
        "import sys\n"
        "try:\n"
        "    bytearray(3 << 30)\n"
        "except MemoryError:\n"
        "    sys.exit('no memory was given')\n"
        f"open('{tmp_path}/had', 'w')\n"
    )
    put_qemu_img(tmp_path, monkeypatch, f"exec {get_tool('python3')} {eater}")
    ended = cli("image", "import", path)
    assert ended.code == ImageError.exit_code
    assert "cannot be opened by QEMU" in ended.err
    assert "no memory was given" in ended.err
    assert not (tmp_path / "had").exists()


@pytest.mark.fault("S07", "a qemu-img that computes for ever")
def test_a_qemu_img_that_spins_is_ended_by_the_kernel(cli, tmp_path, monkeypatch):
    path, _ = made_by_qemu(tmp_path)
    put_qemu_img(tmp_path, monkeypatch, "while :; do :; done")
    monkeypatch.setattr(qemu_img, "_QUICK_S", 1)
    monkeypatch.setattr(qemu_img, "_PATIENCE", 600)
    ended = cli("image", "import", path)
    assert ended.code == ImageError.exit_code
    assert "cannot be opened by QEMU" in ended.err


@pytest.mark.fault("S07", "a qemu-img that hangs")
def test_a_qemu_img_that_hangs_is_given_up(cli, tmp_path, monkeypatch):
    path, _ = made_by_qemu(tmp_path)
    put_qemu_img(tmp_path, monkeypatch, "exec sleep 600")
    monkeypatch.setattr(qemu_img, "_QUICK_S", 1)
    monkeypatch.setattr(qemu_img, "_PATIENCE", 2)
    ended = cli("image", "import", path)
    assert ended.code == 3
    assert "did not end within 2 s" in ended.err
    assert ImageStore(cli.roots.images).list() == ()


# --- a file that changes between check and use


@pytest.mark.fault("S08", "the file is replaced while qemu-img looks")
@pytest.mark.fault("F51", "the file is replaced while qemu-img looks")
@pytest.mark.parametrize("moment", ["info", "check"])
def test_what_was_checked_is_what_is_kept(cli, tmp_path, monkeypatch, moment):
    path, _ = made_by_qemu(tmp_path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    hostile = tmp_path / "hostile"
    hostile.write_bytes(backed(SHADOW))
    swap = f'[ "$1" = {moment} ] && cp {hostile} {path}'
    put_qemu_img(tmp_path, monkeypatch, f'{swap}\nexec {get_tool("qemu-img")} "$@"')
    assert cli("image", "import", path, "--name", "swapped").code == 0
    assert path.read_bytes() == hostile.read_bytes()
    image = ImageStore(cli.roots.images).get("swapped")
    assert (image.digest, image.manifest.disk_sha256) == (digest, digest)
    assert hashlib.sha256(image.disk.read_bytes()).hexdigest() == digest


@pytest.mark.fault("S08", "two files that take each other's place all the time")
@pytest.mark.fault("F51", "two files that take each other's place all the time")
def test_a_file_that_is_swapped_all_the_time_is_taken_whole_or_refused(tmp_path, points):
    path, _ = made_by_qemu(tmp_path)
    good = path.read_bytes()
    hostile = backed(SHADOW)
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            for content in (hostile, good):
                (tmp_path / "next").write_bytes(content)
                (tmp_path / "next").rename(path)

    store = ImageStore(tmp_path / "images")
    thread = threading.Thread(target=swap)
    thread.start()
    outcomes = set()
    try:
        for _ in range(15):
            try:
                image = store.import_file(path)
            except ImageError as error:
                assert "has a backing file" in error.brief  # noqa: PT017  it need not raise
                outcomes.add("refused")
            else:
                assert image.disk.read_bytes() == good
                outcomes.add("taken")
                store.remove(image, used_by={})
    finally:
        stop.set()
        thread.join()
    points(15)
    assert outcomes <= {"refused", "taken"}
