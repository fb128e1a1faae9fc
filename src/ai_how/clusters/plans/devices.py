"""Plans that devices of the host come back when their VM is off (pure)."""

from collections.abc import Iterable, Iterator

from ai_how.clusters.observation import Observed
from ai_how.plan.step import Step
from ai_how.vm_management.steps.leases import ReturnDevices
from ai_how.vm_management.steps.power import DestroyDomain, ShutDownGuest


def plan_returns(steps: Iterable[Step], seen: Observed) -> Iterator[ReturnDevices]:
    """A step after each that turns a VM off which is on with devices of the host."""
    for step in steps:
        if isinstance(step, ShutDownGuest | DestroyDomain) and seen.has_devices(step.uuid):
            yield ReturnDevices(step.domain, step.uuid, frozenset({step.key}))
