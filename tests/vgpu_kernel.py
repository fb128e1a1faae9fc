"""The kernel's side of vGPUs: what a write to a file of sysfs changes in a tree.

Mediated devices as in the kernel's vfio-mediated-device document; VFs as in NVIDIA's vGPU user
guide. A file that is not there, or text that is refused, raises what the kernel would.
"""

import errno
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from gpu_host import GpuHost

CREATE, REMOVE, TYPE = "create", "remove", "current_vgpu_type"


@dataclass
class VgpuKernel:
    """Takes the place of `write_sysfs`; `refuses` has the errors of the next writes."""

    host: GpuHost
    refuses: list[int] = field(default_factory=list)
    written: list[str] = field(default_factory=list)
    before: Callable[[Path], None] = lambda _path: None
    after: Callable[[Path], None] = lambda _path: None

    def write(self, path: Path, text: str) -> None:
        self.before(path)
        if self.refuses:
            number = self.refuses.pop(0)
            raise OSError(number, os.strerror(number))
        if not path.exists():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        match path.name:
            case "create":
                self._create(path.parent, text)
            case "remove":
                self._remove(path.parent)
            case "current_vgpu_type":
                self._set(path, text)
            case name:
                raise AssertionError(name)
        self.written.append(f"{text} > {path.name}")
        self.after(path)

    @property
    def mdevs(self) -> list[str]:
        place = self.host.root / "sys/bus/mdev/devices"
        return sorted(one.name for one in place.iterdir()) if place.is_dir() else []

    def type_of(self, vf: str) -> str:
        return (self.host.device(vf) / "nvidia" / TYPE).read_text().strip()

    def reboot(self) -> None:
        """All vGPUs are gone, and the host has another boot."""
        for uuid in self.mdevs:
            self._remove(self.host.root / "sys/bus/mdev/devices" / uuid)
        for file in (self.host.root / "sys/devices").rglob(TYPE):
            file.write_text("0\n")
        self.host.write("proc/sys/kernel/random/boot_id", "another\n")

    def prepare(self) -> None:
        """The files to write to, which trees of the inventory have not."""
        for kind in (self.host.root / "sys/devices").rglob("mdev_supported_types/*"):
            (kind / CREATE).touch()
            (kind / "devices").mkdir(exist_ok=True)

    def _create(self, kind: Path, uuid: str) -> None:
        free = kind / "available_instances"
        if uuid in self.mdevs:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        if not (count := int(free.read_text())):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        free.write_text(f"{count - 1}\n")
        place = self.host.root / "sys/bus/mdev/devices" / uuid
        place.mkdir(parents=True)
        (place / REMOVE).touch()
        (place / "mdev_type").symlink_to(kind)
        (kind / "devices" / uuid).mkdir()

    def _remove(self, place: Path) -> None:
        kind = (place / "mdev_type").resolve()
        free = kind / "available_instances"
        free.write_text(f"{int(free.read_text()) + 1}\n")
        (kind / "devices" / place.name).rmdir()
        shutil.rmtree(place)

    def _set(self, path: Path, text: str) -> None:
        """A VF that has a type offers no other; the driver refuses to change one into another."""
        has = path.read_text().strip()
        if text != "0" and (has != "0" or f"{text}  :" not in self._offered(path)):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        path.write_text(f"{text}\n")

    @staticmethod
    def _offered(path: Path) -> str:
        return path.with_name("creatable_vgpu_types").read_text()
