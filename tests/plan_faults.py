"""Carries real plans out against some libvirt; makes a step or the whole run fail where told."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from uuid import uuid4

import pytest

from ai_how.clusters.desired_cluster import DesiredCluster
from ai_how.clusters.observation import Observed, Wiring, observe
from ai_how.clusters.plans.destroy import plan_destroy
from ai_how.hpc.identities import build_archives, ensure_secrets
from ai_how.hpc.kind import SLURM
from ai_how.hpc.plan import STEP_TYPES, plan_start
from ai_how.hpc.stop_plan import plan_stop
from ai_how.images.manifest import Image
from ai_how.plan.executor import OnFailure, execute
from ai_how.plan.interrupts import Interrupts
from ai_how.plan.journal import Journal, OnBoundary
from ai_how.plan.observer import Observer
from ai_how.plan.step import Applied, Plan, Step
from ai_how.plan.undo import roll_back
from ai_how.vm_management.context import PlanContext
from cluster_bench import rendering_of
from record_kills import Record, at, die, records_of


class BrokenError(Exception):
    """What a step fails with here."""


@dataclass(frozen=True)
class Stage:
    """One cluster's surroundings; `world` is made anew for each run, as each process does."""

    draft: DesiredCluster
    image: Image
    make_world: Callable[[Interrupts], PlanContext]
    interrupts: Interrupts = field(default_factory=Interrupts)

    def look(self) -> Observed:
        world = self.make_world(self.interrupts)
        claimed = world.disks.is_claimed(self.draft.state.name, self.draft.state.lineage)
        return replace(observe(world.client, self.draft.state, SLURM), has_disk_directory=claimed)

    def plan_start(self, *, boot_limit: int | None = None, wiring: Wiring | None = None) -> Plan:
        """`wiring` is what a look at the host's links would have found."""
        world = self.make_world(self.interrupts)
        images = {self.image.digest: self.image}
        rendering = rendering_of(self.draft, world.disks.storage, world.paths, images)
        seen = replace(self.look(), wiring=wiring)
        return plan_start(self.draft, seen, rendering, boot_limit=boot_limit)

    def plan_stop(self) -> Plan:
        return plan_stop(self.draft.state, self.look())

    def plan_destroy(self, backups: Path | None = None) -> Plan:
        return plan_destroy(self.draft.state, backups=backups)

    def carry_out(
        self, plan: Plan, *, on_boundary: OnBoundary | None = None, workers: int = 8
    ) -> None:
        """As a verb does it: journal, execute, close."""
        interrupts = Interrupts()
        world = self.make_world(interrupts)
        ensure_secrets(self.draft.state, world.paths)
        world = replace(
            world,
            images={self.image.digest: self.image},
            archives=build_archives(self.draft, world.paths, has_host_clock=False),
        )
        goes_back = plan.verb == "start"
        with Journal.create(
            world.paths.journal,
            verb=plan.verb,
            op_id=uuid4(),
            cluster=self.draft.state.name,
            note={},
            on_boundary=on_boundary,
        ) as journal:
            execute(
                plan,
                world,
                journal,
                observer=Observer(),
                interrupts=interrupts,
                workers=workers,
                on_failure=OnFailure.UNDO if goes_back else OnFailure.CONTINUE,
            )
            journal.close()

    def die_while_starting(self, plan: Plan, moment: str, key: str) -> None:
        """The run ends at a boundary of its journal, and what it was doing comes to its end."""
        die(lambda: self.carry_out(plan, on_boundary=at(moment, key), workers=1))

    def recover(self) -> None:
        """As the next process does it: with nothing but the journal."""
        interrupts = Interrupts()
        world = self.make_world(interrupts)
        left = Journal.read(world.paths.journal, STEP_TYPES)
        assert left is not None
        roll_back(left, world, observer=Observer(), interrupts=interrupts)
        assert not world.paths.journal.exists()


def boundaries_of(stage: Stage, plan: Plan) -> list[Record]:
    """Every moment at which a run of this plan could die; carries it out."""
    return records_of(lambda on: stage.carry_out(plan, on_boundary=on, workers=1))


@contextmanager
def broken(plan: Plan, key: str, moment: str) -> Iterator[None]:
    """The step of that key fails: before it did anything, or after it did all of it."""
    kind: type[Step] = type(next(step for step in plan.steps if step.key == key))
    apply = kind.apply

    def fail(step: Step, world: PlanContext) -> Applied:
        if step.key != key:
            return apply(step, world)
        if moment == "after":
            apply(step, world)
        raise BrokenError(f"{key} fails {moment} its effect")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, "apply", fail)
        yield
