"""Bundles of Kubernetes: what is taken of one, and everything that is refused."""

import gzip
import hashlib
import io
import os
import signal
import subprocess  # noqa: TID251  killed while it runs
import sys
import tarfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from ai_how.errors import ImageError
from ai_how.images.blueprint import Blueprint, digest_of_recipe
from ai_how.images.bundle_layout import PROGRAMS
from ai_how.images.bundles import Bundle, bundle_of
from ai_how.process import run
from ai_how.spec.kubernetes import KubernetesSourceSpec
from ai_how.waiting import Deadline, wait_until

BIN = "kubernetes/server/bin"
ELF = b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\x00\x3e\x00"
PROGRAM_FILES = {f"{BIN}/{name}": ELF + name.encode() for name in PROGRAMS}
WHOLE = {
    **PROGRAM_FILES,
    "kubernetes/version": b"v1.20.2\n",
    "images/coredns.tar": b"coredns",
    "kubernetes/images/other.tar": b"other",
    "manifests/coredns.yaml": b"kind: Service\n",
    "kubernetes/LICENSES": b"not used",
    f"{BIN}/kubeadm": b"not used",
}
USED = {
    *(f"bin/{name}" for name in PROGRAMS),
    *("images/coredns.tar", "images/other.tar", "manifests/coredns.yaml", "version"),
}


def packed(
    target: Path,
    files: Mapping[str, bytes],
    extra: Callable[[tarfile.TarFile], None] | None = None,
) -> Path:
    """An archive as Kubernetes publishes it, or by the name of the target one of zstd."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        if extra:
            extra(tar)
    if target.suffix == ".zst":
        plain = target.with_suffix("")
        plain.write_bytes(raw.getvalue())
        run(["zstd", "-q", "-f", "-o", target, plain])
    else:
        target.write_bytes(gzip.compress(raw.getvalue(), mtime=0))
    return target


def unpacked(target: Path, files: Mapping[str, bytes]) -> Path:
    for name, content in files.items():
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return target


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return packed(tmp_path / "bundle.tar.gz", WHOLE)


def read(bundle: Bundle) -> dict[str, Path]:
    return dict(bundle.read(lambda _share, _what: None).files)


def refusal(bundle: Bundle) -> str:
    with pytest.raises(ImageError) as caught:
        read(bundle)
    assert_nothing_is_left(bundle.cache)
    return caught.value.brief


def assert_nothing_is_left(cache: Path) -> None:
    there = cache.iterdir() if cache.exists() else []
    assert [path.name for path in there if path.name not in (".lock", ".seen")] == []


@pytest.mark.parametrize("name", ["bundle.tar.gz", "bundle.tar.zst"])
def test_what_is_used_of_an_archive_is_unpacked_once(
    tmp_path: Path, cache: Path, name: str
) -> None:
    archive = packed(tmp_path / name, WHOLE)
    bundle = Bundle(cache, place=archive)
    contents = bundle.read(lambda _share, _what: None)
    assert contents.version == "1.20.2"
    assert set(contents.files) == USED
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    assert bundle.identity() == {"archive": digest}
    for role, path in contents.files.items():
        assert path == cache / digest / role
    assert contents.files["images/other.tar"].read_bytes() == b"other"
    assert os.access(contents.files["bin/kubelet"], os.X_OK)
    before = contents.files["bin/kubelet"].stat()
    again = read(bundle)["bin/kubelet"].stat()
    assert (again.st_ino, again.st_ctime_ns) == (before.st_ino, before.st_ctime_ns)
    assert not list(cache.glob(".part-*"))


@pytest.mark.parametrize("top", ["kubernetes/", ""])
def test_a_directory_is_read_where_it_is(tmp_path: Path, cache: Path, top: str) -> None:
    files = {name.replace("kubernetes/", top, 1): content for name, content in WHOLE.items()}
    directory = unpacked(tmp_path / "bundle", files)
    contents = Bundle(cache, place=directory).read(lambda _share, _what: None)
    assert contents.version == "1.20.2"
    assert set(contents.files) == USED
    assert contents.files["bin/kubelet"] == directory / top / "server/bin/kubelet"


def test_entries_may_begin_with_a_dot_and_lack_the_first_directory(
    tmp_path: Path, cache: Path
) -> None:
    files = {f"./{name.removeprefix('kubernetes/')}": content for name, content in WHOLE.items()}
    assert set(read(Bundle(cache, place=packed(tmp_path / "b.tar.gz", files)))) == USED


def test_only_what_is_used_decides_the_digest_of_a_directory(tmp_path: Path, cache: Path) -> None:
    directory = unpacked(tmp_path / "bundle", WHOLE)
    bundle = Bundle(cache, place=directory)
    first = bundle.identity()
    assert first.keys() == {"directory"}
    (directory / "kubernetes" / "LICENSES").write_text("other")
    (directory / BIN / "kubelet").touch()
    assert bundle.identity() == first
    (directory / BIN / "kubelet").write_bytes(ELF + b"newer")
    second = bundle.identity()
    (directory / "images" / "more.tar").write_bytes(b"more")
    assert len({str(one) for one in (first, second, bundle.identity())}) == 3


def test_a_file_is_not_read_again_as_long_as_it_is_the_same(archive: Path, cache: Path) -> None:
    bundle = Bundle(cache, place=archive)
    first = bundle.identity()
    [record] = (cache / ".seen").iterdir()
    text = record.read_text().replace(first["archive"], "0" * 64)
    record.write_text(text)
    assert bundle.identity() == {"archive": "0" * 64}
    archive.write_bytes(archive.read_bytes())
    assert bundle.identity() == first


def test_the_digest_is_found_where_nothing_can_be_written(archive: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert Bundle(tmp_path / "file" / "cache", place=archive).identity().keys() == {"archive"}


def test_a_bundle_is_part_of_the_recipe(archive: Path, cache: Path) -> None:
    def digest(bundle: Bundle | None) -> str:
        return digest_of_recipe(Blueprint(name="mine", bundle=bundle).recipe("0" * 64))

    bundle = Bundle(cache, place=archive)
    seen = {
        digest(None),
        digest(bundle),
        digest(Bundle(cache, version="1.34.2")),
        digest(Bundle(cache, version="1.34.1")),
    }
    assert len(seen) == 4
    sha256 = bundle.identity()["archive"]
    assert digest(replace(bundle, sha256=sha256, version="1.20.2")) == digest(bundle)
    recipe = Blueprint(name="mine", bundle=bundle).recipe("0" * 64)
    assert recipe["kubernetes"] == {"archive": sha256}
    assert {"containerd", "etcd-server", "runc"} <= set(recipe["all_packages"])
    assert "kubernetes" in recipe["set_scripts"]


def test_an_archive_with_a_known_digest_need_not_be_there_any_more(
    archive: Path, cache: Path
) -> None:
    sha256 = hashlib.sha256(archive.read_bytes()).hexdigest()
    bundle = Bundle(cache, place=archive, sha256=sha256)
    read(bundle)
    archive.unlink()
    assert bundle.identity() == {"archive": sha256}
    assert set(read(bundle)) == USED


def test_a_file_that_is_gone_is_said(tmp_path: Path, cache: Path) -> None:
    bundle = Bundle(cache, place=tmp_path / "gone.tar.gz")
    with pytest.raises(ImageError, match="cannot be read: No such file"):
        bundle.identity()
    with pytest.raises(ImageError, match="relative to its cluster file"):
        Bundle(cache, place=Path("gone")).identity()


def test_what_was_damaged_in_the_cache_is_unpacked_again(archive: Path, cache: Path) -> None:
    bundle = Bundle(cache, place=archive)
    kubelet = read(bundle)["bin/kubelet"]
    kubelet.unlink()
    assert read(bundle)["bin/kubelet"].read_bytes() == ELF + b"kubelet"
    kubelet.chmod(0o600)
    kubelet.write_bytes(b"short")
    assert read(bundle)["bin/kubelet"].read_bytes() == ELF + b"kubelet"
    (cache / kubelet.parent.parent.name / "files.json").write_text("[")
    assert read(bundle)["bin/kubelet"].read_bytes() == ELF + b"kubelet"
    assert not list(cache.glob(".part-*"))


def test_programs_that_are_missing_are_named(tmp_path: Path, cache: Path) -> None:
    files = {name: content for name, content in WHOLE.items() if not name.endswith(("let", "ctl"))}
    archive = packed(tmp_path / "bundle.tar.gz", files)
    assert refusal(Bundle(cache, place=archive)) == f"{archive} lacks kubelet, kubectl"
    directory = unpacked(tmp_path / "bundle", files)
    assert refusal(Bundle(cache, place=directory)) == f"{directory} lacks kubelet, kubectl"
    (tmp_path / "empty").mkdir()
    assert "lacks kube-apiserver, " in refusal(Bundle(cache, place=tmp_path / "empty"))


def test_programs_of_another_processor_are_refused(tmp_path: Path, cache: Path) -> None:
    arm = ELF.replace(b"\x3e\x00", b"\xb7\x00")
    archive = packed(tmp_path / "bundle.tar.gz", {**WHOLE, f"{BIN}/kubelet": arm})
    said = f"kubelet of {archive} is no program for Linux on amd64"
    assert refusal(Bundle(cache, place=archive)) == said
    archive = packed(tmp_path / "bundle.tar.gz", {**WHOLE, f"{BIN}/kubelet": b""})
    assert refusal(Bundle(cache, place=archive)) == said


def test_another_digest_is_refused(archive: Path, cache: Path) -> None:
    assert "its SHA-256 is another one" in refusal(Bundle(cache, place=archive, sha256="0" * 64))


def test_another_version_is_refused(archive: Path, cache: Path) -> None:
    with pytest.raises(ImageError, match=r"is of version 1\.20\.2, and not 1\.34\.2"):
        read(Bundle(cache, place=archive, version="1.34.2"))
    assert set(read(Bundle(cache, place=archive, version="1.20.2"))) == USED


def test_a_version_may_have_a_suffix_of_whoever_built_it(tmp_path: Path, cache: Path) -> None:
    files = {**WHOLE, "kubernetes/version": b"v1.30.1+ours.2\n"}
    bundle = Bundle(cache, place=unpacked(tmp_path / "bundle", files), version="1.30.1")
    assert bundle.read(lambda _share, _what: None).version == "1.30.1+ours.2"


def test_the_version_of_a_published_archive_is_known(tmp_path: Path, cache: Path) -> None:
    files = {**PROGRAM_FILES, f"{BIN}/kube-apiserver.docker_tag": b"v1.34.2"}
    bundle = Bundle(cache, place=packed(tmp_path / "bundle.tar.gz", files))
    assert bundle.read(lambda _share, _what: None).version == "1.34.2"


def test_a_version_that_nothing_says_is_asked_for(tmp_path: Path, cache: Path) -> None:
    archive = packed(tmp_path / "bundle.tar.gz", PROGRAM_FILES)
    with pytest.raises(ImageError, match="does not say its version"):
        read(Bundle(cache, place=archive))
    bundle = Bundle(cache, place=archive, version="1.20.2")
    assert bundle.read(lambda _share, _what: None).version == "1.20.2"


def test_the_kubelet_of_a_directory_is_asked(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = unpacked(tmp_path / "bundle", PROGRAM_FILES)
    kubelet = directory / BIN / "kubelet"
    kubelet.write_text("#!/bin/sh\necho Kubernetes v1.20.2\n")
    kubelet.chmod(0o755)
    monkeypatch.setattr("ai_how.images.bundles._is_for_guests", lambda _path: True)
    assert Bundle(cache, place=directory).read(lambda _share, _what: None).version == "1.20.2"


def linked(
    name: str, target: str, kind: bytes = tarfile.SYMTYPE
) -> Callable[[tarfile.TarFile], None]:
    def add(tar: tarfile.TarFile) -> None:
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, target
        tar.addfile(info)

    return add


@pytest.mark.parametrize(
    ("extra", "why"),
    [
        (linked("kubernetes/out", "../../etc"), "is a link that leads out of it"),
        (linked("kubernetes/out", "/etc"), "is a link that leads out of it"),
        (linked("kubernetes/out", "../etc", tarfile.LNKTYPE), "is a link that leads out of it"),
        (linked("images/x.tar", "coredns.tar"), "images/x.tar is no file"),
        (linked(f"{BIN}/kubelet", "kubectl"), "is no file"),
        (linked("images/x.tar", "", tarfile.CHRTYPE), "images/x.tar is no file"),
        (linked("images/x.tar", "", tarfile.FIFOTYPE), "images/x.tar is no file"),
    ],
)
def test_links_and_devices_are_refused(
    tmp_path: Path, cache: Path, extra: Callable[[tarfile.TarFile], None], why: str
) -> None:
    assert why in refusal(Bundle(cache, place=packed(tmp_path / "b.tar.gz", WHOLE, extra)))


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("../../x", "'../../x' leads out of it"),
        ("/etc/passwd", "'/etc/passwd' leads out of it"),
        ("images/../../x.tar", "leads out of it"),
        ("images/coredns.tar", "it has images/coredns.tar twice"),
        ("kubernetes/images/coredns.tar", "it has images/coredns.tar twice"),
        ("images/-x.tar", "'images/-x.tar' is a name that no image can have"),
        ("images/a b.tar", "is a name that no image can have"),
    ],
)
def test_hostile_names_are_refused(tmp_path: Path, cache: Path, name: str, why: str) -> None:
    def add(tar: tarfile.TarFile) -> None:
        info = tarfile.TarInfo(name)
        info.size = 1
        tar.addfile(info, io.BytesIO(b"x"))

    assert why in refusal(Bundle(cache, place=packed(tmp_path / "b.tar.gz", WHOLE, add)))
    assert not (tmp_path / "x").exists()


def test_names_of_any_length_are_not_read_into_the_memory(tmp_path: Path, cache: Path) -> None:
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 1 << 40
    raw = header.tobuf(tarfile.GNU_FORMAT) + bytes(4096)
    (tmp_path / "b.tar.gz").write_bytes(gzip.compress(raw))
    why = "one of its headers is too large"
    assert why in refusal(Bundle(cache, place=tmp_path / "b.tar.gz"))


@pytest.mark.parametrize("name", ["bundle.tar.gz", "bundle.tar.zst"])
def test_an_archive_that_ends_too_early_is_refused(tmp_path: Path, cache: Path, name: str) -> None:
    big = {**WHOLE, "images/big.tar": os.urandom(300_000)}
    archive = packed(tmp_path / name, big)
    content = archive.read_bytes()
    for length in (len(content) - 5, len(content) * 2 // 3, 400, 4):
        archive.write_bytes(content[:length])
        assert "damaged, or ends too early" in refusal(Bundle(cache, place=archive)), length


def test_a_tar_that_ends_too_early_in_a_whole_archive_is_refused(
    tmp_path: Path, cache: Path
) -> None:
    raw = gzip.decompress(packed(tmp_path / "bundle.tar.gz", WHOLE).read_bytes())
    end = len(raw.rstrip(b"\0"))
    for cut in (raw[: end + 1], raw[: end // 512 * 512], raw[:end] + b"\1" * 2048):
        (tmp_path / "bundle.tar.gz").write_bytes(gzip.compress(cut))
        bundle = Bundle(cache, place=tmp_path / "bundle.tar.gz")
        assert "damaged, or ends too early" in refusal(bundle)


def test_a_changed_byte_is_refused(tmp_path: Path, cache: Path) -> None:
    archive = packed(tmp_path / "bundle.tar.gz", {**WHOLE, "images/big.tar": os.urandom(100_000)})
    content = bytearray(archive.read_bytes())
    content[len(content) // 2] ^= 1
    archive.write_bytes(content)
    assert "damaged" in refusal(Bundle(cache, place=archive))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x1f\x8b", b"\x28\xb5\x2f\xfd"])
def test_what_is_no_archive_is_refused(tmp_path: Path, cache: Path, content: bytes) -> None:
    (tmp_path / "bundle.tar.gz").write_bytes(content)
    assert "is refused: it is" in refusal(Bundle(cache, place=tmp_path / "bundle.tar.gz"))


def test_a_pipe_is_not_waited_for(tmp_path: Path, cache: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ImageError):
        read(Bundle(cache, place=tmp_path / "pipe", sha256="0" * 64))


KILLED = """
import sys
from pathlib import Path
from ai_how.images import bundle_layout
from ai_how.images.bundles import Bundle

def slow(source, target, length):
    target.write(source.read(3))
    target.flush()
    print("writing", flush=True)
    sys.stdin.read()

bundle_layout.shutil.copyfileobj = slow
Bundle(Path(sys.argv[1]), place=Path(sys.argv[2])).read(lambda share, what: None)
"""


def test_a_kill_in_the_middle_leaves_nothing_that_is_taken_for_whole(
    archive: Path, cache: Path
) -> None:
    with subprocess.Popen(  # noqa: S603
        [sys.executable, "-c", KILLED, cache, archive],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"writing\n"
        child.send_signal(signal.SIGKILL)
        child.wait()
    [draft] = cache.glob(".part-*")
    assert list((draft / "tree").rglob("kube*"))
    wait_until(lambda: not Path("/proc", str(child.pid)).exists(), Deadline.after(10), "its end")
    bundle = Bundle(cache, place=archive)
    assert set(read(bundle)) == USED
    assert not list(cache.glob(".part-*"))


def test_a_release_that_cannot_be_downloaded_is_said_in_one_error(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    began = time.monotonic()
    with pytest.raises(ImageError) as caught:
        read(Bundle(cache, version="1.34.2"))
    assert time.monotonic() - began < 10
    assert caught.value.brief.startswith("Kubernetes 1.34.2 is not here: https://dl.k8s.io/v1.34.2")
    assert "`bundle` names the archive as a file" in (caught.value.details or "")
    assert_nothing_is_left(cache)


def serve(monkeypatch: pytest.MonkeyPatch, files: Mapping[str, bytes]) -> list[str]:
    """A download gives these files; what was asked for is in the list."""
    asked: list[str] = []

    def download(url: str, target: Path, **_: object) -> None:
        asked.append(url)
        target.write_bytes(files[url])

    monkeypatch.setattr("ai_how.images.download.download", download)
    return asked


RELEASE = "https://dl.k8s.io/v1.20.2/kubernetes-server-linux-amd64.tar.gz"


def test_a_release_is_downloaded_once_and_checked(
    archive: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = archive.read_bytes()
    digest = hashlib.sha512(content).hexdigest().encode()
    asked = serve(monkeypatch, {RELEASE: content, f"{RELEASE}.sha512": digest})
    bundle = Bundle(cache, version="1.20.2")
    assert set(read(bundle)) == set(read(bundle)) == USED
    assert sorted(asked) == [RELEASE, f"{RELEASE}.sha512"]
    assert bundle.identity() == {"release": "1.20.2"}


def test_a_release_with_another_digest_is_refused(
    archive: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = archive.read_bytes()
    serve(monkeypatch, {RELEASE: content, f"{RELEASE}.sha512": b"0" * 128})
    assert "its SHA-512 is not the published one" in refusal(Bundle(cache, version="1.20.2"))
    digest = hashlib.sha512(content).hexdigest().encode()
    serve(monkeypatch, {RELEASE: content, f"{RELEASE}.sha512": digest})
    wrong = Bundle(cache, version="1.20.2", sha256="0" * 64)
    assert "its SHA-256 is another one" in refusal(wrong)


def test_a_release_of_another_version_is_refused(
    archive: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = archive.read_bytes()
    address = RELEASE.replace("1.20.2", "1.34.2")
    digest = hashlib.sha512(content).hexdigest().encode()
    serve(monkeypatch, {address: content, f"{address}.sha512": digest})
    with pytest.raises(ImageError, match=r"is of version 1\.20\.2, and not 1\.34\.2"):
        read(Bundle(cache, version="1.34.2"))


def test_a_url_is_downloaded_and_checked(
    archive: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = archive.read_bytes()
    asked = serve(monkeypatch, {"https://example.org/b.tgz": content})
    sha256 = hashlib.sha256(content).hexdigest()
    bundle = Bundle(cache, place="https://example.org/b.tgz", sha256=sha256)
    assert set(read(bundle)) == set(read(bundle)) == USED
    assert len(asked) == 1
    assert "another one" in refusal(replace(bundle, sha256="0" * 64, cache=cache / "other"))


def test_a_path_is_relative_to_the_file(tmp_path: Path, cache: Path) -> None:
    source = KubernetesSourceSpec(bundle="./b.tar.gz", version="1.20.2")
    assert bundle_of(source, tmp_path, cache).place == tmp_path / "b.tar.gz"
    source = KubernetesSourceSpec(bundle="https://example.org/b", sha256="0" * 64)
    assert bundle_of(source, tmp_path, cache).place == "https://example.org/b"
    assert bundle_of(KubernetesSourceSpec(version="1.20.2"), None, cache).place is None
