"""Where a cluster's VMs run: which libvirt, which storage QEMU can read, how guests are reached."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ai_how.errors import AiHowError, HostError, SpecError
from ai_how.host.embedded import EmbeddedHost
from ai_how.host.facts import read_libvirt_access
from ai_how.host.kvm import KvmVerdict, kvm_verdict
from ai_how.host.supervisor import MAX_CALLS
from ai_how.state.paths import Roots, StoragePaths

SYSTEM_STORAGE = Path("/var/lib/libvirt/images/ai-how")
SYSTEM_LIBVIRT = Path("/var/lib/libvirt")
SYSTEM_QEMU_LOGS = Path("/var/log/libvirt/qemu")
SYSTEM, SESSION = "qemu:///system", "qemu:///session"

Kind = Literal["embedded", "system", "test"]


@dataclass(frozen=True, slots=True)
class HostPlace:
    """One libvirt and what belongs to it. `asked` is what state remembers and users write.

    `address` is its URI; the embedded host has one only while it is up.
    """

    asked: str
    address: str
    kind: Kind
    storage: StoragePaths
    embedded: EmbeddedHost | None = None

    @property
    def uri(self) -> str:
        """Where libvirt answers. Raises HostError for an embedded host that is down."""
        return self.embedded.uri if self.embedded else self.address

    def ensure_up(self, roots: Roots) -> None:
        """Have a libvirt that answers at `uri`; only the embedded one is ours to start.

        Its guests get /dev/kvm only where KVM was seen to work, which takes seconds the first time.
        """
        if self.embedded is None:
            return
        supervisor = self.embedded.find_supervisor()
        if supervisor is None:
            self.embedded.up(with_kvm=decide_kvm(roots).works)
            return
        self.embedded.check_files(supervisor)
        if not supervisor.socket.exists():
            self.embedded.up(with_kvm=supervisor.has_kvm)

    def kvm(self, roots: Roots) -> KvmVerdict:
        """Whether guests run under KVM there."""
        supervisor = self.embedded.find_supervisor() if self.embedded else None
        if supervisor is None:
            return decide_kvm(roots)
        verdict = decide_kvm(roots)
        if verdict.works == supervisor.has_kvm:
            return verdict
        # Its guests have what it had when it came up, whatever is true by now.
        why = (
            "the embedded host came up with it"
            if supervisor.has_kvm
            else ("the embedded host came up without it")
        )
        return KvmVerdict(supervisor.has_kvm, why, "embedded host", "ai-how host down")

    @property
    def is_up(self) -> bool:
        """Whether asking it makes sense: an embedded host that is down runs nothing."""
        return self.embedded is None or self.embedded.find_supervisor() is not None

    @property
    def is_kept(self) -> bool:
        """Whether its libvirtd is started again when it ends, as the embedded host's is."""
        return self.embedded is not None and self.is_up

    @property
    def max_calls(self) -> int:
        """How many calls its libvirtd takes at once on one connection; the embedded one has room.

        A guest that hangs keeps a call for ten seconds, and nobody is to wait behind it.
        """
        return MAX_CALLS if self.embedded else 4

    @property
    def qemu_logs(self) -> Path | None:
        """Where libvirt keeps what each QEMU says; the system's may be read by root alone."""
        if self.embedded:
            return self.embedded.paths.log / "qemu"
        return SYSTEM_QEMU_LOGS if self.kind == "system" else None

    @property
    def saved_memory(self) -> Path:
        """A directory on the file system where libvirt keeps the memory of suspended VMs."""
        if self.embedded:
            return self.embedded.paths.lib
        return SYSTEM_LIBVIRT if self.kind == "system" else Path("/")

    def enter(self, argv: Sequence[str]) -> list[str]:
        """The command that runs `argv` where the guests' network is."""
        return self.embedded.enter(argv) if self.embedded else list(argv)

    def restart_libvirtd(self) -> None:
        """End the embedded host's libvirtd, for another to begin; the system's is not ours."""
        if self.embedded:
            self.embedded.restart_daemon()

    def ssh_proxy(self, roots: Roots) -> list[str]:
        """What ssh's ProxyCommand must be; empty where the guests can be reached directly."""
        if self.embedded is None:
            return []
        program = [sys.executable, "-m", "ai_how"]
        return [*program, "--state-dir", str(roots.state), "host", "connect"]


def find_place(asked: str, roots: Roots) -> HostPlace:
    """The place that a host URI means.

    `auto` is qemu:///system where it answers, may be managed, and QEMU's user can read our storage;
    else the embedded host. Raises HostError where what was asked for cannot be used.
    """
    if asked == "auto":
        return find_place(SYSTEM if _may_use_system() else "embedded", roots)
    if asked == "embedded":
        host = EmbeddedHost(roots.embedded)
        return HostPlace(asked, "", "embedded", roots.embedded_storage, host)
    if asked == SYSTEM:
        _require_system_storage()
        return HostPlace(asked, SYSTEM, "system", StoragePaths(SYSTEM_STORAGE))
    if asked == SESSION:
        raise HostError(
            f"{SESSION} cannot give a cluster a network of its own",
            details="Without root, libvirt's session daemon makes no bridge. The embedded host "
            "needs no root either, and does.",
            hint="ai-how --connect embedded …",
        )
    if asked.startswith("test:///"):
        return HostPlace(asked, asked, "test", StoragePaths(roots.state / ".test"))
    if asked.startswith("qemu+ssh://"):
        raise HostError(
            f"{asked}: a remote host is not supported yet",
            details="Disks are made as files, which only the host itself can do.",
            hint="run ai-how on that host",
        )
    raise SpecError(f"{asked} is not a host that ai-how knows", hint="ai-how --connect embedded …")


def decide_kvm(roots: Roots) -> KvmVerdict:
    """Whether KVM really works here; decided by booting, and remembered until the next reboot."""
    # Only asked when a host comes up, or a start is planned.
    from ai_how.images.build import find_default_image  # noqa: PLC0415
    from ai_how.images.store import ImageStore  # noqa: PLC0415

    image = find_default_image(ImageStore(roots.images))
    return kvm_verdict(kernel=image.kernel if image else None, cache=roots.kvm_verdict)


def _may_use_system() -> bool:
    if not read_libvirt_access(Path("/")).is_socket_usable:
        return False
    if not _is_usable(SYSTEM_STORAGE):
        return False
    # The client is heavy to import, and most hosts are decided by now.
    from ai_how.vm_management.libvirt_client import LibvirtClient  # noqa: PLC0415

    try:
        with LibvirtClient(SYSTEM, patience_s=10) as client:
            client.version()
    except AiHowError:
        return False
    return True


def _require_system_storage() -> None:
    if not _is_usable(SYSTEM_STORAGE):
        raise HostError(
            f"{SYSTEM_STORAGE} is not a directory that you can write",
            details="The system's QEMU reads disks from there, not from your home directory.",
            hint=f'sudo install -d -o "$USER" -m 0711 {SYSTEM_STORAGE}',
        )


def _is_usable(directory: Path) -> bool:
    if os.geteuid() == 0:
        return directory.parent.is_dir()
    return directory.is_dir() and os.access(directory, os.W_OK)
