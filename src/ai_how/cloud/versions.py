"""Versions of Kubernetes, and all that depends on the minor version (pure).

Flags and fields are from the changelogs of Kubernetes (CHANGELOG/CHANGELOG-1.20.md to -1.36.md) and
from the list of removed flags in siderolabs/go-kubernetes (kubernetes/upgrade/checks.go). The
versions of etcd are those that kubeadm ran then (cmd/kubeadm/app/constants/constants.go).
"""

from dataclasses import dataclass

from ai_how.spec.kubernetes_versions import NEWEST_MINOR, Version


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


_ETCD = ((20, Version(3, 4, 3)), (22, Version(3, 5)))


def check_etcd(version: Version, etcd_version: str) -> str | None:
    """Why Kubernetes does not run with this etcd, or None if it does."""
    oldest = next(one for since, one in reversed(_ETCD) if since <= version.minor)
    found = Version.parse(etcd_version)
    if found >= oldest:
        return None
    return f"Kubernetes {version} needs etcd {oldest} or later, not {found}"
