"""All clusters of a user, as their states and libvirt have them. Takes no lock, changes nothing."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from uuid import UUID

from ai_how.clusters.status import used_mib
from ai_how.errors import AiHowError, StateError
from ai_how.host.place import resolve_host, storage_of
from ai_how.libvirt_client.client import LibvirtClient
from ai_how.libvirt_client.facts import DomainInfo
from ai_how.state.every_cluster import read_every_state
from ai_how.state.lock import read_holder
from ai_how.state.models import ClusterState
from ai_how.state.paths import Roots

UP, PARTLY, OFF, SUSPENDED, UNFINISHED = "up", "partly up", "off", "suspended", "unfinished"
PATIENCE_S = 10.0
Domains = Mapping[UUID, DomainInfo]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterSummary:
    """One cluster in a line. What is not known is None; `trouble` says why."""

    name: str
    kind: str | None = None
    state: str | None = None
    """up (all its VMs are on), partly up, off, suspended (a VM has saved memory), or unfinished."""
    doing: str | None = None
    """The verb that is under way, with its group."""
    nodes: int | None = None
    nodes_on: int | None = None
    host: str | None = None
    disk_mib: int | None = None
    """Allocated by the nodes' own disks, without the image."""
    created_at: datetime | None = None
    trouble: str | None = None


def list_clusters(roots: Roots) -> tuple[ClusterSummary, ...]:
    """All clusters in the state directory, by name.

    A cluster whose state cannot be read, or whose libvirt does not answer in 10 s, hides no other.
    """
    states = read_every_state(roots)
    hosts: dict[str, Domains | AiHowError] = {}
    found = []
    for name in roots.cluster_names():
        paths, state = roots.cluster(name), states.get(name)
        is_cut_short, doing = paths.journal.exists(), read_holder(paths.lock)
        if isinstance(state, StateError):
            found.append(ClusterSummary(name=name, trouble=state.brief))
        elif state is not None:
            if state.host_uri not in hosts:
                hosts[state.host_uri] = _domains_of(state, roots)
            one = _summary_of(state, hosts[state.host_uri])
            found.append(replace(one, doing=doing, state=UNFINISHED if is_cut_short else one.state))
        elif is_cut_short or doing:  # a first start
            found.append(ClusterSummary(name=name, state=UNFINISHED, doing=doing))
    return tuple(found)


def _domains_of(state: ClusterState, roots: Roots) -> Domains | AiHowError:
    kept = storage_of(state.nodes[0].disk) if state.nodes else None
    try:
        place = resolve_host(state.host_uri, roots, kept=kept)
        if not place.is_up:
            return {}
        with LibvirtClient(place.uri, patience_s=PATIENCE_S) as client:
            return {one.uuid: one for one in client.list_domains()}
    except AiHowError as error:
        return error


def _summary_of(state: ClusterState, domains: Domains | AiHowError) -> ClusterSummary:
    trouble, nodes_on, word = None, None, None
    if isinstance(domains, AiHowError):
        trouble = domains.brief
    else:
        nodes_on = sum(_is_on(one.uuid, domains) for one in state.nodes)
        word = _word_for(state, domains, nodes_on)
    return ClusterSummary(
        name=state.name,
        kind=state.kind,
        state=word,
        nodes=len(state.nodes),
        nodes_on=nodes_on,
        host=state.host_uri,
        disk_mib=sum(used_mib(one.disk) or 0 for one in state.nodes),
        created_at=state.created_at,
        trouble=trouble,
    )


def _word_for(state: ClusterState, domains: Domains, nodes_on: int) -> str:
    if nodes_on:
        return UP if nodes_on == len(state.nodes) else PARTLY
    saved = (domains[one.uuid].has_managed_save for one in state.nodes if one.uuid in domains)
    return SUSPENDED if any(saved) else OFF


def _is_on(uuid: UUID, domains: Domains) -> bool:
    return uuid in domains and domains[uuid].state.is_on
