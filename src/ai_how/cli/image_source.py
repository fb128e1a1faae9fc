"""The options of `ai-how image import` that say where an image is from, and what it must be."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ai_how.errors import SpecError

if TYPE_CHECKING:
    from ai_how.images.sources import ImageSource

Sha256 = Annotated[
    str | None,
    typer.Option("--sha256", metavar="DIGEST", help="The expected digest of the file."),
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
    sha256: str | None,
    checksums: str | None,
    signature: str | None,
    key: Path | None,
    firmware: Literal["bios", "uefi"] | None,
) -> "ImageSource":
    """A file or a URL, `#sha256=…` included. Raises SpecError for options that contradict."""
    from ai_how.images.sources import source_of
    from ai_how.spec.image_checks import find_contradiction
    from ai_how.spec.images import ImageBaseSpec, is_url, section_of

    place = section_of(source) if is_url(source) else {"path": source}
    in_url = place.get("sha256")
    if in_url and sha256:
        raise SpecError(
            "the digest is given twice: in the URL, and by --sha256",
            hint=f"ai-how image import {shlex.quote(source)}",
        )
    base = ImageBaseSpec.model_construct(
        path=place.get("path"),
        url=place.get("url"),
        sha256=sha256 or in_url,
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
