"""Signed checksums: what is accepted, and each refusal with words of its own."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from qcow2_writer import MIB, Qcow2

from ai_how.errors import AiHowError, ImageError, ToolError
from ai_how.images.checksums import Digests, find_digests
from ai_how.images.manifest import Image
from ai_how.images.signatures import read_public_key
from ai_how.images.sources import ImageSource, SignedChecksums, find_imported, import_source
from ai_how.images.store import ImageStore
from ai_how.process import get_tool
from publisher import Keys

A, B = "a" * 64, "b" * 64
LONG = "c" * 128


def quiet(_share: float, _what: str) -> None:
    """Nobody hears."""


@pytest.mark.parametrize(
    "text",
    [
        f"{A}  x.img\n{B}  y.img\n",
        f"{A} *x.img\n{B} *y.img\n",
        f"{A.upper()}  x.img\r\n",
        f"{A}  ./x.img\n",
        f"# x.img: 532217856 bytes\nSHA256 (x.img) = {A}\n# y: 1 bytes\nSHA256 (y.img) = {B}\n",
        f"{A}  x.img\n{A} *x.img\n",
        f"{'d' * 32}  x.img\nMD5 (x.img) = {'d' * 32}\n{A}  x.img\n",
        f"{B}  dir/x.img\n{B}  x.img.sig\n{A}  x.img\n",
    ],
)
def test_a_digest_is_found_in_each_form_of_a_list(text: str) -> None:
    assert find_digests(text, "x.img", told="SUMS") == Digests(A, None)


def test_a_list_may_have_both_kinds_of_digests() -> None:
    assert find_digests(f"{LONG}  x.img\n", "x.img", told="SUMS") == Digests(None, LONG)
    text = f"SHA512 (x.img) = {LONG}\nSHA256 (x.img) = {A}\n"
    assert find_digests(text, "x.img", told="SUMS") == Digests(A, LONG)


@pytest.mark.parametrize("text", ["", f"SHA1 (x.img) = {A}\n", f"{A} x.img\n", f"{A[1:]}  x.img\n"])
def test_what_is_not_such_a_line_is_none(text: str) -> None:
    with pytest.raises(ImageError, match=r"SUMS has no SHA-256 and no SHA-512 of x\.img") as caught:
        find_digests(text, "x.img", told="SUMS")
    assert caught.value.details == "It has none at all."


def test_a_file_that_is_not_listed_is_named_with_those_that_are() -> None:
    with pytest.raises(ImageError, match=r"It has those of noble-amd64\.img") as caught:
        find_digests(f"{A}  other\n{A}  noble-amd64.img\n", "noble-amd65.img", told="SUMS")
    assert "SUMS has no SHA-256" in caught.value.brief


def test_two_different_digests_are_refused() -> None:
    with pytest.raises(ImageError, match=r"2 different sha256 digests for x\.img") as caught:
        find_digests(f"{A}  x.img\nSHA256 (x.img) = {B}\n", "x.img", told="SUMS")
    assert caught.value.details == f"{A}\n{B}"


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keys]:
    # Of a long path, gpg-agent could not make its socket.
    made = Keys(tmp_path_factory.mktemp("gpg") / "h")
    made.new("publisher@example.org")
    made.new("other@example.org")
    made.new("old@example.org", made="20200101T000000", until="2020-02-01")
    yield made
    made.close()


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(tmp_path / "images")


class Release:
    """The directory of a publisher: a disk, its checksums, and whatever signs them."""

    def __init__(self, directory: Path, keys: Keys) -> None:
        directory.mkdir()
        self.directory, self.keys = directory, keys
        self.disk = directory / "debian-13.qcow2"
        self.disk.write_bytes(Qcow2(virtual_bytes=MIB).render())
        self.sums = directory / "SUMS"
        self.write_sums("sha256")
        self.key = keys.export("publisher@example.org", directory / "key.asc")

    def write_sums(self, *kinds: str) -> None:
        data = self.disk.read_bytes()
        lines = [f"{hashlib.new(kind, data).hexdigest()} *{self.disk.name}\n" for kind in kinds]
        self.sums.write_text("".join(lines))

    def source(
        self, checksums: Path, signature: Path | None = None, *, key: Path | None = None
    ) -> ImageSource:
        signed = SignedChecksums(checksums, key or self.key, signature)
        return ImageSource(self.disk, "debian", checksums=signed)


@pytest.fixture
def release(tmp_path: Path, keys: Keys) -> Release:
    return Release(tmp_path / "release", keys)


@pytest.fixture(params=["gpgv", "gpg"])
def program(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Only this one of both programs is installed."""
    name: str = request.param
    only_with(tmp_path, monkeypatch, name)
    return name


def only_with(directory: Path, monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """A PATH with these programs, what else is needed, and no other."""
    tools = {name: get_tool(name) for name in (*names, "qemu-img", "prlimit", "setpriv", "sh")}
    place = directory / "bin"
    place.mkdir()
    for name, tool in tools.items():
        (place / name).symlink_to(tool)
    monkeypatch.setattr("ai_how.process.SBIN", ())
    monkeypatch.setenv("PATH", str(place))


def left_over(store: ImageStore) -> list[str]:
    root = store.paths.root
    return [path.name for path in root.iterdir()] if root.exists() else []


def assert_refused(store: ImageStore, source: ImageSource, words: str) -> ImageError:
    with pytest.raises(ImageError, match=words) as caught:
        import_source(store, source, quiet)
    assert left_over(store) == [".lock"]
    return caught.value


@pytest.mark.parametrize("how", ["--detach-sign", "--armor", "--clearsign"])
@pytest.mark.parametrize("armor", [True, False])
def test_what_the_key_has_signed_is_imported_once(
    store: ImageStore, release: Release, program: str, how: str, armor: bool
) -> None:
    key = release.keys.export("publisher@example.org", release.directory / "the key", armor=armor)
    made = release.keys.sign("publisher@example.org", release.sums, how=how)
    source = (
        release.source(made, key=key)
        if how == "--clearsign"
        else release.source(release.sums, made, key=key)
    )
    assert find_imported(store, source) is None
    image = import_source(store, source, quiet)
    assert find_imported(store, source) == image
    assert image.digest == hashlib.sha256(release.disk.read_bytes()).hexdigest()
    assert sorted(left_over(store)) == sorted([".lock", ".sources", image.digest])


@pytest.mark.parametrize("kinds", [("sha512",), ("sha256", "sha512")])
def test_a_sha512_is_compared_as_well(
    store: ImageStore, release: Release, kinds: tuple[str, ...]
) -> None:
    release.write_sums(*kinds)
    made = release.keys.sign("publisher@example.org", release.sums)
    assert import_source(store, release.source(release.sums, made), quiet).name == "debian"


def test_a_sha512_that_differs_is_told(store: ImageStore, release: Release) -> None:
    data = release.disk.read_bytes()
    right = hashlib.sha256(data).hexdigest()
    release.sums.write_text(f"{right}  {release.disk.name}\n{LONG}  {release.disk.name}\n")
    made = release.keys.sign("publisher@example.org", release.sums)
    error = assert_refused(store, release.source(release.sums, made), "the expected sha512")
    assert f"expected sha512 {LONG}" in (error.details or "")


def test_a_disk_that_is_not_the_one_of_the_checksums_is_told(
    store: ImageStore, release: Release
) -> None:
    made = release.keys.sign("publisher@example.org", release.sums)
    release.disk.write_bytes(Qcow2(virtual_bytes=2 * MIB).render())
    assert_refused(store, release.source(release.sums, made), "the expected sha256")


def test_checksums_that_were_changed_after_they_were_signed(
    store: ImageStore, release: Release, program: str
) -> None:
    made = release.keys.sign("publisher@example.org", release.sums)
    release.sums.write_text(f"{A}  {release.disk.name}\n")
    error = assert_refused(store, release.source(release.sums, made), "SUMS is not what was signed")
    assert "publisher@example.org" in (error.details or "")


def test_a_clear_signed_text_that_was_changed(
    store: ImageStore, release: Release, program: str
) -> None:
    made = release.keys.sign("publisher@example.org", release.sums, how="--clearsign")
    made.write_text(made.read_text().replace(release.disk.name, "other"))
    assert_refused(store, release.source(made), "is not what was signed")


@pytest.mark.parametrize("where", ["before", "after"])
def test_what_stands_beside_a_clear_signed_text_does_not_count(
    store: ImageStore, release: Release, program: str, where: str
) -> None:
    name = release.disk.name
    release.sums.write_text(f"{A}  another\n")
    made = release.keys.sign("publisher@example.org", release.sums, how="--clearsign")
    line = f"{hashlib.sha256(release.disk.read_bytes()).hexdigest()}  {name}\n"
    text = made.read_text()
    made.write_text(f"{line}{text}" if where == "before" else f"{text}{line}")
    assert_refused(store, release.source(made), f"has no SHA-256 and no SHA-512 of {name}")


def test_two_signed_texts_in_one_file_are_refused(store: ImageStore, release: Release) -> None:
    made = release.keys.sign("publisher@example.org", release.sums, how="--clearsign")
    theirs = release.keys.sign("other@example.org", made, how="--clearsign")
    assert theirs.read_text().count("PGP SIGNED MESSAGE") == 2
    made.write_text(made.read_text() * 2)
    assert_refused(store, release.source(made), "contains 2 signed texts")


def test_a_key_that_is_not_the_signers(store: ImageStore, release: Release, program: str) -> None:
    made = release.keys.sign("other@example.org", release.sums)
    error = assert_refused(
        store, release.source(release.sums, made), r"is not signed by a key in .*/key\.asc"
    )
    assert error.hint == f"gpg --show-keys {release.key}"


def test_one_of_several_signatures_is_enough(
    store: ImageStore, release: Release, program: str
) -> None:
    ours = release.keys.sign("publisher@example.org", release.sums)
    both = ours.read_bytes()
    ours.unlink()
    theirs = release.keys.sign("other@example.org", release.sums)
    both_file = release.directory / "both"
    both_file.write_bytes(theirs.read_bytes() + both)
    assert import_source(store, release.source(release.sums, both_file), quiet)


def test_a_key_that_has_expired(store: ImageStore, release: Release, program: str) -> None:
    made = release.keys.sign("old@example.org", release.sums, time="20200110T000000")
    key = release.keys.export("old@example.org", release.directory / "old.asc")
    source = release.source(release.sums, made, key=key)
    assert_refused(store, source, r"the key of .*old@example\.org has expired")


def test_a_key_that_was_revoked(store: ImageStore, release: Release, program: str) -> None:
    name = f"revoked-{program}@example.org"
    release.keys.new(name)
    made = release.keys.sign(name, release.sums)
    release.keys.revoke(name)
    key = release.keys.export(name, release.directory / "revoked.asc")
    source = release.source(release.sums, made, key=key)
    assert_refused(store, source, r"the key of .*example\.org was revoked")


def test_checksums_without_a_signature(store: ImageStore, release: Release) -> None:
    error = assert_refused(store, release.source(release.sums), "SUMS contains no signature")
    assert "`signature`" in (error.details or "")


def test_a_signature_that_is_none(store: ImageStore, release: Release, program: str) -> None:
    page = release.directory / "SUMS.gpg"
    page.write_text("<html>not here</html>\n")
    assert_refused(
        store, release.source(release.sums, page), r"SUMS\.gpg contains no OpenPGP signature"
    )


def test_a_file_that_is_not_in_the_checksums(store: ImageStore, release: Release) -> None:
    release.sums.write_text(f"{A}  debian-12.qcow2\n")
    made = release.keys.sign("publisher@example.org", release.sums)
    error = assert_refused(
        store, release.source(release.sums, made), r"no SHA-512 of debian-13\.qcow2"
    )
    assert error.details == "It has those of debian-12.qcow2."


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "contains no OpenPGP public key"),
        (b"ssh-ed25519 AAAA me@host\n", "contains no OpenPGP public key"),
        (
            b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n\n###\n-----END PGP PUBLIC KEY BLOCK-----\n",
            "is damaged: its armor is not base64",
        ),
        (
            b"-----BEGIN PGP SIGNATURE-----\n\naaaa\n-----END PGP SIGNATURE-----\n",
            "contains no OpenPGP public key",
        ),
    ],
)
def test_a_key_that_is_none(
    store: ImageStore, release: Release, content: bytes, words: str
) -> None:
    made = release.keys.sign("publisher@example.org", release.sums)
    release.key.write_bytes(content)
    assert_refused(store, release.source(release.sums, made), rf"key\.asc {words}")


@pytest.mark.parametrize("armor", [True, False])
def test_a_private_key_is_refused(store: ImageStore, release: Release, armor: bool) -> None:
    made = release.keys.sign("publisher@example.org", release.sums)
    release.key.unlink()
    release.keys.export("publisher@example.org", release.key, armor=armor, secret=True)
    error = assert_refused(store, release.source(release.sums, made), "contains a private key")
    assert (error.hint or "").startswith("gpg --armor --export ")


def test_several_armored_keys_in_one_file_are_all_taken(release: Release) -> None:
    names = ("publisher@example.org", "other@example.org")
    files = [release.keys.export(name, release.directory / name) for name in names]
    both = release.directory / "both.asc"
    both.write_bytes(b"a comment\n" + b"".join(file.read_bytes() for file in files))
    binary = release.keys.export("publisher@example.org", release.directory / "b", armor=False)
    assert read_public_key(both, told="both").startswith(binary.read_bytes())
    assert len(read_public_key(both, told="both")) > binary.stat().st_size


def test_without_both_programs_the_package_is_named(
    store: ImageStore, release: Release, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = release.keys.sign("publisher@example.org", release.sums)
    only_with(tmp_path, monkeypatch)
    with pytest.raises(ToolError, match="gpgv is not installed") as caught:
        import_source(store, release.source(release.sums, made), quiet)
    assert caught.value.hint == "sudo apt-get install gpgv"
    assert left_over(store) == [".lock"]


def test_the_keys_of_the_user_are_not_used_and_no_agent_is_started(
    store: ImageStore,
    release: Release,
    program: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    home = tmp_path / "user"
    home.mkdir(mode=0o700)
    # As gpg's own keyring, it would make the signature a good one.
    release.keys.export("other@example.org", home / "trustedkeys.gpg", armor=False)
    release.keys.export("other@example.org", home / "pubring.gpg", armor=False)
    monkeypatch.setenv("GNUPGHOME", str(home))
    before = sorted(path.name for path in home.iterdir())
    made = release.keys.sign("other@example.org", release.sums)
    monkeypatch.setenv("GNUPGHOME", str(home))
    assert_refused(store, release.source(release.sums, made), "is not signed by a key in")
    ours = release.keys.sign("publisher@example.org", release.sums, how="--armor")
    assert import_source(store, release.source(release.sums, ours), quiet)
    assert sorted(path.name for path in home.iterdir()) == before
    assert agents_of(store.paths.root) == []


def agents_of(directory: Path) -> list[str]:
    """The command lines of gpg's daemons with a home below this directory."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode(errors="replace")
        except OSError:
            continue  # it has ended
        if ("gpg-agent" in words or "keyboxd" in words) and str(directory) in words:
            found.append(words)
    return found


@pytest.mark.parametrize("changed", ["key", "signature", "sums"])
def test_other_files_of_the_host_are_checked_anew(
    store: ImageStore, release: Release, changed: str
) -> None:
    made = release.keys.sign("publisher@example.org", release.sums)
    source = release.source(release.sums, made)
    import_source(store, source, quiet)
    if changed == "key":
        release.key.unlink()
        release.keys.export("other@example.org", release.key)
    elif changed == "signature":
        made.unlink()
        release.keys.sign("other@example.org", release.sums)
    else:
        with release.sums.open("a") as file:
            file.write("\n")
    assert find_imported(store, source) is None
    with pytest.raises(AiHowError, match=r"is not signed by a key|is not what was signed"):
        import_source(store, source, quiet)
    assert all(isinstance(one, Image) for one in store.list())


def test_a_key_that_is_gone_is_named(store: ImageStore, release: Release) -> None:
    made = release.keys.sign("publisher@example.org", release.sums)
    source = release.source(release.sums, made)
    import_source(store, source, quiet)
    os.unlink(release.key)  # noqa: PTH108  as rm(1)
    with pytest.raises(ImageError, match=r"key\.asc cannot be read: No such file"):
        find_imported(store, source)
