"""VMs: look-ups and changes. Part of LibvirtClient."""

from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from uuid import UUID

import libvirt

from ai_how.errors import ConnectionLostError, DeadlineError, LibvirtError
from ai_how.libvirt_client.bulk_stats import read_records
from ai_how.libvirt_client.conversion import (
    check_claim,
    ensure,
    has_managed_save,
    observe_domain,
    observe_each,
    read_identity,
    unless_gone,
    with_first_known,
)
from ai_how.libvirt_client.facts import DomainInfo, DomainStats, read_stats
from ai_how.libvirt_client.names import Names
from ai_how.libvirt_client.session import Session
from ai_how.libvirt_client.vm_state import VmState
from ai_how.waiting import Deadline, wait_until

STATS = (
    libvirt.VIR_DOMAIN_STATS_CPU_TOTAL
    | libvirt.VIR_DOMAIN_STATS_BALLOON
    | libvirt.VIR_DOMAIN_STATS_BLOCK
    | libvirt.VIR_DOMAIN_STATS_INTERFACE
)

# A healthy QEMU answers for its statistics in milliseconds.
STATS_S = 5.0
# How long a VM may take to start before it is powered off during its start.
STARTING_S = 30.0


class Domains:
    """The part of a client for VMs."""

    _link: Session
    _names: Names

    def find_domain(self, uuid: UUID) -> DomainInfo | None:
        """The VM, or None where libvirt says that there is none."""
        return unless_gone(lambda: self.get_domain(uuid))

    def get_domain(self, uuid: UUID) -> DomainInfo:
        """The VM. Raises LibvirtError with code 42 where there is none."""
        return self._link.read(
            f"looking for VM {uuid}", lambda raw: observe_domain(find_raw_domain(raw, uuid))
        )

    def find_domain_by_name(self, name: str) -> DomainInfo | None:
        """The VM of that exact name, whoever created it."""
        return unless_gone(
            lambda: self._link.read(
                f"looking for VM {name}", lambda raw: observe_domain(raw.lookupByName(name))
            )
        )

    def list_domains(self) -> tuple[DomainInfo, ...]:
        """Every VM of this libvirt by name, including other users' VMs."""
        return self._link.read(
            "listing VMs",
            lambda raw: observe_each(raw.listAllDomains(0), observe_domain),
        )

    def domain_xml(self, uuid: UUID) -> str:
        """The XML of a VM: as it runs, or as defined if it is off."""
        return self._link.read(
            f"reading the XML of VM {uuid}", lambda raw: find_raw_domain(raw, uuid).XMLDesc(0)
        )

    def snapshot_names(self, uuid: UUID) -> tuple[str, ...]:
        """The names of a VM's snapshots; they are a person's data."""
        return self._link.read(
            f"listing snapshots of VM {uuid}",
            lambda raw: tuple(find_raw_domain(raw, uuid).snapshotListNames(0)),
        )

    def stats(self, uuids: Collection[UUID]) -> Mapping[UUID, DomainStats]:
        """Statistics of the existing VMs; none for a VM whose QEMU does not answer at once."""
        asked = frozenset(uuids)
        if not asked:
            return {}
        with suppress(ConnectionLostError):
            return self._stats(asked)
        # One guest hangs: ask for each separately, so that it does not hide the others' statistics.
        found: dict[UUID, DomainStats] = {}
        with ThreadPoolExecutor(len(asked)) as crew:
            for answer in [crew.submit(self._stats, frozenset({uuid})) for uuid in asked]:
                with suppress(ConnectionLostError):
                    found |= answer.result()
        return found

    def _stats(self, asked: frozenset[UUID]) -> dict[UUID, DomainStats]:
        records = self._link.read(
            "reading statistics of VMs",
            lambda raw: read_records(raw, asked, STATS),
            timeout_s=STATS_S,
        )
        return {uuid: read_stats(record) for uuid, record in records.items()}

    def define_domain(self, xml: str) -> DomainInfo:
        """Define a VM, validated against libvirt's schema; the same UUID and name redefine it.

        Raises OwnershipError if the name or the UUID belongs to another VM.
        """

        def ask(raw: libvirt.virConnect) -> DomainInfo:
            return observe_domain(
                with_first_known(
                    lambda flags: raw.defineXMLFlags(xml, flags),
                    libvirt.VIR_DOMAIN_DEFINE_VALIDATE,
                    0,
                )
            )

        name, uuid = read_identity(xml)
        self._names.learn(uuid, name)
        try:
            return self._link.change(f"defining VM {name}", ask)
        except LibvirtError as error:
            check_claim(error, xml, find=self.find_domain, find_by_name=self.find_domain_by_name)
            raise

    def start_domain(
        self,
        uuid: UUID,
        *,
        paused: bool = False,
        is_anew: bool = False,
        timeout_s: float | None = None,
    ) -> None:
        """Start a defined VM; a running one stays so. It runs unless `paused`.

        A suspended VM continues from its managed save, which is then removed; `is_anew` discards
        that and boots.
        """
        flags = libvirt.VIR_DOMAIN_START_PAUSED if paused else 0
        flags |= libvirt.VIR_DOMAIN_START_FORCE_BOOT if is_anew else 0

        def ask(raw: libvirt.virConnect) -> None:
            domain = find_raw_domain(raw, uuid)
            ensure(
                lambda: domain.createWithFlags(flags),
                lambda: read_state(domain).is_on and read_state(domain) is not VmState.CRASHED,
            )
            if not paused:
                let_run_on(domain)

        self._link.change(f"starting VM {uuid}", ask, timeout_s=timeout_s)

    def managed_save(self, uuid: UUID, *, timeout_s: float) -> None:
        """Save a VM's memory where libvirt keeps it, which ends it; safe to repeat.

        It will run when it is resumed, even if it was paused. A VM that is off stays so. If another
        caller is already saving it, that is waited for: a second save would fail behind it.
        """
        self._wait_while(is_being_saved, uuid, timeout_s)
        self._ensure(
            f"suspending VM {uuid}",
            uuid,
            lambda domain: domain.managedSave(libvirt.VIR_DOMAIN_SAVE_RUNNING),
            is_off,
            timeout_s=timeout_s,
        )

    def boot_transient(self, xml: str) -> DomainInfo:
        """Boot a transient VM, which libvirt ends when our connection ends.

        Not repeated if the answer is lost.
        """
        name, uuid = read_identity(xml)
        self._names.learn(uuid, name)
        flags = libvirt.VIR_DOMAIN_START_AUTODESTROY | libvirt.VIR_DOMAIN_START_VALIDATE
        return self._link.once(
            f"booting VM {name}", lambda raw: observe_domain(raw.createXML(xml, flags))
        )

    def save_transient(self, uuid: UUID, target: Path, *, timeout_s: float) -> None:
        """Save a VM's memory to a file, which ends the VM. Not repeated if the answer is lost."""
        self._link.once(
            f"saving VM {uuid}",
            lambda raw: find_raw_domain(raw, uuid).saveFlags(
                str(target), None, libvirt.VIR_DOMAIN_SAVE_RUNNING
            ),
            timeout_s=timeout_s,
        )

    def restore_domain(self, uuid: UUID, source: Path, *, timeout_s: float) -> None:
        """Restore a defined VM from a save file with its name and UUID.

        A VM that is on stays on, and runs.
        """

        def ask(raw: libvirt.virConnect) -> None:
            domain = find_raw_domain(raw, uuid)
            ensure(
                lambda: raw.restoreFlags(str(source), None, libvirt.VIR_DOMAIN_SAVE_RUNNING),
                lambda: read_state(domain).is_on,
            )
            let_run_on(domain)

        self._link.change(f"restoring VM {uuid}", ask, timeout_s=timeout_s)

    def shutdown_domain(self, uuid: UUID, *, timeout_s: float | None = None) -> None:
        """Press the power button (ACPI) of a VM, resumed first if paused. Off already is success.

        This is only a request to the guest: wait for SHUT_OFF, ask again, and destroy it in the
        end. A QEMU that hangs does not answer: ConnectionLostError, or LibvirtError, after
        `timeout_s`.
        """

        def press(domain: libvirt.virDomain) -> None:
            if read_state(domain) is VmState.PAUSED:  # shutdown says "not running" of a paused VM
                domain.resume()
            with_first_known(domain.shutdownFlags, libvirt.VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN, 0)

        self._ensure(f"shutting down VM {uuid}", uuid, press, is_off, timeout_s=timeout_s)

    def pause_domain(self, uuid: UUID) -> None:
        """Pause the CPUs of a VM that runs; safe to repeat."""
        self._ensure(
            f"pausing VM {uuid}",
            uuid,
            lambda domain: domain.suspend(),
            lambda domain: read_state(domain) is VmState.PAUSED,
        )

    def resume_domain(self, uuid: UUID) -> None:
        """Resume a paused VM; safe to repeat."""
        self._ensure(
            f"resuming VM {uuid}",
            uuid,
            lambda domain: domain.resume(),
            runs,
        )

    def destroy_domain(self, uuid: UUID) -> None:
        """Power off a VM at once. Absent, or off already, is success.

        A VM that is starting is waited for, but not forever: libvirtd 9.0 crashes if a VM is
        destroyed while its restore ends (qemuSaveImageStartVM then uses a freed monitor; seen in 7
        of 250 tries at that moment).
        """

        def cut() -> None:
            self._wait_while(is_starting, uuid, STARTING_S)
            self._ensure(
                f"cutting the power of VM {uuid}",
                uuid,
                lambda domain: domain.destroyFlags(0),
                is_off,
            )

        unless_gone(cut)

    def undefine_domain(self, uuid: UUID, *, snapshots_too: bool) -> None:
        """Remove a VM's definition, managed save and NVRAM. Absent is success.

        Destroy it first: a running VM would keep running without a definition. Raises LibvirtError
        for a VM with snapshots, unless `snapshots_too`; their data then stays in the disk.
        """
        unless_gone(
            lambda: self._link.change(
                f"undefining VM {uuid}",
                lambda raw: with_first_known(
                    find_raw_domain(raw, uuid).undefineFlags, *_undefine_flags(snapshots_too)
                ),
            )
        )

    def _wait_while(
        self, is_busy: Callable[[libvirt.virDomain], bool], uuid: UUID, within_s: float
    ) -> None:
        """Wait until it is no longer busy in this way, or the time is over."""

        def is_free() -> bool:
            return self._link.read(
                f"looking for VM {uuid}", lambda raw: not is_busy(find_raw_domain(raw, uuid))
            )

        with suppress(DeadlineError):
            wait_until(is_free, Deadline.after(within_s), f"VM {self._names.of(uuid)}")

    def _ensure(
        self,
        what: str,
        uuid: UUID,
        act: Callable[[libvirt.virDomain], object],
        is_done: Callable[[libvirt.virDomain], bool],
        *,
        timeout_s: float | None = None,
    ) -> None:
        def ask(raw: libvirt.virConnect) -> None:
            domain = find_raw_domain(raw, uuid)
            ensure(lambda: act(domain), lambda: is_done(domain))

        self._link.change(what, ask, timeout_s=timeout_s)


def find_raw_domain(raw: libvirt.virConnect, uuid: UUID) -> libvirt.virDomain:
    """libvirt's object. Raises libvirtError if there is none."""
    return raw.lookupByUUIDString(str(uuid))


def read_state(domain: libvirt.virDomain) -> VmState:
    """The current state."""
    return VmState.from_libvirt(domain.state()[0])


def runs(domain: libvirt.virDomain) -> bool:
    """Whether its CPUs run: not paused, nor about to pause or resume."""
    return read_state(domain) in {VmState.RUNNING, VmState.BLOCKED}


def is_starting(domain: libvirt.virDomain) -> bool:
    """Whether libvirt is booting or restoring it: its QEMU may exist."""
    return domain.state() == [libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_STARTING_UP]


def is_being_saved(domain: libvirt.virDomain) -> bool:
    """Whether libvirt is saving its memory to a file, after which the VM ends."""
    return domain.state() == [libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_SAVE]


def let_run_on(domain: libvirt.virDomain) -> None:
    """Repair what a libvirtd left that died at the end of a restore.

    The VM may be paused with its memory restored, and nobody would resume it. Or it runs, and its
    managed save still exists: its next start would go back to that memory, with newer disks.
    """
    if read_state(domain) is VmState.PAUSED and not is_starting(domain):
        ensure(domain.resume, lambda: runs(domain))
    if read_state(domain) is VmState.RUNNING and has_managed_save(domain):
        domain.managedSaveRemove(0)


def is_off(domain: libvirt.virDomain) -> bool:
    """Whether it has no QEMU: a VM that crashed or shuts down may still have one."""
    return domain.isActive() == 0


def _undefine_flags(snapshots_too: bool) -> tuple[int, ...]:  # noqa: FBT001  private, one caller
    """Flags for an undefine, the most first: libvirt refuses if something is not named."""
    least = libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
    if snapshots_too:
        least |= libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
    common = least | libvirt.VIR_DOMAIN_UNDEFINE_NVRAM
    checkpoints = libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA if snapshots_too else 0
    return (
        common | checkpoints | libvirt.VIR_DOMAIN_UNDEFINE_TPM,  # TPM: since libvirt 8.9
        common | checkpoints,
        common,
        least,
    )
