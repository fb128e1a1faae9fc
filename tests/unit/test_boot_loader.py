"""Which firmware a disk boots by, from its first blocks."""

import struct
from pathlib import Path
from uuid import UUID

import pytest

from ai_how.images.boot_loader import BLOCK_BYTES, BLOCKS, find_firmware
from ai_how.images.qemu_img import convert, read_start

EFI_SYSTEM = UUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b")
LINUX = UUID("0fc63daf-8483-4772-8e79-3d69d8477de4")
BIOS_BOOT = UUID("21686148-6449-6e6f-744e-656564454649")


def mbr(*types: int, code: bytes = b"") -> bytes:
    entries = b"".join(bytes([0, 0, 0, 0, kind]) + bytes(11) for kind in types)
    return code.ljust(446, b"\0") + entries.ljust(64, b"\0") + b"\x55\xaa"


def gpt(
    *types: UUID, code: bytes = b"", first: int = 2, count: int = 128, size: int = 128
) -> bytes:
    first_entry = min(first, 2)
    header = b"EFI PART" + bytes(64) + struct.pack("<QII", first, count, size)
    entries = b"".join(kind.bytes_le.ljust(128, b"\0") for kind in types)
    start = mbr(0xEE, code=code) + header.ljust(BLOCK_BYTES, b"\0")
    return (start.ljust(first_entry * BLOCK_BYTES, b"\0") + entries).ljust(
        BLOCKS * BLOCK_BYTES, b"\0"
    )


@pytest.mark.parametrize(
    ("start", "firmware"),
    [
        (gpt(LINUX, EFI_SYSTEM), "uefi"),
        (gpt(LINUX, BIOS_BOOT, EFI_SYSTEM, code=b"\xeb\x63"), "bios"),
        (gpt(BIOS_BOOT, LINUX, code=b"\xeb\x63"), "bios"),
        (mbr(0x83, code=b"\xeb\x63"), "bios"),
        (mbr(0x83, 0xEF), "uefi"),
        (mbr(0x83), "bios"),
        (bytes(BLOCKS * BLOCK_BYTES), "bios"),
        (b"", "bios"),
        (gpt(EFI_SYSTEM)[:700], "bios"),
        (gpt(EFI_SYSTEM, size=0), "bios"),
        (gpt(EFI_SYSTEM, first=2**62), "bios"),
        (gpt(EFI_SYSTEM, count=2**32 - 1), "uefi"),
        (gpt(LINUX, count=2**32 - 1, size=2**32 - 1), "bios"),
    ],
    ids=[
        "gpt-esp",
        "gpt-both",
        "gpt-bios",
        "mbr-bios",
        "mbr-esp",
        "mbr-neither",
        "empty",
        "nothing",
        "cut-off",
        "size-0",
        "far-away",
        "many-entries",
        "huge-entries",
    ],
)
def test_the_firmware_is_what_the_partitions_say(start: bytes, firmware: str) -> None:
    if len(start) > BLOCKS * BLOCK_BYTES:
        start = start[: BLOCKS * BLOCK_BYTES]
    assert find_firmware(start) == firmware


@pytest.mark.parametrize("size", [1 << 20, 3 * BLOCK_BYTES])
def test_the_start_of_a_qcow2_is_what_a_guest_sees(size: int, tmp_path: Path) -> None:
    raw, disk = tmp_path / "raw", tmp_path / "disk.qcow2"
    raw.write_bytes(gpt(EFI_SYSTEM)[:size].ljust(size, b"\0"))
    convert(raw, disk, source_format="raw")
    start = read_start(disk, blocks=BLOCKS, scratch=tmp_path / "scratch")
    assert start == raw.read_bytes()[: BLOCKS * BLOCK_BYTES]
    assert {path.name for path in tmp_path.iterdir()} == {"raw", "disk.qcow2"}
