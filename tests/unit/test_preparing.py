"""What an imported image is turned into, what its VM says, and the seed that lets us in."""

import io
import json
import tarfile
from pathlib import Path
from uuid import UUID

import pytest

from ai_how.errors import ImageError
from ai_how.guest.cloud_seed import ACCOUNT_ID, render_user_data, write_seed
from ai_how.images.manifest import Image
from ai_how.images.preparing import (
    Heard,
    find_prepared,
    finish_prepared,
    name_of_prepared,
    prepared_digest,
    render_job,
)
from ai_how.images.qemu_img import convert
from ai_how.images.sbom import render_sbom
from ai_how.images.store import ImageStore
from ai_how.process import get_tool, run

INSTANCE = UUID("6f1d3f0e-2a55-4b0c-8a0e-0d1f2e3c4b5a")
PACKAGES = (
    "ai-how: package slurm-client 24.11.5-4 amd64 slurm-wlm 24.11.5-4",
    "ai-how: package munge 0.5.16-1 amd64 munge 0.5.16-1",
)


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(tmp_path / "images")


@pytest.fixture
def image(store: ImageStore, tmp_path: Path) -> Image:
    raw = tmp_path / "debian.raw"
    raw.write_bytes(bytes(1 << 20))
    return store.import_file(raw)


def heard(image: Image, *lines: str) -> Heard:
    one = Heard(image, lambda _share, _what: None)
    for line in lines:
        one.hear(line)
    return one


def test_what_a_guest_says_becomes_the_manifest(store: ImageStore, image: Image) -> None:
    said = heard(
        image,
        "ai-how: phase settle",
        *PACKAGES,
        "ai-how: slurm 24.11.5",
        "ai-how: pmix",
        "ai-how: system Debian GNU/Linux 13 (trixie)",
        "ai-how: os debian",
        "ai-how: finished",
    )
    assert said.is_finished
    with store.draft() as draft:
        convert(image.disk, draft / "disk.qcow2", source_format="qcow2")
        made = finish_prepared(store, draft, image, said, "uefi")
    assert made.manifest.identity == "agent"
    assert made.manifest.slurm_version == "24.11.5"
    assert made.manifest.firmware == "uefi"
    assert made.manifest.recipe["prepared_from"] == image.digest
    assert made.manifest.recipe["system"] == "Debian GNU/Linux 13 (trixie)"
    assert made.manifest.recipe["has_pmix"] is True
    assert made.manifest.recipe["os"] == "debian"
    assert made.name == "debian-prepared"
    assert find_prepared(store, image.digest) == made
    store.verify(made)


def test_a_bill_of_materials_has_the_packages_of_the_distribution(
    store: ImageStore, image: Image
) -> None:
    said = heard(
        image,
        "ai-how: package slurm 22.05.9-1.el9 x86_64 slurm-22.05.9-1.el9.src.rpm 22.05.9-1.el9",
        "ai-how: os rocky",
    )
    with store.draft() as draft:
        convert(image.disk, draft / "disk.qcow2", source_format="qcow2")
        made = finish_prepared(store, draft, image, said, "bios")
    assert "pkg:rpm/rocky/slurm@22.05.9-1.el9?arch=x86_64" in render_sbom(made)
    assert made.manifest.slurm_version == "22.05.9"


def test_an_image_that_is_prepared_again_is_another_one(store: ImageStore, image: Image) -> None:
    made = []
    for _ in range(2):
        with store.draft() as draft:
            convert(image.disk, draft / "disk.qcow2", source_format="qcow2")
            made.append(finish_prepared(store, draft, image, heard(image, *PACKAGES), "bios"))
    assert made[0].digest == prepared_digest(image.digest) != made[1].digest
    assert find_prepared(store, image.digest) == made[1]
    assert made[1].manifest.firmware is None
    assert made[1].manifest.slurm_version == "24.11.5"  # that of the package


@pytest.mark.fault("S34", "lines that it makes up")
@pytest.mark.parametrize(
    "line",
    [
        "ai-how: slurm $(reboot)",
        "ai-how: slurm 24.11\x1b[31m",
        "ai-how: slurm ",
        "ai-how: package one two",
        "ai-how: package a b c d e f",
        "ai-how: phase nonsense",
        "ai-how: ",
        "ai-how:finished",
        "finished",
        "\x00\xff" * 100_000,
    ],
)
def test_what_a_guest_makes_up_is_left_out(line: str, image: Image) -> None:
    said = heard(image, line)
    assert (said.packages, said.is_finished, said.phase) == ([], False, "settle")
    assert said.slurm in (None, "24.11[31m"[:5])


@pytest.mark.fault("S34", "endless output, and control characters")
def test_a_guest_cannot_fill_our_memory_nor_write_to_the_terminal(image: Image) -> None:
    said = heard(image, *(f"ai-how: package p{number} 1 all p 1" for number in range(20_100)))
    assert len(said.packages) == 20_000
    said = heard(image, *(["\x1b]0;title\x07" + "x" * 10_000] * 1000))
    error = said.explain(None)
    assert error.details is not None
    assert "\x1b" not in error.details
    assert len(error.details) <= 40 * 501


@pytest.mark.parametrize(
    ("lines", "uplink", "brief", "details"),
    [
        (
            ["ai-how: missing slurmd munge ", "ai-how: failed packages"],
            "pasta is not installed",
            "it lacks packages, and VMs have no uplink: pasta is not installed",
            "It lacks slurmd, munge.",
        ),
        (
            ["ai-how: missing slurmd", "ai-how: phase update", "E: no", "ai-how: failed packages"],
            None,
            "its packages cannot be installed",
            "It lacks slurmd.\nE: no",
        ),
        (["ai-how: failed manager"], None, "neither apt nor dnf", None),
        (["ai-how: failed login"], None, "the number 1000", None),
        (["ai-how: phase configure", "oops"], None, "it failed while configuring", "oops"),
        (["ai-how: failed update-grub"], None, "to end: update-grub", None),
        (["ai-how: slurm 21.08.5", "ai-how: finished"], None, "21.08.5 is too old", None),
    ],
)
def test_why_an_image_is_not_prepared(
    lines: list[str], uplink: str | None, brief: str, details: str | None, image: Image
) -> None:
    error = heard(image, *lines).explain(uplink)
    assert isinstance(error, ImageError)
    assert brief in error.brief
    assert error.details == details
    assert error.hint


def test_what_ssh_said_is_told_where_the_guest_said_nothing(image: Image) -> None:
    error = heard(image).explain(None, "Connection reset by peer")
    assert error.details == "Connection reset by peer"
    assert error.hint == "ai-how image build debian  # tries it again"


@pytest.mark.parametrize(
    ("version", "is_too_old"), [("21.08.5", True), ("22.05.8", False), ("24.11.5", False)]
)
def test_a_slurm_that_does_not_know_our_settings_is_refused(
    version: str, is_too_old: bool, image: Image
) -> None:
    assert heard(image, f"ai-how: slurm {version}").is_too_old is is_too_old


def test_progress_never_goes_back(image: Image) -> None:
    seen: list[float] = []
    said = Heard(image, lambda share, _what: seen.append(share))
    for line in (
        "ai-how: phase settle",
        "ai-how: phase update",
        "ai-how: phase install",
        "0 upgraded, 2 newly installed, 0 to remove and 0 not upgraded.",
        *["Unpacking a (1) ...", "Setting up a (1) ..."] * 3,
        "ai-how: phase configure",
        "ai-how: phase forget",
    ):
        said.hear(line)
    assert seen == sorted(seen)
    assert len(seen) > 8
    assert seen[-1] <= 1


def test_the_job_has_our_trees_and_what_is_added() -> None:
    with tarfile.open(fileobj=io.BytesIO(render_job({"identity": 'OUTSIDE=""\n'}))) as archive:
        names = archive.getnames()
        extracted = archive.extractfile("identity")
        assert extracted is not None
        assert extracted.read() == b'OUTSIDE=""\n'
        assert archive.getmember("identity").mode == 0o600
    for wanted in (
        "prepare.sh",
        "node.sh",
        "rootfs/usr/lib/ai-how/become",
        "of_imported/usr/lib/ai-how/grow",
    ):
        assert wanted in names


def test_a_long_name_stays_a_name() -> None:
    assert name_of_prepared("a" * 80) == "a" * 71 + "-prepared"


def test_the_seed_is_one_that_cloud_init_takes(tmp_path: Path) -> None:
    """Its label, its files and their names, as a Linux kernel sees them."""
    text = render_user_data("someone", "ssh-ed25519 AAAA ai-how")
    seed = tmp_path / "seed.iso"
    write_seed(seed, instance=INSTANCE, hostname="prepare", user_data=text)
    told = run([get_tool("blkid"), "-p", seed])
    assert 'LABEL="cidata"' in told.stdout
    assert 'TYPE="iso9660"' in told.stdout
    content = seed.read_bytes()
    assert text.encode() in content
    first, _, rest = text.partition("\n")
    assert first == "#cloud-config"
    [user] = json.loads(rest)["users"]
    assert user["uid"] == ACCOUNT_ID != 1000
    assert user["ssh_authorized_keys"] == ["ssh-ed25519 AAAA ai-how"]
    assert json.loads(content[content.index(b'{"instance-id"') :].split(b"}")[0] + b"}") == {
        "instance-id": str(INSTANCE),
        "local-hostname": "prepare",
    }
    assert b"PRIVATE" not in content
