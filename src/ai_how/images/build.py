"""Makes built-in images from Debian packages: mmdebstrap, a file system, a kernel, an initrd."""

import hashlib
import re
import shlex
import shutil
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ai_how.errors import HostError, ImageError
from ai_how.images.copying import disk_errors, full_disk, remove_tree, sha256_of
from ai_how.images.manifest import DISK, INITRD, KERNEL, PACKAGES, TREE, Image, Manifest
from ai_how.images.packages import find_slurm_version, packages_of, read_packages
from ai_how.images.qemu_img import convert
from ai_how.images.recipe import ROOT, Recipe, default_recipe
from ai_how.images.sandbox import build_environment, find_workplace, in_namespace
from ai_how.images.store import ImageStore
from ai_how.outside_access import OutsideAccess, read_outside_access
from ai_how.process import Argument, get_tool, run, run_lines

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

# What mmdebstrap writes without a mirror.
DEBIAN = "http://deb.debian.org/debian"
DEBIAN_SECURITY = "http://security.debian.org/debian-security"
# How a kernel begins that is packed by this program, and the end of the name that it unpacks.
_PACKERS = {b"\x28\xb5\x2f\xfd": ("zstd", ".zst"), b"\xfd7zXZ\0": ("xz", ".xz")}
# Such a kernel (bookworm's) is left to the guest: it is what a guest unpacks fastest.
_LZ4 = b"\x02\x21\x4c\x18"

Watcher = Callable[[float, str], None]


def within(watch: Watcher, begin: float, end: float) -> Watcher:
    """A watcher of what is done from one share of the whole to another one."""
    return lambda share, what: watch(begin + share * (end - begin), what)


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """How an image is built, which decides nothing of its recipe.

    `mirror` is the URL of a Debian mirror, None for the usual one; the image has the usual one at
    the end. With `refresh` an image that
    exists is built again, with the newest packages. With `allow_expired` the lists of packages may
    be older than they say themselves, as those of a snapshot are. Unless `uses_proxy`, the proxies
    and certificates of this host are not used.
    """

    mirror: str | None = None
    refresh: bool = False
    allow_expired: bool = False
    uses_proxy: bool = True

    def __post_init__(self) -> None:
        """Raises ImageError for a mirror with a password: processes and logs would show it."""
        parts = urlsplit(self.mirror or "")
        if "@" in parts.netloc:
            bare = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
            raise ImageError(
                "a mirror cannot have a user or a password in its URL",
                details="A proxy that logs in for this machine (http_proxy, https_proxy) can.",
                hint=f"ai-how image build --mirror {shlex.quote(bare)}",
            )

    @property
    def access(self) -> OutsideAccess:
        """How a build reaches the outside."""
        return read_outside_access() if self.uses_proxy else OutsideAccess()


USUAL = BuildOptions()

# mmdebstrap unpacks below $TMPDIR: in the draft, so that nothing stays elsewhere when it is killed.
_BOOTSTRAP = """set -e
mount -t tmpfs tmpfs "$PLACE"
mkdir "$PLACE/tmp"
mount --bind "$OUT/work" "$PLACE/tmp"
chmod 1777 "$PLACE/tmp"
exec "$@"
"""


def find_default_image(store: ImageStore) -> Image | None:
    """The newest image of the current recipe, None if it is not built yet."""
    return store.find_built(default_recipe().digest)


def build_default_image(store: ImageStore, *, watch: Watcher = lambda _share, _what: None) -> Image:
    """Build the image of the current recipe, or return it if it exists. Takes about a minute."""
    return build_suite_image(store, default_recipe(), watch=watch)


def build_suite_image(
    store: ImageStore, recipe: Recipe, *, watch: Watcher, options: BuildOptions = USUAL
) -> Image:
    """Build a built-in image, or return it if it exists.

    Raises ImageError with the last lines of mmdebstrap if it fails.
    """
    if not options.refresh and (image := store.find_built(recipe.digest)):
        return image
    for program, package in PROGRAMS:
        get_tool(program, package=package)
    with store.draft() as draft:
        with build_errors(recipe.name, draft, again=recipe.asked_as):
            _bootstrap(recipe, draft, watch, options)
        watch(0.95, "converting the disk")
        packed = draft / "bzImage"
        unpack_kernel(packed, draft / KERNEL)
        packed.unlink()
        image = finish(
            store,
            draft,
            name=recipe.name,
            digest=recipe.digest,
            suite=recipe.suite,
            cmdline=recipe.cmdline,
            recipe=asdict(recipe),
        )
    watch(1.0, "done")
    return image


def finish(
    store: ImageStore,
    draft: Path,
    *,
    name: str,
    digest: str,
    suite: str | None,
    cmdline: str,
    recipe: dict[str, Any],
    kubernetes_version: str | None = None,
) -> Image:
    """Add what pack.sh has left in a draft, with its kernel and initrd, to the store.

    An image that was made again with newer packages gets a digest of its own. If no package is
    newer, the image that is there is returned.
    """
    raw, disk = draft / "disk.raw", draft / DISK
    size = raw.stat().st_size
    convert(raw, disk, source_format="raw")
    raw.unlink()
    packages = read_packages(draft / PACKAGES)
    asked = digest
    if former := store.find_built(asked):
        is_imported = former.manifest.is_imported
        if packages_of(former) == packages and not is_imported:
            return former
        listed = (draft / PACKAGES).read_bytes()
        mark = b"local" if is_imported else b""
        digest = hashlib.sha256(asked.encode() + listed + mark).hexdigest()
    manifest = Manifest(
        digest=digest,
        asked_digest=asked,
        name=name,
        created_at=datetime.now(UTC),
        virtual_size_bytes=size,
        disk_sha256=sha256_of(disk),
        kernel_sha256=sha256_of(draft / KERNEL),
        initrd_sha256=sha256_of(draft / INITRD),
        tree_sha256=sha256_of(draft / TREE),
        packages_sha256=sha256_of(draft / PACKAGES),
        cmdline=cmdline,
        identity="agent",
        suite=suite,
        slurm_version=find_slurm_version(packages),
        kubernetes_version=kubernetes_version,
        recipe=recipe,
    )
    return store.add(draft, manifest)


@contextmanager
def build_errors(name: str, draft: Path, *, again: str) -> Iterator[None]:
    """Turn the end of a program into an ImageError that says what would help.

    `again` is what the image is called in a command that builds it.
    """
    try:
        with disk_errors(draft.parent):
            yield
    except HostError as error:
        said = error.details or ""
        if is_expired(said):
            raise _expired(name, said, again) from error
        is_full = "No space left on device" in said or error.brief.startswith("no space left")
        full = full_disk(draft.parent, None) if is_full else None
        raise ImageError(
            f"the image {name} cannot be built: {full.brief if full else error.brief}",
            details=f"{full.details}\n{said}".strip() if full else error.details,
            hint=full.hint if full else error.hint,
        ) from error


def is_expired(said: str) -> bool:
    """Whether apt refuses lists of packages because they are older than they may be."""
    return "Release file" in said and "is expired" in said


def _expired(name: str, said: str, again: str) -> ImageError:
    lines = [line for line in said.splitlines() if "is expired" in line]
    return ImageError(
        f"the image {name} cannot be built: the lists of packages are out of date",
        details="\n".join([*lines, "The mirror is old, or the clock of this machine is wrong."]),
        hint=f"ai-how image build {shlex.quote(again)} --allow-expired",
    )


def _bootstrap(recipe: Recipe, draft: Path, watch: Watcher, options: BuildOptions) -> None:
    def follow(line: str) -> None:
        for pattern, share, what in MARKS:
            if pattern.search(line):
                watch(share, what)

    work = draft / "work"
    work.mkdir()
    place = find_workplace(draft, ROOT)
    settings = {
        "OUT": str(draft),
        "PLACE": str(place),
        "TMPDIR": str(place / "tmp"),
        "TREE": str(ROOT / "rootfs"),
        "INIT": str(ROOT / "initrd-init"),
        "NODE": str(ROOT / "node.sh"),
        "PACK": str(ROOT / "pack.sh"),
        "IMAGE_BYTES": str(recipe.image_bytes),
        # The image must not depend on the user's umask.
        "SOURCE_DATE_EPOCH": "0",
    }
    conf, setting = "/etc/initramfs-tools/update-initramfs.conf", "update_initramfs=no"
    command: list[Argument] = [
        get_tool("mmdebstrap"),
        "--mode=root",
        "--variant=minbase",
        "--format=null",
        "--verbose",
        '--aptopt=Apt::Install-Recommends "false"',
        *(['--aptopt=Acquire::Check-Valid-Until "false"'] if options.allow_expired else []),
        "--dpkgopt=force-confold",
        *(f"--dpkgopt=path-exclude={pattern}" for pattern in recipe.left_out),
        # The image has its own initrd; building the package's would take ten seconds for nothing.
        f'--essential-hook=install -D /dev/null "$1{conf}"; echo {setting} > "$1{conf}"',
        *([f"--customize-hook={usual_sources_hook(recipe.suite)}"] if options.mirror else []),
        f'--customize-hook=sh {shlex.quote(str(ROOT / "customize.sh"))} "$1"',
        f"--include={','.join(recipe.packages)}",
        recipe.suite,
        "/dev/null",
        *([options.mirror] if options.mirror else []),
    ]
    run_lines(
        in_namespace([get_tool("sh"), "-c", _BOOTSTRAP, "sh", *command]),
        env=build_environment(settings, options.access),
        is_whole_env=True,
        on_line=follow,
    )
    remove_tree(work)


def usual_sources_hook(suite: str) -> str:
    """A hook of mmdebstrap by which an image from another mirror has Debian's own sources."""
    lines = (
        f"deb {DEBIAN} {suite} main",
        f"deb {DEBIAN} {suite}-updates main",
        f"deb {DEBIAN_SECURITY} {suite}-security main",
    )
    return f"printf '%s\\n' {shlex.join(lines)} > \"$1/etc/apt/sources.list\""


def unpack_kernel(packed: Path, target: Path) -> None:
    """Unpack a bzImage's payload (zstd or xz) into the ELF file that QEMU boots by its PVH entry.

    One that is packed with LZ4 is copied as it is, and QEMU boots that.

    Unpacking by the guest costs a second of every boot under emulation. The layout is that of
    Documentation/arch/x86/boot.rst: setup_sects at 0x1f1, payload_offset and payload_length at
    0x248.
    Raises ImageError where the kernel is packed in another way.
    """
    data = packed.read_bytes()
    setup_sectors = data[0x1F1] or 4
    offset, length = struct.unpack_from("<II", data, 0x248)
    start = (setup_sectors + 1) * 512 + offset
    payload = data[start : start + length - 4]  # the last four bytes are the size
    if payload.startswith(_LZ4):
        shutil.copyfile(packed, target)
        return
    found = next((one for magic, one in _PACKERS.items() if payload.startswith(magic)), None)
    if found is None:
        known = " or ".join(name for name, _ in _PACKERS.values())
        raise ImageError(f"The kernel is not packed with {known}", details=str(packed))
    program, suffix = found
    source = target.with_suffix(suffix)
    source.write_bytes(payload)
    # It writes to the same name without the suffix.
    run([get_tool(program), "--quiet", "--decompress", "--force", source])
    source.unlink(missing_ok=True)
    if target.read_bytes()[:4] != b"\x7fELF":
        raise ImageError("The kernel file does not contain an ELF kernel", details=str(packed))
