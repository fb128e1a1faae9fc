"""The meaning of the facts: pure functions from facts to checks, each with a remedy to paste."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Network
from types import MappingProxyType

from ai_how.host.facts import PACKAGES, VERSIONED, HostFacts
from ai_how.host.network_facts import DroppingChain

MIB = 1024 * 1024
GIB = 1024 * MIB

# QEMU's own memory besides the guest's, measured under TCG. Most of it is translated code, which is
# bounded.
QEMU_OVERHEAD_MIB = 300
# The built-in cluster: three nodes of 1 GiB.
COMFORTABLE_MEMORY_MIB = 3 * (1024 + QEMU_OVERHEAD_MIB)
COMFORTABLE_DISK_BYTES = 5 * GIB
FIRST_BOOT_BYTES = 256 * MIB  # what a node writes to its disk before it is ready
ID_RANGE = 65536
WORLD_WRITABLE = 0o002

TOOLS_OF_EVERY_HOST = ("qemu-system-x86_64", "qemu-img", "ssh")
TOOLS_OF_EMBEDDED = ("libvirtd", "virtlogd", "dnsmasq", "ip", "iptables", "unshare", "nsenter")
TOOLS_OF_IMAGES = ("mmdebstrap", "mke2fs")
KSM_SWITCH = "/sys/kernel/mm/ksm/run"
GUEST_BRIDGES = "ah"  # the prefix of all our bridges


class Status(StrEnum):
    """A failure keeps clusters from starting; a warning is what the user should know.

    A hint is an optional improvement.
    """

    OK = "ok"
    HINT = "hint"
    WARNING = "warning"
    FAILURE = "failure"


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check; `advice` is a command to paste."""

    name: str
    status: Status
    found: str
    advice: str | None = None


def check_host(facts: HostFacts) -> list[Check]:
    """Every check that needs only the facts, in reading order."""
    return [
        check_cpu(facts),
        check_memory(facts),
        check_ksm(facts),
        *check_disks(facts),
        *check_tools(facts),
        *check_tool_places(facts),
        check_system_libvirt(facts),
        *check_embedded(facts),
        *check_firewall(facts),
        check_mandatory_access(facts),
        check_iommu(facts),
    ]


def check_cpu(facts: HostFacts) -> Check:
    """The processors, and whether they support virtualization."""
    cpu = facts.cpu
    if cpu is None:
        return Check("processor", Status.WARNING, "not known", "cat /proc/cpuinfo")
    if cpu.virtualization is None:
        return Check(
            "processor",
            Status.WARNING,
            f"{cpu.count} CPUs without VT-x or AMD-V: guests are emulated, about ten times slower",
            "enable virtualization in the firmware (or nested virtualization in the outer host)",
        )
    return Check("processor", Status.OK, f"{cpu.count} CPUs with {cpu.virtualization}")


def check_memory(facts: HostFacts) -> Check:
    """Whether the built-in cluster fits."""
    memory = facts.memory
    if memory is None:
        return Check("memory", Status.WARNING, "not known", "free -m")
    found = f"{memory.usable_mib} MiB available of {memory.total_mib} MiB"
    if memory.usable_mib < memory.available_mib:
        found += f" (a cgroup limit; {memory.available_mib} MiB without it)"
    enough = memory.usable_mib >= COMFORTABLE_MEMORY_MIB
    return Check("memory", Status.OK if enough else Status.WARNING, found)


def check_ksm(facts: HostFacts) -> Check:
    """Whether similar nodes share memory; libvirt allows it, except for huge pages."""
    ksm = facts.ksm
    if ksm is None:
        return Check("shared memory", Status.OK, "this kernel has no KSM: nodes share no pages")
    if ksm.is_on:
        return Check("shared memory", Status.OK, f"identical pages are shared: {ksm.saved_mib} MiB")
    found = "KSM is off: similar nodes do not share identical pages"
    if ksm.saved_mib:
        found += f" beyond {ksm.saved_mib} MiB"
    return Check("shared memory", Status.HINT, found, f"echo 1 | sudo tee {KSM_SWITCH}")


def check_disks(facts: HostFacts) -> list[Check]:
    """Whether the images and disks of a small cluster fit, once per file system."""
    checks = []
    for disk in {disk.device: disk for disk in reversed(facts.disks)}.values():
        status = Status.OK if disk.free_bytes >= COMFORTABLE_DISK_BYTES else Status.WARNING
        found = f"{disk.free_bytes / GIB:.1f} GiB free in {disk.directory}"
        checks.append(Check("disk", status, found))
    return checks


def check_tools(facts: HostFacts) -> list[Check]:
    """The programs that a host or an image build requires."""
    checks = []
    for name in (*TOOLS_OF_EVERY_HOST, *TOOLS_OF_IMAGES):
        tool = facts.tools.get(name)
        if tool and name in VERSIONED and tool.version is None:
            found = f"{tool.path} does not print its version"
            checks.append(Check(name, Status.FAILURE, found, f"{tool.path} --version"))
        elif tool:
            checks.append(Check(name, Status.OK, f"{tool.path} {tool.version or ''}".rstrip()))
        else:
            status = Status.FAILURE if name in TOOLS_OF_EVERY_HOST else Status.WARNING
            checks.append(Check(name, status, "not installed", install(name)))
    return checks


def check_tool_places(facts: HostFacts) -> list[Check]:
    """Programs that another user could replace before they run."""
    return [
        Check(
            name,
            Status.FAILURE if facts.is_root else Status.WARNING,
            f"{tool.path} can be replaced by another user",
            f"ls -ld {shlex.quote(str(tool.path))} {shlex.quote(str(tool.path.parent))}",
        )
        for name, tool in facts.tools.items()
        if tool and tool.is_replaceable
    ]


def check_system_libvirt(facts: HostFacts) -> Check:
    """Whether qemu:///system can be used, and who else can."""
    libvirt = facts.libvirt
    if libvirt.socket_mode is None:
        return Check("system libvirt", Status.OK, "not available: the embedded host is used")
    if not libvirt.is_socket_usable:
        return Check(
            "system libvirt",
            Status.WARNING,
            f"{facts.user} has no access to it: the embedded host is used",
            f"sudo usermod -aG libvirt {facts.user}  # then log in again",
        )
    if libvirt.socket_mode & WORLD_WRITABLE and libvirt.auth in (None, "none"):
        requires = "requires" if libvirt.auth == "none" else "may require"
        return Check(
            "system libvirt",
            Status.FAILURE if libvirt.auth == "none" else Status.WARNING,
            f"every user can write to its socket, and it {requires} no authentication: "
            "access to libvirt is root access",
            "grep -H auth_unix_rw /etc/libvirt/*.conf",
        )
    note = "; members of the group libvirt are equivalent to root" if libvirt.is_in_group else ""
    return Check("system libvirt", Status.OK, f"can be managed by {facts.user}{note}")


def check_embedded(facts: HostFacts) -> list[Check]:
    """What the embedded host lacks; a failure if there is no other host."""
    problems = [
        (f"{name} is not installed", install(name))
        for name in TOOLS_OF_EMBEDDED
        if facts.tools.get(name) is None
    ]
    problems += _tun_problems(facts)
    if not facts.is_root:
        problems += _user_namespace_problems(facts)
    if not problems:
        found = "is up" if facts.is_embedded_up else "can be started"
        return [Check("embedded host", Status.OK, found)]
    status = Status.WARNING if facts.is_system_used else Status.FAILURE
    return [Check("embedded host", status, found, advice) for found, advice in problems]


def check_tun(facts: HostFacts) -> list[Check]:
    """What keeps QEMU on the embedded host, which is our user's, from having interfaces."""
    return [
        Check("network interfaces", Status.FAILURE, found, advice)
        for found, advice in _tun_problems(facts)
    ]


def check_firewall(facts: HostFacts) -> list[Check]:
    """What prevents forwarding for guests on the system's libvirt."""
    if not facts.is_system_used:
        return []
    checks = []
    if facts.is_forwarding is False:
        checks.append(
            Check(
                "forwarding",
                Status.WARNING,
                "IPv4 forwarding is off: guests cannot reach other networks",
                "sudo sysctl -w net.ipv4.ip_forward=1",
            )
        )
    firewall = facts.firewall
    if firewall is None:
        checks.append(
            Check("firewall", Status.OK, "not readable without root", "sudo iptables -S FORWARD")
        )
        return checks
    for chain in firewall.dropping_chains:
        by = " (set by Docker)" if firewall.has_docker and chain.tool != "nft" else ""
        found = f"{chain.tool} chain {chain.chain} drops forwarded packets{by}"
        advice = opening(chain, has_docker=firewall.has_docker)
        checks.append(Check("firewall", Status.WARNING, found, advice))
    return checks or [Check("firewall", Status.OK, "forwards packets of guests")]


def check_mandatory_access(facts: HostFacts) -> Check:
    """What isolates guests from each other besides user ids."""
    drivers = [name for name in facts.security_modules or () if name in ("apparmor", "selinux")]
    has_system = facts.is_system_used
    if drivers and has_system:
        return Check("confinement", Status.OK, f"by {drivers[0]} and by user ids")
    found = "by user ids only: neither AppArmor nor SELinux is active"
    if not has_system:
        if drivers:
            found = f"by user ids only: {drivers[0]} does not apply to the embedded host"
        found += f"; its guests' QEMU runs as {facts.user}"
    # A process that escapes from a guest is then an ordinary user, or root with all its rights.
    is_mild = not has_system and not facts.is_root
    return Check("confinement", Status.OK if is_mild else Status.WARNING, found)


def check_iommu(facts: HostFacts) -> Check:
    """Whether PCI passthrough is possible; a cluster needs it only if its file asks for it."""
    if facts.iommu_groups:
        return Check("iommu", Status.OK, f"{facts.iommu_groups} groups")
    return Check("iommu", Status.OK, "off: no PCI passthrough")


def check_subnet_collisions(
    subnet: IPv4Network,
    facts: HostFacts,
    *,
    taken: Mapping[str, IPv4Network] = MappingProxyType({}),
    own_bridge: str | None = None,
) -> list[Check]:
    """Everything on the host's network that a cluster's subnet would hide: each is a failure.

    `taken` maps the owner of a subnet, such as another network of libvirt, to it; `own_bridge` is
    the existing bridge of this cluster.
    """
    routes = [route for route in facts.routes or () if not route.is_default]
    found = {
        f"{route.subnet} on {route.device or 'no interface'}": None
        for route in (*routes, *(facts.addresses or ()))
        if route.subnet.overlaps(subnet) and not (own_bridge and route.device == own_bridge)
    }
    users = [f"the host's {place}" for place in found]
    users += [f"the name server {server}" for server in facts.nameservers if server in subnet]
    users += [f"{other} of {name}" for name, other in taken.items() if other.overlaps(subnet)]
    return [
        Check("subnet", Status.FAILURE, f"{subnet} overlaps {user}", "subnet: auto")
        for user in users
    ]


def install(tool: str) -> str:
    """The command that installs a program."""
    return f"sudo apt-get install {PACKAGES[tool]}"


def opening(chain: DroppingChain, *, has_docker: bool) -> str:
    """The commands that let packets of our bridges pass a chain."""
    if chain.tool == "nft":
        return " && ".join(
            f"sudo nft insert rule {chain.chain} {side} '\"{GUEST_BRIDGES}*\"' accept"
            for side in ("iifname", "oifname")
        )
    # Docker rewrites FORWARD when it starts, and leaves DOCKER-USER to the administrator.
    name = "DOCKER-USER" if has_docker else chain.chain
    return " && ".join(
        f"sudo {chain.tool} -I {name} {side} {GUEST_BRIDGES}+ -j ACCEPT" for side in ("-i", "-o")
    )


def _tun_problems(facts: HostFacts) -> list[tuple[str, str]]:
    consequence = "guests get no network interface"
    if facts.tun is None:
        return [(f"/dev/net/tun does not exist: {consequence}", "sudo modprobe tun")]
    if not facts.tun.is_usable:
        found = f"/dev/net/tun has mode {facts.tun.mode:04o}: {consequence}"
        return [(found, "sudo chmod 0666 /dev/net/tun")]
    return []


def _user_namespace_problems(facts: HostFacts) -> list[tuple[str, str]]:
    problems = []
    if facts.tools.get("newuidmap") is None:
        problems.append(("newuidmap is not installed", install("newuidmap")))
    for kind, option, count in (
        ("uid", "--add-subuids", facts.subuid_count),
        ("gid", "--add-subgids", facts.subgid_count),
    ):
        if (count or 0) < ID_RANGE:
            found = f"/etc/sub{kind} gives {facts.user} {count or 0} ids of the {ID_RANGE} needed"
            problems.append((found, f"sudo usermod {option} 100000-165535 {facts.user}"))
    if facts.user_namespace_remedy:
        remedy = f"sudo sysctl -w {facts.user_namespace_remedy}"
        problems.append(("users are not allowed to create user namespaces", remedy))
    return problems
