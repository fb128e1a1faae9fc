"""The set `nvidia`: what it adds, what is said where it cannot be built, and its script in a node.

The driver is loaded by programs that only write down how they were called.
"""

import configparser
import os
from pathlib import Path

import pytest

from ai_how.errors import ImageError
from ai_how.images.blueprint import Blueprint
from ai_how.images.derive import _Heard
from ai_how.images.recipe import ROOT
from ai_how.process import Completed, run

FILES = ROOT / "of_sets" / "nvidia"
UNIT = "etc/systemd/system/ai-how-nvidia.service"
DROP_IN = "etc/systemd/system/slurmd.service.d/nvidia.conf"
SCRIPT = "usr/lib/ai-how/load-nvidia"
CARD, SOUND = ("0x10de", "0x030000"), ("0x10de", "0x040300")
FOR_COMPUTING = ("0x10de", "0x030200")
OTHERS = (("0x1af4", "0x010000"), ("0x1234", "0x030000"))


def test_the_set_brings_the_driver_and_the_parts_of_debian_that_have_it():
    ours = Blueprint(name="mine", sets=("nvidia",))
    assert ours.components == ("contrib", "non-free", "non-free-firmware")
    assert {"libcuda1", "nvidia-smi", "slurm-wlm-nvml-plugin"} <= set(ours.all_packages)
    # They would keep a compiler in the image, or need an X server.
    assert not [one for one in ours.all_packages if "dkms" in one or "driver" in one]
    recipe = ours.recipe("a" * 64)
    assert set(recipe["set_scripts"]) == {"nvidia"}
    assert set(recipe["files"]) == {f"/{one}" for one in (UNIT, DROP_IN, SCRIPT)}


def section(path: str, name: str) -> dict[str, str]:
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str
    parser.read(FILES / path)
    return dict(parser[name])


def test_the_driver_is_loaded_before_slurmd_and_its_failure_does_not_hold_slurmd_back():
    unit = section(UNIT, "Unit")
    assert {"slurmd.service", "ai-how-mig.service"} <= set(unit["Before"].split())
    assert section(UNIT, "Service")["ExecStart"] == f"/bin/sh /{SCRIPT}"
    assert section(DROP_IN, "Unit") == {"Wants": "ai-how-nvidia.service"}


class Node:
    """A node with these PCI devices, and a driver that finds `cards`."""

    def __init__(self, root: Path, *devices: tuple[str, str], cards: int = 0) -> None:
        self.root = root
        self.log = root / "log"
        self.log.touch()
        for number, (vendor, kind) in enumerate(devices):
            place = root / "sys/bus/pci/devices" / f"0000:00:{number:02x}.0"
            place.mkdir(parents=True)
            (place / "vendor").write_text(f"{vendor}\n")
            (place / "class").write_text(f"{kind}\n")
        self.cards = cards
        self.has("nvidia-modprobe")
        made = " ".join(f"{root}/proc/driver/nvidia/gpus/0000:0{n}:00.0" for n in range(cards))
        self.has("modprobe", f"mkdir -p {made}" if cards else "exit 1")

    def has(self, program: str, body: str = "") -> None:
        place = self.root / "bin" / program
        place.parent.mkdir(exist_ok=True)
        place.write_text(f'#!/bin/sh\necho "{program} $*" >> {self.log}\n{body}\n')
        place.chmod(0o755)

    def load(self) -> Completed:
        path = f"{self.root / 'bin'}:{os.environ['PATH']}"
        environment = {"AI_HOW_ROOT": str(self.root), "PATH": path}
        return run(["sh", FILES / SCRIPT], env=environment, check=False)

    @property
    def calls(self) -> list[str]:
        return self.log.read_text().splitlines()


@pytest.mark.parametrize("devices", [(), OTHERS, (*OTHERS, SOUND)], ids=["none", "others", "sound"])
def test_a_node_without_a_card_loads_nothing(tmp_path: Path, devices):
    node = Node(tmp_path, *devices)
    assert node.load().returncode == 0
    assert node.calls == []


@pytest.mark.parametrize("card", [CARD, FOR_COMPUTING], ids=["display", "computing"])
def test_the_driver_and_the_device_files_of_each_card_are_there_before_slurmd(tmp_path: Path, card):
    node = Node(tmp_path, *OTHERS, SOUND, card, card, cards=2)
    assert node.load().returncode == 0
    assert node.calls == [
        "modprobe nvidia",
        "nvidia-modprobe -c 0",
        "nvidia-modprobe -c 1",
        "nvidia-modprobe -c 0 -u",
    ]


def test_a_driver_that_does_not_know_the_card_is_a_unit_that_failed(tmp_path: Path):
    node = Node(tmp_path, CARD)
    assert node.load().returncode == 1
    assert node.calls == ["modprobe nvidia"]


@pytest.mark.parametrize(
    "said",
    [
        "E: Unable to locate package linux-headers-6.12.90+deb13-cloud-amd64",
        "E: Version '6.1.170-1' for 'linux-headers-6.1.0-47-cloud-amd64' was not found",
    ],
)
@pytest.mark.parametrize(("suite", "base"), [("trixie", "default"), ("bookworm", "suite:bookworm")])
def test_a_base_that_is_too_old_for_modules_is_said_with_what_helps(
    tmp_path: Path, said, suite, base
):
    heard = _Heard(Blueprint(name="gpu", sets=("nvidia",)), tmp_path, suite, lambda *_: None)
    for line in ("ai-how: phase sets", "Reading package lists...", said):
        heard.hear(line)
    error = heard.explain(ImageError("ended with 100"))
    assert error.brief == (
        "the image gpu cannot be built: there are no headers any more of the kernel of its base, "
        "for which modules have to be built"
    )
    assert error.details == f"Reading package lists...\n{said}"
    assert error.hint == (
        f"ai-how image build {base} --refresh  # a newer kernel; then build gpu again"
    )


def test_another_package_that_is_missing_is_said_as_such(tmp_path: Path):
    heard = _Heard(Blueprint(name="gpu", sets=("nvidia",)), tmp_path, "trixie", lambda *_: None)
    for line in ("ai-how: phase sets", "E: Unable to locate package nvidia-kernel-dkms"):
        heard.hear(line)
    error = heard.explain(ImageError("ended with 100"))
    assert error.brief == "the image gpu cannot be built: trixie has no package nvidia-kernel-dkms"
