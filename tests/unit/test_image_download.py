"""Images from an https server: what is taken, and each failure with words that help."""

import hashlib
import os
import re
import shlex
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_runner import Cli
from qcow2_writer import MIB, Qcow2

from ai_how.errors import ImageError
from ai_how.images.sources import (
    ImageSource,
    SignedChecksums,
    find_imported,
    import_source,
    source_of_text,
)
from ai_how.images.store import ImageStore
from ai_how.process import run
from publisher import Authority, Keys, Site, announcing, serving

DISK = Qcow2(virtual_bytes=MIB).render()
DIGEST = hashlib.sha256(DISK).hexdigest()


def quiet(_share: float, _what: str) -> None:
    """Nobody hears."""


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("https") / "ca")


@pytest.fixture(scope="module")
def localhost(authority: Authority) -> tuple[Path, Path]:
    return authority.certificate("localhost")


@pytest.fixture
def trusted(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    """This host trusts the authority, and has no proxy."""
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def site(localhost: tuple[Path, Path], trusted: None) -> Iterator[Site]:
    with serving(localhost) as site:
        site.files["/debian.qcow2"] = DISK
        yield site


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(tmp_path / "images")


@pytest.fixture
def keys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keys]:
    # Of a long path, gpg-agent could not make its socket.
    made = Keys(tmp_path_factory.mktemp("gpg") / "h")
    made.new("publisher@example.org")
    yield made
    made.close()


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    home = tmp_path / "home"
    home.mkdir()
    return Cli(home, monkeypatch, capsys)


def assert_refused(store: ImageStore, url: str, words: str) -> ImageError:
    with pytest.raises(ImageError, match=words) as caught:
        import_source(store, source_of_text(f"{url}#sha256={DIGEST}", None), quiet)
    assert caught.value.brief.startswith(url)
    assert [path.name for path in store.paths.root.iterdir()] == [".lock"]
    return caught.value


def test_a_url_is_downloaded_once_and_its_token_is_kept_nowhere(
    store: ImageStore, site: Site
) -> None:
    heard: list[float] = []
    source = source_of_text(f"{site.url('/debian.qcow2?token=secret')}#sha256={DIGEST}", None)
    assert find_imported(store, source) is None
    image = import_source(store, source, lambda share, _: heard.append(share))
    assert (image.name, image.digest) == ("debian", DIGEST)
    assert heard == sorted(heard)
    assert heard[-1] == 1.0
    assert import_source(store, source, quiet) == image == find_imported(store, source)
    assert site.asked == ["/debian.qcow2?token=secret"]
    kept = [path for path in store.paths.root.rglob("*") if path.is_file()]
    assert len(kept) == 4  # the lock, the disk, the manifest, the record
    assert not [path for path in kept if b"secret" in path.read_bytes()]


def test_a_url_with_a_sha512_is_downloaded_once(store: ImageStore, site: Site) -> None:
    right = hashlib.sha512(DISK).hexdigest()
    source = source_of_text(f"{site.url('/debian.qcow2')}#sha512={right.upper()}", None)
    image = import_source(store, source, quiet)
    assert image.digest == DIGEST
    assert find_imported(store, source) == image
    assert site.asked == ["/debian.qcow2"]
    # A new token leads to the same file, and another digest to another one.
    again = source_of_text(f"{site.url('/debian.qcow2?token=2')}#sha512={right}", None)
    assert find_imported(store, again) == image
    other = source_of_text(f"{site.url('/debian.qcow2')}#sha512={'0' * 128}", None)
    assert find_imported(store, other) is None
    with pytest.raises(ImageError, match="does not have the expected sha512"):
        import_source(store, other, quiet)


def test_a_digest_finds_what_was_imported_from_elsewhere(store: ImageStore, tmp_path: Path) -> None:
    (tmp_path / "mine.qcow2").write_bytes(DISK)
    image = store.import_file(tmp_path / "mine.qcow2")
    source = source_of_text(f"https://localhost:1/gone.qcow2#sha256={DIGEST.upper()}", None)
    assert find_imported(store, source) == image


@pytest.mark.parametrize("has_file", [True, False])
def test_signed_checksums_of_a_server(
    store: ImageStore, site: Site, keys: Keys, tmp_path: Path, has_file: bool
) -> None:
    sums = tmp_path / "SHA256SUMS"
    sums.write_text(f"{DIGEST} *debian.qcow2\n")
    how = "--detach-sign" if has_file else "--clearsign"
    made = keys.sign("publisher@example.org", sums, how=how)
    site.files["/SHA256SUMS"] = (sums if has_file else made).read_bytes()
    site.files["/SHA256SUMS.gpg"] = made.read_bytes()
    source = ImageSource(
        site.url("/debian.qcow2"),
        "debian",
        checksums=SignedChecksums(
            file=site.url("/SHA256SUMS"),
            key=keys.export("publisher@example.org", tmp_path / "key.asc"),
            signature=site.url("/SHA256SUMS.gpg") if has_file else None,
        ),
    )
    image = import_source(store, source, quiet)
    assert find_imported(store, source) == image
    before = len(site.asked)
    # To take it again reads the checksums, and not the same disk once more.
    assert import_source(store, source, quiet) == image
    assert len(site.asked) == before + (2 if has_file else 1)
    assert site.asked.count("/debian.qcow2") == 1


def test_a_publisher_s_newer_image_is_taken_when_it_is_asked_for(
    store: ImageStore, site: Site, keys: Keys, tmp_path: Path
) -> None:
    sums = tmp_path / "SUMS"
    key = keys.export("publisher@example.org", tmp_path / "key.asc")
    source = ImageSource(
        site.url("/debian.qcow2"), "debian", checksums=SignedChecksums(site.url("/SUMS"), key)
    )
    images = []
    for mib in (1, 2):
        disk = Qcow2(virtual_bytes=mib * MIB).render()
        sums.write_text(f"{hashlib.sha256(disk).hexdigest()}  debian.qcow2\n")
        made = keys.sign("publisher@example.org", sums, how="--clearsign")
        site.files |= {"/debian.qcow2": disk, "/SUMS": made.read_bytes()}
        if images:
            assert find_imported(store, source) == images[0]
        images.append(import_source(store, source, quiet))
    assert images[0].digest != images[1].digest
    assert find_imported(store, source) == images[1]


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (404, "the server has no such file"),
        (403, "the server does not let you have it"),
        (503, "the server failed"),
    ],
)
def test_what_a_server_answers_is_said_in_words(
    store: ImageStore, site: Site, code: int, words: str
) -> None:
    site.files["/x.img"] = lambda handler: handler.send_error(code)
    error = assert_refused(store, site.url("/x.img"), f"could not be downloaded: {words}")
    assert (error.details or "").startswith(f"HTTP {code} ")
    assert error.hint == f"curl -I {site.url('/x.img')}"


def test_a_redirect_to_http_is_refused(store: ImageStore, site: Site) -> None:
    site.files["/x.img"] = "http://localhost/x.img"
    assert_refused(store, site.url("/x.img"), "redirects to http://localhost/x.img, not to https")


def test_a_redirect_without_an_end_is_told(store: ImageStore, site: Site) -> None:
    site.files["/x.img"] = "/x.img"
    assert_refused(store, site.url("/x.img"), "infinite loop")


def test_a_server_that_ends_early_is_told(store: ImageStore, site: Site) -> None:
    site.files["/x.img"] = announcing(len(DISK), DISK[:1000])
    assert_refused(store, site.url("/x.img"), f"ended after 1000 of {len(DISK)} bytes")


def test_a_server_that_sends_more_than_it_announced_is_told(store: ImageStore, site: Site) -> None:
    site.files["/x.img"] = announcing(len(DISK), DISK + b"more")
    assert_refused(store, site.url("/x.img"), f"sent more than the {len(DISK)} bytes")


def test_what_is_larger_than_any_disk_is_refused(site: Site, tmp_path: Path) -> None:
    store = ImageStore(tmp_path / "images", max_virtual_bytes=1000)
    assert_refused(store, site.url("/debian.qcow2"), "is larger than 1000 bytes")


def test_another_file_than_was_asked_for_is_told(store: ImageStore, site: Site) -> None:
    site.files["/x.img"] = Qcow2(virtual_bytes=2 * MIB).render()
    error = assert_refused(store, site.url("/x.img"), "does not have the expected sha256")
    assert f"expected sha256 {DIGEST}" in (error.details or "")


def test_an_authority_that_this_host_does_not_know(
    store: ImageStore, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Authority(tmp_path / "other")
    monkeypatch.setenv("SSL_CERT_FILE", str(other.file))
    error = assert_refused(
        store, site.url("/debian.qcow2"), "this host does not trust the certificate of localhost"
    )
    assert shlex.split(error.hint or "", comments=True)[-2:] == ["sudo", "update-ca-certificates"]


def test_a_certificate_that_signed_itself(
    store: ImageStore, authority: Authority, trusted: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    with serving((authority.file, authority.key)) as site:
        error = assert_refused(store, site.url("/x.img"), "this host does not trust")
    assert "self-signed certificate" in (error.details or "")


@pytest.mark.parametrize(
    ("name", "dates", "words"),
    [
        ("expired", ("20200101000000Z", "20200201000000Z"), "localhost has expired"),
        ("future", ("20490101000000Z", "20491201000000Z"), "localhost is not valid yet"),
    ],
)
def test_a_certificate_of_another_time(
    store: ImageStore,
    trusted: None,
    tmp_path: Path,
    authority: Authority,
    name: str,
    dates: tuple[str, str],
    words: str,
) -> None:
    apart = Authority.__new__(Authority)
    apart.directory, apart.file, apart.key = tmp_path / name, authority.file, authority.key
    apart.directory.mkdir()
    with serving(apart.certificate("localhost", dates=dates)) as site:
        error = assert_refused(store, site.url("/x.img"), f"the certificate of {words}")
    assert error.hint == "date  # is the clock right?"


def test_a_certificate_for_another_name(
    store: ImageStore, trusted: None, authority: Authority
) -> None:
    with serving(authority.certificate("elsewhere.example")) as site:
        assert_refused(store, site.url("/x.img"), "localhost has a certificate for another name")


def test_a_name_that_nobody_resolves(store: ImageStore, trusted: None) -> None:
    error = assert_refused(
        store, "https://nowhere.invalid/x.img", r"the name nowhere\.invalid cannot be resolved"
    )
    assert error.hint == "getent hosts nowhere.invalid"


def test_a_port_on_which_nobody_listens(store: ImageStore, trusted: None) -> None:
    assert_refused(store, "https://localhost:1/x.img", "nothing on localhost accepts")


def test_a_server_without_tls(store: ImageStore, trusted: None) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1)
                connection.sendall(b"HTTP/1.0 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        url = f"https://localhost:{server.getsockname()[1]}/x.img"
        assert_refused(store, url, "localhost does not speak a TLS that this host accepts")
        thread.join()


def test_a_proxy_is_named_without_its_password(
    store: ImageStore, trusted: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("https_proxy", "http://me:secret@localhost:1")
    monkeypatch.setenv("no_proxy", "")
    error = assert_refused(store, "https://example.org/x.img", "could not be downloaded")
    assert "goes through the proxy localhost:1 (https_proxy)" in (error.details or "")
    assert "secret" not in f"{error.brief}{error.details}{error.hint}"


DOWNLOADING = """
import sys
from pathlib import Path
from ai_how.images.sources import import_source, source_of_text
from ai_how.images.store import ImageStore
source = source_of_text(sys.argv[2], None)
import_source(ImageStore(Path(sys.argv[1])), source, lambda *told: print(*told, flush=True))
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_download_that_was_ended_leaves_at_most_a_draft_that_is_swept(
    store: ImageStore, site: Site, tmp_path: Path, how: signal.Signals
) -> None:
    is_over = threading.Event()
    begun = threading.Event()

    def stall(handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(DISK)))
        handler.end_headers()
        handler.wfile.write(DISK[:1000])
        begun.set()
        is_over.wait(60)

    site.files["/x.img"] = stall
    url = f"{site.url('/x.img')}#sha256={DIGEST}"
    done = tmp_path / "pid"
    words = 'echo $$ >"$0" && exec "$@"'
    runner = threading.Thread(
        target=lambda: run(
            ["sh", "-c", words, done, sys.executable, "-c", DOWNLOADING, store.paths.root, url],
            check=False,
        )
    )
    runner.start()
    try:
        assert begun.wait(30)
        drafts = wait_for_draft(store)
        assert len(drafts) == 1
        os.kill(int(done.read_text()), how)
        runner.join(30)
        assert not runner.is_alive()
    finally:
        is_over.set()
    kept = [path.name for path in store.paths.root.iterdir()]
    assert kept == [".lock"] if how is signal.SIGINT else sorted(kept) == [".lock", *drafts]
    with store.draft():
        assert len(list(store.paths.root.glob(".part-*"))) == 1  # this one
    assert store.list() == ()


def wait_for_draft(store: ImageStore) -> list[str]:
    """The draft, once the first bytes are in it."""
    until = time.monotonic() + 10
    while time.monotonic() < until:
        found = list(store.paths.root.glob(".part-*/incoming"))
        if found and found[0].stat().st_size:
            break
        time.sleep(0.01)
    return [path.name for path in store.paths.root.glob(".part-*")]


def test_the_command_takes_a_url_in_both_forms(cli: Cli, site: Site) -> None:
    ended = cli("image", "import", f"{site.url('/debian.qcow2')}#sha256={DIGEST}")
    assert ended.code == 0, ended.err
    assert f"debian {DIGEST[:12]} is in " in ended.out
    ended = cli("image", "import", site.url("/debian.qcow2"), "--sha256", DIGEST)
    assert ended.code == 0, ended.err
    assert site.asked == ["/debian.qcow2"]


def test_the_command_checks_signed_checksums(cli: Cli, site: Site, keys: Keys) -> None:
    sums = cli.home / "SUMS"
    sums.write_text(f"{DIGEST}  debian.qcow2\n")
    made = keys.sign("publisher@example.org", sums)
    site.files |= {"/SUMS": sums.read_bytes(), "/SUMS.gpg": made.read_bytes()}
    key = keys.export("publisher@example.org", cli.home / "key.asc")
    words = ("image", "import", site.url("/debian.qcow2"), "--checksums", site.url("/SUMS"))
    ended = cli(*words, "--signature", site.url("/SUMS.gpg"), "--key", key, "--firmware", "uefi")
    assert ended.code == 0, ended.err
    [image] = ImageStore(cli.roots.images).list()
    assert (image.digest, image.manifest.firmware) == (DIGEST, "uefi")
    site.files["/SUMS"] = f"{DIGEST}  debian.qcow2 \n".encode()
    ended = cli(*words, "--signature", made.name, "--key", "key.asc")
    assert (ended.code, "SUMS is not what was signed" in ended.err) == (3, True)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--checksums SUMS", "--checksums: checksums without a signature are worth no more than"),
        ("--key key.asc", "--key: has no effect without `checksums`"),
        ("--signature SUMS.gpg", "--signature: has no effect without `checksums`"),
        (f"--sha256 {DIGEST} --checksums SUMS --key k", "--checksums: one of `sha256` and"),
        ("--sha256 abc", "abc is not a sha256"),
        ("--sha512 abc", "abc is not a sha256"),
        (f"--sha512 {'x' * 128}", f"{'x' * 128} is not a sha512"),
        ("", "is refused: a download needs its sha256 or sha512, or signed checksums"),
    ],
)
def test_the_command_refuses_what_the_file_refuses(cli: Cli, options: str, words: str) -> None:
    ended = cli("image", "import", "https://example.org/x.img", *options.split())
    assert ended.code in (2, 3)
    assert words in ended.err
    assert re.search(r"^hint: \S+ ", ended.err, re.MULTILINE)


def test_the_command_refuses_a_digest_that_is_given_twice(cli: Cli) -> None:
    ended = cli("image", "import", f"https://h/x.img#sha256={DIGEST}", "--sha256", DIGEST)
    assert "the digest is given twice" in ended.err
