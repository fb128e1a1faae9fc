"""The XML of a cluster's network and VMs, from its draft and its host."""

import os
from collections.abc import Mapping
from pathlib import Path

from ai_how.host.facts import read_cpu
from ai_how.host.place import HostPlace
from ai_how.images.manifest import Image
from ai_how.spec.nodes import Node
from ai_how.state.models import NodeState
from ai_how.state.paths import ClusterPaths
from ai_how.vm_management.domain_shape import Accel, DirectKernel, DiskCache
from ai_how.vm_management.domain_xml import render_domain
from ai_how.vm_management.drafting import Draft
from ai_how.vm_management.hpc_plan import Rendering
from ai_how.vm_management.network_shape import NetworkHost, NetworkShape, render_network
from ai_how.vm_management.node_shape import HostFit, PlacedNode, pin_nodes, shape_of
from ai_how.vm_management.seen import Mark

# An emulated CPU has no speculation to defend against, a timer that needs no check, and a memory
# that no fifth level of page tables makes faster to walk.
TCG_CMDLINE = (
    "mitigations=off cryptomgr.notests no_timer_check tsc=reliable no5lvl nokaslr "
    "random.trust_cpu=on"
)


def find_rendering(
    draft: Draft,
    place: HostPlace,
    paths: ClusterPaths,
    images: Mapping[str, Image],
    accel: Accel,
) -> Rendering:
    """How this cluster's objects are written down on this host."""
    state = draft.state
    cpu = read_cpu(Path("/"))
    fit = HostFit(accel, cpu.virtualization if cpu else None, DiskCache.WRITEBACK)
    pins = pin_nodes(draft.hpc, (node for node, _ in draft.nodes), sorted(os.sched_getaffinity(0)))

    def domain_xml(node: Node, one: NodeState) -> str:
        image = images[one.image_digest]
        placed = PlacedNode(
            network=state.network.name,
            disk=one.disk,
            backing_chain=(place.storage.base(one.image_digest),),
            console_log=paths.console_log(one.name),
            boot=_kernel(image, place, one, accel),
            pins=pins[node.name],
        )
        return render_domain(
            shape_of(node, draft.hpc, cluster_id=state.lineage, place=placed, host=fit)
        )

    def network_xml() -> str:
        network = state.network
        return render_network(
            NetworkShape(
                name=network.name,
                uuid=network.uuid,
                mark=Mark(state.name, state.lineage, ""),
                bridge=network.bridge,
                subnet=network.subnet,
                gateway=network.gateway,
                domain=state.name,
                hosts=tuple(NetworkHost(one.mac, one.name, one.ip) for one in state.nodes),
            )
        )

    return Rendering(network_xml=network_xml, domain_xml=domain_xml, base_of=place.storage.base)


def _kernel(image: Image, place: HostPlace, one: NodeState, accel: Accel) -> DirectKernel | None:
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
