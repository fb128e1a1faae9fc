"""What the image store takes in, what it refuses, and that it never holds half an image."""

import hashlib
import http.server
import os
import re
import ssl
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from qcow2_writer import MIB, Qcow2

from ai_how.errors import HostError, ImageError
from ai_how.images.copying import copy_sparse
from ai_how.images.manifest import DISK, INITRD, KERNEL, BrokenImage, Image, Manifest
from ai_how.images.qcow2_header import read_header
from ai_how.images.store import ImageStore
from ai_how.process import run

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def digest_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(tmp_path / "images", max_virtual_bytes=1 << 40)


@pytest.fixture
def cloud(tmp_path: Path) -> Path:
    """A foreign image with some data in it."""
    raw = tmp_path / "data"
    raw.write_bytes(os.urandom(MIB) + bytes(MIB))
    path = tmp_path / "debian-13.qcow2"
    run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, path])
    return path


def add(store: ImageStore, name: str, recipe: str, *, age: timedelta = timedelta()) -> Image:
    disk = Qcow2(virtual_bytes=MIB).render()
    manifest = Manifest(
        digest=digest_of(recipe.encode()),
        name=name,
        created_at=NOW - age,
        virtual_size_bytes=MIB,
        disk_sha256=digest_of(disk),
        kernel_sha256=digest_of(b"kernel"),
        initrd_sha256=digest_of(b"initrd"),
        cmdline="root=/dev/vda",
        identity="agent",
        recipe={"suite": recipe},
    )
    with store.draft() as draft:
        (draft / DISK).write_bytes(disk)
        (draft / KERNEL).write_bytes(b"kernel")
        (draft / INITRD).write_bytes(b"initrd")
        return store.add(draft, manifest)


def left_over(store: ImageStore) -> list[str]:
    return [path.name for path in store.paths.root.glob(".part-*")]


def damage(path: Path, offset: int) -> None:
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\xa5")
    path.chmod(0o444)


def test_an_added_image_is_read_only_and_found_again(store: ImageStore) -> None:
    image = add(store, "default", "trixie")
    assert store.list() == (image,)
    assert image.directory == store.paths.image(image.digest)
    assert (image.kernel, image.initrd) == (image.directory / KERNEL, image.directory / INITRD)
    assert image.directory.stat().st_mode & 0o777 == 0o555
    assert {path.stat().st_mode & 0o777 for path in image.directory.iterdir()} == {0o444}
    assert left_over(store) == []
    store.verify(image)


def test_an_empty_store_lists_nothing_and_says_how_to_fill_it(store: ImageStore) -> None:
    assert store.list() == ()
    assert store.find("default") is None
    with pytest.raises(ImageError, match="there is no image default") as caught:
        store.get("default")
    assert caught.value.hint == "ai-how image build"


def test_a_name_finds_its_newest_image(store: ImageStore) -> None:
    ages = (3, 0, 5, 1, 4, 2)
    images = {age: add(store, "default", f"{age}", age=timedelta(days=age)) for age in ages}
    assert store.get("default") == images[0]
    assert store.list() == tuple(images[age] for age in sorted(ages))


def test_the_beginning_of_a_digest_finds_the_one_image_that_it_fits(store: ImageStore) -> None:
    image = add(store, "default", "one")
    assert store.get(image.digest) == image
    assert store.get(image.digest[:6]) == image
    assert store.find(image.digest[:3]) is None
    twin = store.paths.image(image.digest[:8] + "0" * 56)
    twin.mkdir()
    with pytest.raises(ImageError, match="start of 2 image digests") as caught:
        store.find(image.digest[:8])
    assert twin.name in (caught.value.details or "")


def test_an_unknown_name_is_answered_with_those_that_there_are(store: ImageStore) -> None:
    add(store, "default", "one")
    with pytest.raises(ImageError, match="the store has: default"):
        store.get("rocky")


def test_the_same_digest_is_kept_as_it_is(store: ImageStore) -> None:
    first = add(store, "default", "one")
    inode = first.disk.stat().st_ino
    assert add(store, "default", "one").disk.stat().st_ino == inode
    assert left_over(store) == []


def test_a_broken_image_is_listed_with_its_reason_and_replaced(store: ImageStore) -> None:
    image = add(store, "default", "one")
    healthy = add(store, "default", "two")
    image.directory.chmod(0o755)
    image.disk.unlink()
    assert store.list()[0] == healthy
    broken = store.list()[1]
    assert isinstance(broken, BrokenImage)
    assert broken.reason == "disk.qcow2 is missing"
    with pytest.raises(ImageError, match="is broken") as caught:
        store.get(image.digest)
    assert caught.value.hint == f"ai-how image rm {image.digest[:12]}"
    assert store.get(add(store, "default", "one").digest).disk.exists()


@pytest.mark.parametrize(
    ("manifest", "reason"),
    [
        (None, "No such file"),
        ("{", "Invalid JSON"),
        ("{}", "digest: Field required"),
        (b"\xff\xfe", "is not a manifest"),
    ],
)
def test_a_directory_without_a_manifest_is_broken_not_fatal(
    store: ImageStore, manifest: str | bytes | None, reason: str
) -> None:
    directory = store.paths.image("ab" * 32)
    directory.mkdir(parents=True)
    if manifest is not None:
        data = manifest.encode() if isinstance(manifest, str) else manifest
        (directory / "manifest.json").write_bytes(data)
    (store.paths.root / "notes.txt").write_text("mine")
    broken = store.list()
    assert all(isinstance(one, BrokenImage) for one in broken)
    assert any(isinstance(one, BrokenImage) and reason in one.reason for one in broken)
    for one in broken:
        store.remove(one, used_by={})
    assert store.list() == ()


def test_a_draft_with_other_files_than_its_manifest_is_refused(store: ImageStore) -> None:
    image = add(store, "default", "one")
    manifest = image.manifest.model_copy(update={"digest": "cd" * 32})
    with store.draft() as draft:
        (draft / DISK).write_bytes(image.disk.read_bytes())
        with pytest.raises(ImageError, match=re.escape("not ['disk.qcow2', 'initrd', 'vmlinuz']")):
            store.add(draft, manifest)
    assert store.list() == (image,)
    assert left_over(store) == []


@pytest.mark.fault("S04", "a backing file in a draft")
def test_a_draft_with_a_dangerous_disk_is_refused(store: ImageStore) -> None:
    image = add(store, "default", "one")
    manifest = image.manifest.model_copy(update={"digest": "cd" * 32})
    with store.draft() as draft:
        for path in (image.kernel, image.initrd):
            assert path
            (draft / path.name).write_bytes(path.read_bytes())
        Qcow2(virtual_bytes=MIB, backing_file=b"/etc/shadow").write(draft / DISK)
        with pytest.raises(ImageError, match="has a backing file"):
            store.add(draft, manifest)
    assert store.list() == (image,)


def test_verify_names_both_digests_of_a_file_that_changed(store: ImageStore) -> None:
    image = add(store, "default", "one")
    assert image.kernel
    damage(image.kernel, 0)
    with pytest.raises(ImageError, match="has changed") as caught:
        store.verify(image)
    assert digest_of(b"kernel") in (caught.value.details or "")
    assert digest_of(b"\xa5ernel") in (caught.value.details or "")


def test_verify_lets_qemu_look_at_the_tables(store: ImageStore, tmp_path: Path) -> None:
    image = Qcow2(virtual_bytes=MIB)
    data = bytearray(image.render())
    data[3 * image.cluster : 3 * image.cluster + 8] = (1 << 63 | 1 << 40).to_bytes(8, "big")
    path = tmp_path / "bad.qcow2"
    path.write_bytes(data)
    with pytest.raises(ImageError, match=r"bad\.qcow2 is damaged"):
        store.import_file(path)


@pytest.mark.fault("S07", "the limits that qemu-img runs under")
def test_qemu_img_sees_a_foreign_file_only_under_limits(
    store: ImageStore, cloud: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = tmp_path / "seen"
    fake = tmp_path / "bin" / "qemu-img"
    fake.parent.mkdir()
    fake.write_text(
        f'#!/bin/sh\necho "$(ulimit -t) $(ulimit -v) $*" >>{seen}\n'
        'PATH=/usr/bin exec qemu-img "$@"\n'
    )
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}:{os.environ['PATH']}")
    store.import_file(cloud)
    info, check = seen.read_text().splitlines()
    assert re.fullmatch(r"30 2097152 info -f qcow2 --output=json /.*/disk\.qcow2", info)
    assert re.fullmatch(r"300 2097152 check -f qcow2 -q /.*/disk\.qcow2", check)


@pytest.mark.fault("S04", "a QEMU that reads another header")
def test_a_disk_that_qemu_reads_otherwise_than_we_is_refused(
    store: ImageStore, cloud: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = tmp_path / "bin" / "qemu-img"
    fake.parent.mkdir()
    fake.write_text("""#!/bin/sh\necho '{"virtual-size": 7}'\n""")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}:{os.environ['PATH']}")
    with pytest.raises(ImageError, match="QEMU and ai-how read its header differently"):
        store.import_file(cloud)


def test_an_image_in_use_is_not_removed(store: ImageStore) -> None:
    image = add(store, "default", "one")
    with pytest.raises(HostError, match="is used by demo, test") as caught:
        store.remove(image, used_by={"demo": "hpc", "test": "hpc"})
    assert caught.value.hint == "ai-how hpc destroy --cluster demo"
    store.remove(image, used_by={})
    assert store.list() == ()
    assert left_over(store) == []
    store.remove(image, used_by={})


def test_a_draft_of_a_dead_process_is_swept_and_a_living_one_is_not(store: ImageStore) -> None:
    dead = run([sys.executable, "-c", "import os; print(os.getpid())"]).stdout.strip()
    with store.draft() as living:
        stale = store.paths.root / f".part-{dead}-abcd"
        stale.mkdir(mode=0o555)
        with store.draft():
            assert not stale.exists()
            assert living.exists()
    assert left_over(store) == []


def test_a_qcow2_is_imported_under_its_own_digest(store: ImageStore, cloud: Path) -> None:
    image = store.import_file(cloud)
    assert (image.name, image.manifest.identity) == ("debian-13", "nocloud")
    assert image.digest == digest_of(cloud.read_bytes()) == image.manifest.disk_sha256
    assert (image.kernel, image.initrd) == (None, None)
    assert image.manifest.recipe["source"] == str(cloud)
    store.verify(image)


def test_importing_twice_keeps_the_first_and_another_name_is_refused(
    store: ImageStore, cloud: Path
) -> None:
    image = store.import_file(cloud)
    assert store.import_file(cloud) == image
    with pytest.raises(ImageError, match="is in the store already, as debian-13"):
        store.import_file(cloud, name="other")
    assert store.list() == (image,)


def test_a_raw_disk_is_converted(store: ImageStore, tmp_path: Path) -> None:
    data = os.urandom(MIB) + bytes(3 * MIB)
    path = tmp_path / "disk.raw"
    path.write_bytes(data)
    heard: list[float] = []
    image = store.import_file(path, name="mine", sha256=digest_of(data), on_progress=heard.append)
    assert image.digest == digest_of(data)
    assert image.manifest.virtual_size_bytes == 4 * MIB
    assert heard[-1] == 1.0
    back = tmp_path / "back"
    run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", image.disk, back])
    assert back.read_bytes() == data
    store.verify(image)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"KDMV" + bytes(508), "its content is VMDK"),
        (b"\xfd7zXZ\0" + bytes(506), "its content is xz"),
        (b'json:{"driver":"nbd"}', "a json: file name"),
        (b"<html>404</html>", "a raw disk cannot have 16 bytes"),
        (b"", "a raw disk cannot have 0 bytes"),
        (Qcow2(backing_file=b"/etc/shadow").render(), "has a backing file"),
        (Qcow2(incompatible=4).render(), "data in another file"),
        (Qcow2(virtual_bytes=1 << 50, l1_entries=1).render(), "more than the"),
    ],
)
def test_what_we_would_not_boot_is_refused_and_leaves_nothing(
    store: ImageStore, tmp_path: Path, content: bytes, reason: str
) -> None:
    path = tmp_path / "foreign.img"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=re.escape(reason)) as caught:
        store.import_file(path)
    assert str(path) in caught.value.brief
    assert store.list() == ()
    assert left_over(store) == []


@pytest.mark.fault("S30", "another digest")
def test_a_digest_that_does_not_match_is_told_with_both(store: ImageStore, cloud: Path) -> None:
    with pytest.raises(ImageError, match="does not have the expected sha256") as caught:
        store.import_file(cloud, sha256="0" * 64)
    assert f"found    sha256 {digest_of(cloud.read_bytes())}" in (caught.value.details or "")
    assert left_over(store) == []


@pytest.mark.parametrize("sha256", ["", "abc", "../" * 22, "g" * 64])
def test_a_digest_that_is_none_is_refused_before_anything_is_fetched(
    store: ImageStore, sha256: str
) -> None:
    with pytest.raises(ImageError, match="is not a sha256"):
        store.import_file("https://localhost:1/disk.qcow2", sha256=sha256)


@pytest.mark.parametrize("source", ["/nowhere/disk.qcow2", "/dev/null", "/", "json:{}", "nbd:x"])
def test_what_is_no_file_is_refused(store: ImageStore, source: str) -> None:
    with pytest.raises(ImageError, match=r"cannot be read|not a regular file"):
        store.import_file(source)


def test_a_name_that_is_none_is_refused(store: ImageStore, cloud: Path) -> None:
    with pytest.raises(ImageError, match="is not a valid name of an image") as caught:
        store.import_file(cloud, name="../../etc")
    assert "--name" in (caught.value.hint or "")


def test_what_is_swapped_after_the_copy_is_not_what_we_use(store: ImageStore, cloud: Path) -> None:
    """The source becomes hostile while we work; only the private copy counts."""
    wanted = digest_of(cloud.read_bytes())

    def swap(_: float) -> None:
        hostile = cloud.with_name("hostile")
        Qcow2(backing_file=b"/etc/shadow").write(hostile).replace(cloud)

    image = store.import_file(cloud, on_progress=swap)
    assert image.digest == wanted
    assert read_header(image.disk).backing_file is None


def test_holes_stay_holes(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    with source.open("wb") as file:
        file.truncate(64 * MIB)
        file.seek(20 * MIB)
        file.write(os.urandom(MIB))
    copy_sparse(source, target)
    assert digest_of(target.read_bytes()) == digest_of(source.read_bytes())
    assert target.stat().st_blocks * 512 <= 2 * MIB
    with pytest.raises(HostError, match="File exists"):
        copy_sparse(source, target)


FULL = """
import sys
from pathlib import Path
from ai_how.errors import HostError
from ai_how.images.store import ImageStore
store = ImageStore(Path(sys.argv[1]) / "images")
try:
    store.import_file(Path(sys.argv[2]))
except HostError as error:
    print(error, error.hint, sep="\\n")
print([p.name for p in store.paths.root.iterdir()])
"""


def test_a_full_disk_is_told_with_what_was_needed_and_leaves_nothing(tmp_path: Path) -> None:
    source, small = tmp_path / "disk.raw", tmp_path / "small"
    source.write_bytes(os.urandom(8 * MIB))
    small.mkdir()
    words = f'mount -t tmpfs -o size=4m none {small} && exec "$@"'
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    done = run(
        [
            "unshare",
            *user,
            "--mount",
            "sh",
            "-c",
            words,
            "sh",
            sys.executable,
            "-c",
            FULL,
            small,
            source,
        ]
    )
    assert f"no space left in {small}" in done.stdout
    assert "8.0 MiB needed, " in done.stdout
    assert "df -h " in done.stdout
    assert done.stdout.splitlines()[-1] == "['.lock']"


class Server(http.server.BaseHTTPRequestHandler):
    """Serves what the test put into `files`; a value that is text is where it redirects to."""

    files: dict[str, bytes | str]

    def do_GET(self) -> None:
        content = self.files.get(self.path.split("?")[0])
        if isinstance(content, str):
            self.send_response(302)
            self.send_header("Location", content)
            self.end_headers()
        elif content is None:
            self.send_error(404)
        else:
            self.send_response(200)
            cut = content[: len(content) // 2] if self.path == "/cut" else content
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(cut)

    def log_message(self, *_: object) -> None:
        """Silent."""


@contextmanager
def https(directory: Path, files: dict[str, bytes | str]) -> Iterator[str]:
    key, certificate = directory / "key.pem", directory / "cert.pem"
    run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=localhost",
            "-addext",
            "subjectAltName=DNS:localhost",
            "-keyout",
            key,
            "-out",
            certificate,
        ]
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    handler = type("Handler", (Server,), {"files": files})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"https://localhost:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def address(tmp_path: Path, cloud: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    files: dict[str, bytes | str] = {
        "/rocky-9.qcow2": cloud.read_bytes(),
        "/cut": cloud.read_bytes(),
        "/moved": "/rocky-9.qcow2",
        "/down": "http://localhost/rocky-9.qcow2",
    }
    with https(tmp_path, files) as address:
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
        for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.delenv(name, raising=False)
        yield address


def test_an_image_is_downloaded_once(store: ImageStore, cloud: Path, address: str) -> None:
    digest = digest_of(cloud.read_bytes())
    heard: list[float] = []
    url = f"{address}/moved?token=secret"
    image = store.import_file(url, name="rocky", sha256=digest, on_progress=heard.append)
    assert (image.name, image.digest) == ("rocky", digest)
    assert heard[-1] == 1.0
    assert image.manifest.recipe["source"] == "https://localhost/moved"
    assert store.import_file("https://localhost:1/gone.qcow2", sha256=digest) == image


@pytest.mark.fault("S30", "another digest, a redirect to http, half a file")
@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/rocky-9.qcow2", "does not have the expected sha256"),
        ("/absent", "the server has no such file\nHTTP 404 Not Found"),
        ("/down", "redirects to http://localhost/rocky-9.qcow2, not to https"),
        ("/cut", "could not be downloaded|ended after"),
    ],
)
def test_a_bad_download_leaves_nothing(
    store: ImageStore, address: str, path: str, reason: str
) -> None:
    with pytest.raises(ImageError, match=reason):
        store.import_file(address + path, sha256="0" * 64)
    assert store.list() == ()
    assert left_over(store) == []


@pytest.mark.fault("S30", "a certificate that nobody signed")
def test_a_server_that_we_do_not_trust_is_refused(
    store: ImageStore, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(ImageError, match="CERTIFICATE_VERIFY_FAILED"):
        store.import_file(f"{address}/rocky-9.qcow2", sha256="0" * 64)


@pytest.mark.fault("S30", "http, no digest")
def test_plain_http_and_a_download_without_digest_are_refused(store: ImageStore) -> None:
    with pytest.raises(ImageError, match="needs its sha256") as caught:
        store.import_file("https://example.org/disk.qcow2")
    assert "--sha256" in (caught.value.hint or "")
    with pytest.raises(ImageError, match="images are downloaded only over https"):
        store.import_file("http://example.org/disk.qcow2", sha256="0" * 64)
