"""The front of libvirt's save files: read, refused, and written anew for another VM."""

import os
import struct
from dataclasses import dataclass, field, replace
from pathlib import Path
from uuid import UUID

import pytest
from fuzzing import Fuzz, answer, spoilt_bytes, spoilt_text
from hypothesis import strategies as st
from test_fuzz_host import XML_PIECES

from ai_how.errors import HostError
from ai_how.libvirt_client.xml import read_xml
from ai_how.vm_management.saved_machines.generic_vm import generic_definition
from ai_how.vm_management.saved_machines.save_file import (
    SaveImage,
    read_save_image,
    with_identity,
    write_clone,
)
from ai_how.vm_management.xml.render import render_definition
from shapes import COMPUTE, COMPUTE_UEFI, CONTROLLER

STREAM = b"QEVM\0\0\0\3" + os.urandom(9000)


@dataclass(frozen=True)
class Save:
    """A save file as libvirt writes it, or otherwise where a test says so."""

    magic: bytes = b"LibvirtQemudSave"
    version: int = 2
    was_running: int = 1
    compressed: int = 0
    xml: bytes = b"<domain><name>one</name></domain>"
    cookie: bytes = b"<cookie/>"
    text_bytes: int | None = None
    cookie_at: int | None = None
    stream: bytes = field(default=STREAM, repr=False)

    def render(self) -> bytes:
        text = self.xml + b"\0" + (self.cookie + b"\0" if self.cookie else b"") + bytes(50)
        cookie_at = len(self.xml) + 1 if self.cookie else 0
        numbers = (
            self.version,
            len(text) if self.text_bytes is None else self.text_bytes,
            self.was_running,
            self.compressed,
            cookie_at if self.cookie_at is None else self.cookie_at,
        )
        return self.magic + struct.pack("<19I", *numbers, *[0] * 14) + text + self.stream


GOOD = Save()

REFUSED = {
    "nothing": (replace(GOOD, magic=b"", stream=b""), "not a save file of libvirt"),
    "one that was not finished": (
        replace(GOOD, magic=b"LibvirtQemudPart"),
        "not a save file of libvirt",
    ),
    "the order of another processor": (replace(GOOD, version=2 << 24), "version 33554432"),
    "version 3": (replace(GOOD, version=3), "version 3 with compression 0 are not supported"),
    "compression": (replace(GOOD, compressed=3), "version 2 with compression 3 are not supported"),
    "no XML": (replace(GOOD, text_bytes=0), "of 0 bytes"),
    "a huge XML": (replace(GOOD, text_bytes=1 << 31), "of 2147483648 bytes"),
    "a cookie beyond the XML": (replace(GOOD, cookie_at=5000), "of 94 bytes"),
    "an XML that is no text": (replace(GOOD, xml=b"\xff\xfe"), "is not UTF-8"),
    "no stream": (replace(GOOD, stream=b""), "is truncated"),
    "a stream of something else": (replace(GOOD, stream=bytes(5000)), "is truncated"),
}


def test_the_front_of_a_save_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "save"
    path.write_bytes(GOOD.render())
    found = read_save_image(path)
    assert found == SaveImage(GOOD.xml.decode(), "<cookie/>", True, len(path.read_bytes()) - 9008)


def test_a_save_file_without_a_cookie_is_read(tmp_path: Path) -> None:
    path = tmp_path / "save"
    path.write_bytes(replace(GOOD, cookie=b"").render())
    assert read_save_image(path).cookie == ""


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_not_as_we_know_it_is_refused(tmp_path: Path, what: str) -> None:
    spoilt, why = REFUSED[what]
    path = tmp_path / "save"
    path.write_bytes(spoilt.render() if spoilt.magic else b"")
    wanted = "is truncated" if what == "nothing" else why
    with pytest.raises(HostError, match=wanted):
        read_save_image(path)


def test_a_save_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="cannot be read"):
        read_save_image(tmp_path)


@pytest.mark.parametrize("size", [10, 3000, 200_000])
def test_a_clone_has_another_xml_and_the_same_memory(tmp_path: Path, size: int) -> None:
    source, target = tmp_path / "save", tmp_path / "clone"
    source.write_bytes(GOOD.render())
    xml = f"<domain><name>{'n' * size}</name></domain>"
    write_clone(source, target, xml)
    was, found = read_save_image(source), read_save_image(target)
    assert (found.xml, found.cookie, found.was_running) == (xml, "<cookie/>", True)
    assert target.read_bytes()[found.memory_at :] == STREAM
    # File systems that share blocks do so only where both have them at the same place.
    assert (found.memory_at - was.memory_at) % 4096 == 0
    assert target.stat().st_mode & 0o777 == 0o600


def test_a_clone_is_never_written_over_a_file(tmp_path: Path) -> None:
    source, target = tmp_path / "save", tmp_path / "clone"
    source.write_bytes(GOOD.render())
    target.write_text("mine")
    with pytest.raises(HostError, match="cannot be copied"):
        write_clone(source, target, "<domain/>")
    assert target.read_text() == "mine"


def test_a_saved_vm_becomes_a_node_and_keeps_its_devices() -> None:
    nameless = generic_definition(COMPUTE, disk=Path("/saved/disk"), console_log=Path("/saved/log"))
    address = "<address type='pci' bus='0x03' slot='0x00' function='0x0'/>"
    saved = render_definition(nameless).replace("<target dev='vda'", f"{address}<target dev='vda'")
    saved = saved.replace("machine='q35'", "machine='pc-q35-7.2'")
    xml = with_identity(saved, render_definition(COMPUTE))
    became, own = read_xml(xml), read_xml(render_definition(COMPUTE))
    for path in ("name", "uuid", "genid", "title", "os/cmdline"):
        assert became.findtext(path) == own.findtext(path)
    assert became.find("devices/interface").get("type") == "network"
    for path in ("disk/source", "interface/mac", "interface/source", "serial/log"):
        assert became.find(f"devices/{path}").attrib == own.find(f"devices/{path}").attrib
    assert became.find("devices/disk/address").get("bus") == "0x03"
    assert became.find("os/type").get("machine") == "pc-q35-7.2"
    assert "/saved/" not in xml
    assert str(nameless.uuid) not in xml


def test_a_node_with_uefi_has_variables_of_its_own() -> None:
    node = replace(COMPUTE_UEFI, nvram=None, seed=None)
    saved = render_definition(generic_definition(node, disk=Path("/saved/disk.qcow2")))
    assert read_xml(saved).findtext("os/nvram") == "/saved/nvram.fd"
    # libvirt makes a file by the name of the node.
    assert read_xml(with_identity(saved, render_definition(node))).find("os/nvram") is None
    own = with_identity(saved, render_definition(replace(node, nvram=Path("/own/nvram.fd"))))
    assert read_xml(own).findtext("os/nvram") == "/own/nvram.fd"


def test_a_saved_vm_of_another_kind_becomes_no_node() -> None:
    saved = render_definition(generic_definition(CONTROLLER))
    other = saved.replace("</devices>", "<disk type='file'/></devices>")
    with pytest.raises(HostError, match="has 2 of devices/disk, not 1"):
        with_identity(other, render_definition(CONTROLLER))


def test_nothing_of_a_node_is_in_a_machine_that_is_saved() -> None:
    xml = render_definition(generic_definition(COMPUTE))
    told = (COMPUTE.name, COMPUTE.mac, COMPUTE.uuid, COMPUTE.genid, COMPUTE.mark.id, COMPUTE.disk)
    for value in (*told, COMPUTE.network, COMPUTE.title, COMPUTE.console_log):
        assert f">{value}<" not in xml
        assert f"'{value}'" not in xml
    assert UUID(read_xml(xml).findtext("uuid", "")) != COMPUTE.uuid


@pytest.mark.fault("S07", "save files of libvirt that were spoilt")
def test_whatever_a_save_file_holds_it_is_read_or_refused(fuzz: Fuzz) -> None:
    path = fuzz.scratch / "save"

    def check(data: bytes) -> None:
        path.write_bytes(data)
        found = answer(read_save_image, path)
        assert isinstance(found, SaveImage | HostError)

    fuzz(check, spoilt_bytes(GOOD.render()[:400]) | st.binary(max_size=300), GOOD.render())


@pytest.mark.fault("S07", "the XML in a save file that was spoilt")
def test_whatever_xml_a_save_file_holds_it_becomes_a_node_or_is_refused(fuzz: Fuzz) -> None:
    saved, own = render_definition(generic_definition(COMPUTE)), render_definition(COMPUTE)

    def check(xml: str) -> None:
        assert isinstance(answer(with_identity, xml, own), str | HostError)

    fuzz(check, spoilt_text(saved, XML_PIECES), saved)
