"""A driver that makes mediated devices on a card of the emulated host, from Debian's packages.

It is the kernel's sample mtty, whose devices are serial ports. Its parent is a PCI device, as that
of a GPU's driver is: see tests/data/mtty-card.c.
"""

import shutil
from hashlib import sha256
from pathlib import Path

from ai_how.errors import ToolError
from ai_how.process import get_tool, run
from ai_how.state.lock import held_lock
from emulated_host import ROOT, SUITE, get_kernel

SOURCE = ROOT / "tests/data/mtty-card.c"
SCRIPT = ROOT / "tests/data/mtty-card.sh"
PACKAGES = ("make", "xz-utils", "linux-source-6.1")
BUILD_S = 3600


def get_mdev_driver() -> Path:
    """The module for the kernel that the host boots, made where it is missing: some minutes."""
    kernel = get_kernel()
    version = kernel.version
    try:
        return _get_for(kernel.place, version)
    except ToolError as error:
        # The archive has the headers of its newest kernels only.
        if f"Unable to locate package linux-headers-{version}" not in str(error):
            raise
    shutil.rmtree(kernel.place)
    kernel = get_kernel()
    return _get_for(kernel.place, kernel.version)


def _get_for(place: Path, version: str) -> Path:
    """The module beside its kernel, with which it is removed."""
    recipe = [SOURCE.read_bytes(), SCRIPT.read_bytes(), repr(PACKAGES).encode()]
    module = place / f"mtty-card-{sha256(b''.join(recipe)).hexdigest()[:16]}.ko"
    with held_lock(place.parent / "mdev.lock", doing="building a kernel module", wait_s=BUILD_S):
        if not module.exists():
            _build(module, version)
    return module


def _build(module: Path, version: str) -> None:
    """Build it in a system of its own, which has the compiler of the kernel."""
    draft = module.with_suffix(".draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    run(
        [
            *(get_tool("unshare", package="util-linux"), "--mount", "--propagation", "private"),
            *(get_tool("mmdebstrap", package="mmdebstrap"), "--mode=root", "--variant=minbase"),
            *("--format=null", '--aptopt=Apt::Install-Recommends "false"'),
            *("--dpkgopt=force-unsafe-io", "--skip=cleanup"),
            f"--include={','.join((*PACKAGES, f'linux-headers-{version}'))}",
            f"--customize-hook=copy-in {SOURCE} {SCRIPT} /",
            f'--customize-hook=chroot "$1" sh /{SCRIPT.name} {version}',
            f"--customize-hook=copy-out /mtty-card.ko {draft}",
            *(SUITE, "/dev/null"),
        ],
        timeout_s=BUILD_S,
    )
    (draft / "mtty-card.ko").rename(module)
    draft.rmdir()
