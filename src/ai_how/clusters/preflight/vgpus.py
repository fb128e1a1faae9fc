"""On which card, and as what, the vGPU of each node is made that asks for one."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from ai_how.clusters.preflight.cards import CardFacts
from ai_how.errors import HostError
from ai_how.gpu.abilities import Hurdle, vgpu_of
from ai_how.gpu.inventory import read_machine
from ai_how.gpu.models import Gpu, MdevType, VgpuWay, VirtualFunction
from ai_how.host.checks import Check, Status
from ai_how.spec.gpus import VgpuProfileSpec
from ai_how.spec.nodes import Node
from ai_how.vm_management.vgpus import (
    MDEVS,
    Vgpu,
    can_write,
    creation_command,
    mdev_uuid,
    removal_command,
)


@dataclass(frozen=True, slots=True)
class _Offer:
    """A type of vGPU at a card, or at one of its VFs."""

    gpu: Gpu
    parent: str
    type: str
    name: str | None
    mdev: MdevType | None = None
    vf: VirtualFunction | None = None

    def is_profile(self, profile: str) -> bool:
        return profile in (self.type, self.name)

    def __str__(self) -> str:
        return f"{self.type} ({self.name})" if self.name else self.type


@dataclass(frozen=True, slots=True, kw_only=True)
class VgpuChoices:
    """Chooses the vGPUs of one file.

    `given` has the node of each PCI function that a node of the file gets otherwise.
    """

    facts: CardFacts
    root: Path
    cluster_id: UUID
    given: Mapping[str, str]
    remembered: Mapping[str, tuple[str, ...]]

    def assign(self, nodes: Sequence[Node], *, wanted: Collection[str]) -> dict[str, Vgpu]:
        """The vGPU of each node that asks for one; the same facts give the same.

        A node keeps what its VM has. Only `wanted` nodes get a new one. Raises HostError where none
        is free, or only root could make it.
        """
        asking = [(node.name, node.vgpu) for node in nodes if node.vgpu]
        chosen: dict[str, Vgpu] = {}
        for name, asked in asking:
            if kept := self._find_kept(name, asked):
                chosen[name] = kept
        for name, asked in asking:
            if name not in chosen and name in wanted:
                chosen[name] = self._choose(name, asked, chosen)
        for name, asked in asking:
            if name not in chosen and (likely := self._find_likely(name, asked, chosen)):
                chosen[name] = likely
        return chosen

    def _gpus(self, parent: str | None) -> tuple[Gpu, ...]:
        """The card that is named, or all."""
        every = self.facts.machine.gpus
        return tuple(gpu for gpu in every if parent is None or parent in _addresses(gpu))

    def _offers(self, asked: VgpuProfileSpec) -> list[_Offer]:
        return [
            offer
            for gpu in self._gpus(asked.parent)
            for offer in _offers_of(gpu)
            if asked.parent in (None, gpu.address, offer.parent) and offer.is_profile(asked.profile)
        ]

    def _vgpu(self, name: str, asked: VgpuProfileSpec, offer: _Offer) -> Vgpu:
        if offer.mdev is None:
            return Vgpu(offer.parent, offer.type)
        uuid = mdev_uuid(self.cluster_id, name, offer.type, asked.parent)
        return Vgpu(offer.parent, offer.type, uuid)

    def _find_kept(self, name: str, asked: VgpuProfileSpec) -> Vgpu | None:
        """A mediated device that is there, whoever made it, or the VF that the node's VM has."""
        for offer in self._offers(asked):
            vgpu = self._vgpu(name, asked, offer)
            if offer.mdev and str(vgpu.uuid) in offer.mdev.uuids:
                return vgpu
        for gpu in self._gpus(asked.parent):
            names = _names_of(gpu)
            for vf in gpu.sriov.vfs:
                user = self.facts.users.get(vf.address)
                if not vf.current_type or user is None or user.own_node != name:
                    continue
                # A card that is full names no types: then its name cannot be compared.
                known = names.get(vf.current_type)
                is_asked = asked.profile in (str(vf.current_type), known)
                if is_asked or (known is None and not asked.profile.isdecimal()):
                    return Vgpu(vf.address, str(vf.current_type))
        return None

    def _find_likely(
        self, name: str, asked: VgpuProfileSpec, chosen: Mapping[str, Vgpu]
    ) -> Vgpu | None:
        """What a node that is not started now had or will probably have; for its definition."""
        known = self.remembered.get(name, ())
        for offer in self._offers(asked):
            vgpu = self._vgpu(name, asked, offer)
            is_free = vgpu not in chosen.values()
            if offer.mdev or (offer.parent in known and is_free):
                return vgpu
        return None

    def _choose(self, name: str, asked: VgpuProfileSpec, chosen: Mapping[str, Vgpu]) -> Vgpu:
        offers = self._offers(asked)
        if not offers:
            raise self._not_offered(name, asked)
        reasons = [(offer, self._why_not(offer, chosen)) for offer in offers]
        free = [offer for offer, why in reasons if why is None]
        if not free:
            raise _none_free(name, asked, reasons)
        known = self.remembered.get(name, ())

        def order(offer: _Offer) -> tuple[bool, bool, bool, str]:
            others = [one for one in chosen.values() if one.parent in _addresses(offer.gpu)]
            # A card may refuse types of different sizes at a time.
            is_mixed = any(one.type != offer.type for one in others)
            is_made = offer.vf is not None and bool(offer.vf.current_type)
            return not is_made, offer.parent not in known, is_mixed, offer.parent

        offer = min(free, key=order)
        vgpu = self._vgpu(name, asked, offer)
        if not vgpu.is_made(self.root) and not can_write(self.root, vgpu.made_by[0]):
            raise HostError(
                f"only root can make the vGPU of {name}, type {offer}, on {offer.parent}",
                details="With one that root has made, the start goes on.",
                hint=creation_command(vgpu),
            )
        return vgpu

    def _why_not(self, offer: _Offer, chosen: Mapping[str, Vgpu]) -> Hurdle | None:
        """Why none can be made of an offer; None if one can."""
        for address in (offer.gpu.address, offer.parent):
            if owner := self.given.get(address):
                return Hurdle(f"{owner} of this file has it")
        used = {node: one for node, one in chosen.items() if one.parent == offer.parent}
        if offer.vf:
            owner = next(iter(used), None)
            taken = Hurdle(f"{owner} of this file has it") if owner else None
            return taken or self._why_not_vf(offer, offer.vf)
        made = sum(one.type == offer.type and not one.is_made(self.root) for one in used.values())
        available = offer.mdev.available if offer.mdev else None
        return None if (available or 0) > made else Hurdle(f"no instance of {offer} is free")

    def _why_not_vf(self, offer: _Offer, vf: VirtualFunction) -> Hurdle | None:
        if user := self.facts.users.get(vf.address):
            return Hurdle(f"in use by {user.who}", user.hint)
        if vf.iommu_group is None:
            return Hurdle("it is in no IOMMU group", advice="ai-how gpu doctor")
        has = vf.current_type
        vgpu = Vgpu(offer.parent, offer.type)
        # To a user who cannot write there, root has given this one.
        if has and (str(has) != offer.type or can_write(self.root, vgpu.made_by[0])):
            return Hurdle(
                f"it is a vGPU of type {has} already, of nobody that ai-how knows",
                removal_command(vgpu),
            )
        return None

    def _not_offered(self, name: str, asked: VgpuProfileSpec) -> HostError:
        """No card has the profile: what each has instead, or why it has none."""
        gpus = self._gpus(asked.parent)
        every = "\n".join(f"{gpu.address} {gpu.name}" for gpu in self.facts.machine.gpus)
        if not gpus:
            where = f"there is no GPU {asked.parent}" if asked.parent else "this host has no GPU"
            return HostError(
                f"{name} is to have a vGPU {asked.profile}, and {where}",
                details=every or ("this host has no GPU" if asked.parent else None),
                hint="ai-how gpu list",
            )
        reasons = [(gpu, self._why_none(gpu)) for gpu in gpus]
        where = f"{asked.parent} does not offer it" if asked.parent else "no card offers it"
        hints = [why.advice for _, why in reasons if why.advice]
        return HostError(
            f"{name} is to have a vGPU {asked.profile}, and {where}",
            details="\n".join(f"{gpu.address} {gpu.name}: {why.text}" for gpu, why in reasons),
            hint=hints[0] if hints else f"ai-how gpu explain {gpus[0].address}",
        )

    def _why_none(self, gpu: Gpu) -> Hurdle:
        if user := self.facts.users.get(gpu.address):
            return Hurdle(f"in use by {user.who}", user.hint)
        if offered := dict.fromkeys(map(str, _offers_of(gpu))):
            return Hurdle(f"it offers {', '.join(offered)}")
        if gpu.vgpu_way is VgpuWay.VF:
            return Hurdle("each of its VFs is a device, which pcie_passthrough gives to a node")
        found = vgpu_of(gpu, self.facts.machine)
        return next(iter(found.hurdles), Hurdle(found.how))


def check_mdevs(nodes: Sequence[Node], machine: Path) -> list[Check]:
    """A failure for each named mediated device that is not there, where no card can have one."""
    missing = [
        (node.name, node.vgpu_mdev_uuid)
        for node in nodes
        if node.vgpu_mdev_uuid and not (machine / MDEVS / str(node.vgpu_mdev_uuid)).exists()
    ]
    if not missing:
        return []
    gpus = read_machine(machine).gpus
    by_type = [gpu for gpu in gpus if gpu.vgpu_way is VgpuWay.VF_TYPE]
    if not by_type or any(gpu.vgpu_way in (VgpuWay.MDEV, VgpuWay.MDEV_ON_VF) for gpu in gpus):
        return []
    gpu = by_type[0]
    profile = next(iter(_names_of(gpu).values()), "1148")
    return [
        Check(
            "gpu",
            Status.FAILURE,
            f"{node}: there is no mediated device {uuid}, and there can be none: the vGPUs of "
            f"{gpu.address} ({gpu.name}) are types of its VFs, as from Linux 6.8 on",
            f"gpu: {{vgpu: {{profile: {profile}}}}}  # in place of vgpu in the cluster file",
        )
        for node, uuid in missing
    ]


def _addresses(gpu: Gpu) -> set[str]:
    """Those of a card and its VFs."""
    return {one.address for one in gpu.functions} | {vf.address for vf in gpu.sriov.vfs}


def _names_of(gpu: Gpu) -> dict[int, str]:
    """The names of the types that its VFs can have now."""
    return {one.id: one.name for vf in gpu.sriov.vfs for one in vf.creatable_types or ()}


def _offers_of(gpu: Gpu) -> Iterator[_Offer]:
    for kind in gpu.mdev_types:
        yield _Offer(gpu, gpu.address, kind.id, kind.name, mdev=kind)
    names = _names_of(gpu)
    for vf in gpu.sriov.vfs:
        for kind in vf.mdev_types:
            yield _Offer(gpu, vf.address, kind.id, kind.name, mdev=kind)
        types = dict.fromkeys(one.id for one in vf.creatable_types or ())
        if vf.creatable_types is not None and vf.current_type:
            types[vf.current_type] = None
        for number in types:
            yield _Offer(gpu, vf.address, str(number), names.get(number), vf=vf)


def _none_free(
    name: str, asked: VgpuProfileSpec, reasons: Sequence[tuple[_Offer, Hurdle | None]]
) -> HostError:
    hints = [why.advice for _, why in reasons if why and why.advice]
    where = f" on {asked.parent}" if asked.parent else ""
    return HostError(
        f"{name} is to have a vGPU {asked.profile}{where}, and none is free",
        details="\n".join(
            f"{offer.parent} {offer.gpu.name}: {why.text}" for offer, why in reasons if why
        ),
        hint=hints[0] if hints else f"ai-how gpu explain {reasons[0][0].gpu.address}",
    )
