"""The verbs that change a cluster, under its lock."""

from collections.abc import Collection, Iterator
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
    release_host,
)
from ai_how.clusters.cluster_access import ClusterAccess, client_of
from ai_how.clusters.observation import observe
from ai_how.clusters.plans.destroy import plan_destroy
from ai_how.clusters.status import describe_impostor
from ai_how.clusters.watching import unwatch, watch_from_start
from ai_how.host.place import HypervisorHost, resolve_host
from ai_how.libvirt_client.client import LibvirtClient
from ai_how.plan.journal import OnBoundary
from ai_how.plan.observer import Observer
from ai_how.plan.step import Plan
from ai_how.spec.document import render_default_file
from ai_how.spec.models import ClusterFile
from ai_how.state.cluster_state import remove_state
from ai_how.state.lock import held_lock
from ai_how.state.models import ClusterState
from ai_how.state.paths import ensure_private_directory
from ai_how.vm_management.context import Timeouts

if TYPE_CHECKING:
    from ai_how.clusters.plan_runner import PlanRunner


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterManager(ClusterAccess):
    """A cluster, by its name. Each verb raises AiHowError, whose exit code says how it ended."""

    observer: Observer = field(default_factory=Observer)
    timeouts: Timeouts = field(default_factory=Timeouts)
    on_boundary: OnBoundary | None = None
    machine: Path = Path("/")
    """Contains the /sys, /proc and /usr that tell of the host's devices."""

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
        from ai_how.clusters.start import prepare_start  # noqa: PLC0415  as below
        from ai_how.clusters.start_context import StartContext  # noqa: PLC0415

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
                    self._watch(spec, is_begun=False)
                if dry_run or not start.plan.steps:
                    return start.plan
                journal = runner.journal_of(start)
            runner.bring_up(start, journal, keep_on_failure=keep_on_failure)
            keep_source(text, self.paths, spec)
            self._watch(spec, is_begun=True)
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
                unwatch(self.paths, "stop", self.warn)
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
            client_of(place) as client,
        ):
            found = recover_state(
                self.paths, place, client, kind=self.kind, user=user, from_user=from_user
            )
            # A run that was killed is undone first, by the next verb.
            if not self.paths.journal.exists():
                self._runner(place, client).settle_leases()
            return found

    def _watch(self, spec: ClusterFile, *, is_begun: bool) -> None:
        settings = self.kind.section_of(spec).monitoring
        watch_from_start(self, settings, is_begun=is_begun, warn=self.warn)

    @contextmanager
    def _locked(self, verb: str, place: HypervisorHost) -> "Iterator[PlanRunner]":
        """Hold the cluster's lock, start the host, and recover what a killed run left."""
        self._refuse_moved(place)
        ensure_private_directory(self.roots.state)
        ensure_private_directory(self.paths.root)
        with (
            held_lock(self.paths.lock, doing=f"{self.kind.name} {verb}"),
            host_up(place, self.roots, self.warn),
            client_of(place) as client,
        ):
            runner = self._runner(place, client)
            if left := self._read_journal():
                runner.recover(left)
            runner.settle_leases()
            yield runner

    def _runner(self, place: HypervisorHost, client: LibvirtClient) -> "PlanRunner":
        # Imported late, to keep read-only verbs (status, ssh, logs) fast.
        from ai_how.clusters.plan_runner import PlanRunner  # noqa: PLC0415

        return PlanRunner(
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
