"""libvirt's save files: read what is in front of a saved memory, and write it anew for another VM.

A file is a header of 92 bytes, `data_len` bytes that hold the VM's XML and a cookie, each with a
NUL at its end, then QEMU's migration stream (libvirt: src/qemu/qemu_saveimage.h, version 2).
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
# How long libvirt may take to save or restore a memory: a while, and the time of a slow disk.
MEMORY_S = 60.0
MEMORY_MIB_PER_S = 20
_HEADER = struct.Struct("<16s5I56x")
_QEMU_MAGIC = b"QEVM"
# A file system that shares blocks does so by whole ones, and only at the same offset in each.
_ALIGN_BYTES = 4096


@dataclass(frozen=True, slots=True)
class SaveImage:
    """What stands in front of a saved memory; the memory begins at `memory_at` in its file."""

    xml: str
    cookie: str
    was_running: bool
    memory_at: int


def memory_timeout_s(memory_mib: float) -> float:
    """How long saving or restoring that much memory may take."""
    return MEMORY_S + memory_mib / MEMORY_MIB_PER_S


def read_save_image(path: Path) -> SaveImage:
    """The front of a save file. Raises HostError, with the reason, for one that we cannot use."""
    try:
        with path.open("rb") as file:
            return _read_front(file)
    except OSError as error:
        raise HostError(f"the saved memory cannot be read: {error.strerror}") from error


def write_clone(source: Path, target: Path, xml: str) -> None:
    """Write the saved memory in `source` to a new file, as that of the VM that `xml` describes.

    Whoever calls has made sure that the VM has the same devices: nothing but libvirt's XML changes.
    """
    try:
        with source.open("rb", buffering=0) as file:
            front = _read_front(file)
            size = os.fstat(file.fileno()).st_size
            head = _render_front(xml, front)
            with created_file(target, is_lasting=False) as copy:
                copy.write(head)
                copy_range(file, copy, front.memory_at, size, target_at=len(head))
    except OSError as error:
        raise HostError(
            f"the saved memory cannot be copied: {error.strerror}", details=str(target)
        ) from error


def with_identity(saved_xml: str, own_xml: str) -> str:
    """The XML of a saved VM, with all from `own_xml` that makes a VM this very one.

    Both are of one template. Devices, their addresses and the CPU stay those of the saved VM, as
    the stream is of these. Raises HostError where they are not the same kind of VM.
    """
    saved, own = read_xml(saved_xml), read_xml(own_xml)
    for name in ("name", "uuid", "genid", "title", "metadata", "cputune", "os/cmdline"):
        _replace(saved, own, name)
    for path, parts in _DEVICES.items():
        theirs, ours = saved.findall(path), own.findall(path)
        if len(theirs) != len(ours):
            raise HostError(f"the saved VM has {len(theirs)} of {path}, and not {len(ours)}")
        for there, here in zip(theirs, ours, strict=True):
            there.attrib.update(here.attrib)
            for part in parts:
                _replace(there, here, part)
    ET.register_namespace("ai-how", MARK_NAMESPACE)
    return ET.tostring(saved, encoding="unicode")


# What a device has that says whose it is, or where its other end lies on the host.
_DEVICES: Mapping[str, tuple[str, ...]] = {
    "devices/disk": ("source", "backingStore"),
    "devices/interface": ("mac", "source"),
    "devices/serial": ("log",),
}


def _replace(there: ET.Element, here: ET.Element, path: str) -> None:
    """Have the element at `path` as it is in `here`: absent where it is absent."""
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


def _read_front(file: IO[bytes]) -> SaveImage:
    head = file.read(_HEADER.size)
    if len(head) < _HEADER.size:
        raise HostError("the saved memory is cut short")
    magic, version, text_bytes, was_running, compression, cookie_at = _HEADER.unpack(head)
    if magic != MAGIC:
        raise HostError(f"this is no saved memory of libvirt: it begins with {magic!a}")
    if version != VERSION or compression != UNCOMPRESSED:
        raise HostError(
            f"a saved memory of version {version} and compression {compression} is not known"
        )
    if not 0 < text_bytes <= MAX_TEXT_BYTES or cookie_at > text_bytes:
        raise HostError(f"the saved memory says that its XML has {text_bytes} bytes")
    text = file.read(text_bytes)
    if len(text) < text_bytes or file.read(len(_QEMU_MAGIC)) != _QEMU_MAGIC:
        raise HostError("the saved memory is cut short")
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
        raise HostError("the saved memory has an XML that is no text") from None


def _render_front(xml: str, previous: SaveImage) -> bytes:
    """All that comes before the memory: it begins at the same place in its block as it did."""
    text = xml.encode() + b"\0"
    cookie_at = len(text) if previous.cookie else 0
    if previous.cookie:
        text += previous.cookie.encode() + b"\0"
    spare = (previous.memory_at - _HEADER.size - len(text)) % _ALIGN_BYTES
    text += b"\0" * spare
    head = _HEADER.pack(
        MAGIC, VERSION, len(text), int(previous.was_running), UNCOMPRESSED, cookie_at
    )
    return head + text
