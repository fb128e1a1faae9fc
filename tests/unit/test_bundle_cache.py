"""What `ai-how cache prune` removes of the archives of Kubernetes, and what it keeps."""

import json
import os
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cli_runner import Cli
from test_bundles import WHOLE, packed
from test_image_catalogue import add

from ai_how.images.bundle_cache import KEPT_FOR
from ai_how.images.bundles import Bundle
from ai_how.images.store import ImageStore

LONG_AGO = time.time() - KEPT_FOR.total_seconds() - 60


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(tmp_path, monkeypatch, capsys)


def unpack(cli: Cli, name: str, *, is_old: bool = True) -> Path:
    """Reads an archive; returns where it was unpacked to."""
    archive = packed(cli.home / f"{name}.tar.gz", WHOLE | {"images/one.tar": name.encode()})
    bundle = Bundle(cli.roots.bundles, archive)
    contents = bundle.read(lambda *_: None)
    directory = contents.files["bin/kubelet"].parents[1]
    if is_old:
        os.utime(directory, (LONG_AGO, LONG_AGO))
    return directory


def make_image(cli: Cli, name: str, kubernetes: dict[str, str]) -> None:
    cli.roots.images.mkdir(parents=True, exist_ok=True)
    digest = f"{len(name):064x}"
    image = add(ImageStore(cli.roots.images), digest, name)
    path = image.directory / "manifest.json"
    told = json.loads(path.read_text())
    path.parent.chmod(0o700)
    path.chmod(0o600)
    path.write_text(json.dumps(told | {"recipe": {"kubernetes": kubernetes}}))


def test_what_an_image_has_and_what_was_just_used_stay(cli: Cli) -> None:
    of_image, of_release, old, new = (
        unpack(cli, name, is_old=name != "new") for name in ("image", "release", "old", "new")
    )
    releases = cli.roots.bundles / ".releases"
    releases.mkdir()
    (releases / "1.34.2").write_text(f"{of_release.name}\n")
    (releases / "1.20.2").write_text(f"{old.name}\n")
    make_image(cli, "a", {"archive": of_image.name})
    make_image(cli, "bb", {"release": "1.34.2"})
    told = json.loads(cli("cache", "prune", "--json").out)
    assert [one["sha256"] for one in told["removed"]] == [old.name]
    assert told["removed"][0]["releases"] == ["1.20.2"]
    assert told["removed"][0]["bytes"] > 0
    assert {one["sha256"]: one["images"] for one in told["kept"]} == {
        of_image.name: ["a"],
        of_release.name: ["bb"],
        new.name: [],
    }
    assert [one.exists() for one in (of_image, of_release, old, new)] == [True, True, False, True]
    assert [one.name for one in releases.iterdir()] == ["1.34.2"]


def test_it_says_what_it_keeps_and_how_much_is_free(cli: Cli) -> None:
    assert cli("cache", "prune").out == "0 MiB were freed\n"
    new, old = unpack(cli, "new", is_old=False), unpack(cli, "old")
    day = datetime.now(UTC).strftime("%Y-%m-%d")
    ended = cli("cache", "prune")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.splitlines() == [
        f"kept {new.name[:12]}, 0 MiB: used on {day}",
        f"removed {old.name[:12]}, 0 MiB",
        "0 MiB were freed",
    ]


def test_a_use_of_it_keeps_it(cli: Cli) -> None:
    old = unpack(cli, "old")
    assert unpack(cli, "old", is_old=False) == old
    cli("cache", "prune")
    assert old.exists()


def test_what_is_not_ours_stays(cli: Cli) -> None:
    unpack(cli, "old")
    other, link = cli.roots.bundles / "notes", cli.roots.bundles / ("0" * 64)
    other.mkdir()
    link.symlink_to(other)
    cli("cache", "prune")
    assert other.is_dir()
    assert link.is_symlink()
