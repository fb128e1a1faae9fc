"""The recipes of the built-in images, one for each suite of Debian.

The digest of a recipe names the image, so a recipe is built once.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

from ai_how.spec.images import SUITES

PACKAGES = (
    "systemd",
    "systemd-sysv",
    "udev",
    "dbus",
    "linux-image-cloud-amd64",
    "busybox-static",
    "kmod",
    "e2fsprogs",
    "xz-utils",
    "iproute2",
    "iputils-ping",
    "procps",
    "less",
    "rsync",
    "nano",
    "sudo",
    "ca-certificates",
    "openssh-server",
    "qemu-guest-agent",
    "chrony",
    "munge",
    "slurmctld",
    "slurmd",
    "slurm-client",
    "openmpi-bin",
    "python3-mpi4py",
    "nfs-kernel-server",
    "nfs-common",
)
LEFT_OUT = (
    "/usr/share/doc/*",
    "/usr/share/man/*",
    "/usr/share/info/*",
    "/usr/share/locale/*",
)
# `quiet`: each character on an emulated serial line is a VM exit. Panics are still printed.
CMDLINE = "root=/dev/vda rw console=ttyS0 net.ifnames=0 quiet audit=0 rcupdate.rcu_expedited=1"
ROOT = Path(str(files("ai_how.images")))
DEFAULT = "default"
SUITE = "suite:"
DEFAULT_SUITE = "trixie"


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that determines the built image; `files` maps our own files to their SHA-256."""

    name: str
    suite: str
    packages: tuple[str, ...]
    left_out: tuple[str, ...]
    image_bytes: int
    cmdline: str
    files: dict[str, str]

    @property
    def asked_as(self) -> str:
        """What it is called in a command that builds it."""
        return DEFAULT if self.name == DEFAULT else f"{SUITE}{self.suite}"

    @property
    def digest(self) -> str:
        """Hexadecimal SHA-256 of the canonical recipe."""
        text = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


@cache
def default_recipe() -> Recipe:
    """The recipe of the built-in image, read from the files of this package."""
    return suite_recipe(DEFAULT_SUITE)


@cache
def suite_recipe(suite: str) -> Recipe:
    """The recipe of the built-in image with the packages of a suite of Debian."""
    ours = [ROOT / name for name in ("customize.sh", "initrd-init", "node.sh", "pack.sh")]
    ours += sorted(path for path in (ROOT / "rootfs").rglob("*") if path.is_file())
    return Recipe(
        name=DEFAULT if suite == DEFAULT_SUITE else suite,
        suite=suite,
        packages=PACKAGES,
        left_out=LEFT_OUT,
        image_bytes=4 * 2**30,
        cmdline=CMDLINE,
        files={
            str(path.relative_to(ROOT)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in ours
        },
    )


def asked_name(digest: str) -> str | None:
    """What the built-in image of this recipe is called in a command, None for any other."""
    recipes = (suite_recipe(suite) for suite in SUITES)
    return next((one.asked_as for one in recipes if one.digest == digest), None)
