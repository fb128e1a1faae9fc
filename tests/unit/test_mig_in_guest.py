"""MIG of a real card in its node: the script, against a program that acts as nvidia-smi.

What it prints is written after NVIDIA's MIG user guide; nothing was recorded from a card.
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from ai_how.process import Completed, run

SCRIPT = Path(__file__).parents[2] / "src/ai_how/hpc/guest_files/apply-mig"
SMI = """\
#!{python}
import json, sys
from pathlib import Path
path = Path({state!r})
state = json.loads(path.read_text())
words = sys.argv[1:]
state["calls"].append(words)

def end(text, code=0):
    path.write_text(json.dumps(state))
    print(text)
    sys.exit(code)

gpu = state["gpus"][words[words.index("-i") + 1]]
if words[2:3] == ["--query-gpu=mig.mode.current"]:
    end(gpu["mode"])
if words[2:3] == ["--query-gpu=mig.mode.pending"]:
    end(gpu["pending"])
if words[2:3] == ["-mig"]:
    gpu["pending"] = "Enabled" if words[3] == "1" else "Disabled"
    if gpu.get("needs_reset"):
        end("Warning: MIG mode is in pending enable state for GPU 00000000:01:00.0:Not Supported")
    gpu["mode"] = gpu["pending"]
    end("Enabled MIG Mode for GPU 00000000:01:00.0")
if words[0] == "--gpu-reset":
    if not gpu.get("can_reset"):
        end("GPU Reset couldn't run because GPU 00000000:01:00.0 is the primary GPU.", 3)
    gpu["mode"] = gpu["pending"]
    end("GPU 00000000:01:00.0 was successfully reset.")
assert words[0] == "mig", words
if words[3] == "-lgi":
    if not gpu["slices"]:
        end("No GPU instances found: Not Found", 6)
    rows = [f"|   0  MIG {{name:<12}} 19        {{n}}          {{n}}:1     |"
            for n, name in enumerate(gpu["slices"])]
    rule = "+" + "-" * 52 + "+"
    end("\\n".join([rule, "| GPU instances:" + " " * 37 + "|",
        "| GPU   Name             Profile  Instance   Placement   |",
        "|                          ID       ID       Start:Size  |",
        "|" + "=" * 52 + "|", *rows, rule]))
if words[3] == "-lci":
    if not gpu.get("inside", len(gpu["slices"])):
        end("No compute instances found: Not Found", 6)
    end("\\n".join(f"|   0      {{n}}       MIG {{name:<12}} 0         0          0:1     |"
        for n, name in enumerate(gpu["slices"])))
if words[3] == "-dci" and not gpu.get("inside", len(gpu["slices"])):
    end("No compute instances found: Not Found", 6)
if words[3] in ("-dci", "-dgi"):
    if gpu.get("in_use"):
        end("Unable to destroy a compute instance ID  0 from GPU  0 GPU instance ID  0: In use by "
            "another client", 19)
    if words[3] == "-dgi":
        gpu["slices"] = []
    end("Successfully destroyed")
assert words[3] == "-cgi" and words[5] == "-C", words
if gpu.get("is_full"):
    end("Unable to create a GPU instance on GPU  0 using profile 9: Insufficient Resources", 4)
gpu["slices"] = words[4].split(",")
gpu.pop("inside", None)
end("Successfully created GPU instance")
"""


class Guest:
    """A node with GPUs, whose nvidia-smi keeps what it was told."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.state = root / "state.json"
        self.bin = root / "bin"
        self.bin.mkdir()
        smi = self.bin / "nvidia-smi"
        smi.write_text(SMI.format(python=sys.executable, state=str(self.state)))
        smi.chmod(0o755)
        self.runs("false")

    def runs(self, command: str) -> None:
        """What tells the number of the process of slurmd."""
        pidof = self.bin / "pidof"
        pidof.write_text(f"#!/bin/sh\n{command}\n")
        pidof.chmod(0o755)

    def has(self, **gpus: dict[str, Any]) -> None:
        full = {
            name.removeprefix("gpu"): {"mode": "Disabled", "pending": "Disabled", "slices": []}
            | gpu
            for name, gpu in gpus.items()
        }
        self.state.write_text(json.dumps({"gpus": full, "calls": []}))

    def apply(self, text: str) -> Completed:
        wanted = self.root / "mig"
        wanted.write_text(text)
        path = f"{self.bin}:{os.environ['PATH']}"
        return run(["sh", SCRIPT], env={"PATH": path, "AI_HOW_MIG": str(wanted)}, check=False)

    def gpu(self, number: int) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.state.read_text())["gpus"][str(number)]
        return found

    @property
    def changes(self) -> list[list[str]]:
        calls = json.loads(self.state.read_text())["calls"]
        return [
            words
            for words in calls
            if words[-1] not in ("-lgi", "-lci") and "--format" not in words[-1]
        ]


@pytest.fixture
def guest(tmp_path: Path) -> Guest:
    return Guest(tmp_path)


def test_mig_is_switched_on_and_the_slices_are_made_in_this_order(guest: Guest) -> None:
    guest.has(gpu0={}, gpu1={})
    done = guest.apply("0\t3g.20gb,2g.10gb,1g.5gb,1g.5gb\n1\t7g.40gb\n")
    assert done.returncode == 0, done.stderr
    assert guest.gpu(0)["slices"] == ["3g.20gb", "2g.10gb", "1g.5gb", "1g.5gb"]
    assert guest.gpu(1)["slices"] == ["7g.40gb"]
    assert guest.changes == [
        ["-i", "0", "-mig", "1"],
        ["mig", "-i", "0", "-cgi", "3g.20gb,2g.10gb,1g.5gb,1g.5gb", "-C"],
        ["-i", "1", "-mig", "1"],
        ["mig", "-i", "1", "-cgi", "7g.40gb", "-C"],
    ]


def test_a_gpu_that_is_divided_as_asked_is_left_alone(guest: Guest) -> None:
    divided = {"mode": "Enabled", "pending": "Enabled", "slices": ["1g.5gb", "3g.20gb", "1g.5gb"]}
    guest.has(gpu0=divided)
    assert guest.apply("0\t3g.20gb,1g.5gb,1g.5gb\n").returncode == 0
    assert guest.changes == []


def test_slurmd_looks_again_if_anything_changed(guest: Guest) -> None:
    divided = {"mode": "Enabled", "pending": "Enabled", "slices": ["7g.40gb"]}
    guest.has(gpu0=divided)
    slurmd = os.posix_spawnp("sleep", ["sleep", "600"], os.environ)
    guest.runs(f"echo {slurmd}")
    assert guest.apply("0\t7g.40gb\n").returncode == 0
    assert os.waitpid(slurmd, os.WNOHANG) == (0, 0)
    assert guest.apply("0\t3g.20gb\n").returncode == 0
    assert os.waitpid(slurmd, 0) == (slurmd, signal.SIGKILL)


def test_other_slices_are_removed_first(guest: Guest) -> None:
    guest.has(gpu0={"mode": "Enabled", "pending": "Enabled", "slices": ["7g.40gb"]})
    assert guest.apply("0\t3g.20gb\n").returncode == 0
    assert [words[3] for words in guest.changes] == ["-dci", "-dgi", "-cgi"]
    assert guest.gpu(0)["slices"] == ["3g.20gb"]


@pytest.mark.parametrize("has", ["3g.20gb", "7g.40gb"])
def test_slices_in_which_nothing_can_run_are_made_anew(guest: Guest, has: str) -> None:
    guest.has(gpu0={"mode": "Enabled", "pending": "Enabled", "slices": [has], "inside": 0})
    done = guest.apply("0\t3g.20gb\n")
    assert done.returncode == 0, done.stderr
    assert [words[3] for words in guest.changes] == ["-dgi", "-cgi"]
    assert guest.gpu(0)["slices"] == ["3g.20gb"]


def test_slices_in_use_are_named_and_nothing_is_made(guest: Guest) -> None:
    guest.has(gpu0={"mode": "Enabled", "pending": "Enabled", "slices": ["7g.40gb"], "in_use": True})
    done = guest.apply("0\t3g.20gb\n")
    assert done.returncode == 1
    assert "In use by another client" in done.stderr
    assert guest.gpu(0)["slices"] == ["7g.40gb"]


def test_mig_is_switched_off_where_no_slices_are_asked_for(guest: Guest) -> None:
    never = {"mode": "[N/A]", "pending": "[N/A]"}
    guest.has(gpu0={"mode": "Enabled", "pending": "Enabled"}, gpu1={}, gpu2=never)
    assert guest.apply("0\t\n1\t\n2\t\n").returncode == 0
    assert guest.gpu(0)["mode"] == "Disabled"
    assert guest.changes == [["-i", "0", "-mig", "0"]]


def test_a_card_that_needs_a_reset_gets_one(guest: Guest) -> None:
    guest.has(gpu0={"needs_reset": True, "can_reset": True})
    assert guest.apply("0\t7g.40gb\n").returncode == 0
    assert guest.gpu(0)["mode"] == "Enabled"
    assert guest.gpu(0)["slices"] == ["7g.40gb"]


def test_where_no_reset_is_possible_the_node_must_stop_and_start(guest: Guest) -> None:
    guest.has(gpu0={"needs_reset": True})
    done = guest.apply("0\t7g.40gb\n")
    assert done.returncode == 1
    assert "stop this node, and start it again" in done.stderr
    assert guest.gpu(0)["slices"] == []


@pytest.mark.parametrize(
    ("gpu", "said"),
    [
        ({"mode": "[N/A]", "pending": "[N/A]"}, "GPU 0 has no MIG: its mode is [N/A]"),
        ({"is_full": True}, "Insufficient Resources"),
    ],
)
def test_what_nvidia_smi_refuses_is_told(guest: Guest, gpu: dict[str, Any], said: str) -> None:
    guest.has(gpu0=gpu)
    done = guest.apply("0\t1g.5gb\n")
    assert done.returncode == 1
    assert said in done.stderr


def test_without_a_driver_the_image_is_named(guest: Guest) -> None:
    guest.has(gpu0={})
    (guest.bin / "nvidia-smi").unlink()
    done = guest.apply("0\t1g.5gb\n")
    assert done.returncode == 1
    assert "the image needs NVIDIA's driver" in done.stderr


def test_a_driver_that_does_not_answer_is_told(guest: Guest) -> None:
    guest.has(gpu0={})
    (guest.bin / "nvidia-smi").write_text("#!/bin/sh\necho 'No devices were found' >&2\nexit 6\n")
    done = guest.apply("0\t1g.5gb\n")
    assert done.returncode == 1
    assert "No devices were found" in done.stderr
