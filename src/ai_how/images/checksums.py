"""Files of checksums as publishers write them: SHA256SUMS, SHA512SUMS, CHECKSUM.

Coreutils write `HEX  NAME` or `HEX *NAME` (Debian, Ubuntu, Alma), and with --tag, as the BSDs do,
`SHA256 (NAME) = HEX` (Fedora, Rocky).
"""

import difflib
import re
from dataclasses import dataclass

from ai_how.errors import ImageError

_LINE = re.compile(r"(?P<hex>[0-9A-Fa-f]+) [ *](?P<name>.+)")
_TAGGED = re.compile(r"(?P<kind>[A-Za-z0-9-]+) ?\((?P<name>.+)\) = (?P<hex>[0-9A-Fa-f]+)")
KINDS = {64: "sha256", 128: "sha512"}
"""The kinds of digests by the number of their hexadecimal digits."""


@dataclass(frozen=True, slots=True)
class Digests:
    """What a file of checksums says about one file; at least one of both."""

    sha256: str | None
    sha512: str | None


def find_digests(text: str, name: str, *, told: str) -> Digests:
    """The digests of the file `name` in a file of checksums, which errors call `told`.

    Raises ImageError if it is not listed, or twice with different digests.
    """
    found: dict[str, set[str]] = {"sha256": set(), "sha512": set()}
    others = []
    for kind, listed, digest in _entries(text):
        if listed == name:
            found[kind].add(digest)
        else:
            others.append(listed)
    for kind, digests in found.items():
        if len(digests) > 1:
            raise ImageError(
                f"{told} has {len(digests)} different {kind} digests for {name}",
                details="\n".join(sorted(digests)),
            )
    if not any(found.values()):
        near = difflib.get_close_matches(name, others, n=3) or others[:3]
        raise ImageError(
            f"{told} has no SHA-256 and no SHA-512 of {name}",
            details=f"It has those of {', '.join(near)}." if near else "It has none at all.",
        )
    return Digests(*(next(iter(found[kind]), None) for kind in ("sha256", "sha512")))


def _entries(text: str) -> list[tuple[str, str, str]]:
    """Kind, name and digest of each line that has them; other kinds are left out."""
    entries = []
    for line in text.splitlines():
        if not (found := _LINE.fullmatch(line) or _TAGGED.fullmatch(line)):
            continue
        tag = found.groupdict().get("kind")
        kind = KINDS.get(len(found["hex"]))
        if kind and tag in (None, kind.upper()):
            entries.append((kind, found["name"].removeprefix("./"), found["hex"].lower()))
    return entries
