"""Writes qcow2 images, right ones and wrong ones: three empty tables, every field bendable."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

MIB = 1 << 20

DATA_FILE = 0x44415441
LUKS = 0x0537BE77
BACKING_FORMAT = 0xE2792ACA
FEATURE_NAMES = 0x6803F857
BITMAPS = 0x23852875


@dataclass(frozen=True)
class Qcow2:
    """An empty image: header, refcount table, refcount block, L1 table, one cluster each."""

    magic: bytes = b"QFI\xfb"
    version: int = 3
    virtual_bytes: int = 64 * MIB
    cluster_bits: int = 16
    crypt_method: int = 0
    l1_entries: int | None = None
    l1_offset: int | None = None
    refcount_offset: int | None = None
    refcount_clusters: int = 1
    snapshots: int = 0
    incompatible: int = 0
    compatible: int = 0
    autoclear: int = 0
    refcount_order: int = 4
    header_bytes: int = 104
    compression: int | None = None
    extensions: Sequence[tuple[int, bytes]] = ()
    backing_file: bytes = b""
    backing_offset: int | None = None

    @property
    def cluster(self) -> int:
        return 1 << self.cluster_bits

    @property
    def l1_needed(self) -> int:
        return -(-self.virtual_bytes // (self.cluster * (self.cluster // 8)))

    def head(self) -> bytes:
        """The header with its extensions and the backing file's name."""
        fixed = 72
        tail = b""
        if self.version == 3:
            fixed = self.header_bytes
            tail = struct.pack(
                ">QQQII",
                self.incompatible,
                self.compatible,
                self.autoclear,
                self.refcount_order,
                self.header_bytes,
            )
            if self.compression is not None:
                tail += bytes([self.compression]) + bytes(7)
        parts = b"".join(
            struct.pack(">II", kind, len(data)) + data + bytes(-len(data) % 8)
            for kind, data in self.extensions
        )
        parts += struct.pack(">II", 0, 0)
        name_at = self.backing_offset
        if name_at is None:
            name_at = fixed + len(parts) if self.backing_file else 0
        start = struct.pack(
            ">4sIQIIQIIQQIIQ",
            self.magic,
            self.version,
            name_at,
            len(self.backing_file),
            self.cluster_bits,
            self.virtual_bytes,
            self.crypt_method,
            self.l1_needed if self.l1_entries is None else self.l1_entries,
            3 * self.cluster if self.l1_offset is None else self.l1_offset,
            self.cluster if self.refcount_offset is None else self.refcount_offset,
            self.refcount_clusters,
            self.snapshots,
            0,
        )
        return start + tail + parts + self.backing_file

    def render(self) -> bytes:
        """The whole file; its refcounts are right where nothing was bent."""
        l1_clusters = max(1, -(-self.l1_needed * 8 // self.cluster))
        used = 3 + l1_clusters
        table = struct.pack(">Q", 2 * self.cluster)
        block = struct.pack(">H", 1) * used
        pages = (self.head(), table, block, bytes(l1_clusters * self.cluster))
        return b"".join(page + bytes(-len(page) % self.cluster) for page in pages)

    def write(self, path: Path) -> Path:
        path.write_bytes(self.render())
        return path
