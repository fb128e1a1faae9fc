"""The wheel, installed into a new environment with its locked dependencies, runs a tiny cluster."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from zipfile import ZipFile

import pytest

from ai_how import __version__
from ai_how.process import run
from stock_hosts import BY_NAME, HERE, on_host
from trixie import ROOT, entries_of, needed

pytestmark = pytest.mark.libvirt

INSTALL_S = 600
LIFE_S = 300
PACKAGE = ROOT / "src" / "ai_how"


def pip(python: str | Path, *words: str | Path) -> None:
    run([python, "-m", "pip", "--disable-pip-version-check", *words], timeout_s=INSTALL_S)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of this checkout, built as README.md says."""
    target = tmp_path_factory.mktemp("dist")
    options = ("--no-deps", "--no-build-isolation", "--wheel-dir")
    pip(sys.executable, "wheel", *options, target, ROOT)
    [built] = target.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a new environment that has the wheel and its dependencies."""
    target = tmp_path_factory.mktemp("environment")
    run([sys.executable, "-m", "venv", target], timeout_s=INSTALL_S)
    installed = target / "bin" / "python"
    lock = (ROOT / "requirements.lock").read_text()
    # libvirt-python comes as source, and is built with the setuptools of the lock.
    rest = needed("ai-how") - {"ai-how", "libvirt-python"} | {"setuptools"}
    for name, wanted in (("rest", rest), ("libvirt", {"libvirt-python"})):
        only = target / f"{name}.lock"
        only.write_text(entries_of(lock, wanted))
        options = ("--no-deps", "--no-build-isolation", "--require-hashes")
        pip(installed, "install", *options, "-r", only)
    pip(installed, "install", "--no-deps", wheel)
    pip(installed, "check")
    return installed


def test_the_wheel_has_every_file_of_the_package(wheel: Path) -> None:
    files = {
        path.relative_to(PACKAGE.parent).as_posix()
        for path in PACKAGE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    with ZipFile(wheel) as archive:
        assert {name for name in archive.namelist() if name.startswith("ai_how/")} == files


def test_the_installed_program_is_that_of_the_wheel(python: Path, tmp_path: Path) -> None:
    done = run([python.with_name("ai-how"), "--version"], cwd=tmp_path)
    assert done.stdout == f"ai-how {__version__}\n"
    found = run([python, "-I", "-c", "import ai_how; print(ai_how.__file__)"], cwd=tmp_path)
    assert Path(found.stdout).is_relative_to(python.parents[1])


def test_a_cluster_lives_with_an_installed_wheel(python: Path) -> None:
    host = replace(BY_NAME["plain"], python=str(python))
    done = on_host(host, "root", HERE / "tiny_life.py", timeout_s=LIFE_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    said = json.loads(done.stdout)
    failed = {verb: told for verb, told in said.items() if told["code"] and verb != "doctor"}
    assert failed == {}
    assert json.loads(said["status"]["out"])["is_ready"]
