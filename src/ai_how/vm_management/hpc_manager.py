"""The conductor: a cluster's start, stop, status and destroy, under its lock, with a journal."""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from uuid import UUID, uuid4

from ai_how.errors import AiHowError, HostError, StateError
from ai_how.guest.agent import GuestAgent, GuestResult
from ai_how.host.place import HostPlace, find_place
from ai_how.plan.executor import OnFailure, execute
from ai_how.plan.interrupts import Interrupts
from ai_how.plan.journal import Journal, JournalSeen, OnBoundary
from ai_how.plan.observer import Observer
from ai_how.plan.step import Plan
from ai_how.plan.undo import roll_back
from ai_how.spec.models import ClusterFile
from ai_how.state.cluster_state import read_state, remove_state, write_state
from ai_how.state.lock import held_lock
from ai_how.state.models import ClusterState, NodeState
from ai_how.state.paths import ClusterPaths, Roots, ensure_private_directory
from ai_how.vm_management.clearing import clear_directory, keep_source, read_tail, release_host
from ai_how.vm_management.disk_manager import DiskManager
from ai_how.vm_management.evidence import save_evidence
from ai_how.vm_management.hpc_plan import STEP_TYPES, plan_destroy, plan_stop
from ai_how.vm_management.hpc_status import ClusterStatus, status_of
from ai_how.vm_management.libvirt_client import LibvirtClient
from ai_how.vm_management.libvirt_console import Console
from ai_how.vm_management.observed import Observed, existing_disks, observe
from ai_how.vm_management.starting import Start, prepare_start
from ai_how.vm_management.timing import StageTimes
from ai_how.vm_management.world import Patience, World
from ai_how.waiting import Deadline

MAX_CALLS = 8
MAX_WORKERS = 64  # nearly all of them only wait for a guest


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
        """What is remembered. Raises StateError with the clusters that there are."""
        if state := self.find_state():
            return state
        there = ", ".join(self.roots.cluster_names()) or "none"
        raise StateError(
            f"there is no cluster {self.name}",
            details=f"clusters of this user: {there}",
            hint="ai-how hpc start",
        )

    def place(self, asked: str | None = None) -> HostPlace:
        """Where the cluster is, or (before it is there) where it will be."""
        state = self.find_state()
        return find_place(
            self.connect or (state.host_uri if state else asked or "auto"), self.roots
        )

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
        place = self.place(spec.host.uri)
        with self._locked("start", place) as client:
            # Whoever chooses a subnet next must see ours, which the journal holds until it is made.
            with held_lock(self.roots.host_lock, doing=f"hpc start of {self.name}", wait_s=60):
                start = prepare_start(spec, self.roots, place, client, self.say, only=only)
                if dry_run or not start.plan.steps:
                    return start.plan
                journal = self._journal(start.plan, start.draft.state)
            self._bring_up(start, journal, place, client, keep_on_failure=keep_on_failure)
            keep_source(source, self.paths)
            return start.plan

    def stop(self, *, only: Collection[str] = ()) -> Plan:
        """Turn the cluster, or these nodes of it, off. What is off already is left out."""
        place, state = self.place(), self.get_state()
        if not place.is_up:
            return Plan("stop", ())
        with self._locked("stop", place) as client:
            plan = plan_stop(state, observe(client, state), only=only)
            self._carry_on(plan, state, place, client, only=list(only))
            return plan

    def destroy(self, *, backups: Path | None = None) -> Plan:
        """Leave nothing of the cluster: VMs, disks, network, keys, state."""
        place, plan = self.place(), Plan("destroy", ())
        with self._locked("destroy", place) as client:
            if state := self.find_state():
                if backups:
                    ensure_private_directory(backups)
                observe(client, state, ask_slurm=False)
                plan = plan_destroy(state, backups=backups)
                where = str(backups) if backups else None
                self._carry_on(plan, state, place, client, backups=where)
                remove_state(self.paths)
            clear_directory(self.paths, keep_evidence=False)
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

    def run_in(self, node: NodeState, argv: Sequence[str], *, timeout_s: float = 60) -> GuestResult:
        """Run a program on a node by its guest agent."""
        with self._asking() as client:
            agent = GuestAgent(client, node.uuid, node.name)
            return agent.run(argv, Deadline.after(timeout_s))

    def read_log(self, node: NodeState, *, lines: int, serial: bool) -> str:
        """The end of a node's journal; of its serial line where that is asked, or all there is."""
        if not serial and self.place().is_up:
            with self._asking() as client:
                if client.is_agent_connected(node.uuid):
                    words = ["journalctl", "-b", "--no-pager", "-n", str(lines)]
                    agent = GuestAgent(client, node.uuid, node.name)
                    return agent.run(words, Deadline.after(60)).output
        return read_tail(self.paths.console_log(node.name), lines)

    @contextmanager
    def console_of(self, node: NodeState) -> Iterator[Console]:
        """A node's serial line."""
        with self._asking() as client, client.open_console(node.uuid) as line:
            yield line

    @contextmanager
    def _asking(self) -> Iterator[LibvirtClient]:
        """A client without a lock, for what changes nothing of ours."""
        place = self.place()
        if not place.is_up:
            raise HostError("the embedded host is down", hint="ai-how hpc start")
        with LibvirtClient(place.uri, max_calls=MAX_CALLS) as client:
            yield client

    @contextmanager
    def _locked(self, verb: str, place: HostPlace) -> Iterator[LibvirtClient]:
        """Hold the cluster's lock, have the host up, and finish what a dead run left."""
        ensure_private_directory(self.roots.state)
        ensure_private_directory(self.paths.root)
        with held_lock(self.paths.lock, doing=f"hpc {verb}"):
            place.ensure_up(self.roots)
            with LibvirtClient(place.uri, max_calls=MAX_CALLS) as client:
                if left := Journal.read(self.paths.journal, STEP_TYPES):
                    self._recover(left, place, client)
                yield client

    def _recover(self, left: JournalSeen, place: HostPlace, client: LibvirtClient) -> None:
        """Undo a start that was cut short; carry a stop or destroy that was on to its end."""
        state = self.find_state()
        if left.verb == "start" and (state is None or state.serial == left.note["serial"]):
            self.say(f"undoing the start that was cut short (process {left.pid})")
            cluster_id = UUID(left.note["cluster_id"])
            with Interrupts() as interrupts:
                world = self._world(cluster_id, place, client, interrupts)
                roll_back(left, world, observer=self.observer, interrupts=interrupts)
            return
        with Journal.reopen(left) as journal:
            journal.close()
        if state is None or left.verb == "start":
            return
        self.say(f"carrying on the {left.verb} that was cut short (process {left.pid})")
        if left.verb == "stop":
            only = left.note["only"]
            plan = plan_stop(state, observe(client, state), only=only)
            self._carry_on(plan, state, place, client, only=only)
        else:
            where = left.note["backups"]
            plan = plan_destroy(state, backups=Path(where) if where else None)
            self._carry_on(plan, state, place, client, backups=where)
            remove_state(self.paths)

    def _bring_up(
        self,
        start: Start,
        journal: Journal,
        place: HostPlace,
        client: LibvirtClient,
        *,
        keep_on_failure: bool,
    ) -> None:
        """Carry the start out and remember it, or undo it and leave the evidence."""
        state, is_new = start.draft.state, self.find_state() is None
        times = StageTimes(self.observer)
        with journal, Interrupts() as interrupts:
            world = replace(
                self._world(state.lineage, place, client, interrupts),
                images=start.images,
                identities=start.identities,
            )
            try:
                start.prepare_files(self.paths, place.ssh_proxy(self.roots))
                execute(
                    start.plan,
                    world,
                    journal,
                    observer=times,
                    interrupts=interrupts,
                    workers=min(MAX_WORKERS, len(start.plan.steps)),
                    on_failure=OnFailure.KEEP if keep_on_failure else OnFailure.UNDO,
                    evidence=partial(save_evidence, world, state, self.say),
                )
            except AiHowError:
                if keep_on_failure:
                    write_state(self.paths, times.remembered(state))
                elif is_new and not self.paths.journal.exists():
                    clear_directory(self.paths, keep_evidence=True)
                raise
            write_state(self.paths, times.remembered(state))
            journal.close()

    def _carry_on(
        self,
        plan: Plan,
        state: ClusterState,
        place: HostPlace,
        client: LibvirtClient,
        **note: object,
    ) -> None:
        """Carry a stop or destroy out: a step that fails keeps only those that need it back."""
        if not plan.steps:
            return
        with self._journal(plan, state, **note) as journal, Interrupts() as interrupts:
            execute(
                plan,
                self._world(state.lineage, place, client, interrupts),
                journal,
                observer=self.observer,
                interrupts=interrupts,
                workers=min(MAX_WORKERS, len(plan.steps)),
                on_failure=OnFailure.GO_ON,
            )
            journal.close()

    def _journal(self, plan: Plan, state: ClusterState, **note: object) -> Journal:
        return Journal.create(
            self.paths.journal,
            verb=plan.verb,
            op_id=uuid4(),
            cluster=self.name,
            note={
                "cluster_id": str(state.lineage),
                "serial": state.serial,
                "host": state.host_uri,
                "subnet": str(state.network.subnet),
                "bridge": state.network.bridge,
                **note,
            },
            on_boundary=self.on_boundary,
        )

    def _world(
        self, cluster_id: UUID, place: HostPlace, client: LibvirtClient, wishes: Interrupts
    ) -> World:
        return World(
            cluster_id=cluster_id,
            paths=self.paths,
            client=client,
            disks=DiskManager(place.storage),
            stop=wishes.stop,
            patience=self.patience,
        )
