"""Programs of Debian that a test runs without installing their packages, which would start them."""

import fcntl
import os
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from ai_how.errors import ToolError
from ai_how.process import find_tool, run

_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
PACKAGES = _CACHE / "ai-how-tests/packages"
DOWNLOAD_S = 300.0


def debian_program(package: str, path: str) -> Path:
    """A static program: the installed one, else that of the package, which is kept for later.

    Skips the calling test where apt cannot fetch it.
    """
    name = Path(path).name
    if installed := find_tool(name):
        return installed
    kept = PACKAGES / package
    PACKAGES.mkdir(parents=True, exist_ok=True)
    with (PACKAGES / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (kept / path).exists():
            _unpack(package, kept)
    return kept / path


def _unpack(package: str, kept: Path) -> None:
    with TemporaryDirectory(dir=PACKAGES) as draft:
        place = Path(draft)
        options = ("-qq", "-o", "APT::Sandbox::User=root")
        try:
            run(["apt-get", *options, "download", package], cwd=place, timeout_s=DOWNLOAD_S)
            (archive,) = place.glob("*.deb")
            run(["dpkg-deb", "--extract", archive, place / "tree"])
        except (ToolError, ValueError) as error:
            pytest.skip(f"{package} cannot be fetched: {error}")
        (place / "tree").rename(kept)
