"""Saves the VMs that the nodes of a cluster file are restored from, and removes unusable ones."""

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, partial
from ipaddress import IPv4Network
from pathlib import Path

from ai_how.clusters.cleanup import host_up, release_host
from ai_how.clusters.desired_cluster import HostChoices, plan_desired_cluster
from ai_how.clusters.kind import ClusterKind, ClusterSection
from ai_how.clusters.plans.rendering import build_domain_definitions
from ai_how.clusters.preflight.node_images import choose_accel, get_image
from ai_how.errors import AiHowError, HostError
from ai_how.host.capacity_checks import CapacityRequest, require_capacity
from ai_how.host.facts import read_resources
from ai_how.host.place import HypervisorHost
from ai_how.images.catalogue import ImageCatalogue
from ai_how.images.manifest import Image
from ai_how.images.store import ImageStore
from ai_how.libvirt_client.client import LibvirtClient
from ai_how.plan.interrupts import Interrupts
from ai_how.plan.step import Plan
from ai_how.process import start_detached
from ai_how.spec.models import ClusterFile
from ai_how.state.paths import Roots
from ai_how.vm_management.nodes.domain_definition import Accel
from ai_how.vm_management.saved_machines.generic_vm import (
    GENERIC_ID,
    MachineKey,
    cold_boot_reason,
    machine_key_of,
)
from ai_how.vm_management.saved_machines.matching import describe_host
from ai_how.vm_management.saved_machines.saving import (
    MachineToSave,
    ProgressCallback,
    no_save_reason,
    save_machine,
)
from ai_how.vm_management.saved_machines.store import SavedMachine, SavedMachines
from ai_how.vm_management.steps.disks import CreateOverlay

MIB = 2**20

# A desired cluster has a subnet; no saved machine depends on it.
_ANYWHERE = IPv4Network("10.0.0.0/16")


@dataclass(frozen=True, slots=True)
class SaveResult:
    """The result of `warm_up`. `cold` has the reason for each node that will boot anyway."""

    saved: tuple[SavedMachine, ...]
    there: tuple[SavedMachine, ...]
    removed: tuple[SavedMachine, ...]
    cold: dict[str, str]


def warm_up(
    kinds: Sequence[ClusterKind],
    spec: ClusterFile,
    roots: Roots,
    place: HypervisorHost,
    *,
    watch: ProgressCallback,
) -> SaveResult:
    """Save a machine for every node of these kinds that can be restored from one, unless it exists.

    Raises HostError if we cannot read the memory that libvirt saves on this host.
    """
    if why := no_save_reason(place):
        raise HostError(why, hint="ai-how --connect embedded image warm")
    try:
        return _save_missing(kinds, spec, roots, place, watch=watch)
    finally:
        # If the last cluster was destroyed meanwhile, that run left the host to us.
        with suppress(AiHowError):
            release_host(place, roots)


def _save_missing(
    kinds: Sequence[ClusterKind],
    spec: ClusterFile,
    roots: Roots,
    place: HypervisorHost,
    *,
    watch: ProgressCallback,
) -> SaveResult:
    store, machines = ImageStore(roots.images), SavedMachines(place.storage)
    catalogue = ImageCatalogue(store, spec)
    saved, there = [], []
    wanted: dict[MachineKey, MachineToSave] = {}
    cold: dict[str, str] = {}
    hosts: set[str] = set()
    with (
        host_up(place, roots, lambda _line: None),
        LibvirtClient(place.uri, is_kept=place.is_kept) as client,
        Interrupts() as interrupts,
    ):
        for kind in kinds:
            section = kind.section_of(spec)
            accel, _ = choose_accel(section.hardware, place, roots)
            host = describe_host(client, accel)
            image_of = partial(get_image, catalogue=catalogue, kind=kind)
            found, why_cold = find_wanted(kind, section, image_of, roots, place, accel, host)
            wanted |= found
            cold |= why_cold
            hosts.add(host)
        for one in wanted.values():
            machine = machines.find(one.machine_key.key)
            if machine and machines.discard_damaged(machine) is None:
                there.append(machine)
                continue
            _require_room(one, place)
            saved.append(save_machine(one, place, client, stop=interrupts.stop, on_progress=watch))
    images = {one.digest for one in store.list()}
    removed = machines.remove_unfit(hosts=hosts, images=images)
    return SaveResult(tuple(saved), tuple(there), removed, cold)


def _require_room(missing: MachineToSave, place: HypervisorHost) -> None:
    """Raises HostError if the VM would not leave enough of the host for its clusters."""
    definition = missing.definition
    cost = CapacityRequest(
        vms=1,
        vcpus=definition.vcpus,
        memory_mib=definition.memory_mib,
        disk_bytes=definition.memory_mib * MIB,
        disk_directory=place.storage.root,
        hugepage_kib=definition.memory_backing.hugepage_kib,
    )
    facts = read_resources(directories=(cost.disk_directory,))
    require_capacity(cost, facts, refused="no VM was saved")


def find_wanted(
    kind: ClusterKind,
    section: ClusterSection,
    image_of: Callable[[str | None], Image],
    roots: Roots,
    place: HypervisorHost,
    accel: Accel,
    host: str,
) -> tuple[dict[MachineKey, MachineToSave], dict[str, str]]:
    """The VMs that new nodes could be restored from on such a `host`.

    Also, by node, why others have to boot. `image_of` is asked once for each `base_image_path`.
    """
    images: dict[str, Image] = {}

    @cache
    def digest_of_image(name: str | None) -> str:
        image = image_of(name)
        images[image.digest] = image
        return image.digest

    desired = plan_desired_cluster(
        section,
        None,
        kind=kind,
        cluster_id=GENERIC_ID,
        host_uri=place.asked,
        choices=HostChoices(
            subnet=lambda: _ANYWHERE,
            disk_of=lambda node: place.storage.disk(section.name, node),
            digest_of=lambda node: digest_of_image(node.base_image),
        ),
        now=datetime.now(UTC),
    )
    definition_of = build_domain_definitions(
        desired, place, roots.cluster(section.name), images, accel
    )
    wanted: dict[MachineKey, MachineToSave] = {}
    cold: dict[str, str] = {}
    for node, one in desired.nodes:
        definition = definition_of(node, one)
        if reason := cold_boot_reason(definition):
            cold[one.name] = reason
            continue
        fit = machine_key_of(
            definition, image_digest=one.image_digest, disk_gib=one.disk_gib, host=host
        )
        wanted.setdefault(
            fit, MachineToSave(fit, definition, images[one.image_digest], one.disk_gib)
        )
    return wanted, cold


def wants_warming(plan: Plan) -> bool:
    """Whether a start created a node that was not restored from a saved machine."""
    return any(isinstance(step, CreateOverlay) and step.saved is None for step in plan.steps)


def warm_in_background(
    place: HypervisorHost, roots: Roots, *, connect: str | None, file: Path | None
) -> None:
    """Run `warm_up` in a process of its own that outlives this one.

    Does nothing if we cannot read the memory that libvirt saves there. The process finds the
    section of its cluster by `connect` and `file`, which are those of the start.
    """
    if no_save_reason(place):
        return
    where = ["--state-dir", str(roots.state)]
    where += ["--connect", connect] if connect else []
    where += ["--config", str(file.absolute())] if file else []
    program = [sys.executable, "-m", "ai_how", *where, "image", "warm"]
    with Path(os.devnull).open("rb") as nothing:
        start_detached(program, log=roots.warm_log, stdin=nothing.fileno())
