"""The manager of SLURM clusters."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ai_how.clusters.kind import ClusterKind
from ai_how.clusters.manager import ClusterManager
from ai_how.errors import HostError
from ai_how.hpc.kind import SLURM

if TYPE_CHECKING:
    from collections.abc import Callable

    from ai_how.hpc.inventory import Inventory
    from ai_how.hpc.provisioning import Provision
    from ai_how.provisioning.events import TaskResult
    from ai_how.provisioning.run import Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class HpcManager(ClusterManager):
    """One SLURM cluster by its name."""

    kind: ClusterKind = SLURM

    def inventory(self) -> "Inventory":
        """The inventory of the cluster as it is now. Raises StateError if there is none."""
        from ai_how.hpc.provisioning import find_inventory  # noqa: PLC0415  few verbs need it

        return find_inventory(self.get_state(), self.status(), self.paths)

    def provision(
        self,
        asked: "Provision",
        *,
        watch: "Callable[[TaskResult], None]" = lambda _result: None,
        told: "Callable[[Outcome], None]" = lambda _outcome: None,
    ) -> "tuple[Outcome, ...]":
        """Run the playbooks that have to run, on the nodes that run.

        `watch` gets the result of each task on each host, `told` how each playbook ended. Holds the
        lock of the cluster. Raises ProvisioningError, whose exit code is its own, if one fails.
        """
        from ai_how.hpc.provisioning import run_pending  # noqa: PLC0415  as above
        from ai_how.provisioning.run import Outcome  # noqa: PLC0415

        state, place = self.get_state(), self.place()
        if not asked.find_pending(state, [one.name for one in state.nodes]):
            outcomes = tuple(Outcome(playbook=one.name, nodes=()) for one in asked.playbooks)
            for outcome in outcomes:
                told(outcome)
            return outcomes
        if not place.is_up:
            raise HostError(f"no node of {self.name} runs", hint="ai-how hpc start")
        with self._locked("provision", place):
            # What a killed run left was recovered meanwhile.
            state, seen = self.get_state(), self.status()
            return run_pending(asked, state, seen, self.paths, watch=watch, told=told)
