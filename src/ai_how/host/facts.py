"""The facts about the workstation, read once; an unknown fact is None.

Nothing here raises or judges: that is done by checks.py.
"""

import grp
import hashlib
import os
import pwd
import re
import shutil
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path

from ai_how.errors import ToolError
from ai_how.host.guest_rules import why_no_uplink
from ai_how.host.memory_facts import (
    Hugepages,
    Ksm,
    Memory,
    read_hugepages,
    read_ksm,
    read_memory,
)
from ai_how.host.network_facts import (
    Firewall,
    Route,
    read_addresses,
    read_firewall,
    read_nameservers,
    read_routes,
)
from ai_how.host.reading import read_number, read_text
from ai_how.host.resolver import Resolver, read_resolver
from ai_how.process import find_tool, run

# Each program that we run, and its Debian package.
PACKAGES = {
    "qemu-system-x86_64": "qemu-system-x86",
    "qemu-img": "qemu-utils",
    "libvirtd": "libvirt-daemon-system",
    "virtlogd": "libvirt-daemon-system",
    "dnsmasq": "dnsmasq-base",
    "ip": "iproute2",
    "iptables": "iptables",
    "ssh": "openssh-client",
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "newuidmap": "uidmap",
    "mmdebstrap": "mmdebstrap",
    "mke2fs": "e2fsprogs",
    "pasta": "passt",
}
VERSIONED = ("qemu-system-x86_64", "libvirtd")
VERSION_TIMEOUT_S = 5


@dataclass(frozen=True, slots=True)
class Cpu:
    """The processors that we can use."""

    count: int
    vendor: str | None = None  # as in /proc/cpuinfo: GenuineIntel, AuthenticAMD
    virtualization: str | None = None  # the flag: vmx or svm

    @property
    def kvm_module(self) -> str:
        return "kvm_amd" if self.vendor == "AuthenticAMD" else "kvm_intel"


@dataclass(frozen=True, slots=True)
class DeviceNode:
    """A device file, and whether we can open it."""

    mode: int
    is_usable: bool


@dataclass(frozen=True, slots=True)
class Tool:
    """An installed program; `is_replaceable`: users other than root and us can replace it."""

    path: Path
    version: str | None = None
    is_replaceable: bool = False


@dataclass(frozen=True, slots=True)
class Disk:
    """The free space where a directory is, or would be created."""

    directory: Path
    free_bytes: int
    total_bytes: int
    device: int = 0  # the file system's number: two directories may share it


@dataclass(frozen=True, slots=True)
class LibvirtAccess:
    """The system's libvirt as seen from our session."""

    socket_mode: int | None = None  # None: there is no socket
    is_socket_usable: bool = False
    is_in_group: bool = False
    auth: str | None = None  # auth_unix_rw of libvirtd.conf if it is set and readable


@dataclass(frozen=True, slots=True)
class HostFacts:
    """The input of all checks; tests build it by hand."""

    user: str
    is_root: bool
    cpu: Cpu | None = None
    memory: Memory | None = None
    hugepages: tuple[Hugepages, ...] = ()
    ksm: Ksm | None = None
    tools: dict[str, Tool | None] = field(default_factory=dict)
    disks: tuple[Disk, ...] = ()
    kvm: DeviceNode | None = None
    tun: DeviceNode | None = None
    subuid_count: int | None = None
    subgid_count: int | None = None
    user_namespace_remedy: str | None = None  # the sysctl that would allow them; None: allowed
    libvirt: LibvirtAccess = LibvirtAccess()
    routes: tuple[Route, ...] | None = None
    addresses: tuple[Route, ...] | None = None
    nameservers: tuple[IPv4Address, ...] = ()
    resolver: Resolver | None = None
    no_uplink: str | None = None  # why guests on the embedded host have none; None: they have one
    firewall: Firewall | None = None
    is_forwarding: bool | None = None
    iommu_groups: int | None = None
    security_modules: tuple[str, ...] | None = None
    is_embedded_up: bool = False
    host: str | None = None  # where new clusters run; None: it was not asked

    @property
    def is_system_used(self) -> bool:
        """Whether new clusters run on the system's libvirt; if unknown, whether they can."""
        if self.host is not None:
            return self.host.startswith("qemu:")
        return self.libvirt.is_socket_usable


def read_facts(*, directories: Sequence[Path] = (), root: Path = Path("/")) -> HostFacts:
    """Read the facts; `root` contains /proc, /sys, /dev, /etc and /run."""
    user = read_user_name()
    return HostFacts(
        user=user,
        is_root=os.geteuid() == 0,
        cpu=read_cpu(root),
        memory=read_memory(root),
        hugepages=read_hugepages(root),
        ksm=read_ksm(root),
        tools={name: read_tool(name) for name in PACKAGES},
        disks=tuple(disk for path in directories if (disk := read_disk(path))),
        kvm=read_device(root / "dev/kvm"),
        tun=read_device(root / "dev/net/tun"),
        subuid_count=_subordinate_count(root / "etc/subuid", user),
        subgid_count=_subordinate_count(root / "etc/subgid", user),
        user_namespace_remedy=_user_namespace_remedy(root / "proc/sys"),
        libvirt=read_libvirt_access(root),
        routes=read_routes(),
        addresses=read_addresses(),
        nameservers=read_nameservers(root),
        resolver=read_resolver(root),
        no_uplink=why_no_uplink(),
        firewall=read_firewall(root),
        is_forwarding=_flag(root / "proc/sys/net/ipv4/ip_forward"),
        iommu_groups=_count_entries(root / "sys/kernel/iommu_groups"),
        security_modules=_security_modules(root / "sys/kernel/security/lsm"),
    )


def read_resources(*, directories: Sequence[Path] = (), root: Path = Path("/")) -> HostFacts:
    """Read only what VMs take from the host, which is much faster than all facts."""
    return HostFacts(
        user=read_user_name(),
        is_root=os.geteuid() == 0,
        cpu=read_cpu(root),
        memory=read_memory(root),
        hugepages=read_hugepages(root),
        disks=tuple(disk for path in directories if (disk := read_disk(path))),
        tun=read_device(root / "dev/net/tun"),
        routes=read_routes(),
    )


def read_cpu(root: Path) -> Cpu | None:
    """The processors, limited by our affinity and cpuset."""
    text = read_text(root / "proc/cpuinfo")
    if not text:
        return None
    lines = [line.partition(":") for line in text.splitlines()]
    values = {name.strip(): value.strip() for name, _, value in lines}
    flags = values.get("flags", "").split()
    installed = sum(name.strip() == "processor" for name, _, _ in lines)
    return Cpu(
        count=_allowed_cpus(read_text(root / "proc/self/status") or "") or installed,
        vendor=values.get("vendor_id"),
        virtualization=next((flag for flag in ("vmx", "svm") if flag in flags), None),
    )


def read_cpu_identity(root: Path) -> str:
    """The CPU of a KVM guest in words: the model, and a digest of its features."""
    text = read_text(root / "proc/cpuinfo") or ""
    first = text.split("\n\n", 1)[0].splitlines()
    values = {name.strip(): value.strip() for name, _, value in (x.partition(":") for x in first)}
    kernel = (read_text(root / "proc/sys/kernel/osrelease") or "").strip()
    parts = [values.get(name, "") for name in ("model", "stepping", "microcode", "flags")]
    digest = hashlib.sha256("\n".join([*parts, kernel]).encode()).hexdigest()[:8]
    return f"{values.get('model name', 'an unknown CPU')} ({digest})"


def read_device(path: Path) -> DeviceNode | None:
    """A device file. It is opened for reading and writing: only that proves the permission."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return None
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK))
    except OSError:
        return DeviceNode(mode, is_usable=False)
    return DeviceNode(mode, is_usable=True)


def read_tool(name: str) -> Tool | None:
    """The path of a program and (for the few whose version matters) its version."""
    path = find_tool(name)
    if path is None:
        return None
    version = read_version(path) if name in VERSIONED else None
    return Tool(path, version, is_replaceable=_is_replaceable(path))


def read_version(path: Path) -> str | None:
    """The first version number that `--version` prints."""
    try:
        text = run([path, "--version"], timeout_s=VERSION_TIMEOUT_S).stdout
    except (ToolError, OSError):
        return None
    found = re.search(r"\d+(?:\.\d+)+", text)
    return found.group() if found else None


def read_disk(directory: Path) -> Disk | None:
    """The free space of a directory, or of the nearest existing one above it."""
    for existing in (directory, *directory.parents):
        try:
            usage, device = shutil.disk_usage(existing), existing.stat().st_dev
        except FileNotFoundError:
            continue
        except OSError:
            return None
        return Disk(directory, usage.free, usage.total, device)
    return None


def read_libvirt_access(root: Path) -> LibvirtAccess:
    """Whether this session can manage the system's libvirt, without connecting to it."""
    for name in ("libvirt-sock", "virtqemud-sock"):
        socket = root / "run/libvirt" / name
        try:
            mode = stat.S_IMODE(socket.stat().st_mode)
        except OSError:
            continue
        return LibvirtAccess(
            mode, os.access(socket, os.W_OK), _is_in_group("libvirt"), _libvirt_auth(root)
        )
    return LibvirtAccess(is_in_group=_is_in_group("libvirt"))


def read_user_name() -> str:
    """The name of our user, or its number if it has no name."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _allowed_cpus(status: str) -> int | None:
    """The number of processors in `Cpus_allowed_list: 0-3,8`."""
    found = re.search(r"^Cpus_allowed_list:\s*([\d,-]+)", status, re.MULTILINE)
    if not found:
        return None
    ranges = re.findall(r"(\d+)(?:-(\d+))?", found.group(1))
    return sum(int(last or first) - int(first) + 1 for first, last in ranges)


def _is_replaceable(path: Path) -> bool:
    try:
        seen = [path.resolve().parent.stat(), path.stat()]
    except OSError:
        return False
    return any(
        entry.st_uid not in (0, os.geteuid()) or entry.st_mode & stat.S_IWOTH for entry in seen
    )


def _subordinate_count(path: Path, user: str) -> int | None:
    """The number of ids that a file like /etc/subuid gives to a user, by name or number."""
    text = read_text(path)
    if text is None:
        return None
    rows = re.findall(r"^([^:\n]+):\d+:(\d+)$", text, re.MULTILINE)
    return sum(int(count) for owner, count in rows if owner in (user, str(os.geteuid())))


def _user_namespace_remedy(sysctl: Path) -> str | None:
    if read_text(sysctl / "kernel/unprivileged_userns_clone") == "0":
        return "kernel.unprivileged_userns_clone=1"
    if read_text(sysctl / "user/max_user_namespaces") == "0":
        return "user.max_user_namespaces=15000"
    if read_text(sysctl / "kernel/apparmor_restrict_unprivileged_userns") == "1":
        return "kernel.apparmor_restrict_unprivileged_userns=0"
    return None


def _libvirt_auth(root: Path) -> str | None:
    for name in ("libvirtd.conf", "virtqemud.conf"):
        text = read_text(root / "etc/libvirt" / name) or ""
        if found := re.search(r'^\s*auth_unix_rw\s*=\s*"(\w+)"', text, re.MULTILINE):
            return found.group(1)
    return None


def _is_in_group(name: str) -> bool:
    try:
        return grp.getgrnam(name).gr_gid in (os.getegid(), *os.getgroups())
    except KeyError:
        return False


def _flag(path: Path) -> bool | None:
    number = read_number(path)
    return None if number is None else number != 0


def _count_entries(path: Path) -> int | None:
    try:
        return len(list(path.iterdir()))
    except OSError:
        return None


def _security_modules(path: Path) -> tuple[str, ...] | None:
    text = read_text(path)
    return None if text is None else tuple(text.split(",")) if text else ()
