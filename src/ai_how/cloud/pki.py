"""The keys and certificates of a Kubernetes cluster, kept on the host.

In a directory of the cluster's secrets: `<ca>.pem` (a key and its certificate) for each CA,
`service-accounts.pem` (a key), `encryption.key` (for Secrets at rest), `admin.pem`, and for each
node `nodes/<name>/….pem`. What is not a CA or a key of the whole cluster is a leaf: it is renewed
in time, and can be made anew at any time. The others are never replaced.
"""

import secrets
import shlex
import shutil
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from types import ModuleType

from ai_how.cloud.facts import KubeFacts, KubeNode
from ai_how.cloud.leaves import (
    ADMIN,
    CAS,
    CLUSTER_CA,
    ETCD_CA,
    FRONT_PROXY_CA,
    Leaf,
    leaves_of,
)
from ai_how.errors import HostError, StateError
from ai_how.extras import install_command
from ai_how.state.files import read_file, replaced_atomically
from ai_how.state.paths import ensure_private_directory

_ACCOUNTS, _ENCRYPTION = "service-accounts.pem", "encryption.key"
_ENCRYPTION_BYTES = 32
_NODES = "nodes"


@dataclass(frozen=True, slots=True)
class NodeKeys:
    """What a node gets. repr() hides it."""

    files: Mapping[str, bytes] = field(repr=False)
    """By path below /etc/kubernetes/pki."""
    encryption_key: str = field(repr=False)
    """For Secrets at rest, base64; empty for a worker."""


@dataclass(frozen=True, slots=True)
class AdminKeys:
    """What an administrator of the cluster has. repr() hides the key."""

    ca: bytes
    certificate: bytes
    key: bytes = field(repr=False)


def ensure_authorities(directory: Path, cluster: str, now: datetime | None = None) -> None:
    """Create what the whole cluster has, and no node alone, where it is missing.

    Raises StateError if a CA or a key of the whole cluster is damaged, and HostError without the
    library that makes certificates. The caller holds the cluster's lock.
    """
    now, x509 = now or datetime.now(UTC), _certificates()
    ensure_private_directory(directory)
    for name, path in _cas(directory):
        if not path.exists():
            _write(path, x509.make_ca(f"ai-how {cluster} {name}", now))
        elif not x509.is_ca(read_file(path)):
            raise _damaged(path)
    accounts, encryption = directory / _ACCOUNTS, directory / _ENCRYPTION
    if not accounts.exists():
        _write(accounts, x509.make_key())
    elif not x509.is_key(read_file(accounts)):
        raise _damaged(accounts)
    if not encryption.exists():
        _write(encryption, secrets.token_bytes(_ENCRYPTION_BYTES))
    elif len(read_file(encryption)) != _ENCRYPTION_BYTES:
        raise _damaged(encryption)
    _ensure_leaf(directory, directory / f"{ADMIN.name}.pem", ADMIN, now)


def read_keys(
    directory: Path, facts: KubeFacts, node: KubeNode, now: datetime | None = None
) -> NodeKeys:
    """The files of a node, after `ensure_authorities`; leaves that no longer fit are renewed.

    It may be called for many nodes at once, for each by one thread.
    """
    x509 = _certificates()
    pems = _ensure_node(directory, facts, node, now or datetime.now(UTC))
    files: dict[str, bytes] = {"ca.crt": x509.certificate_of(_ca(directory, CLUSTER_CA))}
    for name, pem in pems.items():
        files[f"{name}.crt"] = x509.certificate_of(pem)
        files[f"{name}.key"] = x509.key_of(pem)
    if not node.is_control_plane:
        return NodeKeys(files, "")
    # The controller manager signs what users ask for (CertificateSigningRequest).
    files["ca.key"] = x509.key_of(_ca(directory, CLUSTER_CA))
    files["front-proxy-ca.crt"] = x509.certificate_of(_ca(directory, FRONT_PROXY_CA))
    files["etcd/ca.crt"] = x509.certificate_of(_ca(directory, ETCD_CA))
    accounts = read_file(directory / _ACCOUNTS)
    files["sa.key"], files["sa.pub"] = x509.key_of(accounts), x509.public_key_of(accounts)
    admin = read_admin(directory)
    files["admin.crt"], files["admin.key"] = admin.certificate, admin.key
    return NodeKeys(files, b64encode(read_file(directory / _ENCRYPTION)).decode())


def read_admin(directory: Path) -> AdminKeys:
    """The keys for a kubeconfig. Raises StateError if they are missing."""
    x509 = _certificates()
    try:
        pem, ca = read_file(directory / f"{ADMIN.name}.pem"), _ca(directory, CLUSTER_CA)
    except FileNotFoundError as error:
        raise StateError(
            f"the keys of the cluster are not in {directory}",
            hint="ai-how cloud start  # makes them anew",
        ) from error
    return AdminKeys(x509.certificate_of(ca), x509.certificate_of(pem), x509.key_of(pem))


def rotate(directory: Path) -> None:
    """Remove the leaves, so that new ones are made when they are needed. The CAs are kept."""
    (directory / f"{ADMIN.name}.pem").unlink(missing_ok=True)
    for one in _node_directories(directory):
        shutil.rmtree(one)


def find_ending(directory: Path, now: datetime | None = None) -> str | None:
    """The first leaf that ends within the time in which leaves are renewed, with its end.

    None while another run replaces the leaves: those have just been made.
    """
    try:
        return _find_ending(directory, now)
    except FileNotFoundError:
        return None


def _find_ending(directory: Path, now: datetime | None) -> str | None:
    if not directory.is_dir():
        return None
    x509, now = _certificates(), now or datetime.now(UTC)
    paths = [directory / f"{ADMIN.name}.pem"]
    paths += [path for node in _node_directories(directory) for path in sorted(node.rglob("*.pem"))]
    ends = [(x509.end_of(read_file(path)), path) for path in paths if path.exists()]
    of_cas = [x509.end_of(read_file(path)) for _, path in _cas(directory) if path.exists()]
    if not ends or not of_cas:
        return None
    end, path = min(ends)
    # One that ends with its CA cannot be renewed.
    if end - now > x509.RENEWED_BEFORE_END or end >= min(of_cas):
        return None
    return f"the certificate {path.relative_to(directory)} ends on {end:%Y-%m-%d}"


def find_lost(directory: Path) -> tuple[str, ...]:
    """Descriptions of the missing keys without which a cluster that was up cannot go on."""
    needed = {CAS[name]: path for name, path in _cas(directory)}
    needed["the key of service accounts"] = directory / _ACCOUNTS
    needed["the key for Secrets at rest"] = directory / _ENCRYPTION
    return tuple(what for what, path in needed.items() if not path.exists())


def _ensure_node(
    directory: Path, facts: KubeFacts, node: KubeNode, now: datetime
) -> dict[str, bytes]:
    return {
        leaf.name: _ensure_leaf(directory, path, leaf, now)
        for leaf, path in _node_leaves(directory, facts, node)
    }


def _ensure_leaf(directory: Path, path: Path, leaf: Leaf, now: datetime) -> bytes:
    if _fits(directory, path, leaf, now):
        return read_file(path)
    pem: bytes = _certificates().make_leaf(_ca(directory, leaf.ca), leaf, now)
    for part in reversed(path.relative_to(directory).parents):
        ensure_private_directory(directory / part)
    _write(path, pem)
    return pem


def _fits(directory: Path, path: Path, leaf: Leaf, now: datetime) -> bool:
    try:
        pem, ca = read_file(path), _ca(directory, leaf.ca)
    except FileNotFoundError:
        return False
    found: bool = _certificates().fits(pem, ca, leaf, now)
    return found


def _node_leaves(directory: Path, facts: KubeFacts, node: KubeNode) -> Iterable[tuple[Leaf, Path]]:
    place = directory / _NODES / node.name
    return ((leaf, place / f"{leaf.name}.pem") for leaf in leaves_of(facts, node))


def _node_directories(directory: Path) -> list[Path]:
    nodes = directory / _NODES
    return sorted(nodes.iterdir()) if nodes.is_dir() else []


def _cas(directory: Path) -> Iterator[tuple[str, Path]]:
    return ((name, directory / f"{name}.pem") for name in CAS)


def _ca(directory: Path, name: str) -> bytes:
    return read_file(directory / f"{name}.pem")


def _write(path: Path, content: bytes) -> None:
    with replaced_atomically(path) as draft:
        draft.write_bytes(content)


def _damaged(path: Path) -> StateError:
    return StateError(
        f"{path} is damaged",
        details="Without it, the nodes and the users of the cluster no longer trust each other. "
        "Nothing was changed.",
        hint=f"restore it from a backup: ls -l {shlex.quote(str(path))}",
    )


def find_life(pem: bytes) -> tuple[datetime, datetime] | None:
    """When a certificate begins and ends; None for anything else, and without the library."""
    try:
        life: tuple[datetime, datetime] = _certificates().life_of(pem)
    except (ValueError, HostError):
        return None
    return life


@cache
def _certificates() -> ModuleType:
    """The module with the library that makes certificates. Raises HostError without it."""
    try:
        from ai_how.cloud import certificates
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "cryptography":
            raise
        raise HostError(
            "cryptography is not installed, which makes the certificates of the nodes",
            hint=install_command("cloud"),
        ) from None
    return certificates
