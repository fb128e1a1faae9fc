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
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


def debian_program(package: str, path: str, suite: str | None = None) -> Path:
    """A program that needs no other package: the installed one, else that of the package.

    That is kept for later. With a suite of Debian, it is always that of the suite. Skips the
    calling test where apt cannot fetch it.
    """
    name = Path(path).name
    if suite is None and (installed := find_tool(name)):
        return installed
    kept = PACKAGES / (f"{package}-{suite}" if suite else package)
    PACKAGES.mkdir(parents=True, exist_ok=True)
    with (PACKAGES / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (kept / path).exists():
            _unpack(package, kept, suite)
    return kept / path


def _unpack(package: str, kept: Path, suite: str | None) -> None:
    with TemporaryDirectory(dir=PACKAGES) as draft:
        place = Path(draft)
        options = ["-qq", "-o", "APT::Sandbox::User=root"]
        try:
            if suite:
                options += _lists_of(suite, place / "apt")
                run(["apt-get", *options, "update"], timeout_s=DOWNLOAD_S)
            run(["apt-get", *options, "download", package], cwd=place, timeout_s=DOWNLOAD_S)
            (archive,) = place.glob("*.deb")
            run(["dpkg-deb", "--extract", archive, place / "tree"])
        except (ToolError, ValueError) as error:
            pytest.skip(f"{package} cannot be fetched: {error}")
        (place / "tree").rename(kept)


def _lists_of(suite: str, place: Path) -> list[str]:
    """Options for apt-get with the lists of that suite alone, apart from those of the system."""
    for name in ("lists/partial", "cache/archives/partial", "parts"):
        (place / name).mkdir(parents=True)
    source = f"deb [signed-by={KEYRING}] http://deb.debian.org/debian {suite} main\n"
    (place / "sources.list").write_text(source)
    settings = {
        # A package of this name may be installed from elsewhere.
        "Dir::State::status": "/dev/null",
        "Dir::State::lists": place / "lists",
        "Dir::Cache": place / "cache",
        "Dir::Etc::sourcelist": place / "sources.list",
        "Dir::Etc::sourceparts": place / "parts",
    }
    return [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]
