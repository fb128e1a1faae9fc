"""The host of a cluster's VMs: its libvirt, the storage for QEMU, the way to the guests."""

import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ai_how.errors import AiHowError, HostError, SpecError
from ai_how.host.embedded import EmbeddedHost
from ai_how.host.facts import read_libvirt_access
from ai_how.host.kvm import KvmVerdict, kvm_verdict
from ai_how.host.ports import WayIn
from ai_how.host.supervisor import MAX_CALLS
from ai_how.host.uplink import STARTING
from ai_how.state.paths import Roots, StoragePaths

SYSTEM_IMAGES = Path("/var/lib/libvirt/images")
FORMER_STORAGE = SYSTEM_IMAGES / "ai-how"
SYSTEM_LIBVIRT = Path("/var/lib/libvirt")
SYSTEM_QEMU_LOGS = Path("/var/log/libvirt/qemu")
SYSTEM, SESSION = "qemu:///system", "qemu:///session"

Kind = Literal["embedded", "system", "test"]


@dataclass(frozen=True, slots=True)
class HypervisorHost:
    """One libvirt and what belongs to it.

    `asked` is the form that users write and the state stores. `address` is its URI; the embedded
    host has one only while it is up.
    """

    asked: str
    address: str
    kind: Kind
    storage: StoragePaths
    embedded: EmbeddedHost | None = None

    @property
    def uri(self) -> str:
        """The URI of libvirt. Raises HostError if the embedded host is down."""
        return self.embedded.uri if self.embedded else self.address

    def ensure_up(self, roots: Roots) -> bool:
        """Make sure that a libvirt answers at `uri`; return whether it was started for that.

        Only the embedded one is started. Its guests get /dev/kvm only if KVM works, which takes
        seconds to find out the first time.
        """
        if self.embedded is None:
            return False
        supervisor = self.embedded.find_supervisor()
        if supervisor is None:
            return self.embedded.up(with_kvm=decide_kvm(roots).works)
        if not (supervisor.has_own_run and supervisor.socket.exists()):
            self.embedded.up(with_kvm=supervisor.has_kvm)
        self.embedded.check_files(supervisor)
        self.embedded.write_share_scripts()
        self.embedded.ensure_uplink()
        return False

    def kvm(self, roots: Roots) -> KvmVerdict:
        """Whether guests run under KVM there."""
        supervisor = self.embedded.find_supervisor() if self.embedded else None
        if supervisor is None:
            return decide_kvm(roots)
        verdict = decide_kvm(roots)
        if verdict.works == supervisor.has_kvm:
            return verdict
        # Its guests have what it had when it was started, even if that has changed.
        why = (
            "the embedded host was started with KVM"
            if supervisor.has_kvm
            else ("the embedded host was started without KVM")
        )
        return KvmVerdict(supervisor.has_kvm, why, "embedded host", "ai-how host down")

    @property
    def is_up(self) -> bool:
        """Whether it can be queried: an embedded host that is down has no VMs."""
        return self.embedded is None or self.embedded.find_supervisor() is not None

    @property
    def runs_guests(self) -> bool:
        """Whether VMs there are processes of this machine, and take its CPUs and its memory.

        libvirt's test driver only remembers VMs.
        """
        return self.kind != "test"

    @property
    def has_network(self) -> bool:
        """Whether a network there is a bridge with interfaces, which can be looked at."""
        return self.kind != "test"

    @property
    def has_private_network(self) -> bool:
        """Whether its guests are in a network namespace apart from the host's own interfaces."""
        return self.kind == "embedded"

    @property
    def uplink_trouble(self) -> str | None:
        """Why its guests reach nothing outside, where that is known without looking at rules.

        None also while the uplink is being started.
        """
        trouble = self.embedded.uplink_trouble if self.embedded else None
        return None if trouble == STARTING else trouble

    @property
    def saves_memory(self) -> bool:
        """Whether libvirt there writes the memory of a VM to a file, which may be root's."""
        return self.kind != "test"

    @property
    def moves_with_state(self) -> bool:
        """Whether it lies in the state directory: moved with that, it has the clusters it had."""
        return self.kind == "embedded"

    @property
    def root(self) -> Path | None:
        """The root directory of a running embedded host, as seen from here."""
        supervisor = self.embedded.find_supervisor() if self.embedded else None
        return Path(f"/proc/{supervisor.pid}/root") if supervisor else None

    @property
    def is_kept(self) -> bool:
        """Whether its libvirtd is restarted when it ends, as on the embedded host."""
        return self.embedded is not None and self.is_up

    @property
    def max_calls(self) -> int:
        """The number of concurrent calls per connection to its libvirtd.

        It is higher on the embedded host: a guest that hangs blocks a call for ten seconds, and no
        other call should wait for it.
        """
        return MAX_CALLS if self.embedded else 4

    @property
    def qemu_logs(self) -> Path | None:
        """The directory of libvirt's QEMU logs; on the system's libvirt only root may read them."""
        if self.embedded:
            return self.embedded.paths.log / "qemu"
        return SYSTEM_QEMU_LOGS if self.kind == "system" else None

    @property
    def saved_memory(self) -> Path:
        """A directory on the file system of the memory of suspended VMs."""
        if self.embedded:
            return self.embedded.paths.lib
        return SYSTEM_LIBVIRT if self.kind == "system" else Path("/")

    def enter(self, argv: Sequence[str]) -> list[str]:
        """The command that runs `argv` in the network of the guests."""
        return self.embedded.enter(argv) if self.embedded else list(argv)

    def way_in(self) -> WayIn:
        """How a process gets into the network of the guests. Raises HostError if it is down."""
        return self.embedded.way_in() if self.embedded else WayIn()

    def restart_libvirtd(self) -> None:
        """Restart the embedded host's libvirtd; the system's libvirtd is not touched."""
        if self.embedded:
            self.embedded.restart_daemon()

    def ssh_proxy(self, roots: Roots) -> list[str]:
        """The ProxyCommand for ssh; empty if guests can be reached directly."""
        if self.embedded is None:
            return []
        return [sys.executable, "-I", "-m", "ai_how.host.connect", str(roots.state)]


def resolve_host(asked: str, roots: Roots, *, kept: StoragePaths | None = None) -> HypervisorHost:
    """The host of a URI; `auto` is resolved by `choose_host`.

    `kept` is the storage of an existing cluster. Raises HostError if the requested host cannot be
    used.
    """
    if asked == "auto":
        return resolve_host(choose_host().asked, roots)
    if asked == "embedded":
        host = EmbeddedHost(roots.embedded)
        return HypervisorHost(asked, "", "embedded", roots.embedded_storage, host)
    if asked == SYSTEM:
        if kept is None:
            _require_usable(system_storage())
        return HypervisorHost(asked, SYSTEM, "system", kept or system_storage())
    if asked == SESSION:
        raise HostError(
            f"{SESSION} cannot give a cluster its own network",
            details="Without root, libvirt's session daemon cannot create a bridge. The embedded "
            "host can, also without root.",
            hint="ai-how --connect embedded …",
        )
    if asked.startswith("test:///"):
        return HypervisorHost(asked, asked, "test", StoragePaths(roots.state / ".test"))
    if asked.startswith("qemu+ssh://"):
        raise HostError(
            f"{asked}: a remote host is not supported yet",
            details="Disks are files, and only the host itself can create them.",
            hint="run ai-how on that host",
        )
    raise SpecError(f"{asked} is not a known host", hint="ai-how --connect embedded …")


def decide_kvm(roots: Roots) -> KvmVerdict:
    """Whether KVM works here; decided by booting, and remembered until the next reboot."""
    # Only asked when a host comes up, or a start is planned.
    from ai_how.images.build import find_default_image  # noqa: PLC0415
    from ai_how.images.store import ImageStore  # noqa: PLC0415

    image = find_default_image(ImageStore(roots.images))
    return kvm_verdict(kernel=image.kernel if image else None, cache=roots.kvm_verdict)


@dataclass(frozen=True, slots=True)
class Choice:
    """What `auto` means here and why; `advice` would make it the system's libvirt."""

    asked: str
    why: str
    advice: str | None = None


def choose_host() -> Choice:
    """The system's libvirt if it answers, we can manage it, and QEMU's user can read our disks."""
    access = read_libvirt_access(Path("/"))
    if access.socket_mode is None:
        return Choice("embedded", "the system's libvirt is not running")
    if not access.is_socket_usable:
        return Choice("embedded", "you have no access to the system's libvirt")
    storage = system_storage()
    # The client is slow to import, and for most hosts the choice is made by now.
    from ai_how.libvirt_client.client import LibvirtClient  # noqa: PLC0415

    try:
        _require_usable(storage)
        with LibvirtClient(SYSTEM, patience_s=10) as client:
            client.version()
    except AiHowError as error:
        return Choice("embedded", error.brief, error.hint)
    return Choice(SYSTEM, f"you have access to it, and its disks are in {storage.root}")


def saves_for_root(asked: str) -> str | None:
    """What an ordinary user cannot use on the system's libvirt; None for root and other hosts."""
    if asked != SYSTEM or os.geteuid() == 0:
        return None
    return f"only root can read the memory that {SYSTEM} saves"


def system_storage() -> StoragePaths:
    """Our user's directory for disks on the system's libvirt.

    Earlier all users shared one; a user who has disks there keeps using it.
    """
    own = SYSTEM_IMAGES / f"ai-how-{os.geteuid()}"
    if own.is_dir() or not _is_ours_alone(FORMER_STORAGE):
        return StoragePaths(own)
    return StoragePaths(FORMER_STORAGE)


def system_storages() -> tuple[StoragePaths, ...]:
    """All places where our disks and saved VMs can be on the system's libvirt."""
    roots = (FORMER_STORAGE, SYSTEM_IMAGES / f"ai-how-{os.geteuid()}")
    return tuple(StoragePaths(root) for root in roots if _is_ours_alone(root))


def storage_of(disk: Path) -> StoragePaths | None:
    """The storage of a node's existing disk, which may differ from that of new disks."""
    root = disk.parent.parent.parent
    return StoragePaths(root) if disk.parent.parent == StoragePaths(root).disks else None


def _is_ours_alone(root: Path) -> bool:
    """Whether a directory and our files in it exist and belong to our user."""
    storage = StoragePaths(root)
    owners = [path.stat().st_uid for path in (root, storage.bases, storage.disks) if path.is_dir()]
    return root.is_dir() and set(owners) == {os.geteuid()}


def _require_usable(storage: StoragePaths) -> None:
    """Raises HostError if we cannot have disks there, or if others could replace them."""
    # Every step does the same check before it creates a disk.
    from ai_how.state.owned_directory import check_chain  # noqa: PLC0415

    root = storage.root
    if not root.is_dir() and (os.geteuid() != 0 or not root.parent.is_dir()):
        raise HostError(
            f"{root} does not exist",
            details="The system's QEMU reads disks from there, not from your home directory.",
            hint=f'sudo install -d -o "$(id -u)" -m 0711 {root}',
        )
    check_chain(root, is_made=False)
    if root.is_dir() and not os.access(root, os.W_OK):
        raise HostError(f"you cannot write to {root}", hint=f"ls -ld {shlex.quote(str(root))}")
