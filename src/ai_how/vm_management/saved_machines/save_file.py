"""libvirt's save files: reads their header and XML, and rewrites both for another VM.

A file has a header of 92 bytes, `data_len` bytes with the VM's XML and a cookie (both end in NUL),
and QEMU's migration stream (libvirt: src/qemu/qemu_saveimage.h, version 2).
"""

import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from xml.etree import ElementTree as ET

from ai_how.errors import HostError
from ai_how.images.copying import copy_range, created_file
from ai_how.libvirt_client.xml import MARK_NAMESPACE, read_xml

MAGIC = b"LibvirtQemudSave"
VERSION = 2
UNCOMPRESSED = 0
MAX_TEXT_BYTES = 1 << 20
# The timeout of saving or restoring a memory: a constant, and the time of a slow disk.
MEMORY_S = 60.0
MEMORY_MIB_PER_S = 20
_HEADER = struct.Struct("<16s5I56x")
_QEMU_MAGIC = b"QEVM"
# A file system with reflinks shares whole blocks only, at the same offset within a block.
_ALIGN_BYTES = 4096


@dataclass(frozen=True, slots=True)
class SaveImage:
    """What precedes the memory in a save file; the memory begins at byte `memory_at`."""

    xml: str
    cookie: str
    was_running: bool
    memory_at: int


def memory_timeout_s(memory_mib: float) -> float:
    """The timeout of saving or restoring that much memory, in seconds."""
    return MEMORY_S + memory_mib / MEMORY_MIB_PER_S


def read_save_image(path: Path) -> SaveImage:
    """The header and XML of a save file. Raises HostError if the file cannot be used."""
    try:
        with path.open("rb") as file:
            return _read_head(file)
    except OSError as error:
        raise HostError(f"the saved memory cannot be read: {error.strerror}") from error


def write_clone(source: Path, target: Path, xml: str) -> None:
    """Copy the save file `source` to the new file `target`, with `xml` in place of its XML.

    The caller ensures that both VMs have the same devices: QEMU's stream is copied unchanged.
    """
    try:
        with source.open("rb", buffering=0) as file:
            front = _read_head(file)
            size = os.fstat(file.fileno()).st_size
            head = _render_head(xml, front)
            with created_file(target, is_lasting=False) as copy:
                copy.write(head)
                copy_range(file, copy, front.memory_at, size, target_at=len(head))
    except OSError as error:
        raise HostError(
            f"the saved memory cannot be copied: {error.strerror}", details=str(target)
        ) from error


def with_identity(saved_xml: str, own_xml: str) -> str:
    """The XML of a saved VM with the identity of another: names, ids, files, network and log.

    Both are of one template. Devices, their addresses and the CPU stay those of the saved VM:
    QEMU's stream depends on them. Raises HostError if the devices differ.
    """
    saved, own = read_xml(saved_xml), read_xml(own_xml)
    for name in _PARTS:
        _replace(saved, own, name)
    for path, parts in _DEVICES.items():
        theirs, ours = saved.findall(path), own.findall(path)
        if len(theirs) != len(ours):
            raise HostError(f"the saved VM has {len(theirs)} of {path}, not {len(ours)}")
        for there, here in zip(theirs, ours, strict=True):
            there.attrib.update(here.attrib)
            for part in parts:
                _replace(there, here, part)
    ET.register_namespace("ai-how", MARK_NAMESPACE)
    return ET.tostring(saved, encoding="unicode")


# The elements outside of devices that identify the node, or are files of its storage.
_PARTS = (
    *("name", "uuid", "genid", "title", "metadata", "cputune"),
    *("os/kernel", "os/initrd", "os/cmdline", "os/nvram", "devices/emulator"),
)
# The elements of a device that identify the node, or refer to its files and network on the host.
_DEVICES: Mapping[str, tuple[str, ...]] = {
    "devices/disk": ("source", "backingStore"),
    "devices/interface": ("mac", "source"),
    "devices/serial": ("log",),
}


def _replace(there: ET.Element, here: ET.Element, path: str) -> None:
    """Replace the element at `path` by that of `here`; remove it if `here` has none."""
    parent, _, name = path.rpartition("/")
    holder, giver = there.find(parent or "."), here.find(parent or ".")
    new = None if giver is None else giver.find(name)
    if holder is None:
        if new is not None:
            raise HostError(f"the saved VM has no {parent}")
        return
    old = holder.find(name)
    if old is not None:
        at = list(holder).index(old)
        holder.remove(old)
    else:
        at = 0
    if new is not None:
        holder.insert(at, new)


def _read_head(file: IO[bytes]) -> SaveImage:
    head = file.read(_HEADER.size)
    if len(head) < _HEADER.size:
        raise HostError("the saved memory is truncated")
    magic, version, text_bytes, was_running, compression, cookie_at = _HEADER.unpack(head)
    if magic != MAGIC:
        raise HostError(f"this is not a save file of libvirt: it begins with {magic!a}")
    if version != VERSION or compression != UNCOMPRESSED:
        raise HostError(
            f"save files of version {version} with compression {compression} are not supported"
        )
    if not 0 < text_bytes <= MAX_TEXT_BYTES or cookie_at > text_bytes:
        raise HostError(f"the saved memory has an invalid XML size of {text_bytes} bytes")
    text = file.read(text_bytes)
    if len(text) < text_bytes or file.read(len(_QEMU_MAGIC)) != _QEMU_MAGIC:
        raise HostError("the saved memory is truncated")
    xml = text[: cookie_at or text_bytes]
    cookie = text[cookie_at:] if cookie_at else b""
    try:
        return SaveImage(
            xml=xml.partition(b"\0")[0].decode(),
            cookie=cookie.partition(b"\0")[0].decode(),
            was_running=bool(was_running),
            memory_at=_HEADER.size + text_bytes,
        )
    except UnicodeDecodeError:
        raise HostError("the XML of the saved memory is not UTF-8") from None


def _render_head(xml: str, saved: SaveImage) -> bytes:
    """The header and XML, padded so that the memory keeps its offset within a block."""
    text = xml.encode() + b"\0"
    cookie_at = len(text) if saved.cookie else 0
    if saved.cookie:
        text += saved.cookie.encode() + b"\0"
    spare = (saved.memory_at - _HEADER.size - len(text)) % _ALIGN_BYTES
    text += b"\0" * spare
    head = _HEADER.pack(MAGIC, VERSION, len(text), int(saved.was_running), UNCOMPRESSED, cookie_at)
    return head + text
