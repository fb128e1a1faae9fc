"""The verbs of a cluster, and the access to its nodes."""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ai_how.clusters.cleanup import (
    check_backups,
    check_snapshots,
    clear_directory,
    clear_lock,
    host_up,
    keep_source,
    prepare_backups,
    read_tail,
    release_host,
)
from ai_how.clusters.file_systems import asked_file_systems
from ai_how.clusters.kind import ClusterKind
from ai_how.clusters.named_nodes import no_such_cluster, require_on
from ai_how.clusters.observation import Observed, existing_disks, observe, with_host_faults
from ai_how.clusters.plans.destroy import plan_destroy
from ai_how.clusters.preflight.existing_cluster import refuse_moved
from ai_how.clusters.status import (
    ClusterStatus,
    describe_impostor,
    find_disk_problems,
    find_slurm_version,
    status_of,
)
from ai_how.errors import HostError, StateError
from ai_how.guest.agent import GuestAgent, GuestResult
from ai_how.guest.journal import read_journal
from ai_how.host.place import HypervisorHost, resolve_host, storage_of
from ai_how.libvirt_client.client import LibvirtClient
from ai_how.libvirt_client.console import Console
from ai_how.plan.journal import Journal, JournalContents, OnBoundary
from ai_how.plan.observer import Observer
from ai_how.plan.step import Plan
from ai_how.spec.document import render_default_file
from ai_how.spec.models import ClusterFile
from ai_how.state.cluster_state import read_state, remove_state
from ai_how.state.every_cluster import read_every_state
from ai_how.state.lock import held_lock
from ai_how.state.models import HPC, ClusterState, NodeState
from ai_how.state.paths import (
    ClusterPaths,
    ImagePaths,
    Roots,
    StoragePaths,
    ensure_private_directory,
)
from ai_how.vm_management.context import Timeouts
from ai_how.vm_management.disks.manager import DiskManager
from ai_how.waiting import Deadline

if TYPE_CHECKING:
    from ai_how.clusters.plan_runner import PlanRunner


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterManager:
    """A cluster, by its name. Each verb raises AiHowError, whose exit code says how it ended."""

    kind: ClusterKind
    roots: Roots
    name: str
    connect: str | None = None
    observer: Observer = field(default_factory=Observer)
    warn: Callable[[str], None] = lambda _line: None
    timeouts: Timeouts = field(default_factory=Timeouts)
    on_boundary: OnBoundary | None = None
    is_named: bool = False
    """Whether the user gave the name, and no file that has it."""
    machine: Path = Path("/")
    """Contains the /sys, /proc and /usr that tell of the host's devices."""

    @property
    def paths(self) -> ClusterPaths:
        return self.roots.cluster(self.name)

    def find_state(self) -> ClusterState | None:
        """The state, or None. Raises StateError if the cluster is of another kind."""
        state = read_state(self.paths)
        if state is not None:
            self._require_kind(state.kind)
        return state

    def get_state(self) -> ClusterState:
        """The state. Raises StateError, listing the existing clusters, if there is none.

        Raises LockedError during the first start.
        """
        if state := self.find_state():
            return state
        if self._is_half_made():
            with held_lock(self.paths.lock, doing=f"a look at {self.name}"):
                pass
            raise StateError(
                f"the first start of {self.name} was cut short",
                details="What it created still exists.",
                hint=f"ai-how {self.kind.name} destroy --cluster {self.name}  # or start it again",
            )
        self._refuse_lost()
        there = read_every_state(self.roots)
        raise no_such_cluster(self.kind.name, self.name, there, is_named=self.is_named)

    def place(self, asked: str | None = None) -> HypervisorHost:
        """The host of the cluster; before its first start, the host where it will be created.

        Raises HostError if `connect` names a host other than the cluster's.
        """
        there, kept = self._remembered_host(), self._remembered_storage()
        if there and self.connect not in (None, "auto", there):
            raise HostError(
                f"the cluster {self.name} is on {there}, not on {self.connect}",
                hint=f"ai-how --connect {there} …  # or without --connect and AI_HOW_CONNECT",
            )
        return resolve_host(there or self.connect or asked or "auto", self.roots, kept=kept)

    def start(
        self,
        spec: ClusterFile,
        *,
        source: Path | None = None,
        only: Collection[str] = (),
        dry_run: bool = False,
        keep_on_failure: bool = False,
        is_warm: bool = True,
        resumes: bool = True,
    ) -> Plan:
        """Start the cluster, and return the plan that was carried out: empty if the cluster was up.

        `source` is the file of `spec`; a copy is stored with the state. With `dry_run` only a
        killed run is cleaned up, and an embedded host that is down is started for as long as it is
        asked. Unless `is_warm`, every new node boots. Unless `resumes`, suspended nodes boot too,
        and their saved memory is lost.
        """
        from ai_how.clusters.start import StartContext, prepare_start  # noqa: PLC0415  as below

        text = source.read_text("utf-8") if source else render_default_file()
        place = self.place(spec.host.uri)
        with self._locked("start", place) as runner:
            # The next run to choose a subnet must see ours: until the network exists, it is in the
            # journal.
            with held_lock(
                self.roots.host_lock, doing=f"{self.kind.name} start of {self.name}", wait_s=60
            ):
                start = prepare_start(
                    StartContext(
                        kind=self.kind,
                        file=spec,
                        roots=self.roots,
                        place=place,
                        client=runner.client,
                        warn=self.warn,
                        only=only,
                        is_warm=is_warm,
                        resumes=resumes,
                        machine=self.machine,
                    )
                )
                if not dry_run and not start.plan.steps:
                    start.prepare_host(place)
                    start.prepare_files(self.paths, place.ssh_proxy(self.roots))
                    keep_source(text, self.paths, spec)  # a run that was killed at its end did not
                if dry_run or not start.plan.steps:
                    return start.plan
                journal = runner.journal_of(start)
            runner.bring_up(start, journal, keep_on_failure=keep_on_failure)
            keep_source(text, self.paths, spec)
            return start.plan

    def save_for_next_start(self, spec: ClusterFile, plan: Plan, *, source: Path | None) -> None:
        """Save, in the background, the VMs that a start with this `plan` could not restore.

        Does nothing if start.warm is off, or if we cannot read the memory that libvirt saves there.
        """
        from ai_how.clusters.save_machines import wants_warming, warm_in_background  # noqa: PLC0415

        if self.kind.section_of(spec).start.warm and wants_warming(plan):
            warm_in_background(self.place(), self.roots, connect=self.connect, file=source)

    def stop(
        self,
        *,
        only: Collection[str] = (),
        suspends: bool = False,
        waits_s: float | None = None,
    ) -> Plan:
        """Power off the cluster, or `only` these nodes. Nodes that are off are skipped.

        With `suspends` the memory of all nodes is saved, and the next start resumes their jobs;
        raises HostError before any change if that is impossible. With `waits_s` it first waits so
        long for running jobs. Jobs that still run are requeued if possible, and end otherwise. A
        first start that was cut short is undone instead.
        """
        place = self.place()
        if not self._is_half_made():
            self.get_state()
            if not place.is_up:
                return Plan("stop", ())
        with self._locked("stop", place) as runner:
            state = self.find_state()
            if state is None:  # only a killed first start was left, and it is undone
                return Plan("stop", ())
            return runner.stop(state, only=only, suspends=suspends, waits_s=waits_s)

    def destroy(self, *, backups: Path | None = None, snapshots_too: bool = False) -> Plan:
        """Remove the whole cluster: VMs, disks, network, keys and state.

        Raises HostError if a node has snapshots, unless `snapshots_too`, and with `backups` if a
        node is suspended. Nothing is removed before every backup is complete.
        """
        place, plan = self.place(), Plan("destroy", ())
        if self.find_state() is None and not self._is_half_made():
            self._refuse_lost()
        if not self.paths.is_used:
            # A first start that failed leaves its image, its lock, and the host running.
            if self.paths.lock.exists():
                with held_lock(self.paths.lock, doing=f"{self.kind.name} destroy"):
                    clear_lock(self.paths)
                release_host(place, self.roots)
            return plan
        with self._locked("destroy", place) as runner:
            if state := self.find_state():
                seen = observe(runner.client, state, self.kind, asks_workload=backups is not None)
                for name in seen.impostors:
                    self.warn(describe_impostor(name))
                check_snapshots(runner.client, state, seen, may_go=snapshots_too)
                stop = self.kind.plan_stop(state, seen)
                plan = plan_destroy(state, stop, seen, backups=backups)
                if backups:
                    check_backups(state, seen)
                    prepare_backups(backups, plan, kind=self.kind.name)
                runner.destroy(plan, state, backups)
                remove_state(self.paths)
            clear_directory(self.paths)
        release_host(place, self.roots)
        return plan

    def recover(self, *, user: str, from_user: str | None = None) -> tuple[ClusterState, str]:
        """Restore a state that was lost or damaged; return it, and the name of its source.

        libvirt does not know the account, so a state that is rebuilt from it gets `user`. With
        `from_user` that user's cluster is taken over.
        """
        from ai_how.clusters.recovery import recover_state  # noqa: PLC0415  as below

        place = resolve_host(self.connect or "auto", self.roots)
        for directory in (self.roots.state, self.paths.root):
            ensure_private_directory(directory)
        with (
            held_lock(self.paths.lock, doing=f"{self.kind.name} recover"),
            host_up(place, self.roots, self.warn),
            LibvirtClient(place.uri) as client,
        ):
            return recover_state(
                self.paths, place, client, kind=self.kind.name, user=user, from_user=from_user
            )

    def status(self) -> ClusterStatus:
        """Ask libvirt and the cluster's software. Takes no lock, and changes nothing."""
        state, place = self.get_state(), self.place()
        self._refuse_moved(place)
        problems = find_disk_problems(state, DiskManager(place.storage))
        version = find_slurm_version(state, ImagePaths(self.roots.images))
        if not place.is_up:
            down = Observed(disks=existing_disks(state), host_is_down=True)
            return status_of(self.kind, state, down, {}, problems, slurm_version=version)
        with _client_of(place) as client:
            seen = observe(client, state, self.kind)
            with asked_file_systems(client, seen) as file_systems:
                seen = with_host_faults(seen, state, place)
                stats = client.stats(seen.domains)
            return status_of(
                self.kind, state, seen, stats, problems, file_systems, slurm_version=version
            )

    def run_in(
        self, node: NodeState, argv: Sequence[str], *, timeout_s: float, shown: str | None = None
    ) -> GuestResult:
        """Run a program on a node through its guest agent; errors name it as `shown`."""
        with self._asking(node) as client:
            require_on(client, node, self.kind.name)
            agent = GuestAgent(client, node.uuid, node.name)
            return agent.run(argv, Deadline.after(timeout_s), shown=shown)

    def read_log(self, node: NodeState, *, lines: int, serial: bool, boot: int = 0) -> str:
        """The last lines of a node's journal; of its serial log if asked, or without an agent."""
        if not serial and self.place().is_up:
            with self._asking(node) as client:
                if client.is_agent_connected(node.uuid):
                    agent = GuestAgent(client, node.uuid, node.name)
                    return read_journal(
                        agent, kind=self.kind.name, lines=lines, boot=boot, warn=self.warn
                    )
        if not serial:
            self.warn(f"the guest agent of {node.name} does not answer; this is its serial log")
        return read_tail(self.paths.console_log(node.name), lines)

    @contextmanager
    def console_of(self, node: NodeState) -> Iterator[Console]:
        """The serial console of a node."""
        with self._asking(node) as client:
            require_on(client, node, self.kind.name)
            with client.open_console(node.uuid) as line:
                yield line

    def _require_kind(self, kind: str) -> None:
        if kind != self.kind.name:
            raise StateError(
                f"{self.name} is a cluster of the kind {kind}, not {self.kind.name}",
                details="Each kind has commands of its own.",
                hint="give the new cluster another name",
            )

    def _read_journal(self) -> JournalContents | None:
        """The journal of a killed run, or None. Raises StateError if it is of another kind."""
        if note := Journal.read_note(self.paths.journal):
            self._require_kind(note.get("kind", HPC))
        return Journal.read(self.paths.journal, self.kind.step_types)

    def _is_half_made(self) -> bool:
        """Whether the journal of its first start is all there is of the cluster."""
        return self.find_state() is None and self.paths.journal.exists()

    def _refuse_moved(self, place: HypervisorHost) -> None:
        if place.moves_with_state and (state := self.find_state()):
            refuse_moved(state, place.storage)

    def _refuse_lost(self) -> None:
        from ai_how.clusters.recovery import refuse_lost  # noqa: PLC0415  as below

        place = resolve_host(self.connect or "auto", self.roots)
        if place.is_up:
            with LibvirtClient(place.uri) as client:
                refuse_lost(client, self.paths, place, kind=self.kind.name)

    def _remembered_host(self) -> str | None:
        """The URI of the cluster's host; during a first start, from its journal."""
        if state := self.find_state():
            return state.host_uri
        left = self._read_journal()
        return str(left.note["host"]) if left else None

    def _remembered_storage(self) -> StoragePaths | None:
        """The storage of the disks; during a first start, from its journal."""
        if state := self.find_state():
            return storage_of(state.nodes[0].disk) if state.nodes else None
        left = self._read_journal()
        planned = left.note.get("state") if left else None
        return storage_of(ClusterState.model_validate(planned).nodes[0].disk) if planned else None

    @contextmanager
    def _asking(self, node: NodeState) -> Iterator[LibvirtClient]:
        """A client without a lock, for reads."""
        place = self.place()
        if not place.is_up:
            raise HostError("the embedded host is down", hint=f"ai-how {self.kind.name} start")
        with _client_of(place) as client:
            client.learn(node.uuid, node.domain_name)
            yield client

    @contextmanager
    def _locked(self, verb: str, place: HypervisorHost) -> "Iterator[PlanRunner]":
        """Hold the cluster's lock, start the host, and recover what a killed run left."""
        # Imported late, to keep read-only verbs (status, ssh, logs) fast.
        from ai_how.clusters.plan_runner import PlanRunner  # noqa: PLC0415

        self._refuse_moved(place)
        ensure_private_directory(self.roots.state)
        ensure_private_directory(self.paths.root)
        with (
            held_lock(self.paths.lock, doing=f"{self.kind.name} {verb}"),
            host_up(place, self.roots, self.warn),
            _client_of(place) as client,
        ):
            runner = PlanRunner(
                roots=self.roots,
                paths=self.paths,
                kind=self.kind,
                place=place,
                client=client,
                observer=self.observer,
                warn=self.warn,
                timeouts=self.timeouts,
                on_boundary=self.on_boundary,
                machine=self.machine,
            )
            if left := self._read_journal():
                runner.recover(left)
            runner.settle_leases()
            yield runner


def _client_of(place: HypervisorHost) -> LibvirtClient:
    return LibvirtClient(place.uri, max_calls=place.max_calls, is_kept=place.is_kept)
