"""Checks OpenPGP signatures by `gpgv`, or else `gpg`, with no other key than the user named.

Neither reads or changes the user's own keys, and no agent is started.
"""

import base64
import binascii
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from ai_how.errors import ImageError
from ai_how.process import Argument, Completed, find_tool, get_tool, run

_TIMEOUT_S = 60
_ARMORED = re.compile(
    rb"-----BEGIN PGP (?P<what>[A-Z ]+)-----[ \t]*\r?\n(?P<body>.*?)-----END PGP", re.DOTALL
)
_CLEAR = b"-----BEGIN PGP SIGNED MESSAGE-----"
_PUBLIC_KEY, _SECRET_KEY = 6, 5  # of RFC 4880, 4.3
_KEYBOX, _KEYBOX_AT = b"KBXf", 8
# `[GNUPG:] GOODSIG F1FC702B12B777A1 Name <name@example.org>`
_STATUS = re.compile(r"^\[GNUPG:\] (?P<word>[A-Z_]+)(?: (?P<rest>.*))?$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Signed:
    """Copies that nobody else changes, and what errors call them.

    Without a `signature`, the file itself must be clear-signed.
    """

    file: Path
    told: str
    key: Path
    key_told: str
    signature: Path | None = None
    signature_told: str = ""


def verified_text(signed: Signed, directory: Path) -> str:
    """The text that the key has signed; `directory` is a private one for files of the check.

    Raises ImageError, or ToolError if neither program is installed.
    """
    keyring = directory / "keyring.gpg"
    keyring.write_bytes(read_public_key(signed.key, told=signed.key_told))
    if signed.signature is None:
        text = _verify_clear(signed, keyring)
    else:
        done = _check(keyring, [signed.signature, signed.file], None)
        _require_good(done, signed, signed.signature_told)
        text = signed.file.read_bytes()
    return text.decode("utf-8", "replace")


def read_public_key(path: Path, *, told: str) -> bytes:
    """The binary form of the public keys in a file. Raises ImageError if there are none."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ImageError(
            f"{told} cannot be read: {error.strerror}", hint=f"ls -l {shlex.quote(told)}"
        ) from error
    blocks = list(_ARMORED.finditer(data))
    if any(b"PRIVATE" in block["what"] for block in blocks) or _tag_of(data) == _SECRET_KEY:
        raise ImageError(
            f"{told} contains a private key",
            hint="gpg --armor --export KEY >publisher.asc  # exports the public key",
        )
    keys = b"".join(
        _dearmored(block["body"], told=told)
        for block in blocks
        if block["what"] == b"PUBLIC KEY BLOCK"
    )
    is_keybox = data[_KEYBOX_AT:].startswith(_KEYBOX)
    if not keys and not blocks and (is_keybox or _tag_of(data) == _PUBLIC_KEY):
        keys = data
    if not keys:
        raise ImageError(f"{told} contains no OpenPGP public key", hint=f"file {shlex.quote(told)}")
    return keys


def _tag_of(data: bytes) -> int | None:
    """The kind of the first packet of binary OpenPGP data."""
    first = data[0] if data else 0
    if not first & 0x80:
        return None
    return first & 0x3F if first & 0x40 else (first >> 2) & 0x0F


def _dearmored(body: bytes, *, told: str) -> bytes:
    """The content of an armor: base64 after the headers and an empty line, then a checksum."""
    lines = body.replace(b"\r\n", b"\n").split(b"\n")
    lines = [line.strip() for line in lines]
    begin = lines.index(b"") + 1 if b"" in lines else 0
    kept = [line for line in lines[begin:] if not line.startswith(b"=")]
    try:
        return base64.b64decode(b"".join(kept), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ImageError(f"{told} is damaged: its armor is not base64") from error


def _verify_clear(signed: Signed, keyring: Path) -> bytes:
    """The signed text alone: what stands before or after it in the file is no part of it."""
    count = signed.file.read_bytes().count(_CLEAR)
    if count == 0:
        raise ImageError(
            f"{signed.told} contains no signature",
            details="Where its publisher has it in a file of its own, that is the `signature`.",
        )
    if count > 1:
        raise ImageError(f"{signed.told} contains {count} signed texts: which one counts is open")
    output = keyring.with_name("signed.txt")
    done = _check(keyring, [signed.file], output)
    _require_good(done, signed, signed.told)
    return output.read_bytes()


def _check(keyring: Path, files: list[Path], output: Path | None) -> Completed:
    """Run the program; what it found is in the lines of its status, not in its exit code."""
    home: list[Argument] = ["--homedir", keyring.parent, "--status-fd", "1", "--keyring", keyring]
    to: list[Argument] = ["--output", output] if output else []
    if gpgv := find_tool("gpgv"):
        return run([gpgv, *home, *to, *files], check=False, timeout_s=_TIMEOUT_S)
    # gpgv is the smaller one, and it is what is to be installed.
    gpg = find_tool("gpg") or get_tool("gpgv", package="gpgv")
    alone = ["--no-options", "--no-default-keyring", "--no-autostart", "--no-auto-check-trustdb"]
    quiet = ["--batch", "--no-tty", "--trust-model", "always"]
    verb = "--decrypt" if output else "--verify"
    return run([gpg, *alone, *quiet, *home, *to, verb, *files], check=False, timeout_s=_TIMEOUT_S)


def _require_good(done: Completed, signed: Signed, told: str) -> None:
    """Raises ImageError unless a key of the user has signed, and no signature is wrong."""
    seen: dict[str, str] = {}
    for line in _STATUS.finditer(done.stdout):
        seen.setdefault(line["word"], line["rest"] or "")
    if "BADSIG" in seen:
        raise ImageError(
            f"the signature in {told} is wrong: {signed.told} is not what was signed",
            details=f"It claims to be that of {seen['BADSIG']}.",
        )
    if "GOODSIG" in seen and "VALIDSIG" in seen and not _is_cut_short(seen, signed):
        return
    for word, words in (
        ("REVKEYSIG", "was revoked"),
        ("EXPKEYSIG", "has expired"),
        ("EXPSIG", "made a signature that has expired"),
    ):
        if word in seen:
            raise ImageError(
                f"{signed.told} cannot be trusted: the key of {seen[word]} {words}",
                details=f"Its publisher may have a newer key than that in {signed.key_told}.",
            )
    if "NO_PUBKEY" in seen:
        raise ImageError(
            f"{signed.told} is not signed by a key in {signed.key_told}",
            details=f"It is signed by the key {seen['NO_PUBKEY']}.",
            hint=f"gpg --show-keys {shlex.quote(signed.key_told)}",
        )
    if "NODATA" in seen:
        raise ImageError(f"{told} contains no OpenPGP signature")
    raise ImageError(
        f"the signature in {told} cannot be checked",
        details=done.stderr.strip()[-2000:] or None,
    )


def _is_cut_short(seen: dict[str, str], signed: Signed) -> bool:
    """Whether the text may not be all that was signed, or more than that."""
    return signed.signature is None and "ERROR" in seen
