"""Shape -> XML, letter by letter; and what must hold in every one of them."""

import pytest

from ai_how.libvirt_client.facts import read_mark
from ai_how.libvirt_client.xml import read_xml
from ai_how.vm_management.networks.definition import render_network
from ai_how.vm_management.xml.render import render_domain
from shapes import DOMAINS, NETWORKS


@pytest.mark.parametrize("name", DOMAINS)
def test_a_domain_is_rendered_as_agreed(name, assert_golden):
    assert_golden(f"{name}.xml", render_domain(DOMAINS[name]))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_is_rendered_as_agreed(name, assert_golden):
    assert_golden(f"{name}.xml", render_network(NETWORKS[name]))


@pytest.mark.fault("S09", "the XML of every shape")
@pytest.mark.fault("S20", "the XML of every shape")
@pytest.mark.parametrize("name", DOMAINS)
def test_nothing_listens_and_no_confinement_is_switched_off(name):
    root = read_xml(render_domain(DOMAINS[name]))
    assert root.find(".//seclabel") is None
    for tag in ("graphics", "listen"):
        assert root.find(f".//{tag}") is None
    # A boot loader needs the BIOS of a screen, which nobody sees.
    assert (root.find(".//video") is not None) == DOMAINS[name].has_screen


@pytest.mark.fault("S04", "the chain told to libvirt")
@pytest.mark.parametrize("name", DOMAINS)
def test_no_backing_file_is_left_for_libvirt_to_find(name):
    shape = DOMAINS[name]
    disk = read_xml(render_domain(shape)).find("devices/disk")
    chain = [source.get("file") for source in disk.findall(".//source")]
    assert chain == [str(shape.disk), *map(str, shape.backing_chain)]
    innermost = disk.findall(".//backingStore")[-1]
    assert len(innermost) == 0, "the chain is not closed"
    assert not innermost.attrib


@pytest.mark.parametrize("name", DOMAINS)
def test_every_domain_carries_our_mark(name):
    assert read_mark(render_domain(DOMAINS[name])) == DOMAINS[name].mark


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_carries_our_mark(name):
    assert read_mark(render_network(NETWORKS[name])) == NETWORKS[name].mark


@pytest.mark.parametrize("name", DOMAINS)
def test_no_card_is_made_the_screen_of_a_vm(name):
    """`x-vga` of QEMU can only be given past libvirt, and a VM with a display would need it."""
    text = render_domain(DOMAINS[name])
    assert "x-vga" not in text
    assert "commandline" not in text


@pytest.mark.parametrize("name", DOMAINS)
def test_a_vm_with_devices_of_the_host_has_no_balloon(name):
    balloon = read_xml(render_domain(DOMAINS[name])).find("devices/memballoon")
    assert (balloon.get("model") == "none") == DOMAINS[name].has_host_devices
