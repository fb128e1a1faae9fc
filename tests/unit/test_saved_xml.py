"""The XML of a memory from elsewhere: libvirt's of our VMs is taken, and nothing beside it."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai_how.errors import HostError
from ai_how.libvirt_client.xml import read_xml
from ai_how.vm_management.saved_machines.generic_vm import generic_definition
from ai_how.vm_management.saved_machines.save_file import with_identity
from ai_how.vm_management.saved_machines.saved_xml import check_saved_xml
from ai_how.vm_management.xml.render import render_definition
from shapes import COMPUTE, COMPUTE_UEFI, CONTROLLER

# What libvirt 9 wrote of the VM of a node, and what libvirt 11 adds to it.
SAVED = (Path(__file__).resolve().parents[1] / "data" / "saved-domain.xml").read_text()
NEWER = (
    "<watchdog model='itco' action='reset'/><audio id='1' type='none'/>"
    "<input type='keyboard' bus='ps2'/>"
)


def with_device(xml: str) -> str:
    return SAVED.replace("</devices>", f"{xml}</devices>")


def with_part(xml: str) -> str:
    return SAVED.replace("<devices>", f"{xml}<devices>")


def test_what_libvirt_writes_of_our_vms_is_taken():
    check_saved_xml(SAVED)
    check_saved_xml(with_device(NEWER))
    for shape in (COMPUTE, COMPUTE_UEFI, CONTROLLER):
        check_saved_xml(render_definition(shape))
        check_saved_xml(render_definition(generic_definition(shape)))


HOSTILE = {
    "a program of QEMU's command line": with_part(
        "<q:commandline xmlns:q='http://libvirt.org/schemas/domain/qemu/1.0'>"
        "<q:arg value='-chardev'/></q:commandline>"
    ),
    "a device of the host": with_device("<hostdev mode='subsystem' type='pci'/>"),
    "a directory of the host": with_device(
        "<filesystem type='mount'><source dir='/'/></filesystem>"
    ),
    "a disk that is a device": SAVED.replace("<disk type='file'", "<disk type='block'"),
    "a disk of the network": SAVED.replace("<disk type='file'", "<disk type='network'"),
    "a disk with another file beside": SAVED.replace(
        "<target dev='vda'", "<mirror file='/etc/x'/><target dev='vda'"
    ),
    "a log that is a pipe": SAVED.replace("<serial type='pty'>", "<serial type='file'>"),
    "a serial port with a path": SAVED.replace(
        "<serial type='pty'>", "<serial type='pty'><source path='/etc/passwd'/>"
    ),
    "a channel anywhere": SAVED.replace(
        "<channel type='unix'>", "<channel type='unix'><source mode='bind' path='/root/x'/>"
    ),
    "a channel that climbs": SAVED.replace(
        "<channel type='unix'>",
        "<channel type='unix'><source mode='bind' path='/var/lib/libvirt/qemu/channel/.. /x'/>",
    ),
    "a channel that listens": SAVED.replace("<channel type='unix'>", "<channel type='tcp'>"),
    "a console that listens": SAVED.replace("<console type='pty'>", "<console type='tcp'>"),
    "an interface with a script": SAVED.replace(
        "<mac address", "<script path='/tmp/x'/><mac address"
    ),
    "an interface that is a device": SAVED.replace("type='ethernet'", "type='hostdev'"),
    "an interface of vhost-user": SAVED.replace("type='ethernet'", "type='vhostuser'"),
    "a file as random numbers": SAVED.replace("/dev/urandom", "/etc/shadow"),
    "random numbers of a server": SAVED.replace(
        "<backend model='random'>", "<backend model='egd'>"
    ),
    "graphics": with_device("<graphics type='vnc' listen='0.0.0.0'/>"),
    "no confinement": with_part("<seclabel type='none'/>"),
    "a label": with_part("<seclabel type='static' model='dac'><label>+0:+0</label></seclabel>"),
    "a firmware of another file": SAVED.replace(
        "<boot dev='hd'/>", "<loader type='rom'>/etc/passwd</loader>"
    ),
    "a firmware that can be written": SAVED.replace(
        "<boot dev='hd'/>", "<loader type='pflash' readonly='no'>/usr/share/OVMF/x.fd</loader>"
    ),
    "tables of ACPI": SAVED.replace("<boot dev='hd'/>", "<acpi><table>/etc/x</table></acpi>"),
    "an init": SAVED.replace("<boot dev='hd'/>", "<init>/bin/sh</init>"),
    "a container": SAVED.replace("<domain type='qemu'>", "<domain type='lxc'>"),
    "another partition": SAVED.replace("<partition>/machine<", "<partition>/system<"),
    "other metadata": SAVED.replace("<metadata>", "<metadata><x:y xmlns:x='z'/>"),
    "a TPM": with_device("<tpm model='tpm-tis'/>"),
    "shared memory": with_device("<shmem name='x'/>"),
    "sysinfo of a file": with_part("<sysinfo type='fwcfg'><entry file='/etc/x'/></sysinfo>"),
    "a memory of files": with_device(
        "<memory model='dimm'><source><path>/x</path></source></memory>"
    ),
    "audio of the host": with_device("<audio id='1' type='pulseaudio'/>"),
}


@pytest.mark.parametrize("xml", HOSTILE.values(), ids=HOSTILE.keys())
def test_what_no_vm_of_ours_has_is_refused(xml):
    assert xml != SAVED
    with pytest.raises(HostError, match="not that of a VM of ai-how"):
        check_saved_xml(xml)


@given(data=st.data())
def test_no_path_gets_through_to_a_restored_vm(data):
    """Wherever one is put in: it is refused, or replaced by the node's own."""
    places = [at.end() for at in re.finditer(r"='(?=[^']*')|>(?=[^<\n]+<)", SAVED)]
    at = data.draw(st.sampled_from(places))
    end = re.search(r"['<]", SAVED[at:])
    assert end is not None
    xml = SAVED[:at] + "/evil/path" + SAVED[at + end.start() :]
    try:
        check_saved_xml(xml)
        restored = with_identity(xml, render_definition(COMPUTE))
    except HostError:
        return
    assert "/evil/path" not in "".join(
        restored for part in read_xml(restored).iter() if part.tag != "console"
    ) or restored.count("/evil/path") == len(re.findall(r"<log file=./evil/path", restored))
