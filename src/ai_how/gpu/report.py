"""The cards with all that is told about them, and the checks of `gpu doctor`."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ai_how.gpu.abilities import Ability, Answer, What, abilities_of
from ai_how.gpu.inventory import Machine, read_machine
from ai_how.gpu.models import Gpu
from ai_how.gpu.nvidia_smi import NOT_INSTALLED
from ai_how.gpu.requests import Request, defined_in, read_requests
from ai_how.host.checks import Check, Status
from ai_how.host.iommu import why_off
from ai_how.host.pci import Reason
from ai_how.state.paths import Roots


@dataclass(frozen=True, slots=True)
class Card:
    """A card, what it can, and in which VMs' definitions it is (CLUSTER/NODE)."""

    gpu: Gpu
    abilities: tuple[Ability, Ability, Ability]
    defined_in: tuple[str, ...]

    def ability(self, what: What) -> Ability:
        return next(one for one in self.abilities if one.what is what)


@dataclass(frozen=True, slots=True)
class Report:
    """All cards of the host."""

    machine: Machine
    cards: tuple[Card, ...]


def read_report(roots: Roots, root: Path = Path("/")) -> Report:
    """Look at the host, and at the clusters of a state directory."""
    machine = read_machine(root)
    requests = read_requests(roots) if machine.gpus else ()
    return Report(machine, tuple(_card(gpu, machine, requests) for gpu in machine.gpus))


def _card(gpu: Gpu, machine: Machine, requests: tuple[Request, ...]) -> Card:
    return Card(gpu, abilities_of(gpu, machine), defined_in(gpu, requests))


def checks_of(report: Report) -> tuple[Check, ...]:
    """A failure is what must be mended before any VM can have the card.

    That somebody uses a card, or that it is the host's display, is a warning: it is a use, no
    defect. What a card will never do is no finding.
    """
    if not report.cards:
        return (Check("gpus", Status.OK, "this host has no GPU"),)
    is_on = report.machine.iommu.is_on is True
    return (
        _iommu(report.machine),
        *(check for card in report.cards for check in _checks_of_card(card, is_iommu_on=is_on)),
        *_sources(report),
    )


def _iommu(machine: Machine) -> Check:
    if machine.iommu.is_on:
        return Check("iommu", Status.OK, "on")
    if machine.iommu.is_on is None:
        found = "not known: /sys/kernel/iommu_groups cannot be read"
        return Check("iommu", Status.WARNING, found, "ls /sys/kernel/iommu_groups")
    text, advice = why_off(machine.iommu)
    return Check("iommu", Status.FAILURE, f"{text}: no card can be passed to a VM", advice)


def _checks_of_card(card: Card, *, is_iommu_on: bool) -> Iterator[Check]:
    gpu = card.gpu
    name = gpu.address.removeprefix("0000:")
    whole = card.ability(What.WHOLE)
    if whole.answer is Answer.YES:
        yield Check(name, Status.OK, f"{gpu.name}: can be passed whole, {whole.how}")
    else:
        yield Check(name, Status.WARNING, f"{gpu.name}: whole: {whole.answer.value}")
    for hurdle in whole.hurdles:
        if hurdle.reason is Reason.NO_IOMMU and not is_iommu_on:
            continue  # told once, for all cards
        status = Status.FAILURE if hurdle.is_defect else Status.WARNING
        yield Check(name, status, hurdle.text, hurdle.advice)
    vgpu = card.ability(What.VGPU)
    if vgpu.answer in (Answer.YES, Answer.NO):
        yield Check(f"{name} vgpu", Status.OK, f"{vgpu.answer.value}: {vgpu.how}")
    for hurdle in vgpu.hurdles if vgpu.answer in (Answer.NOT_NOW, Answer.UNKNOWN) else ():
        yield Check(f"{name} vgpu", Status.HINT, hurdle.text, hurdle.advice)
    if gpu.mig and gpu.mig.is_pending:
        found = "a change of the MIG mode waits for a reset of the card"
        advice = f"sudo nvidia-smi --gpu-reset -i {gpu.address}"
        yield Check(f"{name} mig", Status.WARNING, found, advice)


def _sources(report: Report) -> Iterator[Check]:
    """What could not be asked."""
    if trouble := report.machine.smi_trouble:
        found = f"{trouble}: MIG state and memory of NVIDIA cards are not known"
        is_there = trouble != NOT_INSTALLED
        advice = "nvidia-smi -q -x" if is_there else "sudo apt-get install nvidia-smi"
        status = Status.WARNING if is_there else Status.HINT
        yield Check("nvidia-smi", status, found, advice)
    if not report.machine.has_names:
        advice = "sudo apt-get install pci.ids"
        yield Check("names", Status.HINT, "pci.ids is not installed: cards have numbers", advice)
    if any(card.gpu.hides_users for card in report.cards):
        found = "open files of other users' processes cannot be seen"
        yield Check("processes", Status.HINT, found, "sudo ai-how gpu doctor")
