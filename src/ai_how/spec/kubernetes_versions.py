"""Versions of Kubernetes, and the containerd that each needs (pure).

What fits containerd is from containerd's RELEASES.md ("Kubernetes Support"); that 1.35 is the last
version for containerd 1 is from Amazon's notes on versions of EKS.
"""

import re
from dataclasses import dataclass
from typing import Self

OLDEST_MINOR, NEWEST_MINOR = 20, 36
PROVEN_MINORS = frozenset({20})
_VERSION = re.compile(r"v?(\d+)\.(\d+)(?:\.(\d+))?(?:[-+~].*)?")


@dataclass(frozen=True, slots=True, order=True)
class Version:
    """A version; what follows the patch level is not kept."""

    major: int
    minor: int
    patch: int = 0

    @classmethod
    def parse(cls, text: str) -> Self:
        """`v1.20.2`, `1.34`, or a version of Debian. Raises ValueError for anything else."""
        found = _VERSION.fullmatch(text.strip())
        if found is None:
            raise ValueError(f"{text!r} is not a version: one looks like 1.34.2")
        return cls(*(int(part or 0) for part in found.groups()))

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.patch}"

    @property
    def is_known(self) -> bool:
        """Whether the tables here have it."""
        return self.major == 1 and OLDEST_MINOR <= self.minor <= NEWEST_MINOR

    @property
    def is_proven(self) -> bool:
        """Whether a cluster of this minor version ran in the project's tests.

        The flags of the others are only compared with what their changelogs say.
        """
        return self.major == 1 and self.minor in PROVEN_MINORS


@dataclass(frozen=True, slots=True)
class _Fit:
    """Which containerd fits, from a minor version on."""

    since: int
    oldest: Version
    below: Version | None
    reason: str


_CONTAINERD = (
    _Fit(20, Version(1, 4), Version(2, 0), "it speaks CRI v1alpha2, which containerd 2 has not"),
    _Fit(23, Version(1, 5), None, "it speaks CRI v1 or v1alpha2"),
    _Fit(26, Version(1, 6, 15), None, "it speaks CRI v1 alone"),
    _Fit(36, Version(2, 0), None, "1.35 was the last version for containerd 1"),
)


def check_containerd(version: Version, containerd_version: str) -> str | None:
    """Why Kubernetes does not run with this containerd, or None if it does."""
    known = (one for one in reversed(_CONTAINERD) if one.since <= version.minor)
    fit = next(known, _CONTAINERD[0])
    found = Version.parse(containerd_version)
    if found >= fit.oldest and (fit.below is None or found < fit.below):
        return None
    wanted = f"{fit.oldest} or later" + (f", below {fit.below}" if fit.below else "")
    return f"Kubernetes {version} needs containerd {wanted}, not {found}: {fit.reason}"
