"""The programs of the set that comes with Kubernetes, without an image."""

import hashlib
import io
import json
import struct
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from ai_how.images.recipe import ROOT
from ai_how.process import Completed, run

MAKE_IMAGES = ROOT / "set_scripts/kubernetes/make_images.py"
LOAD_IMAGES = ROOT / "of_sets/kubernetes/usr/lib/ai-how/load-images"
CTR = """\
#!/bin/sh
echo "$*" >> "$CALLS"
case "$*" in
  *list*) cat "$STORE" ;;
  *import*) sed -n "s/^$5 //p" "$AI_HOW_ROOT/usr/lib/kubernetes/images/names" >> "$STORE" ;;
esac
"""


def program(*kinds: int) -> bytes:
    """A program with these segments: 3 asks for an interpreter, which loads libraries."""
    head = bytearray(64)
    struct.pack_into("<Q", head, 0x20, 64)
    struct.pack_into("<HH", head, 0x36, 56, len(kinds))
    return bytes(head) + b"".join(struct.pack("<I52x", kind) for kind in kinds)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "pause").write_bytes(program(1))
    (tmp_path / "busybox").write_bytes(program(1, 2))
    (tmp_path / "images").mkdir()
    return tmp_path / "images"


def make(place: Path) -> Completed:
    programs = [place.parent / "pause", place.parent / "busybox"]
    words = [sys.executable, MAKE_IMAGES, place, *programs]
    return run(words, stdin="busybox\nsh\nhttpd\n[\n", check=False)


def archive(path: Path, **files: object) -> None:
    with tarfile.open(path, "w") as tar:
        for name, value in files.items():
            info = tarfile.TarInfo(name.replace("_", "."))
            content = json.dumps(value).encode()
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def blobs_of(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        members = [(one.name, tar.extractfile(one)) for one in tar]
        return {name: file.read() for name, file in members if file}


def test_images_hold_together_by_their_digests(place: Path) -> None:
    assert make(place).returncode == 0
    blobs = blobs_of(place / "busybox.tar")
    for name, content in blobs.items():
        if name.startswith("blobs/"):
            assert name == f"blobs/sha256/{hashlib.sha256(content).hexdigest()}"

    def blob(entry: dict[str, Any]) -> bytes:
        content = blobs[f"blobs/{entry['digest'].replace(':', '/')}"]
        assert len(content) == entry["size"]
        return content

    [entry] = json.loads(blobs["index.json"])["manifests"]
    manifest = json.loads(blob(entry))
    config = json.loads(blob(manifest["config"]))
    [layer] = manifest["layers"]
    with tarfile.open(fileobj=io.BytesIO(blob(layer)), mode="r:gz") as tar:
        files = {one.name: one.linkname for one in tar}
        assert tar.getmember("bin/busybox").mode == 0o755
        assert tar.getmember("tmp").mode == 0o1777
    assert files["bin/httpd"] == files["bin/sh"] == files["bin/["] == "busybox"
    assert (config["os"], config["architecture"]) == ("linux", "amd64")


def test_the_same_programs_give_the_same_bytes(place: Path) -> None:
    make(place)
    first = {path.name: path.read_bytes() for path in place.iterdir()}
    make(place)
    assert {path.name: path.read_bytes() for path in place.iterdir()} == first


def test_a_program_that_needs_libraries_is_refused(place: Path) -> None:
    (place.parent / "pause").write_bytes(program(1, 3))
    made = make(place)
    assert made.returncode == 1
    assert made.stderr == f"{place.parent}/pause is not linked statically\n"


def test_all_images_of_all_archives_are_listed_as_containerd_calls_them(place: Path) -> None:
    tags = ["busybox:1", "coredns/coredns:1.8.0", "registry.k8s.io/x:1", "localhost/x:1", "h:5/x:2"]
    archive(place / "docker.tar", manifest_json=[{"RepoTags": tags}, {"RepoTags": None}])
    marks: list[dict[str, str]] = [
        {"io.containerd.image.name": "docker.io/library/a:1"},
        {"org.opencontainers.image.ref.name": "quay.io/b:2"},
        {"org.opencontainers.image.ref.name": "latest"},
    ]
    entries = [*({"annotations": one} for one in marks), {}]
    archive(place / "oci.tar", index_json={"manifests": entries}, manifest_json=[])
    assert make(place).stderr == ""
    assert (place / "names").read_text().splitlines() == [
        "busybox.tar localhost/ai-how/busybox:1",
        "docker.tar docker.io/coredns/coredns:1.8.0",
        "docker.tar docker.io/library/busybox:1",
        "docker.tar h:5/x:2",
        "docker.tar localhost/x:1",
        "docker.tar registry.k8s.io/x:1",
        "oci.tar docker.io/library/a:1",
        "oci.tar quay.io/b:2",
        "pause.tar registry.k8s.io/pause:ai-how",
    ]


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ({}, "has no container image with a name"),
        ({"manifest_json": [{"RepoTags": None}]}, "has no container image with a name"),
        ({"manifest_json": [{"RepoTags": ["a b"]}]}, "has no container image with a name"),
        ({"manifest_json": 5}, "is no container image"),
        ({"index_json": {}}, "is no container image"),
        ({"index_json": {"manifests": [5]}}, "is no container image"),
    ],
)
def test_archives_without_a_named_image_are_refused(
    files: dict[str, object], why: str, place: Path
) -> None:
    archive(place / "x.tar", **files)
    made = make(place)
    assert made.returncode == 1
    assert made.stderr.startswith(f"x.tar of the bundle {why}")
    assert not (place / "names").exists()


def test_what_is_no_tar_is_refused(place: Path) -> None:
    (place / "x.tar").write_bytes(b"PK")
    assert make(place).stderr.startswith("x.tar of the bundle is no container image")


class Node:
    """A node whose containerd is a file with the names of its images."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.images = root / "usr/lib/kubernetes/images"
        self.images.mkdir(parents=True)
        (root / "ctr").write_text(CTR)
        (root / "ctr").chmod(0o755)
        self.store = root / "store"
        self.store.write_text("")

    def load(self, path: str) -> list[str]:
        """The archives that were imported."""
        calls = self.root / "calls"
        calls.write_text("")
        env = {
            "AI_HOW_ROOT": str(self.root),
            "CALLS": str(calls),
            "STORE": str(self.store),
            "PATH": f"{self.root}:{path}",
        }
        run(["env", *(f"{name}={value}" for name, value in env.items()), "sh", LOAD_IMAGES])
        lines = [line for line in calls.read_text().splitlines() if "import" in line]
        assert all(line.startswith("--namespace k8s.io images import ") for line in lines)
        return [line.split()[-1] for line in lines]


def test_images_are_imported_once_and_again_when_they_are_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = "/usr/sbin:/usr/bin:/sbin:/bin"
    node = Node(tmp_path)
    names = ["a.tar r/a:1", "a.tar r/b:1", "b.tar r/c:10", "b.tar r/c:1"]
    (node.images / "names").write_text("\n".join(names) + "\n")
    assert node.load(path) == ["a.tar", "b.tar"]
    assert node.load(path) == []
    node.store.write_text("r/a:1\nr/c:10\nr/c:1\nsha256:0\n")
    assert node.load(path) == ["a.tar"]
    # `r/c:1` is the start of another name that is there.
    node.store.write_text("r/a:1\nr/b:1\nr/c:10\n")
    assert node.load(path) == ["b.tar"]
