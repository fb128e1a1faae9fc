"""libvirt itself, over its test driver, takes every combination that we can render."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import cycle, product
from pathlib import Path
from xml.etree import ElementTree as ET

import libvirt  # noqa: TID251  what the templates mean is libvirt's to say
import pytest

from ai_how.vm_management.networks.definition import render_network
from ai_how.vm_management.nodes.domain_definition import (
    Accel,
    CpuMode,
    DiskCache,
    DomainDefinition,
    MemoryBacking,
)
from ai_how.vm_management.xml.render import render_domain
from shapes import COMPUTE_GPU, COMPUTE_KVM, CONTROLLER, DOMAINS, NETWORKS

NODE = Path(__file__).with_name("test_node.xml")

MEMORY_BACKINGS = {
    "default": MemoryBacking(),
    "memfd": MemoryBacking(is_memfd=True),
    "hugepages": MemoryBacking(hugepage_kib=2048),
    "shared": MemoryBacking(is_memfd=True, is_shared=True),
    "shared-hugepages": MemoryBacking(hugepage_kib=1048576, is_memfd=True, is_shared=True),
}


@pytest.fixture(scope="module")
def connection() -> Iterator[libvirt.virConnect]:
    libvirt.registerErrorHandler(lambda *_: None, None)  # it would print on stderr
    opened = libvirt.open(f"test://{NODE}")
    yield opened
    opened.close()


def defined(connection: libvirt.virConnect, shape: DomainDefinition) -> ET.Element:
    """What libvirt remembers of a domain, once its schema was satisfied."""
    domain = connection.defineXMLFlags(render_domain(shape), libvirt.VIR_DOMAIN_DEFINE_VALIDATE)
    try:
        return ET.fromstring(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))  # noqa: S314
    finally:
        domain.undefine()


def combinations() -> Iterator[tuple[str, DomainDefinition]]:
    boots = {"kernel": CONTROLLER.boot, "no-initrd": replace(CONTROLLER.boot, initrd=None)}
    axes = product(Accel, CpuMode, MEMORY_BACKINGS, [*boots, "bios"])
    for (accel, mode, backing, boot), cache in zip(axes, cycle(DiskCache), strict=False):
        model = "qemu64" if mode is CpuMode.CUSTOM else None
        shape = replace(
            COMPUTE_KVM,
            accel=accel,
            cpu=replace(COMPUTE_KVM.cpu, mode=mode, model=model, numa=()),
            memory_backing=MEMORY_BACKINGS[backing],
            shares=COMPUTE_GPU.shares if MEMORY_BACKINGS[backing].is_shared else (),
            boot=boots.get(boot),
            disk_cache=cache,
        )
        yield f"{accel}-{mode}-{backing}-{boot}-{cache}", shape


def test_every_combination_is_taken_by_libvirt(connection):
    for name, shape in combinations():
        try:
            defined(connection, shape)
        except libvirt.libvirtError as error:
            pytest.fail(f"{name}: {error}\n{render_domain(shape)}")


@pytest.mark.parametrize("name", DOMAINS)
def test_libvirt_reads_a_domain_as_we_meant_it(connection, name):
    shape = DOMAINS[name]
    seen = defined(connection, shape)
    assert seen.get("type") == shape.accel.domain_type
    assert seen.findtext("genid") == str(shape.genid)
    assert int(seen.findtext("memory")) == shape.memory_mib * 1024
    assert seen.find("cpu").get("mode") == shape.cpu.mode
    assert seen.find("metadata/{urn:ai-how:cluster:1}node").get("node") == shape.mark.node
    passed = (*shape.pci_devices, *shape.vfs, *shape.mdevs)
    assert len(seen.findall("devices/hostdev")) == len(passed)
    assert len(seen.findall("devices/filesystem")) == len(shape.shares)
    log = seen.find("devices/serial/log")
    assert log.attrib == {"file": str(shape.console_log), "append": "on"}
    assert [s.get("file") for s in seen.find("devices/disk").iter("source")] == [
        str(shape.disk),
        *map(str, shape.backing_chain),
    ]


def test_libvirt_finds_a_pci_device_where_we_say(connection):
    address = defined(connection, COMPUTE_GPU).find("devices/hostdev[@type='pci']/source/address")
    assert address.attrib == {
        "domain": "0x0000",
        "bus": "0x65",
        "slot": "0x00",
        "function": "0x0",
    }


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_is_taken_by_libvirt(connection, name):
    network = connection.networkDefineXMLFlags(
        render_network(NETWORKS[name]), libvirt.VIR_NETWORK_DEFINE_VALIDATE
    )
    seen = ET.fromstring(network.XMLDesc(0))  # noqa: S314
    network.undefine()
    assert seen.find("metadata/{urn:ai-how:cluster:1}node").get("cluster") == "demo"
    assert len(seen.findall("ip/dhcp/host")) == len(NETWORKS[name].hosts)


def test_a_redefined_domain_stays_the_same(connection):
    xml = render_domain(CONTROLLER)
    first = connection.defineXMLFlags(xml, libvirt.VIR_DOMAIN_DEFINE_VALIDATE)
    before = first.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    again = connection.defineXMLFlags(xml, libvirt.VIR_DOMAIN_DEFINE_VALIDATE)
    assert again.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE) == before
    again.undefine()
