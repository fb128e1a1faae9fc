"""Measures images: one from nothing, one that is made from it, and a cluster that boots each."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from figures import Results
from running import Bench, say

REPEATS = 5
STARTS = 3
NAME = "tools"  # of the image, and of the cluster that boots it
TEN = ("bc", "file", "git", "htop", "jq", "lsof", "strace", "tmux", "tree", "unzip")
ONE_MORE = "gdb"
FILE = """version: "1.0"
images:
  {name}: {{packages: [{packages}]}}
clusters:
  hpc:
    name: {cluster}
    base_image_path: {image}
    controller: {{cpu_cores: 1, memory_gb: 1, disk_gb: 10}}
    compute_nodes: {{count: 1, cpu_cores: 1, memory_gb: 1, disk_gb: 10}}
"""


def measure_images(bench: Bench, results: Results) -> None:
    """Builds in a store of the bench's own, which has nothing yet; then warm starts of 1 + 1."""
    ours = replace(bench, data=bench.work / "data")

    def once(title: str, words: str) -> None:
        say(f"... {title}")
        results.runs[title] = [ours.run(words)[0]]

    once("image build, from nothing", "image build default")
    described(ours, "default", TEN)
    file = described(ours, NAME, TEN)
    build = f"image build {NAME} --file {file}"
    once("image build, 10 packages more", build)
    results.runs["image build, unchanged"] = [ours.run(build)[0] for _ in range(REPEATS)]
    described(ours, NAME, (*TEN, ONE_MORE))
    once("image build, 1 more than these", build)
    for image in ("default", NAME):
        compare = ours.work / f"{image}.yaml"
        ours.run(f"image warm {compare}")
        title = f"hpc start, warm, 1 + 1, {image}"
        results.runs[title] = []
        for _ in range(STARTS):
            say(f"... {title}")
            results.runs[title].append(ours.run(f"hpc start {compare}")[0])
            ours.run(f"hpc destroy --force --cluster {cluster_of(image)}")


def measure_disk(bench: Bench, results: Results, disk: Path) -> None:
    """A disk of others: the first start imports and prepares it, the later ones are warm."""
    ours = replace(bench, data=bench.work / "data")
    image = str(disk.resolve())
    file = ours.work / "imported.yaml"
    file.write_text(FILE.format(name=NAME, packages="bc", cluster="of-imported", image=image))
    first, later = (f"hpc start, {how}, 1 + 1, a disk of others" for how in ("first", "warm"))
    say(f"... {first}")
    results.runs[first] = [ours.run(f"hpc start {file}")[0]]
    ours.run(f"image warm {file}")
    results.runs[later] = []
    for _ in range(STARTS):
        ours.run("hpc destroy --force --cluster of-imported")
        say(f"... {later}")
        results.runs[later].append(ours.run(f"hpc start {file}")[0])
    ours.run("hpc destroy --force --cluster of-imported")


def cluster_of(image: str) -> str:
    return f"of-{image}"


def described(bench: Bench, image: str, packages: Sequence[str]) -> Path:
    """A cluster file in which the image NAME has these packages, and whose nodes boot `image`."""
    file = bench.work / f"{image}.yaml"
    text = FILE.format(
        name=NAME, packages=", ".join(packages), cluster=cluster_of(image), image=image
    )
    file.write_text(text)
    return file
