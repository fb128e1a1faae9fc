"""Which processes have a card's device nodes open, from the links in /proc/*/fd."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ai_how.gpu.models import Container, Unit, User, UserKind
from ai_how.gpu.sysfs import directory_of
from ai_how.host.reading import entries, link_name, read_text

# Nodes of a driver, for all its cards. They count for a card only if the process has no node of a
# single card open: a CUDA program opens these as well as /dev/nvidia0.
SHARED = {
    "nvidia": ("/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools", "/dev/nvidia-modeset"),
    "amdgpu": ("/dev/kfd",),
}
_ID_LENGTH = 64
_OF_A_GPU = re.compile(r"/dev/(?:dri/|nvidia|kfd|vfio/|snd/)")
# How each runtime names the cgroup of a container; with cgroup v1 the last part is the id alone.
_CONTAINERS = {
    "docker": r"/docker-(?P<id>[0-9a-f]{64})\.scope|/docker/(?P<id1>[0-9a-f]{64})",
    "podman": r"/libpod-(?P<id>[0-9a-f]{64})\.scope",
    "kubernetes": r"/kubepods.*[/-](?P<id>[0-9a-f]{64})(?:\.scope)?(?:/|$)",
    "lxc": r"/lxc(?:\.payload\.|/)(?P<id>[\w.-]+)",
    "machine": r"/machine\.slice/machine-(?P<id>[\w.\\-]+?)\.scope",
}
_UNIT = re.compile(
    r"/system\.slice/(?:.*/)?(?P<system>[^/]+\.service)(?:/|$)"
    r"|/user@\d+\.service/(?:.*/)?(?P<user>[^/]+\.service)(?:/|$)",
    re.MULTILINE,
)
# The kernel cuts a command's name after 15 characters.
_KINDS = {
    UserKind.DISPLAY_SERVER: (
        *("Xorg", "X", "Xwayland", "gnome-shell", "kwin_wayland", "kwin_x11", "weston", "sway"),
        *("mutter", "labwc", "wayfire", "Hyprland", "cosmic-comp", "plymouthd"),
    ),
    # It has the cards of a session open for the display server.
    UserKind.LOGIN_MANAGER: ("systemd-logind", "elogind", "seatd"),
    UserKind.PERSISTENCE_DAEMON: ("nvidia-persiste",),
    UserKind.SOUND_SERVER: ("pipewire", "wireplumber", "pulseaudio", "pipewire-pulse"),
    UserKind.MONITOR: ("nv-hostengine", "dcgm-exporter", "nvidia-smi", "nvtop"),
}


@dataclass(frozen=True, slots=True)
class Process:
    """A process with an open device node of some GPU or sound card."""

    pid: int
    command: str
    cgroup: str
    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Processes:
    """All of these, and whether there are processes whose open files cannot be seen."""

    seen: tuple[Process, ...]
    hides_some: bool


def read_processes(root: Path) -> Processes:
    """The processes with such nodes open; an ordinary user sees only those of their own."""
    found, hides_some = [], False
    numbered = [one for one in entries(root / "proc") if one.name.isdecimal()]
    for directory in numbered:
        try:
            links = sorted((directory / "fd").iterdir())
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended
        except OSError:
            hides_some = True
            continue
        targets = {_target(link) for link in links}
        if nodes := tuple(sorted(one for one in targets if _OF_A_GPU.match(one))):
            command = read_text(directory / "comm") or "?"
            cgroup = read_text(directory / "cgroup") or ""
            found.append(Process(int(directory.name), command, cgroup, nodes))
    found.sort(key=lambda one: one.pid)
    return Processes(tuple(found), hides_some or not numbered)


def nodes_of_card(root: Path, addresses: Mapping[str, int | None]) -> frozenset[str]:
    """The device nodes of a card; `addresses` are its functions and VFs with their IOMMU groups."""
    nodes: set[str] = set()
    for address, group in addresses.items():
        directory = directory_of(root, address)
        nodes.update(f"/dev/dri/{one.name}" for one in entries(directory / "drm"))
        nodes.update(f"/dev/vfio/devices/{one.name}" for one in entries(directory / "vfio-dev"))
        nodes.update(f"/dev/snd/{name}" for name in _sounds(directory))
        if group is not None:
            nodes.add(f"/dev/vfio/{group}")
        nodes.update(_groups_of_mdevs(directory))
        nodes.update(_nvidia_node(root, address))
    return frozenset(nodes)


def users_of(nodes: frozenset[str], driver: str | None, processes: Processes) -> Iterator[User]:
    """Who has the card's nodes open."""
    shared = SHARED.get(driver or "", ())
    for one in processes.seen:
        own = tuple(node for node in one.nodes if node in nodes)
        if not own and not any(_is_of_one_card(node) for node in one.nodes):
            own = tuple(node for node in one.nodes if node in shared)
        if own:
            container = find_container(one.cgroup)
            kind = _kind(one, container)
            if kind is not UserKind.CONTAINER:
                container = None
            unit = None if container else find_unit(one.cgroup)
            yield User(one.pid, one.command, kind, container, unit, own)


def find_container(cgroup: str) -> Container | None:
    """The container of a process by /proc/PID/cgroup; systemd's machines are VMs or nspawn."""
    for runtime, pattern in _CONTAINERS.items():
        if found := re.search(pattern, cgroup, re.MULTILINE):
            name = next(filter(None, found.groups()), "")
            return Container(runtime, name[:12] if len(name) == _ID_LENGTH else name)
    return None


def find_unit(cgroup: str) -> Unit | None:
    """The service of a process, of the system or of a user; None in a session or a scope."""
    found = _UNIT.search(cgroup)
    if found is None:
        return None
    return Unit(found["system"] or found["user"], is_of_user=found["user"] is not None)


def _kind(one: Process, container: Container | None) -> UserKind:
    if one.command.startswith("qemu-") or (container and container.name.startswith("qemu")):
        return UserKind.VM
    if container:
        return UserKind.CONTAINER
    for kind, commands in _KINDS.items():
        if one.command in commands:
            return kind
    return UserKind.OTHER


def _is_of_one_card(node: str) -> bool:
    return re.fullmatch(r"/dev/(nvidia\d+|dri/renderD\d+|dri/card\d+)", node) is not None


def _target(link: Path) -> str:
    try:
        return str(link.readlink())
    except OSError:
        return ""


def _sounds(directory: Path) -> Iterator[str]:
    """`sound/card1/pcmC1D3p` is /dev/snd/pcmC1D3p; the control is /dev/snd/controlC1."""
    for card in entries(directory / "sound"):
        yield f"controlC{card.name.removeprefix('card')}"
        yield from (one.name for one in entries(card) if re.match(r"(pcm|hw)C\d+D\d+", one.name))


def _groups_of_mdevs(directory: Path) -> Iterator[str]:
    for kind in entries(directory / "mdev_supported_types"):
        for mdev in entries(kind / "devices"):
            if group := link_name(mdev / "iommu_group"):
                yield f"/dev/vfio/{group}"


def _nvidia_node(root: Path, address: str) -> Iterator[str]:
    """NVIDIA's driver writes `Device Minor: 0` for /dev/nvidia0."""
    text = read_text(root / "proc/driver/nvidia/gpus" / address / "information") or ""
    if found := re.search(r"^Device Minor:\s*(\d+)", text, re.MULTILINE):
        yield f"/dev/nvidia{found[1]}"
