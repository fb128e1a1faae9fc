"""The XML in a saved memory that came from another machine: only what a VM of ours has.

A node is restored with the devices of that XML (`save_file.with_identity`), which must therefore
name no program, no file and no device of this host but those that a VM of ours has.
"""

import re
from xml.etree import ElementTree as ET

from ai_how.errors import HostError
from ai_how.libvirt_client.xml import MARK_NAMESPACE, read_xml

_MARK = f"{{{MARK_NAMESPACE}}}node"
# What libvirt writes of our template, and adds to it; below the last ones anything without a path.
_TOP = (
    *("name", "uuid", "genid", "title", "metadata", "memory", "currentMemory", "memoryBacking"),
    *("vcpu", "cputune", "numatune", "resource", "os", "features", "cpu", "clock", "pm", "devices"),
    *("on_poweroff", "on_reboot", "on_crash", "seclabel"),
)
_OF_OS = ("type", "firmware", "loader", "nvram", "kernel", "initrd", "cmdline", "boot")
_DEVICES = (
    *("emulator", "disk", "controller", "interface", "serial", "console", "channel", "video"),
    *("input", "memballoon", "rng", "panic", "watchdog", "audio"),
)
_PARTS: dict[str, tuple[str, ...]] = {
    "disk": ("driver", "source", "backingStore", "target", "address", "alias", "readonly", "boot"),
    "interface": ("mac", "source", "model", "rom", "address", "alias", "target", "driver"),
    "serial": ("log", "target", "address", "alias"),
    "console": ("log", "target", "address", "alias"),
    "channel": ("source", "target", "address", "alias"),
    "rng": ("backend", "address", "alias"),
    "audio": (),
}
# Attributes that decide what a device is made of, and what they may be.
_KINDS = {
    "disk": {"file"},
    "interface": {"ethernet", "network"},
    "serial": {"pty"},
    "console": {"pty"},
    "channel": {"unix"},
    "audio": {"none"},
}
_ANY = re.compile(r"(?s).*")
# Where a value may have a slash. What with_identity replaces may be anything.
_PATHS = {
    "os/kernel": _ANY,
    "os/initrd": _ANY,
    "os/cmdline": _ANY,
    "os/nvram": _ANY,
    "os/nvram@template": re.compile(r"/usr/share/(OVMF|qemu|AAVMF)/[\w.-]+"),
    "os/loader": re.compile(r"/usr/share/(OVMF|qemu|AAVMF)/[\w.-]+"),
    "resource/partition": re.compile(r"/machine"),
    "devices/emulator": _ANY,
    "devices/disk/source@file": _ANY,
    "devices/serial/log@file": _ANY,
    "devices/console/log@file": _ANY,
    "devices/console@tty": re.compile(r"/dev/pts/\d+"),
    "devices/channel/source@path": re.compile(r"(/var/lib|/run)/libvirt/qemu/channel/[\w./-]+"),
    "devices/rng/backend": re.compile(r"/dev/urandom"),
}


def check_saved_xml(text: str) -> None:
    """Raises HostError for an XML with anything that no VM of ours has."""
    root = read_xml(text)
    _require(root.tag == "domain" and root.get("type") in {"kvm", "qemu"}, "it is no VM of QEMU")
    for part in root:
        _require(part.tag in _TOP, f"it has {part.tag}")
        if part.tag != "metadata":
            _check_values(part, part.tag)
    _require(
        all(one.tag == _MARK for one in root.iterfind("metadata/*")),
        "its metadata are of something else",
    )
    for part in root.iterfind("os/*"):
        _require(part.tag in _OF_OS, f"it has os/{part.tag}")
        _require(part.get("readonly", "yes") == "yes", f"os/{part.tag} can be written")
    for label in root.iterfind("seclabel"):
        _require(label.get("type") == "dynamic" and len(label) == 0, "it has a label of its own")
    for device in root.iterfind("devices/*"):
        _check_device(device)


def _check_device(device: ET.Element) -> None:
    name = device.tag
    _require(name in _DEVICES, f"it has devices/{name}")
    if name in _KINDS:
        _require(device.get("type") in _KINDS[name], f"its {name} is of another kind")
    for part in device:
        allowed = _PARTS.get(name)
        _require(allowed is None or part.tag in allowed, f"its {name} has {part.tag}")
    if name == "rng":
        _require(
            all(one.get("model") == "random" for one in device.iterfind("backend")),
            "its rng is of another kind",
        )


def _check_values(element: ET.Element, path: str) -> None:
    """Raises HostError for a path, or a URL, where none belongs."""
    values = {path: element.text or "", **{f"{path}@{k}": v for k, v in element.attrib.items()}}
    for place, value in values.items():
        if "/" in value:
            known = _PATHS.get(re.sub(r"(/backingStore)+/source@", "/source@", place))
            _require(bool(known and known.fullmatch(value.strip())), f"{place} is {value[:80]!a}")
    for part in element:
        _check_values(part, f"{path}/{part.tag}")


def _require(is_so: bool, otherwise: str) -> None:  # noqa: FBT001  an assertion
    if not is_so:
        raise HostError(f"the saved memory is not that of a VM of ai-how: {otherwise}")
