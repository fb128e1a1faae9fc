"""The identity of a node as a tar archive for its guest agent (pure): what all kinds share.

The guest's part is `become` in the image. Files are owned by name, since the image assigns the
numbers.
"""

import io
import shlex
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from uuid import UUID

from ai_how.guest.outside_files import OutsideFiles
from ai_how.spec.models import VirtioFsMount
from ai_how.spec.nodes import Role

LOGIN_ID = 1000


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A node of the cluster, for /etc/hosts."""

    name: str
    address: IPv4Address


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of the archive."""

    path: str
    content: str | bytes
    mode: int = 0o644
    owner: str = "root"


@dataclass(frozen=True, kw_only=True)
class BaseIdentity:
    """The identity of a node of any cluster. Secrets are not shown by repr()."""

    cluster: str
    name: str
    role: Role
    uuid: UUID
    mac: str
    address: IPv4Address
    subnet: IPv4Network
    gateway: IPv4Address
    neighbours: tuple[Neighbour, ...]
    login: str
    authorized_keys: tuple[str, ...]
    has_host_clock: bool
    wait_s: int  # how long non-urgent units wait for the other nodes to join, besides their timer
    host_keys: tuple[str, ...] = ()  # the public ones of all nodes, in the order of `neighbours`
    shares: tuple[VirtioFsMount, ...] = ()
    outside: OutsideFiles = field(default_factory=OutsideFiles)
    time_server: str = Role.CONTROLLER.value
    """The node whose clock the others follow, where KVM does not provide the host's."""
    host_key: bytes = field(repr=False)
    host_key_public: str

    def services(self) -> tuple[str, ...]:
        """The units to start, in the image's order.

        Each is started separately: a unit waits for those before it in this list, and not for those
        after it, whatever its own dependencies say.
        """
        # With KVM nothing is slow enough to delay a node's join.
        clock = (
            ("modprobe@ptp_kvm.service", "ai-how-after.service")
            if self.has_host_clock
            else ("ai-how-after.timer",)
        )
        shares = ("ai-how-mounts.service",) if self.shares else ()
        return (*clock, *shares, "ssh.socket", "ai-how-grow.service")

    @property
    def early_shares(self) -> tuple[VirtioFsMount, ...]:
        """The shares that are mounted before other services are started."""
        return self.shares

    def settings(self) -> dict[str, str]:
        """The settings that the scripts of the image read."""
        return {
            "NODE_NAME": self.name,
            "ROLE": self.role.value,
            "LOGIN": self.login,
            "LOGIN_ID": str(LOGIN_ID),
            "HOME_IS_NFS": "",
            "MAC": self.mac,
            "ADDRESS": f"{self.address}/{self.subnet.prefixlen}",
            "GATEWAY": str(self.gateway),
            "WAIT_S": str(self.wait_s),
            "OUTSIDE": self.outside.digest,
            "SERVICES": " ".join(self.services()),
        }

    def entries(self) -> Iterable[Entry]:
        """The files."""
        yield Entry("etc/hostname", f"{self.name}\n")
        yield Entry("etc/machine-id", f"{self.uuid.hex}\n", 0o444)
        yield Entry("etc/hosts", _hosts(self))
        yield Entry("etc/resolv.conf", f"search {self.cluster}\nnameserver {self.gateway}\n")
        yield Entry("etc/ai-how/identity", _quoted(self.settings()))
        yield Entry("etc/ssh/ssh_host_ed25519_key", self.host_key, 0o600)
        yield Entry("etc/ssh/ssh_host_ed25519_key.pub", f"{self.host_key_public}\n")
        keys = "".join(f"{key}\n" for key in self.authorized_keys)
        yield Entry(f"etc/ssh/authorized_keys.d/{self.login}", keys)
        yield Entry("etc/ssh/ssh_known_hosts", _known_hosts(self))
        yield Entry("etc/ssh/shosts.equiv", "".join(f"{one.address}\n" for one in self.neighbours))
        yield Entry("etc/sudoers.d/ai-how", f"{self.login} ALL=(ALL) NOPASSWD:ALL\n", 0o440)
        yield Entry("etc/chrony/chrony.conf", _chrony(self))
        if self.outside.digest:
            yield from (Entry(*file) for file in self.outside.files())
        if self.shares:
            yield Entry("etc/ai-how/mounts", render_mounts(self.early_shares, self.login))


def render_archive(node: BaseIdentity, *, now_s: int) -> bytes:
    """The tar archive; its files are dated `now_s`."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for entry in node.entries():
            content = entry.content.encode() if isinstance(entry.content, str) else entry.content
            member = tarfile.TarInfo(entry.path)
            member.size = len(content)
            member.mode = entry.mode
            member.mtime = now_s
            member.uname = member.gname = entry.owner
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def _hosts(node: BaseIdentity) -> str:
    lines = ["127.0.0.1 localhost"]
    lines += [f"{one.address} {one.name} {one.name}.{node.cluster}" for one in node.neighbours]
    return "\n".join(lines) + "\n"


def _known_hosts(node: BaseIdentity) -> str:
    """By name for a login to a node, by address for the node that is logged in to."""
    lines = []
    for one, line in zip(node.neighbours, node.host_keys, strict=False):
        kind, key = line.split()[:2]
        lines.append(f"{one.name},{one.name}.{node.cluster},{one.address} {kind} {key}\n")
    return "".join(lines)


def _quoted(settings: dict[str, str]) -> str:
    """Read by `sh` and by systemd's EnvironmentFile=, so every value is quoted for both."""
    return "".join(f'{key}="{value}"\n' for key, value in settings.items())


def _chrony(node: BaseIdentity) -> str:
    """Every node follows the host's clock if KVM provides it, else that of one node."""
    lines = ["driftfile /var/lib/chrony/drift", "makestep 0.5 3"]
    if node.has_host_clock:
        lines.append("refclock PHC /dev/ptp0 poll 2")
    if node.name == node.time_server:
        lines += ["local stratum 10", f"allow {node.subnet}"]
    elif not node.has_host_clock:
        lines.append(f"server {node.time_server} iburst minpoll 2 maxpoll 6")
    return "\n".join(lines) + "\n"


def is_below_home(mount_point: str) -> bool:
    """Whether the shared home would cover this mount point."""
    return mount_point.startswith("/home/")


def render_mounts(shares: Iterable[VirtioFsMount], login: str) -> str:
    """A script that mounts the host's directories; it can be run again."""
    lines = ["set -e"]
    for share in shares:
        tag, point = shlex.quote(share.tag), shlex.quote(str(share.mount_point))
        options = f"-o {shlex.quote(share.mount_options)} " if share.mount_options else ""
        lines += render_directories(share.mount_point, login)
        lines.append(f"mountpoint -q {point} || mount -t virtiofs {options}{tag} {point}")
        if share.is_read_only:
            continue  # its owner and mode are those of the host
        if owner := share.owner_for(login):
            lines.append(f"chown {shlex.quote(owner)} {point}")
        if group := share.group:
            lines.append(f"group={shlex.quote(group)}")
            if not group.isdigit():
                # A group that the guest does not have is the login account's.
                lines.append(f'grep -q "^$group:" /etc/group || group={shlex.quote(login)}')
            lines.append(f'chgrp "$group" {point}')
        if share.mode:
            lines.append(f"chmod {shlex.quote(share.mode)} {point}")
    return "\n".join(lines) + "\n"


def render_directories(mount_point: str, login: str) -> list[str]:
    """The commands that make a mount point, and let the login account reach it."""
    own = f"/home/{login}/"
    if not mount_point.startswith(own):
        lets_pass = ["chmod o+x /root"] if mount_point.startswith("/root/") else []
        return [f"mkdir -p {shlex.quote(mount_point)}", *lets_pass]
    parts = mount_point.removeprefix(own).split("/")
    made = (shlex.quote(own + "/".join(parts[: end + 1])) for end in range(len(parts)))
    owner = f"{LOGIN_ID}:{LOGIN_ID}"
    return [f"[ -d {one} ] || {{ mkdir {one}; chown {owner} {one}; }}" for one in made]
