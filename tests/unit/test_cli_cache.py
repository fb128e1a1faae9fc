"""`ai-how cache`: what is said, and the key, which is the same before and after a build."""

import json
import os
from pathlib import Path

import pytest
from cli_runner import GOOD, Cli
from test_image_catalogue import add

from ai_how.images.recipe import default_recipe
from ai_how.images.store import ImageStore
from ai_how.state.paths import Roots

HERE = ("--connect", "test:///default")


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    cli = Cli(tmp_path, monkeypatch, capsys)
    cli.write("cluster.yaml", GOOD)
    return cli


def build(roots: Roots) -> str:
    roots.images.mkdir(parents=True, exist_ok=True)
    digest = default_recipe().digest
    return add(ImageStore(roots.images), digest, "default", asked=digest).digest


def test_images_go_from_one_machine_to_another(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = build(cli.roots)[:12]
    done = cli(*HERE, "cache", "export", "f.tar.zst")
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[0] == f"image default {digest}"
    assert lines[1] == "no VM of 1 vCPU, 1024 MiB is saved: such nodes will boot"
    assert lines[2].startswith("none can be saved here: test:///default cannot save")
    assert lines[3].endswith(" MiB are in f.tar.zst")
    again = cli(*HERE, "cache", "export", "f.tar.zst")
    assert (again.code, again.err.splitlines()[0]) == (
        3,
        f"error: {cli.home / 'f.tar.zst'} is there already",
    )
    monkeypatch.setenv("XDG_DATA_HOME", str(cli.home / "another"))
    assert cli(*HERE, "cache", "import", "f.tar.zst").out.splitlines() == [
        f"image default {digest}: imported",
        "it has no saved VM: nodes will boot",
    ]
    said = json.loads(cli(*HERE, "--json", "cache", "import", "f.tar.zst").out)
    assert [one["is_new"] for one in said["images"]] == [False]
    assert cli("image", "verify").code == 0


def test_an_export_without_the_image_says_what_builds_it(cli: Cli) -> None:
    done = cli(*HERE, "cache", "export", "f")
    assert (done.code, "hint: ai-how image build" in done.err) == (3, True)
    assert not (cli.home / "f").exists()
    done = cli(*HERE, "cache", "export", "nowhere/f")
    assert (done.code, "is no directory" in done.err) == (3, True)


def test_without_a_saved_vm_the_command_that_makes_one_is_named(cli: Cli) -> None:
    build(cli.roots)
    done = cli("--connect", "embedded", "-c", "cluster.yaml", "cache", "export", "f")
    assert done.code == 0, done.err
    hint = done.out.splitlines()[-2].partition(": ")[2]
    assert hint == "ai-how -c cluster.yaml --connect embedded image warm"


def test_a_file_that_is_none_is_refused_with_what_makes_one(cli: Cli) -> None:
    cli.write("f", "hello")
    done = cli(*HERE, "cache", "import", "f")
    assert (done.code, done.err.splitlines()) == (
        3,
        [
            f"error: {cli.home / 'f'} is refused: it is not packed by zstd",
            "hint: ai-how --connect test:///default cache export FILE  # on the other machine",
        ],
    )


def test_a_file_is_taken_whatever_a_service_made_of_its_name_mode_and_time(cli: Cli) -> None:
    build(cli.roots)
    cli(*HERE, "cache", "export", "f")
    for mode in (0o644, 0o400, 0o777):
        (cli.home / "f").chmod(mode)
        os.utime(cli.home / "f", (0, 0))
        (cli.home / "f").rename(cli.home / "g")
        assert cli(*HERE, "cache", "import", "g").code == 0
        (cli.home / "g").rename(cli.home / "f")


def test_the_key_is_the_same_before_and_after_a_build_and_wherever_files_are(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = cli(*HERE, "cache", "key")
    assert before.code == 0, before.err
    images, _, machines = before.out.strip().partition("-")
    assert (len(images), len(machines)) == (16, 16)
    build(cli.roots)
    assert cli(*HERE, "cache", "key").out == before.out
    monkeypatch.setenv("XDG_STATE_HOME", str(cli.home / "elsewhere"))
    assert cli(*HERE, "cache", "key").out == before.out
    told = json.loads(cli(*HERE, "--json", "cache", "key").out)
    assert (told["key"], told["images"], told["machines"]) == (
        f"{images}-{machines}",
        images,
        machines,
    )
    assert "emulated CPU" in told["host"]


def test_the_key_changes_with_what_decides_a_cache_and_nothing_else(cli: Cli) -> None:
    def key(text: str) -> list[str]:
        cli.write("cluster.yaml", text)
        done = cli(*HERE, "cache", "key")
        assert done.code == 0, done.err
        return done.out.strip().split("-")

    images, machines = key(GOOD)
    same = [GOOD.replace("count: 2", "count: 5"), GOOD.replace("name: demo", "name: other")]
    for text in same:
        assert key(text) == [images, machines]
    for text in (
        GOOD.replace("memory_gb: 1", "memory_gb: 2", 1),
        GOOD.replace("cpu_cores: 1", "cpu_cores: 2", 1),
        GOOD.replace("disk_gb: 10", "disk_gb: 20", 1),
    ):
        assert key(text)[0] == images
        assert key(text)[1] != machines
    mine = GOOD.replace("name: demo", "name: demo\n    base_image_path: mine")
    keys = [
        key(f"images: {{mine: {of}}}\n{mine}")
        for of in ("{packages: [gdb]}", "{packages: [jq]}", "{from: {suite: forky}}", "{run: [ls]}")
    ]
    assert len({one[0] for one in (*keys, [images])}) == len(keys) + 1
    assert key(f"images: {{mine: {{}}}}\n{mine}")[0] == images, "it is the default image"


def test_the_key_follows_a_disk_that_is_a_file(cli: Cli) -> None:
    cli.write("disk.qcow2", "one")
    text = GOOD.replace("name: demo", "name: demo\n    base_image_path: ./disk.qcow2")
    cli.write("cluster.yaml", text)
    first = cli(*HERE, "cache", "key")
    assert first.code == 0, first.err
    os.utime(cli.home / "disk.qcow2", (0, 0))
    assert cli(*HERE, "cache", "key").out == first.out
    cli.write("disk.qcow2", "two")
    assert cli(*HERE, "cache", "key").out.split("-")[0] != first.out.split("-")[0]
    (cli.home / "disk.qcow2").unlink()
    done = cli(*HERE, "cache", "key")
    assert (done.code, "disk.qcow2" in done.err) != (0, False)
