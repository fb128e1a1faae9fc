"""The XML of a cluster's network and VMs on its host."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ai_how.clusters.desired_cluster import DesiredCluster
from ai_how.host.facts import read_cpu
from ai_how.host.place import HypervisorHost
from ai_how.images.manifest import Image
from ai_how.spec.nodes import Node
from ai_how.state.models import NodeState
from ai_how.state.paths import ClusterPaths
from ai_how.vm_management.networks.definition import define_network, render_network
from ai_how.vm_management.nodes.domain_definition import (
    Accel,
    DirectKernel,
    DiskCache,
    DomainDefinition,
)
from ai_how.vm_management.nodes.node_domain import HostFit, NodePlacement, define_domain, pin_nodes
from ai_how.vm_management.owners import caller_of
from ai_how.vm_management.saved_machines.store import SavedMachineRef

# An emulated CPU has no speculation to defend against, a timer that needs no check, and a memory
# that no fifth level of page tables makes faster to walk. The rate of its time stamp counter is
# measured at boot: wrong by a factor of seven on a busy host. That of the HPET is told, and reading
# it costs no more. `unstable` keeps the kernel's own clock (dmesg, lockup detectors) to it, too.
TCG_CMDLINE = (
    "mitigations=off cryptomgr.notests no_timer_check tsc=unstable clocksource=hpet "
    "trace_clock=global no5lvl nokaslr random.trust_cpu=on lsm=landlock"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanInputs:
    """How the plan gets its XML; `base_of` says where an image's disk will be.

    `saved_of` says which saved machine a node is restored from, where it gets a new disk; a node
    that is suspended boots anew unless the plan `resumes`.
    """

    network_xml: Callable[[], str]
    domain_xml: Callable[[Node, NodeState], str]
    base_of: Callable[[str], Path]
    saved_of: Callable[[str], SavedMachineRef | None] = lambda _node: None
    resumes: bool = True


def build_plan_inputs(
    desired: DesiredCluster,
    place: HypervisorHost,
    paths: ClusterPaths,
    images: Mapping[str, Image],
    accel: Accel,
    saved: Mapping[str, SavedMachineRef] | None = None,
    *,
    resumes: bool = True,
) -> PlanInputs:
    """How this cluster's objects are written down on this host.

    `saved` are the machines that nodes, by name, are restored from where they get a new disk.
    Nodes that are suspended go on unless nothing `resumes`.
    """
    # What only looks at a cluster is quicker without the templates.
    from ai_how.vm_management.xml.render import render_domain  # noqa: PLC0415

    state, saved = desired.state, saved or {}
    definition_of = build_domain_definitions(desired, place, paths, images, accel)
    return PlanInputs(
        network_xml=lambda: render_network(define_network(state, caller_of(paths))),
        domain_xml=lambda node, one: render_domain(definition_of(node, one)),
        base_of=place.storage.base,
        saved_of=saved.get,
        resumes=resumes,
    )


def build_domain_definitions(
    desired: DesiredCluster,
    place: HypervisorHost,
    paths: ClusterPaths,
    images: Mapping[str, Image],
    accel: Accel,
) -> Callable[[Node, NodeState], DomainDefinition]:
    """What each node's VM is on this host."""
    state = desired.state
    cpu = read_cpu(Path("/"))
    fit = HostFit(accel, cpu.virtualization if cpu else None, DiskCache.WRITEBACK)
    pins = pin_nodes(
        desired.section.hardware,
        (node for node, _ in desired.nodes),
        sorted(os.sched_getaffinity(0)),
    )

    def define(node: Node, one: NodeState) -> DomainDefinition:
        image = images[one.image_digest]
        placed = NodePlacement(
            network=state.network.name,
            disk=one.disk,
            backing_chain=(place.storage.base(one.image_digest),),
            console_log=paths.console_log(one.name),
            boot=_kernel(image, place, one, accel),
            pins=pins[node.name],
            owner=caller_of(paths),
            kind=state.marked_kind,
        )
        return define_domain(
            node,
            state.name,
            desired.section.hardware,
            cluster_id=state.lineage,
            place=placed,
            host=fit,
        )

    return define


def _kernel(
    image: Image, place: HypervisorHost, one: NodeState, accel: Accel
) -> DirectKernel | None:
    if image.kernel is None:
        return None
    words = [image.manifest.cmdline, f"systemd.machine_id={one.uuid.hex}"]
    if accel is Accel.TCG:
        words.append(TCG_CMDLINE)
    return DirectKernel(
        kernel=place.storage.base_kernel(image.digest),
        initrd=place.storage.base_initrd(image.digest) if image.initrd else None,
        cmdline=" ".join(words),
    )
