"""The step that opens ports of the host for ports of nodes."""

from dataclasses import dataclass
from typing import ClassVar

from ai_how.errors import AiHowError
from ai_how.host.ports import Port, close_ports, open_ports
from ai_how.plan.step import Applied
from ai_how.vm_management.context import PlanContext
from ai_how.vm_management.steps.subjects import ClusterStep


@dataclass(frozen=True, slots=True)
class OpenPorts(ClusterStep):
    """These ports of the host are open for the cluster, and no others.

    Undo opens the former ones again, which stay closed if another program has one by then.
    """

    kind: ClassVar[str] = "ports"
    ports: tuple[Port, ...]
    former: tuple[Port, ...] = ()
    needs: frozenset[str] = frozenset()

    def apply(self, context: PlanContext) -> Applied:
        open_ports(context.paths, context.way_in, self.ports)
        return Applied.MADE

    def revert(self, context: PlanContext) -> None:
        try:
            open_ports(context.paths, context.way_in, self.former)
        except AiHowError as error:
            close_ports(context.paths)
            context.warn(f"ports that were open stay closed: {error.brief}")

    def describe(self) -> str:
        if not self.ports:
            return f"close the ports {_listed(self.former)}".rstrip()
        return f"open the ports {_listed(self.ports)}"


def _listed(ports: tuple[Port, ...]) -> str:
    return ", ".join(map(str, ports))
