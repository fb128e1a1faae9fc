"""Versions of Kubernetes, and all that depends on the minor version (pure).

Flags and fields are from the changelogs of Kubernetes (CHANGELOG/CHANGELOG-1.20.md to -1.36.md) and
from the list of removed flags in siderolabs/go-kubernetes (kubernetes/upgrade/checks.go). What fits
containerd is from containerd's RELEASES.md ("Kubernetes Support"); that 1.35 is the last version
for containerd 1 is from Amazon's notes on versions of EKS. The versions of etcd are those that
kubeadm ran then (cmd/kubeadm/app/constants/constants.go).
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
class _Flag:
    """A flag that only some minor versions know, or need."""

    component: str
    text: str
    since: int = 0
    before: int = NEWEST_MINOR + 1

    def is_for(self, version: Version) -> bool:
        return self.since <= version.minor < self.before


CONTAINERD_SOCKET = "unix:///run/containerd/containerd.sock"
# The minor versions that turned flags of the kubelet into fields of its configuration.
_TAINTS_FIELD, _RUNTIME_FIELD = 23, 27
# The minor version that no longer calls a control plane a master.
_NO_MASTER = 24
_FLAGS = (
    # Ports without TLS: of no effect since 1.20 (API server), 1.22 and 1.23, and gone in 1.24.
    _Flag("kube-controller-manager", "--port=0", before=24),
    _Flag("kube-scheduler", "--port=0", before=24),
    # The other runtime was dockershim, which was the default; the flag is gone in 1.27.
    _Flag("kubelet", "--container-runtime=remote", before=24),
    _Flag("kubelet", f"--container-runtime-endpoint={CONTAINERD_SOCKET}", before=_RUNTIME_FIELD),
)


def flags(component: str, version: Version) -> tuple[str, ...]:
    """The flags of a component that other versions do not know, or do not need."""
    return tuple(one.text for one in _FLAGS if one.component == component and one.is_for(version))


def has_runtime_field(version: Version) -> bool:
    """Whether KubeletConfiguration has `containerRuntimeEndpoint`; else it is a flag."""
    return version.minor >= _RUNTIME_FIELD


def has_taints_field(version: Version) -> bool:
    """Whether KubeletConfiguration has `registerWithTaints`; else it is a flag."""
    return version.minor >= _TAINTS_FIELD


def has_master_role(version: Version) -> bool:
    """Whether a control plane is also called a master, in its labels and taints."""
    return version.minor < _NO_MASTER


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
_ETCD = ((20, Version(3, 4, 3)), (22, Version(3, 5)))


def check_containerd(version: Version, containerd_version: str) -> str | None:
    """Why Kubernetes does not run with this containerd, or None if it does."""
    fit = next(one for one in reversed(_CONTAINERD) if one.since <= version.minor)
    found = Version.parse(containerd_version)
    if found >= fit.oldest and (fit.below is None or found < fit.below):
        return None
    wanted = f"{fit.oldest} or later" + (f", below {fit.below}" if fit.below else "")
    return f"Kubernetes {version} needs containerd {wanted}, not {found}: {fit.reason}"


def check_etcd(version: Version, etcd_version: str) -> str | None:
    """Why Kubernetes does not run with this etcd, or None if it does."""
    oldest = next(one for since, one in reversed(_ETCD) if since <= version.minor)
    found = Version.parse(etcd_version)
    if found >= oldest:
        return None
    return f"Kubernetes {version} needs etcd {oldest} or later, not {found}"
