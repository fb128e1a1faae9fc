"""Renders the XML of a cluster's network and VMs for its host."""

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
from ai_how.vm_management.nodes.device_hardware import PLAIN
from ai_how.vm_management.nodes.domain_definition import (
    Accel,
    DirectKernel,
    DiskCache,
    DomainDefinition,
)
from ai_how.vm_management.nodes.node_domain import (
    HostFeatures,
    NodePlacement,
    define_domain,
    pin_nodes,
)
from ai_how.vm_management.owners import caller_of
from ai_how.vm_management.saved_machines.store import SavedMachineRef

# An emulated CPU needs no mitigations and no timer check, and five-level page tables would slow it
# down. The rate of its TSC is measured at boot, which on a busy host is wrong by up to a factor of
# seven. The HPET has a known rate, and costs no more to read. `unstable` keeps the kernel's own
# clock (dmesg, lockup detectors) on it, too.
TCG_CMDLINE = (
    "mitigations=off cryptomgr.notests no_timer_check tsc=unstable clocksource=hpet "
    "trace_clock=global no5lvl nokaslr random.trust_cpu=on lsm=landlock"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanInputs:
    """Functions for the texts and paths that a plan needs.

    `base_of` returns the path of an image's disk in the storage, `saved_of` the saved machine that
    a new node is restored from. Suspended nodes boot unless the plan `resumes`.
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
    """Build the inputs of a plan for this cluster on this host.

    `saved` are the saved machines that new nodes are restored from, by node.
    """
    # Imported late, to keep read-only verbs fast.
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
    """A function that builds the definition of a node's VM on this host."""
    state = desired.state
    cpu = read_cpu(Path("/"))
    fit = HostFeatures(
        accel,
        cpu.virtualization if cpu else None,
        DiskCache.WRITEBACK,
        maps_shares=place.embedded is not None,
    )
    pins = pin_nodes(
        desired.section.hardware,
        (node for node, _ in desired.nodes),
        sorted(os.sched_getaffinity(0)),
        {name: one.placement.cpus for name, one in desired.device_hardware.items()},
    )

    def define(node: Node, one: NodeState) -> DomainDefinition:
        image = images[one.image_digest]
        placed = NodePlacement(
            network=state.network.name,
            disk=one.disk,
            backing_chain=(place.storage.base(one.image_digest),),
            console_log=paths.console_log(one.name),
            boot=_kernel(image, place, one, accel),
            is_uefi=image.manifest.firmware == "uefi",
            has_screen="prepared_from" in image.manifest.recipe,
            pins=pins[node.name],
            device_hardware=desired.device_hardware.get(node.name, PLAIN),
            cards=desired.functions.get(node.name, ()),
            vgpu=desired.vgpus.get(node.name),
            login=state.user,
            owner=caller_of(paths),
            kind=state.marked_kind,
        )
        return define_domain(
            node,
            state.name,
            desired.section.hardware,
            cluster_id=state.lineage,
            placement=placed,
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
