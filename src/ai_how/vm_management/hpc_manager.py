"""The conductor: a cluster's start, stop, status and destroy, and the ways into its nodes."""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ai_how.errors import HostError, StateError
from ai_how.guest.agent import GuestAgent, GuestResult
from ai_how.host.place import HostPlace, find_place
from ai_how.plan.journal import Journal, OnBoundary
from ai_how.plan.observer import Observer
from ai_how.plan.step import Plan
from ai_how.spec.models import ClusterFile
from ai_how.state.cluster_state import read_state, remove_state
from ai_how.state.every_cluster import read_every_state
from ai_how.state.lock import held_lock
from ai_how.state.models import ClusterState, NodeState
from ai_how.state.paths import ClusterPaths, Roots, ensure_private_directory
from ai_how.vm_management.clearing import (
    clear_directory,
    keep_source,
    prepare_backups,
    read_tail,
    release_host,
)
from ai_how.vm_management.hpc_plan import STEP_TYPES, plan_destroy, plan_stop
from ai_how.vm_management.hpc_status import ClusterStatus, status_of
from ai_how.vm_management.libvirt_client import LibvirtClient
from ai_how.vm_management.libvirt_console import Console
from ai_how.vm_management.observed import Observed, existing_disks, observe
from ai_how.vm_management.world import Patience
from ai_how.waiting import Deadline

if TYPE_CHECKING:
    from ai_how.vm_management.carrying import Carrier

MAX_CALLS = 8
LOG_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class HpcManager:
    """One cluster by its name. Each verb raises an AiHowError whose exit code says how it ended."""

    roots: Roots
    name: str
    connect: str | None = None
    observer: Observer = field(default_factory=Observer)
    say: Callable[[str], None] = lambda _line: None
    patience: Patience = field(default_factory=Patience)
    on_boundary: OnBoundary | None = None

    @property
    def paths(self) -> ClusterPaths:
        return self.roots.cluster(self.name)

    def find_state(self) -> ClusterState | None:
        return read_state(self.paths)

    def get_state(self) -> ClusterState:
        """What is remembered. Raises StateError with the clusters that there are.

        Raises LockedError while the first start is under way.
        """
        if state := self.find_state():
            return state
        if self._is_half_made():
            with held_lock(self.paths.lock, doing=f"a look at {self.name}"):
                pass
            raise StateError(
                f"the first start of {self.name} was cut short",
                details="What it had made is still there.",
                hint=f"ai-how hpc destroy --cluster {self.name}  # or hpc start, which undoes it",
            )
        there = ", ".join(read_every_state(self.roots)) or "none"
        raise StateError(
            f"there is no cluster {self.name}",
            details=f"clusters of this user: {there}",
            hint="ai-how hpc start",
        )

    def place(self, asked: str | None = None) -> HostPlace:
        """Where the cluster is, or (before it is there) where it will be.

        Raises HostError where `connect` is another host than the one that has the cluster.
        """
        there = self._remembered_host()
        if there and self.connect not in (None, "auto", there):
            raise HostError(
                f"the cluster {self.name} is on {there}, not on {self.connect}",
                hint=f"ai-how --connect {there} …  # or without --connect and AI_HOW_CONNECT",
            )
        return find_place(there or self.connect or asked or "auto", self.roots)

    def start(
        self,
        spec: ClusterFile,
        *,
        source: Path | None = None,
        only: Collection[str] = (),
        dry_run: bool = False,
        keep_on_failure: bool = False,
    ) -> Plan:
        """Bring the cluster up, and return what that took: an empty plan where it was up.

        `source` is the file that `spec` was read from; a copy of it is kept with the state.
        With `dry_run` nothing is changed but for the embedded host, which is started to be asked.
        """
        from ai_how.vm_management.starting import prepare_start  # noqa: PLC0415  as below

        place = self.place(spec.host.uri)
        with self._locked("start", place) as carrier:
            # Whoever chooses a subnet next must see ours, which the journal holds until it is made.
            with held_lock(self.roots.host_lock, doing=f"hpc start of {self.name}", wait_s=60):
                client = carrier.client
                start = prepare_start(spec, self.roots, place, client, self.say, only=only)
                if dry_run or not start.plan.steps:
                    return start.plan
                journal = carrier.journal(start.plan, start.draft.state)
            carrier.bring_up(start, journal, keep_on_failure=keep_on_failure)
            keep_source(source, self.paths)
            return start.plan

    def stop(self, *, only: Collection[str] = ()) -> Plan:
        """Turn the cluster, or these nodes of it, off. What is off already is left out.

        A first start that was cut short is undone, which leaves nothing to turn off.
        """
        place = self.place()
        if not self._is_half_made():
            self.get_state()
            if not place.is_up:
                return Plan("stop", ())
        with self._locked("stop", place) as carrier:
            state = self.find_state()
            if state is None:  # what a dead run had left was set right, and that was all of it
                return Plan("stop", ())
            plan = plan_stop(state, observe(carrier.client, state), only=only)
            carrier.carry_on(plan, state, only=list(only))
            return plan

    def destroy(self, *, backups: Path | None = None) -> Plan:
        """Leave nothing of the cluster: VMs, disks, network, keys, state."""
        place, plan = self.place(), Plan("destroy", ())
        if not self.paths.is_used:
            return plan
        with self._locked("destroy", place) as carrier:
            if state := self.find_state():
                observe(carrier.client, state, ask_slurm=False)
                plan = plan_destroy(state, backups=backups)
                if backups:
                    prepare_backups(backups, plan)
                carrier.carry_on(plan, state, backups=str(backups) if backups else None)
                remove_state(self.paths)
            clear_directory(self.paths)
        release_host(place, self.roots)
        return plan

    def status(self) -> ClusterStatus:
        """Ask libvirt and SLURM; takes no lock and changes nothing."""
        state, place = self.get_state(), self.place()
        if not place.is_up:
            return status_of(state, Observed(disks=existing_disks(state), host_is_down=True), {})
        with LibvirtClient(place.uri, max_calls=MAX_CALLS) as client:
            seen = observe(client, state)
            return status_of(state, seen, client.stats(seen.domains))

    def run_in(self, node: NodeState, argv: Sequence[str], *, timeout_s: float) -> GuestResult:
        """Run a program on a node by its guest agent."""
        with self._asking() as client:
            return GuestAgent(client, node.uuid, node.name).run(argv, Deadline.after(timeout_s))

    def read_log(self, node: NodeState, *, lines: int, serial: bool) -> str:
        """The end of a node's journal; of its serial line where that is asked, or all there is."""
        if not serial and self.place().is_up:
            with self._asking() as client:
                if client.is_agent_connected(node.uuid):
                    words = ["journalctl", "-b", "--no-pager", "-n", str(lines)]
                    agent = GuestAgent(client, node.uuid, node.name)
                    return agent.run(words, Deadline.after(LOG_S)).output
        return read_tail(self.paths.console_log(node.name), lines)

    @contextmanager
    def console_of(self, node: NodeState) -> Iterator[Console]:
        """A node's serial line."""
        with self._asking() as client, client.open_console(node.uuid) as line:
            yield line

    def _is_half_made(self) -> bool:
        """Whether all that there is of the cluster is in the journal of its first start."""
        return self.find_state() is None and self.paths.journal.exists()

    def _remembered_host(self) -> str | None:
        """Where the cluster is; a first start that was cut short wrote it into its journal."""
        if state := self.find_state():
            return state.host_uri
        left = Journal.read(self.paths.journal, STEP_TYPES)
        return str(left.note["host"]) if left else None

    @contextmanager
    def _asking(self) -> Iterator[LibvirtClient]:
        """A client without a lock, for what changes nothing of ours."""
        place = self.place()
        if not place.is_up:
            raise HostError("the embedded host is down", hint="ai-how hpc start")
        with LibvirtClient(place.uri, max_calls=MAX_CALLS) as client:
            yield client

    @contextmanager
    def _locked(self, verb: str, place: HostPlace) -> "Iterator[Carrier]":
        """Hold the cluster's lock, have the host up, and set right what a dead run left."""
        # What only looks (status, ssh, logs) is quicker without all that changes something.
        from ai_how.vm_management.carrying import Carrier  # noqa: PLC0415

        ensure_private_directory(self.roots.state)
        ensure_private_directory(self.paths.root)
        with held_lock(self.paths.lock, doing=f"hpc {verb}"):
            place.ensure_up(self.roots)
            with LibvirtClient(place.uri, max_calls=MAX_CALLS) as client:
                carrier = Carrier(
                    roots=self.roots,
                    paths=self.paths,
                    place=place,
                    client=client,
                    observer=self.observer,
                    say=self.say,
                    patience=self.patience,
                    on_boundary=self.on_boundary,
                )
                if left := Journal.read(self.paths.journal, STEP_TYPES):
                    carrier.recover(left)
                yield carrier
