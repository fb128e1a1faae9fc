"""Executes the plans of one cluster with a journal, and recovers from killed runs."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from uuid import UUID, uuid4

from ai_how.clusters.cleanup import drop_backups, forget
from ai_how.clusters.diagnosis.evidence import save_evidence
from ai_how.clusters.kind import ClusterKind
from ai_how.clusters.leases import settle_leases
from ai_how.clusters.observation import learn_names, observe
from ai_how.clusters.past_starts import find_past_start, remember_start
from ai_how.clusters.plans.destroy import plan_destroy
from ai_how.clusters.plans.suspend import plan_suspend
from ai_how.clusters.preflight.capacity import check_memory_fits
from ai_how.clusters.stage_times import StageTimes
from ai_how.clusters.start import PreparedStart
from ai_how.clusters.told_nodes import after_undo, before_steps
from ai_how.clusters.watching import unwatch
from ai_how.errors import AiHowError
from ai_how.guest.serial_log import mark_consoles
from ai_how.host.place import HypervisorHost
from ai_how.host.ports import close_ports
from ai_how.libvirt_client.client import LibvirtClient
from ai_how.plan.executor import AfterFailure, OnFailure, execute
from ai_how.plan.interrupts import Interrupts
from ai_how.plan.journal import Journal, JournalContents, OnBoundary
from ai_how.plan.observer import Observer, notify
from ai_how.plan.step import Plan, Step
from ai_how.plan.time_left import TimeLeft
from ai_how.plan.undo import roll_back
from ai_how.state.cluster_state import read_state, remove_state, write_state
from ai_how.state.leases import read_leases, read_vgpu_leases
from ai_how.state.models import ClusterState
from ai_how.state.paths import ClusterPaths, Roots
from ai_how.vm_management.context import PlanContext, Timeouts
from ai_how.vm_management.disks.manager import DiskManager
from ai_how.vm_management.lending import Lender
from ai_how.vm_management.networks.host_networks import HostNetworks
from ai_how.vm_management.vgpus import VgpuMaker

MAX_WORKERS = 64  # nearly all of them only wait for guests

# libvirtd finishes a call even if its caller was killed.
SETTLE_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRunner:
    """One cluster on one host, during a command that holds the cluster's lock."""

    roots: Roots
    paths: ClusterPaths
    kind: ClusterKind
    place: HypervisorHost
    client: LibvirtClient
    observer: Observer
    warn: Callable[[str], None]
    timeouts: Timeouts
    on_boundary: OnBoundary | None = None
    machine: Path = Path("/")

    def settle_leases(self) -> None:
        """Give back the devices of VMs that do not run, as a crash or a kill leaves them.

        Their vGPUs are removed.
        """
        if not read_leases(self.roots.leases) and not read_vgpu_leases(self.roots.leases):
            return
        lender = Lender(
            leases=self.roots.leases,
            client=self.client,
            machine=self.machine,
            warn=self.warn,
            rebind_s=self.timeouts.rebind_s,
        )
        state = read_state(self.paths)
        maker = VgpuMaker(
            leases=self.roots.leases, client=self.client, machine=self.machine, warn=self.warn
        )
        settle_leases(lender, maker, self.roots, state.lineage if state else None)

    def recover(self, left: JournalContents) -> None:
        """Undo a start that was cut short; continue a stop or destroy."""
        state = read_state(self.paths)
        # A lower serial means that the state is a backup, which is older than this start.
        is_remembered = state is not None and state.serial > left.note["serial"]
        if left.verb == "start" and not is_remembered and not left.is_over:
            self._end_start(left, is_known=state is not None)
            return
        with Journal.reopen(left) as journal:
            journal.close()
        if state is None or left.verb == "start":
            return
        self.warn(f"continuing the {left.verb} that was cut short (process {left.pid})")
        if left.verb == "stop":
            only, suspends = left.note["only"], left.note.get("suspends", False)
            self.stop(state, only=only, suspends=suspends, is_begun=True)
        else:
            where = Path(left.note["backups"]) if left.note["backups"] else None
            seen = observe(self.client, state, self.kind, asks_workload=where is not None)
            stop = self.kind.plan_stop(state, seen)
            self.destroy(plan_destroy(state, stop, seen, backups=where), state, where)
            remove_state(self.paths)
            forget(self.paths)

    def _end_start(self, left: JournalContents, *, is_known: bool) -> None:
        """Write the state of a start that was complete; undo any other."""
        planned = left.note.get("plan")
        if planned and left.done.issuperset(planned):
            self.warn(
                f"completing the start that was cut short after its last step (process {left.pid})"
            )
            write_state(self.paths, ClusterState.model_validate(left.note["state"]))
            with Journal.reopen(left) as journal:
                journal.close()
            return
        self.warn(f"undoing the start that was cut short (process {left.pid})")
        with Interrupts() as interrupts:
            context = self._context(UUID(left.note["cluster_id"]), interrupts)
            noted = left.note.get("state")
            wanted = ClusterState.model_validate(noted) if noted else None
            if wanted:
                learn_names(self.client, wanted)
            renews_keys = left.note.get("renews_keys", False)
            roll_back(
                left,
                context,
                observer=self.observer,
                interrupts=interrupts,
                settle_s=SETTLE_S,
                on_undone=partial(self._remember_undone, wanted, renews_keys=renews_keys),
            )
        if not is_known:
            forget(self.paths)

    def _remember_undone(
        self, wanted: ClusterState | None, changed: Sequence[Step], *, renews_keys: bool
    ) -> None:
        """Write what is left in the nodes of a start that was undone; safe to repeat.

        `wanted` is the state that the start would have left; None if its journal has none.
        """
        state = read_state(self.paths)
        if state is None:
            return
        left = after_undo(state, wanted, changed, renews_keys=renews_keys)
        if left != state:
            write_state(self.paths, left)
            self.warn(
                "nodes keep what they were told until the next start: "
                f"ai-how {self.kind.name} start"
            )

    def bring_up(self, start: PreparedStart, journal: Journal, *, keep_on_failure: bool) -> None:
        """Execute a start and write its state; on failure save the evidence, and undo it."""
        state, previous = start.desired.state, read_state(self.paths)
        times = StageTimes(self.observer)
        if past_s := find_past_start(self.roots.past_starts, state.name, start.plan):
            notify(times.expected, TimeLeft(past_s, len(start.plan.steps)))
        with journal, Interrupts() as interrupts:
            context = replace(
                self._context(state.lineage, interrupts),
                images=start.images,
                archives=start.archives,
                console_offsets=mark_consoles(self.paths, state),
            )
            if keep_on_failure:
                # Objects that remain after a failure need a state.
                kept = before_steps(
                    state, previous, tells=start.tells_nodes, renews_keys=start.renews_keys
                )
                state = state.model_copy(update={"serial": write_state(self.paths, kept).serial})
            try:
                start.prepare_host(self.place)
                start.prepare_files(self.paths, self.place.ssh_proxy(self.roots))
                execute(
                    start.plan,
                    context,
                    journal,
                    observer=times,
                    interrupts=interrupts,
                    workers=min(MAX_WORKERS, len(start.plan.steps)),
                    on_failure=OnFailure.KEEP if keep_on_failure else OnFailure.UNDO,
                    after_failure=AfterFailure(
                        evidence=partial(
                            save_evidence,
                            context,
                            state,
                            start.plan,
                            self.place,
                            self.warn,
                            kind=self.kind.diagnosis,
                        ),
                        undone=partial(self._remember_undone, state, renews_keys=start.renews_keys),
                    ),
                )
            except AiHowError:
                if previous is None and not keep_on_failure and not self.paths.journal.exists():
                    forget(self.paths)
                raise
            write_state(self.paths, times.remembered(state))
            journal.close()
        remember_start(self.roots.past_starts, state.name, start.plan, times.done_s)

    def stop(
        self,
        state: ClusterState,
        *,
        only: Collection[str],
        suspends: bool,
        is_begun: bool = False,
        waits_s: float | None = None,
    ) -> Plan:
        """Power off the cluster, or `only` these nodes; with `suspends` save all their memory.

        With `waits_s` it first waits so long for running jobs, and no new ones start. There is no
        journal yet during the wait, so a stop that is interrupted then is not continued later. A
        stop that `is_begun` is not refused for lack of space: that would block the cluster.
        """
        seen = observe(self.client, state, self.kind, asks_workload=not suspends)
        if waits_s is not None:
            with Interrupts() as interrupts:
                context = self._context(state.lineage, interrupts)
                self.kind.wait_for_jobs(context, state, seen, only, waits_s)
            seen = observe(self.client, state, self.kind)
        if suspends:
            plan = plan_suspend(state, seen)
        else:
            plan = self.kind.plan_stop(state, seen, only=only)
        if suspends and not is_begun:
            check_memory_fits(self.place, state, seen, self.client)
        if not only:
            close_ports(self.paths)
            unwatch(self.paths, "suspend" if suspends else "stop", self.warn)
        self.carry_on(plan, state, only=list(only), suspends=suspends)
        return plan

    def destroy(self, plan: Plan, state: ClusterState, backups: Path | None) -> None:
        """Execute a destroy. If it fails before all backups are complete, they are removed."""
        close_ports(self.paths)
        unwatch(self.paths, "destroy", self.warn)
        try:
            self.carry_on(plan, state, backups=str(backups) if backups else None)
        except AiHowError:
            drop_backups(plan)
            raise

    def carry_on(self, plan: Plan, state: ClusterState, **note: object) -> None:
        """Execute a stop or destroy. A step that fails blocks only the steps that need it."""
        if not plan.steps:
            return
        with self.journal(plan, state, **note) as journal, Interrupts() as interrupts:
            execute(
                plan,
                self._context(state.lineage, interrupts),
                journal,
                observer=self.observer,
                interrupts=interrupts,
                workers=min(MAX_WORKERS, len(plan.steps)),
                on_failure=OnFailure.CONTINUE,
            )
            journal.close()

    def journal_of(self, start: PreparedStart) -> Journal:
        """Create the journal of a start."""
        return self.journal(
            start.plan,
            start.desired.state,
            devices=start.devices,
            renews_keys=start.renews_keys,
        )

    def journal(self, plan: Plan, state: ClusterState, **note: object) -> Journal:
        """Create the journal of a plan, with all that another process needs to continue it.

        `state` is the one that a start leaves. A process that finds all steps done writes it.
        """
        return Journal.create(
            self.paths.journal,
            verb=plan.verb,
            op_id=uuid4(),
            cluster=state.name,
            note={
                "kind": self.kind.name,
                "cluster_id": str(state.lineage),
                "serial": state.serial,
                "host": state.host_uri,
                "subnet": str(state.network.subnet),
                "bridge": state.network.bridge,
                "plan": [step.key for step in plan.steps],
                "state": state.as_record(),
                **note,
            },
            on_boundary=self.on_boundary,
        )

    def _context(self, cluster_id: UUID, interrupts: Interrupts) -> PlanContext:
        way_in = self.place.way_in()
        return PlanContext(
            cluster_id=cluster_id,
            cluster_kind=self.kind.name,
            paths=self.paths,
            client=self.client,
            disks=DiskManager(self.place.storage),
            stop=interrupts.stop,
            timeouts=self.timeouts,
            warn=self.warn,
            networks=HostNetworks(way_in.enter),
            machine=self.machine,
            way_in=way_in,
            restart_libvirtd=self.place.restart_libvirtd,
        )
