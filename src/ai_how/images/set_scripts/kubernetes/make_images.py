"""make_images.py PLACE PAUSE BUSYBOX: container images that need no registry, and a list of all.

PLACE gets `pause.tar`, of the program PAUSE, and `busybox.tar`, of the program BUSYBOX with a link
for each name on stdin, as the Open Container Initiative lays images out. The same programs give the
same bytes. `names` lists the images of all archives in PLACE, a file and a name on each line.
"""

import gzip
import hashlib
import io
import json
import struct
import sys
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

PAUSE_IMAGE = "registry.k8s.io/pause:ai-how"
BUSYBOX_IMAGE = "localhost/ai-how/busybox:1"
_NAME, _SHORT_NAME = "io.containerd.image.name", "org.opencontainers.image.ref.name"
_TYPE = "application/vnd.oci.image"
_PASSWD = b"root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"
_GROUP = b"root:x:0:\nnogroup:x:65534:\n"
_INTERPRETER = 3  # of elf(5), PT_INTERP
_MOST_JSON = 4 << 20


def main(place: Path, pause: Path, busybox: Path, applets: Iterable[str]) -> None:
    """Write the archives and the list. Raises SystemExit for what no node could use."""
    tree = _Tree()
    tree.file("pause", _static(pause), 0o755)
    settings = {"Entrypoint": ["/pause", "-P"], "User": "65535:65535"}
    _write(place / "pause.tar", PAUSE_IMAGE, tree.content(), settings)
    tree = _Tree()
    tree.directory("bin", 0o755)
    tree.file("bin/busybox", _static(busybox), 0o755)
    for name in sorted(set(applets) - {"busybox"}):
        tree.link(f"bin/{name}", "busybox")
    tree.directory("etc", 0o755)
    tree.file("etc/group", _GROUP, 0o644)
    tree.file("etc/passwd", _PASSWD, 0o644)
    tree.directory("tmp", 0o1777)
    settings = {"Cmd": ["sh"], "Env": ["PATH=/bin"], "WorkingDir": "/"}
    _write(place / "busybox.tar", BUSYBOX_IMAGE, tree.content(), settings)
    listed = [
        f"{archive.name} {name}\n"
        for archive in sorted(place.glob("*.tar"))
        for name in _names_in(archive)
    ]
    (place / "names").write_text("".join(listed))


class _Tree:
    """An uncompressed tar that depends on nothing but what is added."""

    def __init__(self) -> None:
        self._out = io.BytesIO()
        self._tar = tarfile.open(fileobj=self._out, mode="w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115

    def file(self, name: str, content: bytes, mode: int) -> None:
        self._add(name, mode, tarfile.REGTYPE, content)

    def directory(self, name: str, mode: int) -> None:
        self._add(name, mode, tarfile.DIRTYPE)

    def link(self, name: str, target: str) -> None:
        self._add(name, 0o777, tarfile.SYMTYPE, target=target)

    def content(self) -> bytes:
        self._tar.close()
        return self._out.getvalue()

    def _add(
        self, name: str, mode: int, kind: bytes, content: bytes = b"", target: str = ""
    ) -> None:
        info = tarfile.TarInfo(name)
        info.size, info.mode, info.type, info.linkname = len(content), mode, kind, target
        self._tar.addfile(info, io.BytesIO(content))


def _static(program: Path) -> bytes:
    """The content of a program. Raises SystemExit where it needs libraries: no image has them."""
    content = program.read_bytes()
    (begin,) = struct.unpack_from("<Q", content, 0x20)
    size, count = struct.unpack_from("<HH", content, 0x36)
    kinds = [struct.unpack_from("<I", content, begin + size * one)[0] for one in range(count)]
    if _INTERPRETER in kinds:
        raise SystemExit(f"{program} is not linked statically")
    return content


def _write(archive: Path, name: str, layer: bytes, settings: dict[str, Any]) -> None:
    """An archive of one image with one layer."""
    blobs: dict[str, bytes] = {}

    def blob(kind: str, content: bytes) -> dict[str, Any]:
        blobs[_digest(content)] = content
        return {"mediaType": kind, "digest": _digest(content), "size": len(content)}

    config = {
        "architecture": "amd64",
        "config": settings,
        "created": "1970-01-01T00:00:00Z",
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [_digest(layer)]},
    }
    packed = gzip.compress(layer, mtime=0)
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{_TYPE}.manifest.v1+json",
        "config": blob(f"{_TYPE}.config.v1+json", _json(config)),
        "layers": [blob(f"{_TYPE}.layer.v1.tar+gzip", packed)],
    }
    entry = blob(f"{_TYPE}.manifest.v1+json", _json(manifest))
    entry["annotations"] = {_NAME: name, _SHORT_NAME: name.rpartition(":")[2]}
    index = {"schemaVersion": 2, "mediaType": f"{_TYPE}.index.v1+json", "manifests": [entry]}
    tree = _Tree()
    tree.file("oci-layout", _json({"imageLayoutVersion": "1.0.0"}), 0o644)
    tree.file("index.json", _json(index), 0o644)
    for digest in sorted(blobs):
        tree.file(f"blobs/{digest.replace(':', '/')}", blobs[digest], 0o644)
    archive.write_bytes(tree.content())


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _names_in(archive: Path) -> list[str]:
    """The images of an archive, as `ctr images import` calls them."""
    try:
        with tarfile.open(archive) as tar:
            index, packed = _member(tar, "index.json"), _member(tar, "manifest.json")
        if index is not None:
            marks = [one.get("annotations") or {} for one in index["manifests"]]
            names = [one.get(_NAME) or _whole(one.get(_SHORT_NAME, "")) for one in marks]
        else:
            names = [_usual(tag) for one in packed or () for tag in one.get("RepoTags") or ()]
    except (tarfile.TarError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise SystemExit(f"{archive.name} of the bundle is no container image: {error}") from error
    found = sorted({name for name in names if name})
    if not found or any(len(name.split()) != 1 for name in found):
        raise SystemExit(f"{archive.name} of the bundle has no container image with a name")
    return found


def _member(tar: tarfile.TarFile, name: str) -> Any:  # noqa: ANN401  JSON
    """A small file of an archive as JSON; None if it is not there."""
    for spelt in (name, f"./{name}"):
        try:
            member = tar.getmember(spelt)
        except KeyError:
            continue
        if member.size <= _MOST_JSON and (file := tar.extractfile(member)):
            return json.load(file)
    return None


def _whole(name: str) -> str | None:
    """A name that is one by itself, and not only a tag."""
    return name if set(name) & set("/:@") else None


def _usual(tag: str) -> str:
    """A name with what Docker leaves out of it."""
    first, slash, _ = tag.partition("/")
    if slash and (first == "localhost" or set(first) & set(".:")):
        return tag
    return f"docker.io/{tag}" if slash else f"docker.io/library/{tag}"


if __name__ == "__main__":
    _place, _pause, _busybox = map(Path, sys.argv[1:])
    main(_place, _pause, _busybox, sys.stdin.read().split())
