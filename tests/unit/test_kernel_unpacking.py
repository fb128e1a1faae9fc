"""The kernel of an image: unpacked into what QEMU boots, or left to the guest."""

import struct
from pathlib import Path

import pytest

from ai_how.errors import ImageError
from ai_how.images.build import unpack_kernel
from ai_how.process import get_tool, run

ELF = b"\x7fELF" + bytes(5000)
LZ4 = b"\x02\x21\x4c\x18" + bytes(500)


def packed_kernel(path: Path, payload: bytes) -> Path:
    """A bzImage with one sector of set-up code, whose payload begins where its code does."""
    head = bytearray(2 * 512)
    head[0x1F1] = 1
    struct.pack_into("<II", head, 0x248, 0, len(payload) + 4)
    path.write_bytes(bytes(head) + payload + struct.pack("<I", len(ELF)))
    return path


@pytest.mark.parametrize("program", ["zstd", "xz"])
def test_a_packed_kernel_is_unpacked(tmp_path: Path, program: str) -> None:
    plain = tmp_path / "plain"
    plain.write_bytes(ELF)
    suffix = {"zstd": ".zst", "xz": ".xz"}[program]
    run([get_tool(program), "--quiet", "--keep", plain])
    payload = plain.with_suffix(suffix).read_bytes()
    unpack_kernel(packed_kernel(tmp_path / "bzImage", payload), tmp_path / "vmlinuz")
    assert (tmp_path / "vmlinuz").read_bytes() == ELF
    assert not list(tmp_path.glob("vmlinuz.*"))


def test_a_kernel_that_is_packed_with_lz4_is_booted_as_it_is(tmp_path: Path) -> None:
    packed = packed_kernel(tmp_path / "bzImage", LZ4)
    unpack_kernel(packed, tmp_path / "vmlinuz")
    assert (tmp_path / "vmlinuz").read_bytes() == packed.read_bytes()


def test_another_kernel_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="not packed with zstd or xz"):
        unpack_kernel(packed_kernel(tmp_path / "bzImage", b"BZh9" + bytes(99)), tmp_path / "x")
