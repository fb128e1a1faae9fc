"""The options of `ai-how image import` that say where an image is from, and what it must be."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ai_how.errors import SpecError

if TYPE_CHECKING:
    from ai_how.images.sources import ImageSource

Digest = Annotated[
    str | None,
    typer.Option(
        "--sha256",
        "--sha512",
        metavar="DIGEST",
        help="The expected SHA-256 or SHA-512 of the file, whichever is known.",
    ),
]
Checksums = Annotated[
    str | None,
    typer.Option(
        "--checksums",
        metavar="PATH|URL",
        help="The publisher's SHA256SUMS, SHA512SUMS or CHECKSUM. Needs --key.",
    ),
]
Signature = Annotated[
    str | None,
    typer.Option(
        "--signature",
        metavar="PATH|URL",
        help="The signature of the checksums, if it is a file of its own.",
    ),
]
Key = Annotated[
    Path | None,
    typer.Option(
        "--key", metavar="PATH", help="The public key that must have signed the checksums."
    ),
]
Firmware = Annotated[
    Literal["bios", "uefi"] | None,
    typer.Option(
        "--firmware",
        metavar="bios|uefi",
        help="How the disk boots. Default: found by looking at it.",
    ),
]


def source_of_options(
    source: str,
    *,
    digest: str | None,
    checksums: str | None,
    signature: str | None,
    key: Path | None,
    firmware: Literal["bios", "uefi"] | None,
) -> "ImageSource":
    """A file or a URL with or without `#sha256=…`; a `digest` is known by its length.

    Raises SpecError for options that contradict.
    """
    from ai_how.images.checksums import KINDS
    from ai_how.images.sources import source_of
    from ai_how.spec.image_checks import find_contradiction
    from ai_how.spec.images import ImageBaseSpec, is_url, section_of

    place = section_of(source) if is_url(source) else {"path": source}
    if digest and (place.get("sha256") or place.get("sha512")):
        raise SpecError(
            "the digest is given twice: in the URL, and by an option",
            hint=f"ai-how image import {shlex.quote(source)}",
        )
    if digest:
        place[KINDS.get(len(digest), "sha256")] = digest
    base = ImageBaseSpec.model_construct(
        path=place.get("path"),
        url=place.get("url"),
        sha256=place.get("sha256"),
        sha512=place.get("sha512"),
        checksums=checksums,
        signature=signature,
        key=str(key) if key else None,
        firmware=firmware,
    )
    if wrong := find_contradiction(base):
        field, words = wrong
        if field != "url":  # else the import refuses it, and says how to write it
            raise SpecError(f"--{field}: {words}", hint="ai-how image import --help")
    return source_of(base, Path.cwd())
