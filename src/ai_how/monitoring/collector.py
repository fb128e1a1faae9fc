"""Asks all sources of a cluster, each at its own interval, and makes one snapshot of the answers.

A source that hangs makes a gap with a reason, and delays no other one. Nothing here writes.
"""

import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from ai_how.errors import HostError
from ai_how.guest.agent import GuestAgent
from ai_how.libvirt_client.vm_state import VmState
from ai_how.monitoring.faults import FaultSource
from ai_how.monitoring.ground import Ground, GroundSource, Line
from ai_how.monitoring.guest_source import GUEST_S, GuestSource
from ai_how.monitoring.host_source import DiskSample, HostSource, look_at_disks
from ai_how.monitoring.job_use import JobLedger
from ai_how.monitoring.lanes import Asked, Lane
from ai_how.monitoring.model import (
    Fault,
    GuestSample,
    HostSample,
    NodeSample,
    SlurmSample,
    Snapshot,
    VmSample,
)
from ai_how.monitoring.vm_source import STATS_S, VmSource, absent
from ai_how.monitoring.watched import Judge, NodeNeeds, Watched
from ai_how.state.lock import read_holder
from ai_how.state.models import NodeState
from ai_how.waiting import Deadline

T = TypeVar("T")

SNAPSHOT_S = 5.0
FIRST_S = 2.0
"""The first snapshot does not wait longer than this for the host and libvirt."""
TICK_S = 0.5
SHARE = 0.1
"""Guests and their software are asked less often if they would be busy with us for longer."""
GUEST_THREADS = 3
WORKLOAD_S = 45.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Intervals:
    """How often each source is asked, in seconds."""

    host: float = 5.0
    disks: float = 15.0
    guest: float = 10.0
    """A shell in the guest, which reads files."""
    guest_all: float = 30.0
    """Also programs: systemctl, nvidia-smi."""
    workload: float = 10.0
    faults: float = 60.0
    """A few programs of the host."""

    @classmethod
    def of(cls, *, is_kvm: bool | None) -> "Intervals":
        """What guests bear: an emulated one is ten to twenty times slower."""
        return cls() if is_kvm else cls(guest=15.0, guest_all=60.0, workload=15.0)


@dataclass(slots=True)
class _Guest:
    """A node as a source."""

    node: NodeState
    asked: Asked[GuestSample]
    source: GuestSource
    noted: GuestSample | None = None  # whose jobs are in the ledger: each answer is noted once


class Collector:
    """Watches one cluster until it is closed. Used by one thread, which runs `rounds`."""

    def __init__(
        self,
        watched: Watched,
        *,
        judge: Judge | None = None,
        line: Line | None = None,
        host: HostSource | None = None,
        intervals: Intervals | None = None,
        guest_threads: int = GUEST_THREADS,
    ) -> None:
        """`judge` finds what is wrong, instead of the rules of the kind.

        Without `intervals` they are those of KVM or emulation.
        """
        self._watched, self._judge = watched, judge or watched.new_judge()
        self._line, self._fixed = line or Line(), intervals
        self._intervals = intervals or Intervals.of(is_kvm=None)
        self._ledger = JobLedger()
        self._workload = watched.new_workload() if watched.new_workload else None
        self._vm_source: tuple[object, VmSource] | None = None
        self._guests: dict[str, _Guest] = {}
        self._is_gone = False
        times = self._intervals
        self._ground = Asked[Ground | None](
            "cluster", GroundSource(watched).look, every_s=times.host, deadline_s=10
        )
        self._host = Asked[HostSample](
            "host", (host or HostSource()).look, every_s=times.host, deadline_s=5
        )
        self._disks = Asked[DiskSample](
            "disks", self._look_at_disks, every_s=times.disks, deadline_s=10
        )
        self._vms = Asked[Mapping[str, VmSample]](
            "libvirt", self._look_at_vms, every_s=times.host, deadline_s=2 * STATS_S
        )
        self._fault_source = FaultSource(watched.paths)
        self._faults = Asked[tuple[Fault, ...]](
            "faults", self._look_for_faults, every_s=times.faults, deadline_s=20
        )
        self._work = Asked[SlurmSample](
            self._workload.name if self._workload else "workload",
            self._look_at_workload,
            every_s=times.workload,
            deadline_s=WORKLOAD_S,
            share=SHARE,
        )
        alone = ("cluster", "host", "disks", "libvirt", "faults", "workload")
        self._lanes = {name: Lane(name) for name in alone}
        self._lanes["guests"] = Lane("guests", guest_threads)

    @property
    def is_gone(self) -> bool:
        """Whether the cluster does not exist, or no longer."""
        return self._is_gone

    def rounds(self, stop: threading.Event, *, every_s: float = SNAPSHOT_S) -> Iterator[Snapshot]:
        """A snapshot as soon as the host and libvirt have answered, and then every few seconds."""
        first, following = time.monotonic() + FIRST_S, 0.0
        while not stop.is_set():
            self._ask()
            now = time.monotonic()
            is_first = not following and (now >= first or self._has_looked(1))
            if is_first or (following and now >= following):
                following = max(following + every_s, now + every_s / 2) if following else now + 1.0
                yield self.snapshot()
            stop.wait(TICK_S)

    def once(self, *, within_s: float) -> Snapshot:
        """Ask everything once, and libvirt and the host twice: rates need two looks."""
        deadline, stop = Deadline.after(within_s), threading.Event()
        while not deadline.has_passed:
            self._ask()
            if self._is_gone or (self._has_looked(2) and self._has_settled()):
                break
            stop.wait(min(TICK_S / 4, deadline.remaining_s))
        for source in self._sources():
            source.give_up(f"no answer within {within_s:g} s")
        return self.snapshot()

    def close(self) -> None:
        """Ask no more. A call that hangs is left to itself."""
        for lane in self._lanes.values():
            lane.close()
        if not self._vms.is_out:
            if self._vm_source:
                self._vm_source[1].close()
            self._line.close()

    def snapshot(self) -> Snapshot:
        """What is known now."""
        ground = self._ground.value
        if ground is None:
            return self._without_state()
        slurm = self._joined()
        found = Snapshot(
            at=round(time.time(), 3),
            cluster=self._watched.name,
            kind=ground.state.kind,
            host_uri=ground.state.host_uri,
            sources=tuple(one.state() for one in self._sources()),
            host=self._host_sample(ground),
            network=str(ground.state.network.subnet),
            nodes=tuple(self._node(one, ground, slurm) for one in ground.state.nodes),
            slurm=slurm,
            faults=self._faults.value or (),
            is_up=ground.uri is not None,
            doing=read_holder(self._watched.paths.lock),
        )
        return replace(found, findings=self._judge(found))

    def _without_state(self) -> Snapshot:
        """A cluster that does not exist, or could not be read yet."""
        cluster = self._ground.state()
        if self._is_gone:
            cluster = replace(cluster, trouble="the cluster does not exist: it was destroyed")
        return Snapshot(
            at=round(time.time(), 3),
            cluster=self._watched.name,
            kind=self._watched.kind,
            host_uri="",
            sources=(cluster, self._host.state()),
            host=self._host.value,
            is_up=False,
        )

    def _sources(self) -> Iterator[Asked[Any]]:
        yield from (self._ground, self._host, self._vms, self._disks, self._faults)
        if self._workload:
            yield self._work
        yield from (one.asked for one in self._guests.values())

    # What is asked, and when

    def _ask(self) -> None:
        """Have every source asked that is due."""
        self._begin("cluster", self._ground)
        self._begin("host", self._host)
        ground = self._ground.value
        self._is_gone = ground is None and self._ground.trouble is None and self._ground.times > 0
        if ground is None:
            return
        self._follow(ground)
        if ground.uri is None:
            self._vms.value = None
        self._begin("libvirt", self._vms)
        self._begin("disks", self._disks)
        if self._vms.times > 0 or ground.uri is None:  # it uses what reached libvirt
            self._begin("faults", self._faults)
        for one in (self._host, self._vms):
            if one.times == 1:
                one.hurry(1.0)  # rates need two looks
        if self._workload:
            self._begin_workload(ground)
        for guest in self._guests.values():
            self._begin_guest(guest.node, guest.asked)

    def _begin(self, lane: str, source: "Asked[T]") -> None:
        if source.is_due:
            self._lanes[lane].ask(source)

    def _begin_workload(self, ground: Ground) -> None:
        head = self._workload.head_of(ground.state) if self._workload else None
        if head is None:
            self._work.cannot("no node of the cluster has its software", forget=True)
            return
        why, is_off = self._why_silent(head)
        if why:
            self._work.cannot(f"{head.name}: {why}", forget=is_off)
        else:
            self._begin("workload", self._work)

    def _begin_guest(self, node: NodeState, source: "Asked[GuestSample]") -> None:
        why, is_off = self._why_silent(node)
        if why:
            source.cannot(why, forget=is_off)
        else:
            self._begin("guests", source)

    def _why_silent(self, node: NodeState) -> tuple[str | None, bool]:
        """Why a guest cannot be asked now, and whether it does not run at all."""
        if trouble := self._vms.trouble:
            return f"libvirt: {trouble}", self._vms.value is None
        vm = (self._vms.value or {}).get(node.name)
        if vm is None:
            return "libvirt has not told yet whether it runs", False
        state = VmState(vm.state)
        if state is not VmState.RUNNING:
            return f"its VM is {vm.state.replace('_', ' ')} ({vm.reason})", not state.is_on
        if not vm.is_agent_connected:
            return "its guest agent is not connected", False
        return None, False

    def _follow(self, ground: Ground) -> None:
        """Watch the nodes that the cluster has now, as often as they bear it."""
        if self._fixed is None:
            self._intervals = Intervals.of(is_kvm=self._is_kvm(ground))
        self._work.every_s = self._intervals.workload
        names = {str(one.uuid) for one in ground.state.nodes}
        for uuid in self._guests.keys() - names:
            del self._guests[uuid]
        for node in ground.state.nodes:
            guest = self._guests.get(str(node.uuid))
            if guest is None:
                guest = self._guests[str(node.uuid)] = self._new_guest(node, ground)
            guest.asked.every_s = self._intervals.guest
            guest.source.all_every_s = self._intervals.guest_all

    def _new_guest(self, node: NodeState, ground: Ground) -> _Guest:
        needs = self._workload.needs_of(ground.state, node) if self._workload else NodeNeeds()
        source = GuestSource(needs, all_every_s=self._intervals.guest_all)
        asked = Asked[GuestSample](
            f"guest/{node.name}",
            lambda: source.look(self._agent_of(node)),
            every_s=self._intervals.guest,
            deadline_s=GUEST_S,
            share=SHARE,
        )
        return _Guest(node, asked, source)

    def _is_kvm(self, ground: Ground) -> bool | None:
        told = self._vm_source[1].is_kvm if self._vm_source else None
        return ground.has_kvm if told is None else told

    def _has_looked(self, times: int) -> bool:
        """Whether the host and libvirt were asked so often."""
        return self._host.times >= times and self._vms.times >= times

    def _has_settled(self) -> bool:
        """Whether every source was asked, or cannot be."""
        rest: list[Asked[Any]] = [
            self._disks,
            self._faults,
            *(one.asked for one in self._guests.values()),
        ]
        if self._workload:
            rest.append(self._work)
        return all(one.times > 0 or (one.trouble and not one.is_out) for one in rest)

    # The looks, each on a thread of its lane

    def _look_at_disks(self) -> DiskSample:
        return look_at_disks(self._known().state)

    def _look_for_faults(self) -> tuple[Fault, ...]:
        ground = self._known()
        place = self._watched.place(ground.state)
        client = self._line.client if ground.uri is not None else None
        if client is None and ground.uri is not None:
            raise HostError("there is no connection to libvirt")
        return self._fault_source.look(ground.state, place, client)

    def _look_at_vms(self) -> Mapping[str, VmSample]:
        ground = self._known()
        client = self._line.reach(ground)
        if self._vm_source is None or self._vm_source[0] is not client:
            self._vm_source = client, VmSource(client)
        return self._vm_source[1].look(ground.state.nodes)

    def _look_at_workload(self) -> SlurmSample:
        state = self._known().state
        head = self._workload.head_of(state) if self._workload else None
        if head is None or self._workload is None:
            raise HostError("no node of the cluster has its software")
        return self._workload.look(self._agent_of(head), Deadline.after(WORKLOAD_S))

    def _agent_of(self, node: NodeState) -> GuestAgent:
        client = self._line.client
        if client is None:
            raise HostError("there is no connection to libvirt")
        return GuestAgent(client, node.uuid, node.name)

    def _known(self) -> Ground:
        ground = self._ground.value
        if ground is None:
            raise HostError("the cluster does not exist")
        return ground

    # The answers, put together

    def _host_sample(self, ground: Ground) -> HostSample | None:
        host, disks = self._host.value, self._disks.value
        if host is None:
            return None
        return replace(host, storage=disks.storage if disks else None, is_kvm=self._is_kvm(ground))

    def _joined(self) -> SlurmSample | None:
        for guest in self._guests.values():
            if (answer := guest.asked.value) and answer is not guest.noted:
                self._ledger.note(guest.node.name, answer.jobs)
                guest.noted = answer
        slurm = self._work.value
        if slurm is None:
            return None
        self._ledger.forget_all_but(one.id for one in slurm.jobs)
        return self._ledger.joined(slurm)

    def _node(self, node: NodeState, ground: Ground, slurm: SlurmSample | None) -> NodeSample:
        guest = self._guests.get(str(node.uuid))
        known = slurm.nodes if slurm else ()
        return NodeSample(
            name=node.name,
            role=node.role.value,
            ip=str(node.ip),
            auto_start=node.auto_start,
            vm=self._vm(node, ground),
            guest=guest.asked.value if guest else None,
            slurm=next((one for one in known if one.name == node.name), None),
        )

    def _vm(self, node: NodeState, ground: Ground) -> VmSample | None:
        if ground.uri is None:
            vm: VmSample | None = absent(node, VmState.SHUT_OFF, "the embedded host is down")
        else:
            vm = (self._vms.value or {}).get(node.name)
        disks = self._disks.value
        if vm is None or disks is None:
            return vm
        return replace(vm, disk_used_bytes=disks.used_bytes.get(node.name))
