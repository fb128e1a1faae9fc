"""What NVIDIA's own tool adds where it answers in time: names, memory and MIG.

The formats are those of `nvidia-smi -q -x` (drivers 535 to 575) and `nvidia-smi mig -lgip` as
NVIDIA's MIG user guide and issue threads show them.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from xml.etree.ElementTree import Element  # only the type: the parser is ours

from ai_how.errors import HostError, ToolError
from ai_how.gpu.models import Mig, MigProfile
from ai_how.libvirt_client.xml import read_xml
from ai_how.process import Argument, find_tool, run_bounded
from ai_how.waiting import Deadline

NOT_INSTALLED = "nvidia-smi is not installed"
MOST_BYTES = 16 << 20  # eight cards with 64 VFs each print less than 4 MiB
_DOCTYPE = re.compile(r'<!DOCTYPE nvidia_smi_log SYSTEM "[\w.-]+">')
_PROFILE = re.compile(
    r"^\|\s+(?P<gpu>\d+)\s+MIG (?P<name>\S+)\s+(?P<id>\d+)\s+(?P<free>\d+)/(?P<total>\d+)"
    r"\s+(?P<memory>\d+(?:\.\d+)?)\s",
    re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class SmiCard:
    """One card in the words of nvidia-smi; None where it says N/A."""

    name: str | None = None
    memory_mib: int | None = None
    virtualization: str | None = None  # None, Pass-Through, VGPU, Host VGPU
    can_mig: bool | None = None
    mig: Mig | None = None


@dataclass(frozen=True, slots=True)
class SmiAnswer:
    """All cards by address, or why there is no answer."""

    cards: dict[str, SmiCard] = field(default_factory=dict)
    driver_version: str | None = None
    trouble: str | None = None


def ask_nvidia_smi(*, patience_s: float) -> SmiAnswer:
    """Ask once, for both lists together at most `patience_s`. Never raises for what it answers."""
    tool = find_tool("nvidia-smi")
    if tool is None:
        return SmiAnswer(trouble=NOT_INSTALLED)
    deadline = Deadline.after(patience_s)
    try:
        answer = read_cards(_call([tool, "-q", "-x"], deadline))
    except HostError as error:
        return SmiAnswer(trouble=": ".join(str(error).splitlines()[:2]))
    if not any(card.mig and card.mig.is_enabled for card in answer.cards.values()):
        return answer  # it lists the profiles of cards with MIG on, and fails if there are none
    try:
        profiles = read_profiles(_call([tool, "mig", "-lgip"], deadline))
    except ToolError as error:
        return replace(answer, trouble=f"mig -lgip: {error.brief}")
    return replace(answer, cards=_with_profiles(answer.cards, profiles))


def read_cards(text: str) -> SmiAnswer:
    """Parse `nvidia-smi -q -x`. Raises HostError if it is not that."""
    root = read_xml(_DOCTYPE.sub("", text, count=1))
    if root.tag != "nvidia_smi_log":
        raise HostError("nvidia-smi answered something else", details=f"<{root.tag}>")
    cards = {}
    for one in root.iterfind("gpu"):
        if address := _address(one.get("id", "")):
            cards[address] = _read_card(one)
    return SmiAnswer(cards, _text(root, "driver_version"))


def read_profiles(text: str) -> dict[int, tuple[MigProfile, ...]]:
    """Parse `nvidia-smi mig -lgip`: the profiles by the number of the card."""
    found: dict[int, list[MigProfile]] = {}
    for row in _PROFILE.finditer(text):
        profile = MigProfile(
            name=row["name"],
            id=int(row["id"]),
            free=int(row["free"]),
            total=int(row["total"]),
            memory_gib=float(row["memory"]),
        )
        found.setdefault(int(row["gpu"]), []).append(profile)
    return {number: tuple(profiles) for number, profiles in found.items()}


def _read_card(gpu: Element) -> SmiCard:
    memory = re.fullmatch(r"(\d+) MiB", _text(gpu, "fb_memory_usage/total") or "")
    # A driver without MIG, or a card, says N/A.
    now, then = _text(gpu, "mig_mode/current_mig"), _text(gpu, "mig_mode/pending_mig")
    instances = len(gpu.findall("mig_devices/mig_device"))
    mode = gpu.findtext("mig_mode/current_mig")
    return SmiCard(
        name=_text(gpu, "product_name"),
        memory_mib=int(memory[1]) if memory else None,
        virtualization=_text(gpu, "gpu_virtualization_mode/virtualization_mode"),
        can_mig=None if mode is None else now in ("Enabled", "Disabled"),
        mig=Mig(now == "Enabled", then not in (None, now), instances, ()) if now else None,
    )


def _with_profiles(
    cards: dict[str, SmiCard], profiles: dict[int, tuple[MigProfile, ...]]
) -> dict[str, SmiCard]:
    """The cards are numbered in the order in which `-q -x` lists them."""
    return {
        address: replace(
            card, mig=card.mig and replace(card.mig, profiles=profiles.get(number, ()))
        )
        for number, (address, card) in enumerate(cards.items())
    }


def _address(told: str) -> str | None:
    """`00000000:3B:00.0` has a domain of eight digits, sysfs one of four."""
    found = re.fullmatch(r"([0-9A-Fa-f]{8}):([0-9A-Fa-f]{2}:[0-9A-Fa-f]{2}\.[0-7])", told)
    return f"{int(found[1], 16):04x}:{found[2].lower()}" if found else None


def _text(element: Element, path: str) -> str | None:
    text = (element.findtext(path) or "").strip()
    return None if text in ("", "N/A", "[N/A]") else text


def _call(argv: Sequence[Argument], deadline: Deadline) -> str:
    """Its output. Raises ToolError if it fails; it prints why on stdout."""
    told = run_bounded(argv, timeout_s=deadline.remaining_s, most_bytes=MOST_BYTES)
    if told.returncode == 0:
        return told.stdout
    first = next((line.strip() for line in told.stdout.splitlines() if line.strip()), "")
    said = f": {first[:200]}" if first else ""
    raise ToolError(f"nvidia-smi failed (exit code {told.returncode}){said}")
