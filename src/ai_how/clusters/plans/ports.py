"""The ports of the host that a start opens, and whether it can (expose)."""

from dataclasses import replace

from ai_how.clusters.kind import ClusterSection
from ai_how.errors import HostError
from ai_how.host.ports import Port, ServedPorts, find_ports, listen
from ai_how.plan.step import Plan
from ai_how.state.models import ClusterState
from ai_how.state.paths import Roots
from ai_how.vm_management.steps import ports as port_steps


def ports_of(section: ClusterSection, state: ClusterState) -> tuple[Port, ...]:
    """The ports that the file asks for."""
    return tuple(
        Port(
            node=one.node,
            port=one.port,
            address=str(one.address),
            host_port=one.host_port or one.port,
            node_address=str(state.get_node(one.node).ip),
        )
        for one in section.expose
    )


def with_ports(
    plan: Plan,
    wanted: tuple[Port, ...],
    there: ServedPorts | None,
    *,
    host: tuple[int, int] | None,
    cluster: str,
) -> Plan:
    """The plan, and as its last step that these ports are opened, unless they are open (pure).

    `host` is the supervisor of the host now: the process of another one ends with it. What a
    process that was killed left behind is removed as well.
    """
    is_there = there is not None and there.is_current and there.host == host
    former = there.ports if there and is_there else ()
    if wanted == former and (is_there or there is None):
        return plan
    needs = frozenset(step.key for step in plan.steps)
    return replace(plan, steps=(*plan.steps, port_steps.OpenPorts(cluster, wanted, former, needs)))


def check_ports(plan: Plan, roots: Roots, cluster: str) -> None:
    """Raises HostError if a port that the plan opens cannot be opened, with who has it."""
    for step in plan.steps:
        if not isinstance(step, port_steps.OpenPorts):
            continue
        own = {(one.address, one.host_port) for one in step.former}
        for one in step.ports:
            if (one.address, one.host_port) in own:
                continue
            try:
                listen(one.address, one.host_port).close()
            except HostError as error:
                if owner := _owner_of(one, roots, cluster):
                    raise HostError(
                        f"{one.place} is a port of the cluster {owner}",
                        details=f"{cluster} exposes {one.node}:{one.port} there.",
                        hint="give one of them another host_port (expose)",
                    ) from error
                raise HostError(
                    error.brief,
                    details=f"{cluster} exposes {one.node}:{one.port} there (expose).",
                    hint=error.hint,
                ) from error


def _owner_of(wanted: Port, roots: Roots, cluster: str) -> str | None:
    """The other cluster that has a port of the host open."""
    for name in roots.cluster_names():
        there = find_ports(roots.cluster(name)) if name != cluster else None
        if there and there.is_current and wanted.host_port in {o.host_port for o in there.ports}:
            return name
    return None
