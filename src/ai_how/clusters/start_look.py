"""The first phase of a start: the state, what there is, and what is asked for."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from uuid import UUID

from ai_how.clusters.desired_cluster import DesiredCluster, HostChoices, plan_desired_cluster
from ai_how.clusters.observation import Observed, observe, with_host_faults
from ai_how.clusters.outside import find_outside
from ai_how.clusters.preflight.device_hardware import HardwareChoices, choose_for
from ai_how.clusters.preflight.device_users import find_device_users
from ai_how.clusters.preflight.existing_cluster import (
    check_images,
    find_disk_directory,
    find_losses,
)
from ai_how.clusters.preflight.host_gpus import Asker, HostGpus, assign_gpus
from ai_how.clusters.preflight.node_images import choose_accel, get_image
from ai_how.clusters.preflight.subnet_choice import choose_cluster_subnet
from ai_how.clusters.recovery import refuse_lost
from ai_how.clusters.start_context import StartContext
from ai_how.images.manifest import Image
from ai_how.libvirt_client.facts import DomainInfo
from ai_how.spec.identity import new_cluster_id
from ai_how.state.cluster_state import read_state
from ai_how.state.models import ClusterState
from ai_how.vm_management.nodes.domain_definition import Accel


@dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """The result of the first phase: previous state, observation, desired cluster."""

    previous: ClusterState | None
    desired: DesiredCluster
    seen: Observed
    images: Mapping[str, Image]
    accel: Accel
    notes: tuple[str, ...]
    hardware: HardwareChoices


def look(context: StartContext) -> Looked:
    """Read the state, observe the cluster, and compute the desired one."""
    paths, place, client = context.paths, context.place, context.client
    previous, every = read_state(paths), client.list_domains()
    if previous is None:
        refuse_lost(every, paths, place, kind=context.kind.name)
    cluster_id = previous.lineage if previous else new_cluster_id()
    has_directory = find_disk_directory(place.storage, paths.name, cluster_id, previous)
    desired = _desire(context, previous, cluster_id, every)
    for name in context.only:
        desired.state.get_node(name)
    seen = observe(client, desired.state, context.kind, every=every)
    seen = replace(seen, has_disk_directory=has_directory)
    seen = with_host_faults(seen, desired.state, place, paths)
    for line in (
        *check_images(desired, previous, context.catalogue),
        *find_losses(desired, previous, seen),
    ):
        context.warn(line)
    digests = {one.image_digest for _, one in desired.nodes}
    images = {digest: context.catalogue.store.get(digest) for digest in digests}
    hardware = choose_for(desired, every, place, wanted=_wanted(context), machine=context.machine)
    desired = replace(desired, images=images, device_hardware=hardware.nodes)
    notes = context.kind.check_software(desired)
    accel, warning = choose_accel(context.section.hardware, place, context.roots)
    return Looked(
        previous=previous,
        desired=desired,
        seen=seen,
        images=images,
        accel=accel,
        notes=(*notes, *([warning] if warning else [])),
        hardware=hardware,
    )


def _desire(
    context: StartContext,
    previous: ClusterState | None,
    cluster_id: UUID,
    every: Sequence[DomainInfo],
) -> DesiredCluster:
    kind, section, place = context.kind, context.section, context.place

    @cache
    def digest_of_image(name: str | None) -> str:
        return get_image(name, context.catalogue, kind).digest

    gpus = _assign_gpus(context, previous, cluster_id, every)
    choices = HostChoices(
        subnet=lambda: choose_cluster_subnet(
            section,
            len(kind.nodes_of(section)),
            cluster_id,
            context.roots,
            place,
            context.client,
        ),
        disk_of=lambda node: place.storage.disk(section.name, node),
        digest_of=lambda node: digest_of_image(node.base_image),
        cards=gpus.remembered,
    )
    desired = plan_desired_cluster(
        section,
        previous,
        kind=kind,
        cluster_id=cluster_id,
        host_uri=previous.host_uri if previous else place.asked,
        choices=choices,
        now=datetime.now(UTC),
    )
    return replace(
        desired,
        outside=find_outside(section, desired.state, place),
        functions=gpus.functions,
        vgpus=gpus.vgpus,
    )


def _assign_gpus(
    context: StartContext,
    previous: ClusterState | None,
    cluster_id: UUID,
    every: Sequence[DomainInfo],
) -> HostGpus:
    nodes, name = context.kind.nodes_of(context.section), context.section.name
    return assign_gpus(
        nodes,
        Asker(name=name, id=cluster_id, previous=previous),
        lambda: find_device_users(
            context.client, context.roots, name=name, own=cluster_id, every=every
        ),
        context.roots,
        wanted=_wanted(context),
        machine=context.machine,
    )


def _wanted(context: StartContext) -> Collection[str]:
    every = context.kind.nodes_of(context.section)
    return context.only or [node.name for node in every if node.auto_start]
