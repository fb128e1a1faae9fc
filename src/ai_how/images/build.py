"""Makes the default image from Debian packages: mmdebstrap, a file system, a kernel, an initrd."""

import os
import re
import shlex
import struct
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from ai_how.errors import ImageError
from ai_how.images.copying import sha256_of
from ai_how.images.manifest import DISK, INITRD, KERNEL, Image, Manifest
from ai_how.images.recipe import ROOT, Recipe, default_recipe
from ai_how.images.store import ImageStore
from ai_how.process import get_tool, run, run_lines

# The progress of a build, as a share of the whole, when mmdebstrap prints one of these lines
# (measured on two cores).
MARKS = (
    (re.compile(r"I: running apt-get update"), 0.02, "reading the package lists"),
    (re.compile(r"I: downloading packages with apt"), 0.10, "downloading"),
    (re.compile(r"I: extracting archives"), 0.15, "extracting"),
    (re.compile(r"I: installing essential packages"), 0.20, "installing the base"),
    (re.compile(r"I: installing remaining packages inside"), 0.35, "installing packages"),
    (re.compile(r"^Setting up munge"), 0.60, "configuring packages"),
    (re.compile(r"^Setting up nfs-kernel-server"), 0.75, "configuring packages"),
    (re.compile(r"I: running --customize-hook"), 0.80, "making the file system"),
    (re.compile(r"I: cleaning package lists"), 0.93, "cleaning up"),
)
PROGRAMS = (
    ("mmdebstrap", "mmdebstrap"),
    ("mke2fs", "e2fsprogs"),
    ("cpio", "cpio"),
    ("xz", "xz-utils"),
    ("zstd", "zstd"),
    ("qemu-img", "qemu-utils"),
)

Watcher = Callable[[float, str], None]


def find_default_image(store: ImageStore) -> Image | None:
    """The image of the current recipe, None if it is not built yet."""
    return store.find(default_recipe().digest)


def build_default_image(
    store: ImageStore, *, watch: Watcher = lambda _share, _what: None, mirror: str | None = None
) -> Image:
    """Build the image of the current recipe, or return it if it exists. Takes about a minute.

    Raises ToolError with the last lines of mmdebstrap if it fails. `mirror` is the URL of a Debian
    mirror, None for mmdebstrap's default.
    """
    recipe = default_recipe()
    if image := store.find(recipe.digest):
        return image
    for program, package in PROGRAMS:
        get_tool(program, package=package)
    with store.draft() as draft:
        _bootstrap(recipe, draft, watch, mirror)
        watch(0.95, "converting the disk")
        raw, disk = draft / "disk.raw", draft / DISK
        run([get_tool("qemu-img"), "convert", "-f", "raw", "-O", "qcow2", raw, disk])
        raw.unlink()
        packed = draft / "bzImage"
        unpack_kernel(packed, draft / KERNEL)
        packed.unlink()
        manifest = Manifest(
            digest=recipe.digest,
            name=recipe.name,
            created_at=datetime.now(UTC),
            virtual_size_bytes=recipe.image_bytes,
            disk_sha256=sha256_of(disk),
            kernel_sha256=sha256_of(draft / KERNEL),
            initrd_sha256=sha256_of(draft / INITRD),
            cmdline=recipe.cmdline,
            identity="agent",
            recipe=asdict(recipe),
        )
        image = store.add(draft, manifest)
    watch(1.0, "done")
    return image


def _bootstrap(recipe: Recipe, draft: Path, watch: Watcher, mirror: str | None) -> None:
    def follow(line: str) -> None:
        for pattern, share, what in MARKS:
            if pattern.search(line):
                watch(share, what)

    settings = {
        "OUT": str(draft),
        "TREE": str(ROOT / "rootfs"),
        "INIT": str(ROOT / "initrd-init"),
        "IMAGE_BYTES": str(recipe.image_bytes),
        # The image must not depend on the user's umask.
        "SOURCE_DATE_EPOCH": "0",
    }
    conf, setting = "/etc/initramfs-tools/update-initramfs.conf", "update_initramfs=no"
    run_lines(
        [
            *_as_root(),
            get_tool("mmdebstrap"),
            "--mode=root",
            "--variant=minbase",
            "--format=null",
            "--verbose",
            '--aptopt=Apt::Install-Recommends "false"',
            "--dpkgopt=force-confold",
            *(f"--dpkgopt=path-exclude={pattern}" for pattern in recipe.left_out),
            # The image has its own initrd; building the package's would take ten seconds for
            # nothing.
            f'--essential-hook=install -D /dev/null "$1{conf}"; echo {setting} > "$1{conf}"',
            f'--customize-hook=sh {shlex.quote(str(ROOT / "customize.sh"))} "$1"',
            f"--include={','.join(recipe.packages)}",
            recipe.suite,
            "/dev/null",
            *([mirror] if mirror else []),
        ],
        env=settings,
        on_line=follow,
    )


def _as_root() -> list[str]:
    """Become root of a user namespace unless we are root: we then own mmdebstrap's files."""
    if os.geteuid() == 0:
        return []
    unshare = str(get_tool("unshare", package="util-linux"))
    return [
        *(unshare, "--user", "--map-root-user", "--map-auto", "--setgroups", "allow"),
        *("--mount", "--pid", "--fork", "--kill-child", "--mount-proc"),
    ]


def unpack_kernel(packed: Path, target: Path) -> None:
    """Unpack a bzImage's zstd payload into the ELF file that QEMU boots by its PVH entry.

    Unpacking by the guest costs a second of every boot under emulation. The layout is that of
    Documentation/arch/x86/boot.rst: setup_sects at 0x1f1, payload_offset and payload_length at
    0x248.
    Raises ImageError where the kernel is packed in another way.
    """
    data = packed.read_bytes()
    setup_sectors = data[0x1F1] or 4
    offset, length = struct.unpack_from("<II", data, 0x248)
    start = (setup_sectors + 1) * 512 + offset
    payload = target.with_suffix(".zst")
    payload.write_bytes(data[start : start + length - 4])  # the last four bytes are the size
    try:
        if data[start : start + 4] != b"\x28\xb5\x2f\xfd":
            raise ImageError("The kernel is not packed with zstd", details=str(packed))
        run([get_tool("zstd", package="zstd"), "-q", "-d", "-f", payload, "-o", target])
    finally:
        payload.unlink()
    if target.read_bytes()[:4] != b"\x7fELF":
        raise ImageError("The kernel file does not contain an ELF kernel", details=str(packed))
