"""The file system of the disks is full: before a start, in the middle of one, under a guest."""

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ai_how.host.embedded import EmbeddedHost
from ai_how.libvirt_client.vm_state import VmState
from ai_how.process import run
from ai_how.waiting import Deadline, wait_until
from cluster_bench import DIGEST
from leaks import files
from tiny_cluster import TinyHome, opened

pytestmark = pytest.mark.libvirt

MIB = 1 << 20
# A guest in one boot sector: writes 32 KiB after 32 KiB to its disk, for ever.
WRITER = bytes.fromhex(
    "31c0 8ed8"  #             xor ax, ax; mov ds, ax
    "b80043 b280 be167c"  #    next: mov ax, 0x4300 (write); mov dl, 0x80; mov si, packet
    "cd13"  #                  int 0x13
    "66 8306 1e7c 40"  #       add dword [packet + 8], 64
    "ebee"  #                  jmp next
    "1000 4000 0080 0000"  #   packet: its size; 64 sectors, from 0:0x8000
    "0008000000000000"  #      to sector 2048
).ljust(510, b"\0") + bytes.fromhex("55aa")


@pytest.fixture
def home(own_host: EmbeddedHost) -> Iterator[TinyHome]:
    """A host whose storage is a file system of its own, with nothing on it."""
    home = TinyHome(own_host.paths.root.parent, nodes=1)
    storage = home.roots.embedded_storage.root
    storage.mkdir(mode=0o711, parents=True)
    run(["mount", "-n", "-t", "tmpfs", "-o", "mode=711,size=700m", "tmpfs", storage])
    try:
        with opened(home):
            yield home
            gone = home.call("hpc", "destroy", "--force")
            assert gone.code == 0, gone.said
    finally:
        own_host.down()
        run(["umount", "-n", storage])


@contextmanager
def filled(home: TinyHome, *, but_mib: int = 0) -> Iterator[None]:
    """All the room is taken, or all but so much."""
    root = home.roots.embedded_storage.root
    filler = root / "filler"
    seen = os.statvfs(root)
    size = seen.f_bavail * seen.f_frsize - but_mib * MIB
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, size)
    try:
        yield
    finally:
        filler.unlink()


def call(home: TinyHome, *words: str) -> None:
    done = home.call("hpc", *words)
    assert done.code == 0, done.said


def node(home: TinyHome, name: str) -> dict[str, object]:
    done = home.call("--json", "hpc", "status")
    assert done.code == 0, done.said
    return next(one for one in json.loads(done.out)["nodes"] if one["name"] == name)


@pytest.mark.fault("F47", "the storage is full before the start")
def test_a_start_without_room_is_refused_before_any_change(home: TinyHome) -> None:
    with filled(home, but_mib=100):
        refused = home.call("hpc", "start")
    assert refused.code == 3, refused.said
    assert "error: the disks need 0.5 GiB, and 0.1 GiB are free" in refused.err
    assert refused.boundaries == ()
    assert files(home.roots.embedded_storage.root) == []
    call(home, "start")


@pytest.mark.fault("F47", "the storage fills up before the image, or a disk, is written")
@pytest.mark.parametrize("key", [f"base/{DIGEST[:12]}", "disk/hpc-compute-01"])
def test_what_a_full_disk_cut_short_is_taken_away_and_the_room_is_told(
    home: TinyHome, key: str
) -> None:
    pids: list[int] = []
    ended = home.begin(
        "hpc", "start", at_any=[["before intent", key]], act="stop", on_pid=pids.append
    )
    stat = Path(f"/proc/{pids[0]}/stat")
    wait_until(lambda: ") T " in stat.read_text(), Deadline.after(120), f"the start at {key}")
    with filled(home):
        os.kill(pids[0], signal.SIGCONT)
        failed = ended()
        assert failed.code == 4, failed.said
        assert "o space left" in failed.err, failed.said
        assert "0.0 MiB free" in failed.err, failed.said
        storage = home.roots.embedded_storage
        assert files(storage.disks) == []
        assert not [path for path in storage.root.rglob("*") if path.name.endswith(".part")]
    call(home, "start")


@pytest.mark.fault("H19", "the disk of the host fills up while an image is prepared")
def test_a_full_disk_is_told_while_an_image_is_prepared(home: TinyHome) -> None:
    storage = home.roots.embedded_storage
    resize = ["mount", "-n", "-o"]
    run([*resize, "remount,size=8g", storage.root])
    (home.root / "writer.raw").write_bytes(WRITER.ljust(MIB, b"\0"))
    imported = home.call("image", "import", str(home.root / "writer.raw"))
    assert imported.code == 0, imported.said
    ended = home.begin("image", "build", "writer", agents=False)
    wait_until(
        lambda: any(storage.preparing.glob(".part-*/console.log")), Deadline.after(120), "the VM"
    )
    run([*resize, f"remount,size={used_bytes(storage.root) + 64 * MIB}", storage.root])
    done = ended()
    assert done.code == 3, done.said
    assert "the image writer cannot be prepared for a cluster: its VM is paused on an" in done.err
    assert "0.0 MiB free" in done.err
    assert f"df -h {storage.preparing}" in done.err
    assert list(storage.preparing.glob(".part-*")) == []


def used_bytes(directory: Path) -> int:
    seen = os.statvfs(directory)
    return (seen.f_blocks - seen.f_bfree) * seen.f_frsize


@pytest.mark.fault("F48", "a guest writes until the storage is full; room is made; it goes on")
def test_a_guest_that_was_paused_for_want_of_room_goes_on_when_there_is_some(
    home: TinyHome,
) -> None:
    call(home, "start")
    call(home, "stop")
    sector = home.root / "writer"
    sector.write_bytes(WRITER)
    disk = home.roots.embedded_storage.disk("hpc", "compute-01")
    run(["qemu-io", "-f", "qcow2", "-c", f"write -s {sector} 0 512", disk])
    with filled(home, but_mib=100):
        call(home, "start")
        wait_until(
            lambda: node(home, "compute-01")["state"] == VmState.PAUSED,
            Deadline.after(240),
            "the pause",
            interval_s=0.5,
        )
        assert node(home, "compute-01")["reason"] == "I/O error"
        refused = home.call("hpc", "start")
        assert refused.code == 3, refused.said
        assert "compute-01: paused because the file system of the disks is full" in refused.err
        assert "64 MiB needed" in refused.err
        assert node(home, "compute-01")["reason"] == "I/O error"
    used = disk.stat().st_blocks
    done = home.call("--json", "hpc", "start")
    assert done.code == 0, done.said
    steps = [step["what"] for step in json.loads(done.out)["steps"]]
    assert "resume the VM hpc-compute-01" in steps
    wait_until(lambda: disk.stat().st_blocks > used, Deadline.after(120), "the guest's next write")
