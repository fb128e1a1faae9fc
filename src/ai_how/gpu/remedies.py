"""The commands that give a card free, each to be pasted (pure)."""

import shlex
from collections.abc import Iterator, Mapping, Sequence

from ai_how.gpu.models import Gpu, User, UserKind
from ai_how.host.pci import VFIO, PciDevice

MODPROBE_FILE = "/etc/modprobe.d/vfio-gpu.conf"
DRIVERCTL_FILES = "/etc/driverctl.d"
_STOPPED_BY = {
    UserKind.DISPLAY_SERVER: "sudo systemctl stop display-manager",
    UserKind.LOGIN_MANAGER: "sudo systemctl stop display-manager",
    UserKind.VM: "sudo virsh list",
}
_UNITS_OF_SOUND = {
    "pulseaudio": "pulseaudio.socket pulseaudio",
    "pipewire-pulse": "pipewire-pulse.socket pipewire-pulse",
    "pipewire": "pipewire.socket pipewire",
}


def users_in_the_way(users: Sequence[User]) -> Iterator[tuple[str, str]]:
    """Each user of a card, and what ends it; a container or a command is named once."""
    told = set()
    for one in users:
        key = (one.container, one.command if one.container is None else None)
        if key in told:
            continue
        told.add(key)
        where = f" in {one.container.runtime} {one.container.name}" if one.container else ""
        what = "" if one.kind in (UserKind.OTHER, UserKind.CONTAINER) else f", {one.kind.value}"
        nodes = ", ".join(one.nodes)
        yield f"{one.command} (pid {one.pid}{what}){where} has {nodes} open", _ends(one)


def take_at_boot(gpu: Gpu, devices: Mapping[str, PciDevice], *, is_debian: bool) -> str:
    """Reserve the card for VFIO before any other driver binds it, for good.

    By the ids, unless another device has the same: then by the addresses, with driverctl.
    """
    own = {one.address for one in gpu.functions}
    seen = [devices[one] for one in sorted(own)]
    pairs = [(one.vendor_id, one.device_id) for one in seen]
    has_twin = any(
        (one.vendor_id, one.device_id) in pairs
        for one in devices.values()
        if one.address not in own
    )
    if has_twin:
        files = " ".join(f"{DRIVERCTL_FILES}/pci-{one}" for one in sorted(own))
        install = "sudo apt-get install driverctl && " if is_debian else ""
        return f"{install}echo {VFIO} | sudo tee {files}  # then reboot"
    ids = ",".join(dict.fromkeys(f"{vendor:04x}:{device:04x}" for vendor, device in pairs))
    modules = dict.fromkeys(one.driver_module for one in seen if one.driver != VFIO)
    lines = [f"options {VFIO} ids={ids}"]
    lines += [f"softdep {module} pre: {VFIO}" for module in modules if module]
    text = "\\n".join([*lines, ""])
    image = "sudo update-initramfs -u" if is_debian else "sudo dracut --force"
    return f"printf '{text}' | sudo tee {MODPROBE_FILE} && {image}  # then reboot"


def remove_vfs(gpu: Gpu, sriov_manage: str) -> str:
    """Give the card its VFs back."""
    if gpu.is_nvidia:
        return f"sudo {sriov_manage} -d {gpu.address}"
    return f"echo 0 | sudo tee /sys/bus/pci/devices/{gpu.address}/sriov_numvfs"


def _ends(user: User) -> str:
    if user.container and user.container.runtime in ("docker", "podman"):
        return f"sudo {user.container.runtime} stop {user.container.name}"
    if user.kind is UserKind.SOUND_SERVER:
        units = _UNITS_OF_SOUND.get(user.command, user.command)
        return f"systemctl --user stop {units}"
    if user.kind in _STOPPED_BY:
        return _STOPPED_BY[user.kind]
    if user.unit:
        stop = "systemctl --user stop" if user.unit.is_of_user else "sudo systemctl stop"
        return f"{stop} {shlex.quote(user.unit.name)}"
    return f"sudo kill {user.pid}"
