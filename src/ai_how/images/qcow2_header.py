"""Read a qcow2 header without QEMU; refuse whatever could make QEMU open a second file.

A qcow2 file can name other files: a backing file, an external data file. QEMU would open them with
our rights and show them to the guest (CVE-2024-32498, CVE-2023-32684). Therefore a foreign image is
read here first.
"""

import os
import re
import shlex
import stat
import struct
from dataclasses import dataclass
from pathlib import Path

from ai_how.errors import ImageError

MAX_VIRTUAL_BYTES = 8 << 40

_FIXED = struct.Struct(">4sIQIIQIIQQIIQ")
_VERSION_3 = struct.Struct(">QQQII")
_EXTENSION = struct.Struct(">II")
_MAX_HEAD_BYTES = 2 << 20
# QEMU's own limits (block/qcow2.h): beyond them it would not open the image either.
_MAX_L1_BYTES = 32 << 20
_MAX_REFCOUNT_TABLE_BYTES = 8 << 20
_MAX_BACKING_NAME_BYTES = 1023
_MAX_REFCOUNT_ORDER = 6
_MAX_EXTENSIONS = 64
_CLUSTER_BITS = range(9, 22)

_COMPRESSION_TYPE = 1 << 3
_REFUSED_FEATURES = {
    1 << 0: "it was not closed properly (dirty bit)",
    1 << 1: "it is marked corrupt",
    1 << 2: "it keeps its data in another file (external data file)",
    1 << 4: "it uses extended L2 entries, which ai-how does not support",
}
_EXTENSION_END = 0
_EXTENSION_BACKING_FORMAT = 0xE2792ACA
_REFUSED_EXTENSIONS = {
    0x44415441: "it names an external data file",
    0x0537BE77: "it is encrypted (LUKS)",
}

_MAGICS: tuple[tuple[int, bytes, str], ...] = (
    (0, b"QFI\xfb", "qcow2"),
    (0, b"KDMV", "VMDK"),
    (0, b"COWD", "VMDK"),
    (0, b"\x01\x00\x00\x00\x01\x00\x00\x00\x00\x02\x00\x00", "VMDK"),
    (0x40, b"\x7f\x10\xda\xbe", "VDI"),
    (0, b"<<< ", "VDI"),
    (0, b"LUKS\xba\xbe", "LUKS"),
    (0, b"vhdxfile", "VHDX"),
    (0, b"conectix", "VHD"),
    (0, b"QED\0", "QED"),
    (0, b"WithoutFreeSpace", "Parallels"),
    (0, b"WithouFreSpacExt", "Parallels"),
    (0, b"Bochs Virtual HD Image", "Bochs"),
    (0, b"#!/bin/sh\n#V2.0 Format\n", "cloop"),
    (0, b"json:", "a json: file name"),
    (0, b"\x1f\x8b", "gzip"),
    (0, b"\xfd7zXZ\0", "xz"),
    (0, b"BZh", "bzip2"),
    (0, b"\x28\xb5\x2f\xfd", "zstd"),
    (0, b"PK\x03\x04", "zip"),
)
_TRAILERS = ((b"conectix", "VHD"), (b"koly", "DMG"))
# QEMU takes a text for a VMDK descriptor when, comments aside, it begins with its version.
_VMDK_TEXT = re.compile(
    rb"(?:[ \t]*(?:#[^\n]*)?\r?\n)*[ \t]*version[ \t]*=[ \t]*[1-3]", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Qcow2Header:
    """The content of an accepted header; the backing file only if it was allowed."""

    version: int
    virtual_size_bytes: int
    cluster_bytes: int
    file_bytes: int
    backing_file: str | None = None
    backing_format: str | None = None


@dataclass(frozen=True, slots=True)
class _Fields:
    magic: bytes
    version: int
    backing_offset: int
    backing_bytes: int
    cluster_bits: int
    virtual_bytes: int
    crypt_method: int
    l1_entries: int
    l1_offset: int
    refcount_offset: int
    refcount_clusters: int
    snapshots: int
    snapshots_offset: int
    incompatible: int = 0
    compatible: int = 0
    autoclear: int = 0
    refcount_order: int = 4
    header_bytes: int = _FIXED.size

    @property
    def cluster_bytes(self) -> int:
        return 1 << self.cluster_bits


class _RefusedError(Exception):
    """The reason for a refusal, without the name of the file."""


def read_header(
    path: Path, *, max_virtual_bytes: int = MAX_VIRTUAL_BYTES, allow_backing: bool = False
) -> Qcow2Header:
    """The header of a qcow2 file that QEMU may open. Raises ImageError on anything else.

    Safe on a disk that a guest is using. `allow_backing` is for our own overlays: the caller then
    compares `backing_file` with the one base that it expects.
    """
    head, file_bytes, _ = _read_ends(path)
    return parse_header(
        head,
        name=str(path),
        file_bytes=file_bytes,
        max_virtual_bytes=max_virtual_bytes,
        allow_backing=allow_backing,
    )


def parse_header(
    head: bytes,
    *,
    name: str,
    file_bytes: int,
    max_virtual_bytes: int = MAX_VIRTUAL_BYTES,
    allow_backing: bool = False,
) -> Qcow2Header:
    """`read_header` for the first bytes of a file; only ImageError is ever raised."""
    try:
        fields = _read_fields(head)
        _check_sizes(fields, file_bytes=file_bytes, max_virtual_bytes=max_virtual_bytes)
        _check_features(fields, head, allow_backing=allow_backing)
        backing_format = _read_extensions(fields, head)
        return Qcow2Header(
            version=fields.version,
            virtual_size_bytes=fields.virtual_bytes,
            cluster_bytes=fields.cluster_bytes,
            file_bytes=file_bytes,
            backing_file=_read_backing_file(fields, head),
            backing_format=backing_format,
        )
    except _RefusedError as refused:
        raise ImageError(f"{name} is refused: {refused}") from None


def find_format(path: Path) -> str | None:
    """The format that the content indicates, or None if it can only be a raw disk.

    QEMU must never guess: a "raw" disk that starts with another format's magic is that format for
    the next program that probes it. Raises ImageError if the file cannot be read.
    """
    head, _, tail = _read_ends(path)
    for offset, magic, name in _MAGICS:
        if head[offset : offset + len(magic)] == magic:
            return name
    for magic, name in _TRAILERS:
        if tail.startswith(magic):
            return name
    if _VMDK_TEXT.match(head[:65536]) or b"# disk descriptorfile" in head[:65536].lower():
        return "VMDK"
    return None


def _read_ends(path: Path) -> tuple[bytes, int, bytes]:
    """The first 2 MiB, the size and the last 512 bytes; links, devices and pipes are refused."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            seen = os.fstat(fd)
            if not stat.S_ISREG(seen.st_mode):
                raise ImageError(
                    f"{path} is not a regular file", hint=f"ls -l {shlex.quote(str(path))}"
                )
            head = os.pread(fd, _MAX_HEAD_BYTES, 0)
            return head, seen.st_size, os.pread(fd, 512, max(0, seen.st_size - 512))
        finally:
            os.close(fd)
    except OSError as error:
        raise ImageError(
            f"{path} cannot be read: {error.strerror}", hint=f"ls -l {shlex.quote(str(path))}"
        ) from error


def _read_fields(head: bytes) -> _Fields:
    if head[:4] != b"QFI\xfb":
        raise _RefusedError("it is not a qcow2 image")
    if len(head) < _FIXED.size:
        raise _RefusedError("its header is truncated")
    fixed = _FIXED.unpack_from(head)
    match fixed[1]:
        case 2:
            fields = _Fields(*fixed)
        case 3 if len(head) >= _FIXED.size + _VERSION_3.size:
            fields = _Fields(*fixed, *_VERSION_3.unpack_from(head, _FIXED.size))
            if fields.header_bytes < _FIXED.size + _VERSION_3.size:
                raise _RefusedError(f"its header claims {fields.header_bytes} bytes")
        case 3:
            raise _RefusedError("its header is truncated")
        case other:
            raise _RefusedError(f"its version is {other}; 2 and 3 are supported")
    if fields.cluster_bits not in _CLUSTER_BITS:
        raise _RefusedError(f"its clusters have 2^{fields.cluster_bits} bytes, not 2^9 to 2^21")
    if fields.header_bytes > fields.cluster_bytes or fields.header_bytes % 8:
        raise _RefusedError(f"its header claims {fields.header_bytes} bytes")
    return fields


def _check_sizes(fields: _Fields, *, file_bytes: int, max_virtual_bytes: int) -> None:
    if fields.virtual_bytes == 0:
        raise _RefusedError("the size of its disk is zero")
    if fields.virtual_bytes > max_virtual_bytes:
        raise _RefusedError(
            f"its disk has {fields.virtual_bytes} bytes, "
            f"more than the maximum of {max_virtual_bytes}"
        )
    # One L2 table is one cluster of 8-byte entries; one L1 entry covers all of its clusters.
    bytes_per_l1_entry = fields.cluster_bytes * (fields.cluster_bytes // 8)
    if fields.l1_entries < -(-fields.virtual_bytes // bytes_per_l1_entry):
        raise _RefusedError("its L1 table is too small for its disk")
    if fields.refcount_order > _MAX_REFCOUNT_ORDER:
        raise _RefusedError(f"its refcounts have 2^{fields.refcount_order} bits, more than 64")
    tables = (
        ("L1 table", fields.l1_offset, fields.l1_entries * 8, _MAX_L1_BYTES),
        (
            "refcount table",
            fields.refcount_offset,
            fields.refcount_clusters * fields.cluster_bytes,
            _MAX_REFCOUNT_TABLE_BYTES,
        ),
    )
    for name, offset, size, most in tables:
        if size == 0 or size > most:
            raise _RefusedError(f"its {name} has {size} bytes, not 1 to {most}")
        if offset == 0 or offset % fields.cluster_bytes:
            raise _RefusedError(f"its {name} does not start at a cluster boundary")
        if offset + size > file_bytes:
            raise _RefusedError(f"its {name} extends beyond the end of the file (is it truncated?)")


def _check_features(fields: _Fields, head: bytes, *, allow_backing: bool) -> None:
    if fields.backing_offset and not allow_backing:
        raise _RefusedError("it has a backing file")
    for bit, meaning in _REFUSED_FEATURES.items():
        if fields.incompatible & bit:
            raise _RefusedError(meaning)
    if unknown := fields.incompatible & ~_COMPRESSION_TYPE:
        raise _RefusedError(f"it needs unknown features ({unknown:#x})")
    if fields.crypt_method:
        raise _RefusedError(f"it is encrypted (method {fields.crypt_method})")
    if fields.snapshots:
        raise _RefusedError(f"it contains {fields.snapshots} snapshot(s)")
    # The byte after the fixed fields and the feature bit must agree; QEMU requires that too.
    at = _FIXED.size + _VERSION_3.size
    compression = head[at] if fields.header_bytes > at and len(head) > at else 0
    if compression != (1 if fields.incompatible & _COMPRESSION_TYPE else 0):
        raise _RefusedError(f"its compression type {compression} is unknown")


def _read_extensions(fields: _Fields, head: bytes) -> str | None:
    """The backing format, after every extension was looked at. Ones unknown to us do no harm:
    whatever a reader must understand is an incompatible feature."""
    end = min(fields.backing_offset or fields.cluster_bytes, fields.cluster_bytes)
    offset, backing_format = fields.header_bytes, None
    for _ in range(_MAX_EXTENSIONS):
        if offset >= end:
            return backing_format
        if offset + _EXTENSION.size > min(end, len(head)):
            raise _RefusedError("its header extensions are truncated")
        kind, size = _EXTENSION.unpack_from(head, offset)
        offset += _EXTENSION.size
        if kind == _EXTENSION_END:
            return backing_format
        if problem := _REFUSED_EXTENSIONS.get(kind):
            raise _RefusedError(problem)
        if offset + size > min(end, len(head)):
            raise _RefusedError("its header extensions are truncated")
        if kind == _EXTENSION_BACKING_FORMAT:
            if not fields.backing_offset:
                raise _RefusedError("it names the format of a backing file, but no backing file")
            backing_format = _read_text(head[offset : offset + size])
        offset += -(-size // 8) * 8
    raise _RefusedError(f"it has more than {_MAX_EXTENSIONS} header extensions")


def _read_backing_file(fields: _Fields, head: bytes) -> str | None:
    if not fields.backing_offset:
        return None
    end = fields.backing_offset + fields.backing_bytes
    if not 1 <= fields.backing_bytes <= _MAX_BACKING_NAME_BYTES:
        raise _RefusedError(f"its backing file's name has {fields.backing_bytes} bytes")
    if fields.backing_offset < fields.header_bytes or end > min(fields.cluster_bytes, len(head)):
        raise _RefusedError("its backing file's name lies outside the header")
    return _read_text(head[fields.backing_offset : end])


def _read_text(raw: bytes) -> str:
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise _RefusedError("a name in its header is not UTF-8") from None
    if not text.isprintable():
        raise _RefusedError("a name in its header has control characters")
    return text
