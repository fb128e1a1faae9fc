"""Lends devices of the host to VMs, and sees that the host gets each back with its driver."""

import shlex
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar
from uuid import UUID

from ai_how.errors import DeadlineError, HostError, LibvirtError
from ai_how.host.pci import DEVICES, VFIO
from ai_how.host.reading import link_name, read_text
from ai_how.libvirt_client.client import LibvirtClient
from ai_how.libvirt_client.host_devices import devices_in
from ai_how.state.leases import (
    LOCK,
    Lease,
    find_lease,
    read_leases,
    remove_lease,
    write_lease,
)
from ai_how.state.lock import held_lock
from ai_how.waiting import Deadline, wait_until

LOCK_S = 300.0  # a device that does not come back can take libvirt a minute
REBIND_S = 5.0
_DRIVERCTL = Path("etc/driverctl.d")
_BOOT_ID = Path("proc/sys/kernel/random/boot_id")
_IN_NOBODYS_HANDS = (VFIO, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceKeeper:
    """What lends devices of the host: its leases, the libvirt that has the VMs, and the host.

    `machine` contains the host's /sys, /proc and /etc. libvirt has `rebind_s` to give a device back
    by itself, when its VM is off.
    """

    what: ClassVar[str] = "device"

    leases: Path
    client: LibvirtClient
    machine: Path = Path("/")
    warn: Callable[[str], None] = lambda _line: None
    rebind_s: float = REBIND_S

    def in_use(self) -> frozenset[str]:
        """The devices of the host that VMs of this libvirt run with."""
        return frozenset().union(*(used for _, _, used in self._used()))

    def _refuse_used(self, devices: Collection[str], vm: UUID, node: str) -> None:
        """Raises HostError if another VM than this one runs with one of these devices."""
        for uuid, name, used in self._used():
            if uuid != vm and (taken := used.intersection(devices)):
                raise HostError(
                    f"the {self.what} {min(taken)} of {node} is in use by the VM {name}",
                    hint=self.client.virsh("list"),
                )

    def _used(self) -> Iterator[tuple[UUID, str, frozenset[str]]]:
        """Each VM that is on, with its devices of the host."""
        for domain in self.client.list_domains():
            if domain.state.is_on:
                yield domain.uuid, domain.name, devices_in(domain.xml)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with held_lock(self.leases / LOCK, doing=f"a lease of a {self.what}", wait_s=LOCK_S):
            yield


@dataclass(frozen=True, slots=True, kw_only=True)
class Lender(DeviceKeeper):
    """Lends PCI devices, and sees that the host gets each back with its driver."""

    def take(
        self, devices: Sequence[str], vm: UUID, *, owner: UUID, cluster: str, kind: str, node: str
    ) -> None:
        """Write a lease of each device for a VM, with the driver that it has now; safe to repeat.

        A device that an earlier run left without its driver keeps what its lease says. One that
        libvirt may be about to give back, after a VM of another user, is waited for. Raises
        HostError, and writes none, if another VM runs with one of them.
        """
        with self._locked():
            self._refuse_used(devices, vm, node)
            if any(map(self._is_in_passing, devices)):
                self._wait_for_drivers(devices)
                self._refuse_used(devices, vm, node)
            for device in devices:
                lease = Lease(
                    device=device,
                    owner=owner,
                    cluster=cluster,
                    kind=kind,
                    node=node,
                    driver=self._driver_before(device),
                    host=self.client.uri,
                    boot=read_boot(self.machine),
                    taken_at=datetime.now(UTC),
                )
                write_lease(self.leases, lease)

    def leases_of(self, owner: UUID, node: str | None = None) -> tuple[Lease, ...]:
        """The leases of a cluster, or of one node of it."""
        return tuple(
            lease
            for lease in read_leases(self.leases)
            if lease.owner == owner and node in (None, lease.node)
        )

    def give_back(self, lease: Lease) -> None:
        """See that the host has a device with the driver that it had; then remove its lease.

        Nothing is done while a VM runs with it, or if another cluster has leased it since. A device
        that libvirt does not give back keeps its lease, and a line says what to do. Raises
        LibvirtError if it is not known which VMs run.
        """
        with self._locked():
            if find_lease(self.leases, lease.device) != lease or lease.device in self.in_use():
                return
            if self._is_back(lease):
                remove_lease(self.leases, lease)

    def forget(self, lease: Lease) -> None:
        """Remove the lease of a device that was left, if somebody has bound it since."""
        with self._locked():
            is_same = find_lease(self.leases, lease.device) == lease
            if is_same and read_driver(self.machine, lease.device) != lease.left_with:
                remove_lease(self.leases, lease)

    def _is_back(self, lease: Lease) -> bool:
        """Whether its lease has served: the device is back, or the host did another thing to it."""
        if lease.boot != read_boot(self.machine) or not is_there(self.machine, lease.device):
            return True
        if not self._comes_back(lease):
            try:
                self.client.reattach_device(lease.device)
            except LibvirtError as error:
                self.warn(f"{lease.device} was not given back: {error.brief}")
            else:
                self._comes_back(lease)
        now = read_driver(self.machine, lease.device)
        if now == lease.driver:
            return True
        advice = rebind_command(lease, now)
        self.warn(f"{describe_lost(lease, now)}; to give it back: {advice}")
        if now not in _IN_NOBODYS_HANDS:
            return True
        write_lease(self.leases, lease.model_copy(update={"is_left": True, "left_with": now}))
        return False

    def _comes_back(self, lease: Lease) -> bool:
        """Whether it has its driver within a moment, or another one of the host."""

        def has_one() -> bool:
            now = read_driver(self.machine, lease.device)
            return now == lease.driver or now not in _IN_NOBODYS_HANDS

        with suppress(DeadlineError):
            return wait_until(
                has_one, Deadline.after(self.rebind_s), f"the driver of {lease.device}"
            )
        return False

    def _driver_before(self, device: str) -> str | None:
        now, known = read_driver(self.machine, device), self._find_known(device)
        return known.driver if known and now in _IN_NOBODYS_HANDS else now

    def _find_known(self, device: str) -> Lease | None:
        """The lease of a device, if it is of this boot of the host."""
        known = find_lease(self.leases, device)
        return known if known and known.boot == read_boot(self.machine) else None

    def _is_in_passing(self, device: str) -> bool:
        """Whether libvirt may have given a device to vfio-pci, for a VM that we do not see on.

        libvirt sets the override of the driver, and clears it when it gives the device back. A
        device that has vfio-pci by its number (`vfio-pci.ids`) has none, and driverctl keeps its
        own in a file. A device that libvirt finds with vfio-pci stays there after the VM.
        """
        if read_driver(self.machine, device) != VFIO or self._find_known(device):
            return False
        is_overridden = read_text(self.machine / DEVICES / device / "driver_override") == VFIO
        return is_overridden and read_text(self.machine / _DRIVERCTL / f"pci-{device}") != VFIO

    def _wait_for_drivers(self, devices: Sequence[str]) -> None:
        """Give libvirt a moment; what has vfio-pci after that has it by the host's own doing."""
        with suppress(DeadlineError):
            wait_until(
                lambda: not any(map(self._is_in_passing, devices)),
                Deadline.after(self.rebind_s),
                f"the drivers of {', '.join(devices)}",
            )


def read_driver(machine: Path, device: str) -> str | None:
    """The driver that a device is bound to; None if there is none."""
    return link_name(machine / DEVICES / device / "driver")


def is_there(machine: Path, device: str) -> bool:
    return (machine / DEVICES / device).exists()


def read_boot(machine: Path) -> str:
    """The id of the host's boot; empty where it cannot be read."""
    return read_text(machine / _BOOT_ID) or ""


def describe_lost(lease: Lease, now: str | None) -> str:
    """What is wrong with a device that is not back."""
    has = f"the driver {now}" if now else "no driver"
    had = f"it had {lease.driver}" if lease.driver else "it had none"
    return f"{lease.device} has {has}; before {lease.node} of {lease.cluster} got it, {had}"


def rebind_command(lease: Lease, now: str | None) -> str:
    """The command that gives a device the driver of its lease, without libvirt."""
    there, device = f"/sys/bus/pci/devices/{lease.device}", lease.device
    override = f"{there}/driver_override"
    parts = [f"echo {device} | sudo tee {there}/driver/unbind"] if now else []
    if lease.driver:
        parts += [
            f"echo {shlex.quote(lease.driver)} | sudo tee {override}",
            f"echo {device} | sudo tee /sys/bus/pci/drivers_probe",
            f"echo | sudo tee {override}",
        ]
    return " && ".join(parts)
