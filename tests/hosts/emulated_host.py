"""A host with an IOMMU and devices of its own, emulated: QEMU, Debian's generic kernel, our root.

Its root directory is this machine's, so it has the same libvirt, QEMU, Python and source. What it
changes there is in its memory, and gone with it. Kernel and busybox are Debian's packages, kept
below our cache.
"""

import json
import shlex
import shutil
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from ai_how.errors import ToolError
from ai_how.process import Completed, dying_with_us, get_tool, run
from ai_how.state.lock import held_lock
from ai_how.state.paths import default_roots

ROOT = Path(__file__).resolve().parents[2]
INIT = ROOT / "tests/data/emulated-host.sh"
SUITE = "bookworm"  # of the kernel
PACKAGES = ("linux-image-amd64", "busybox-static")
BUILD_S = 900
MEMORY_MIB = 2560
# What the root directory needs, in this order; what comes later is loaded from there.
FOR_ROOT = (
    *("virtio_ring", "virtio", "virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_pci"),
    *("netfs", "fscache", "9pnet", "9pnet_virtio", "9p", "overlay"),
)
NOT_NEEDED = (  # the large ones
    *("net/ethernet", "net/wireless", "media", "scsi", "infiniband", "iio", "staging"),
    *(f"gpu/drm/{name}" for name in ("amd", "i915", "nouveau", "radeon")),
)

BOOT_DISPLAY = "0000:00:10.0"
CARD = ("0000:01:00.0", "0000:01:00.1")  # display and USB of one maker
MIXED_CARD = ("0000:02:00.0", "0000:02:00.1")  # display and audio of two makers
NVME = "0000:03:00.0"
EDU = "0000:04:00.0"  # has no driver
BRIDGED = ("0000:06:01.0", "0000:06:02.0")  # behind one bridge of conventional PCI
DRIVERS = {
    BOOT_DISPLAY: "bochs-drm",
    CARD[0]: None,
    CARD[1]: "xhci_hcd",
    MIXED_CARD[0]: "bochs-drm",
    MIXED_CARD[1]: "snd_hda_intel",
    NVME: "nvme",
    EDU: None,
    BRIDGED[0]: "bochs-drm",
    BRIDGED[1]: None,
}
VFS = 2


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel with its initramfs; `tree` has its modules, and covers the root directory."""

    image: Path
    initramfs: Path
    tree: Path

    @property
    def place(self) -> Path:
        """The directory that has all of it."""
        return self.image.parent

    @property
    def version(self) -> str:
        [modules] = (self.tree / "usr/lib/modules").iterdir()
        return modules.name


def run_inside(
    program: str, *words: str, out: Path, timeout_s: float, has_iommu: bool = True
) -> Completed:
    """Boot the host, run a Python program of tests/hosts there as root, and return its output.

    `out` is /out in there. The host ends with us, or after `timeout_s`: then, and if it crashes,
    ToolError is raised, and what the program has written is in `out` all the same.
    """
    run([sys.executable, "-m", "compileall", "-q", ROOT / "src", ROOT / "tests"], check=False)
    paths = ":".join(str(ROOT / place) for place in ("tests", "tests/hosts", "bench"))
    argv = [sys.executable, str(ROOT / "tests/hosts" / program), *words]
    settings = f"HOME=/root LC_ALL=C.UTF-8 AI_HOW_NO_WARM=1 PYTHONPATH={shlex.quote(paths)}"
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    (out / "run").write_text(f"exec env -i PATH={path} {settings} {shlex.join(argv)}\n")
    disk = out.with_name(f"{out.name}.disk")
    make_disk(disk)
    console = out.with_name(f"{out.name}.console")
    try:
        done = run(
            dying_with_us(
                [
                    *qemu(get_kernel(), out),
                    *(["-device", "intel-iommu,intremap=on"] if has_iommu else []),
                    *devices(disk),
                    *("-serial", f"file:{console}"),
                ]
            ),
            timeout_s=timeout_s,
        )
    finally:
        disk.unlink()
    code = out / "code"
    if not code.exists():
        said = console.read_text(errors="replace")[-3000:] if console.exists() else ""
        raise ToolError("the emulated host did not come to its end", details=said + done.stderr)
    texts = [(out / name).read_text(errors="replace") for name in ("stdout", "stderr")]
    return Completed(int(code.read_text()), *texts)


def qemu(kernel: Kernel, out: Path) -> list[str | Path]:
    """The machine without its devices."""
    # Its clock counts its instructions (2 ns each): no deadline passes because this machine is
    # busy. no_timer_check: the kernel counts on a timer that does not lag.
    words = "console=ttyS0 quiet panic=-1 no_timer_check mitigations=off intel_iommu=on"
    return [
        *(get_tool("qemu-system-x86_64", package="qemu-system-x86"), "-nodefaults"),
        *("-no-user-config", "-display", "none", "-no-reboot", "-sandbox", "on"),
        *("-M", "q35", "-accel", "tcg,tb-size=256", "-icount", "shift=1"),
        *("-cpu", "Nehalem", "-smp", "1"),
        *("-m", str(MEMORY_MIB), "-kernel", kernel.image, "-initrd", kernel.initramfs),
        *("-append", words),
        *share("host", Path("/"), "readonly=on"),
        *share("tree", kernel.tree, "readonly=on"),
        *share("out", out),
    ]


def share(name: str, path: Path, *options: str) -> list[str]:
    settings = [f"id={name}", f"path={path}", "security_model=none", "multidevs=remap", *options]
    device = f"virtio-9p-pci,fsdev={name},mount_tag={name}"
    return ["-fsdev", ",".join(["local", *settings]), "-device", device]


def devices(disk: Path) -> list[str]:
    """The devices that can be given away, at the addresses above."""
    vfs = f"sriov_max_vfs={VFS},sriov_vq_flexible={2 * VFS},sriov_vi_flexible={VFS}"
    every = (
        "VGA,addr=0x10",
        "pcie-root-port,id=port0,chassis=1,addr=8.0,multifunction=on",
        *(f"pcie-root-port,id=port{n},chassis={n + 1},addr=8.{n}" for n in range(1, 5)),
        *("qxl,bus=port0,addr=0.0,multifunction=on", "qemu-xhci,bus=port0,addr=0.1"),
        "bochs-display,bus=port1,addr=0.0,multifunction=on",
        *("ich9-intel-hda,id=sound,bus=port1,addr=0.1", "hda-duplex,bus=sound.0,audiodev=none"),
        "nvme-subsys,id=subsystem",
        f"nvme,id=nvme,serial=one,subsys=subsystem,bus=port2,{vfs}",
        *("nvme-ns,drive=disk,nsid=1,bus=nvme", "edu,bus=port3"),
        "pcie-pci-bridge,id=bridge,bus=port4",
        *("bochs-display,bus=bridge,addr=1.0", "edu,bus=bridge,addr=2.0"),
    )
    return [
        *("-audiodev", "none,id=none", "-drive", f"file={disk},format=raw,if=none,id=disk"),
        *(word for one in every for word in ("-device", one)),
    ]


def make_disk(disk: Path) -> None:
    """A disk with a file system."""
    with disk.open("wb") as file:
        file.truncate(64 << 20)
    run([get_tool("mke2fs", package="e2fsprogs"), "-q", "-F", "-t", "ext4", disk])


def get_kernel() -> Kernel:
    """The kernel, made where it is missing: less than a minute, by Debian's mirror."""
    seed = json.dumps([SUITE, PACKAGES, FOR_ROOT, NOT_NEEDED, INIT.read_text()])
    top = default_roots().cache / "emulated-host"
    place = top / sha256(seed.encode()).hexdigest()[:16]
    top.mkdir(parents=True, exist_ok=True)
    with held_lock(top / "lock", doing="unpacking a kernel", wait_s=BUILD_S):
        if not place.exists():
            for former in top.iterdir():  # of another recipe, or half made
                if former.is_dir():
                    shutil.rmtree(former)
            draft = place.with_suffix(".draft")
            build(draft)
            draft.rename(place)
    return Kernel(place / "vmlinuz", place / "initramfs", place / "tree")


def build(target: Path) -> None:
    """Unpack the packages, of which only a few files are kept."""
    unpacked, tree = target / "unpacked", target / "tree"
    target.mkdir(mode=0o755)
    run(
        [
            *(get_tool("unshare", package="util-linux"), "--mount", "--propagation", "private"),
            *(get_tool("mmdebstrap", package="mmdebstrap"), "--mode=root", "--variant=extract"),
            *("--skip=check/empty", '--aptopt=Apt::Install-Recommends "false"'),
            *(f"--include={','.join(PACKAGES)}", SUITE, unpacked),
        ],
        timeout_s=BUILD_S,
    )
    [image] = (unpacked / "boot").glob("vmlinuz-*")
    image.rename(target / "vmlinuz")
    for place in ("usr/bin", "usr/sbin", "usr/lib"):
        (tree / place).mkdir(parents=True)
    (unpacked / "lib/modules").rename(tree / "usr/lib/modules")
    (unpacked / "bin/busybox").rename(tree / "usr/bin/busybox")
    shutil.rmtree(unpacked)
    # Independent of the machine's libraries, and there even where the machine has no kmod.
    (tree / "usr/sbin/modprobe").symlink_to("../bin/busybox")
    (tree / "lib").symlink_to("usr/lib")
    [modules] = (tree / "usr/lib/modules").iterdir()
    for name in NOT_NEEDED:
        shutil.rmtree(modules / "kernel/drivers" / name)
    run([tree / "usr/bin/busybox", "depmod", "-b", tree, modules.name], timeout_s=BUILD_S)
    make_initramfs(target, tree / "usr/bin/busybox", find_modules(modules, FOR_ROOT))
    shutil.rmtree(target / "initial")


def find_modules(modules: Path, names: Iterable[str]) -> list[Path]:
    by_name = {path.name.partition(".")[0]: path for path in modules.rglob("*.ko*")}
    return [by_name[name] for name in names]


def make_initramfs(target: Path, busybox: Path, modules: Sequence[Path]) -> None:
    initial = target / "initial"
    (initial / "bin").mkdir(parents=True)
    shutil.copy2(busybox, initial / "bin")
    shutil.copy(INIT, initial / "init")
    (initial / "init").chmod(0o755)
    for path in modules:
        shutil.copy(path, initial)
    (initial / "modules").write_text("".join(f"/{path.name}\n" for path in modules))
    found = sorted(str(path.relative_to(initial)) for path in initial.rglob("*"))
    cpio = [get_tool("cpio", package="cpio"), "-o", "-H", "newc", "--quiet", "-F"]
    run([*cpio, target / "initramfs"], stdin="".join(f"{one}\n" for one in found), cwd=initial)
