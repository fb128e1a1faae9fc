"""Cloud images as Debian makes them, built from its packages: what an ordinary user has downloaded.

Their parts, partitions and settings are those of Debian's `generic` images: GPT, a generic kernel
with its own initrd, GRUB's menu, cloud-init, netplan, systemd-networkd and systemd-resolved. One
build, as root, makes the images of a suite for each firmware, and a small apt repository with what
is installed later, of the same day. All that is kept below our cache.

As a program: stock_image.py SUITE FIRMWARE TARGET.qcow2 copies one, and prints where the
repository is.
"""

import os
import shlex
import shutil
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from ai_how.process import get_tool, run
from ai_how.state.lock import held_lock
from ai_how.state.paths import default_roots

SUITES = ("bookworm", "trixie")
FIRMWARES = ("bios", "uefi")
IMAGE_BYTES = 3 << 30
REPOSITORY_HOST = "packages.test"
BUILD_S = 900
SCRIPT = Path(__file__).parent / "data/stock-image.sh"
# The lists of Debian's images: what makes a system that boots, and what is useful in the cloud.
PACKAGES = (
    *("linux-image-amd64", "initramfs-tools", "grub-cloud-amd64", "apparmor", "zstd", "init"),
    *("cloud-init", "cloud-guest-utils", "cloud-initramfs-growroot", "openssh-server", "sudo"),
    *("systemd-resolved", "systemd-timesyncd", "netplan.io", "libnss-myhostname", "polkitd"),
    *("libpam-systemd", "dbus", "udev", "unattended-upgrades", "apt-utils", "apt-listchanges"),
    *("adduser", "bash-completion", "bind9-host", "ca-certificates", "cron", "curl", "e2fsprogs"),
    *("ethtool", "fdisk", "gdisk", "iproute2", "iptables", "iputils-ping", "kmod", "less"),
    *("locales", "logrotate", "man-db", "manpages", "nano", "netbase", "pciutils", "procps"),
    *("psmisc", "python3", "readline-common", "screen", "sensible-utils", "socat", "tcpdump"),
    *("traceroute", "tzdata", "uuid-runtime", "vim-tiny", "wget", "whiptail", "xz-utils"),
)
OF_SUITE = {"bookworm": (), "trixie": ("libnss-resolve", "linux-sysctl-defaults")}
EXTRA = (
    *("slurmctld", "slurmd", "slurm-client", "munge", "nfs-kernel-server", "nfs-common", "chrony"),
    *("qemu-guest-agent", "busybox-static", "openmpi-bin", "python3-mpi4py", "cloud-guest-utils"),
    *("ca-certificates", "sudo", "openssh-server", "rsync"),
)
FS_UUID = "3f0c2a51-6b74-4d0e-9c38-5a1d7e2b8f60"
ROOT_UUID = "8a6e1d9c-52b7-4f3a-b0c4-1e7f9d3a5b28"
ESP_UUID = "c14b7f02-9d3e-4a86-8e5f-70d2b6a9e413"
FSTAB = shlex.join(
    (
        f"PARTUUID={ROOT_UUID} / ext4 rw,discard,errors=remount-ro,x-systemd.growfs 0 1",
        f"PARTUUID={ESP_UUID} /boot/efi vfat defaults,umask=077 0 2",
    )
)
SECTOR = 512
ROOT_START = 262144  # the first sector of the root file system, as in Debian's images
BIOS_BOOT = 2048  # the first sector of the partition that holds GRUB's core


@dataclass(frozen=True, slots=True)
class StockImage:
    """An image that nobody has started yet, and a flat apt repository for what it has not.

    The image's only source of packages is http://REPOSITORY_HOST/, which a test serves.
    """

    disk: Path
    repository: Path
    suite: str
    firmware: str


def get_stock_image(suite: str, firmware: str) -> StockImage:
    """An image, and the others of its suite, made where they are missing: about two minutes.

    They are read-only for all: start a copy, or an overlay.
    """
    assert suite in SUITES, suite
    assert firmware in FIRMWARES, firmware
    top = default_roots().cache / "stock"
    digest = sha256(Path(__file__).read_bytes() + SCRIPT.read_bytes()).hexdigest()[:16]
    place = top / f"{suite}-{digest}"
    with held_lock(top / f".{suite}.lock", doing=f"making stock images of {suite}", wait_s=BUILD_S):
        if not place.exists():
            for former in top.glob(f"{suite}-*"):  # of another recipe, or half made
                shutil.rmtree(former)
            with draft(place) as made:
                build(suite, made)
    return StockImage(place / f"{firmware}.qcow2", place / "repository", suite, firmware)


@contextmanager
def draft(place: Path) -> Iterator[Path]:
    """A directory that becomes `place` when all went well."""
    made = place.with_name(f"{place.name}.draft")
    made.mkdir(mode=0o755)
    try:
        yield made
        made.rename(place)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def build(suite: str, target: Path) -> None:
    """Make the images of a suite and its repository in an empty directory."""
    work = target / "work"
    for part in (work / "tmp", work / "repository/partial"):
        part.mkdir(parents=True)
    (work / "tmp").chmod(0o1777)
    bootstrap(suite, work)
    raw = work / "bios.raw"
    with raw.open("r+b") as disk:
        add_bios_grub(disk.fileno(), (work / "boot.img").read_bytes(), work / "core.img")
    convert(raw, target / "bios.qcow2")
    drop_bios_grub(raw)
    convert(raw, target / "uefi.qcow2")
    (work / "repository").rename(target / "repository")
    shutil.rmtree(work)


def bootstrap(suite: str, work: Path) -> None:
    """Make the raw disk, what GRUB needs outside its partition, and the repository.

    No mount of it is seen by others, nor outlives it.
    """
    for tool, package in (("sfdisk", "fdisk"), ("mcopy", "mtools"), ("mkfs.vfat", "dosfstools")):
        get_tool(tool, package=package)
    settings = {
        "SUITE": suite,
        "OUT": str(work),
        "TMPDIR": str(work / "tmp"),
        "EXTRA": " ".join(EXTRA),
        "REPOSITORY_HOST": REPOSITORY_HOST,
        "IMAGE_BYTES": str(IMAGE_BYTES),
        "ROOT_START": str(ROOT_START),
        "FS_UUID": FS_UUID,
        "ROOT_UUID": ROOT_UUID,
        "ESP_UUID": ESP_UUID,
    }
    said = run(
        [
            *(get_tool("unshare", package="util-linux"), "--mount", "--propagation", "private"),
            *(get_tool("mmdebstrap", package="mmdebstrap"), "--mode=root", "--variant=minbase"),
            *("--format=null", "--verbose", '--aptopt=Apt::Install-Recommends "false"'),
            "--dpkgopt=force-unsafe-io",
            "--skip=cleanup/apt,cleanup/mmdebstrap,cleanup/reproducible",  # the disk is made before
            f'--essential-hook=printf "%s\\n" {FSTAB} > "$1/etc/fstab"',  # the initrd is made by it
            f'--customize-hook=sh "{SCRIPT}" "$1"',
            f"--include={','.join((*PACKAGES, *OF_SUITE[suite]))}",
            *(suite, "/dev/null"),
        ],
        timeout_s=BUILD_S,
        env=settings,
    )
    (work.parent / "log").write_text(said.stdout + said.stderr)


def add_bios_grub(disk: int, boot: bytes, core: Path) -> None:
    """Write GRUB's two parts of a BIOS boot, as grub-bios-setup does on a device.

    Its boot sector has the number of the core's first sector at 0x5c, and the core's first sector
    has that of the second in its only block list, 12 bytes from its end.
    """
    code = bytearray(boot[:440])
    struct.pack_into("<Q", code, 0x5C, BIOS_BOOT)
    struct.pack_into("<H", code, 0x66, 0x9090)  # the BIOS names the drive: believe it
    rest = bytearray(core.read_bytes())
    struct.pack_into("<Q", rest, SECTOR - 12, BIOS_BOOT + 1)
    os.pwrite(disk, code, 0)
    os.pwrite(disk, rest, BIOS_BOOT * SECTOR)


def drop_bios_grub(raw: Path) -> None:
    """Leave neither code for a BIOS nor its partition."""
    with raw.open("r+b") as disk:
        os.pwrite(disk.fileno(), bytes(440), 0)
        os.pwrite(disk.fileno(), bytes(1 << 20), BIOS_BOOT * SECTOR)
    run([get_tool("sfdisk", package="fdisk"), "--quiet", "--delete", raw, "14"])


def convert(raw: Path, target: Path) -> None:
    qemu_img = get_tool("qemu-img", package="qemu-utils")
    run([qemu_img, "convert", "-f", "raw", "-O", "qcow2", raw, target], timeout_s=BUILD_S)
    target.chmod(0o444)


def main() -> None:
    suite, firmware, target = sys.argv[1:]
    image = get_stock_image(suite, firmware)
    shutil.copyfile(image.disk, target)
    print(image.repository)  # noqa: T201  a program


if __name__ == "__main__":
    main()
