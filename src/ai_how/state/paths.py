"""The paths that ai-how uses on disk; a new file is added here, or in `embedded_paths.py`."""

import os
import re
import shlex
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from ai_how.errors import HostError, SpecError
from ai_how.state.embedded_paths import EmbeddedPaths
from ai_how.state.files import fsync_directory
from ai_how.state.links import resolve_links

APPLICATION = "ai-how"
_CLUSTER_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class ClusterPaths:
    """The directory of one cluster: 0700, everything in it belongs to ai-how."""

    root: Path

    @property
    def name(self) -> str:
        return self.root.name

    @property
    def spec(self) -> Path:
        """A copy of the cluster file."""
        return self.root / "cluster.yaml"

    @property
    def spec_directory(self) -> Path:
        """Holds the path of the directory that the cluster file was in."""
        return self.root / "cluster.directory"

    @property
    def state(self) -> Path:
        return self.root / "state.json"

    @property
    def backups(self) -> Path:
        """Earlier states: `<serial>.json`, the newest ten."""
        return self.root / "backups"

    @property
    def journal(self) -> Path:
        """Exists only while a plan runs, or after a plan was interrupted."""
        return self.root / "journal.jsonl"

    @property
    def lock(self) -> Path:
        """Locked with flock; never unlinked."""
        return self.root / "lock"

    @property
    def secrets(self) -> Path:
        """0700: the munge key and the nodes' ssh host keys."""
        return self.root / "secrets"

    @property
    def munge_key(self) -> Path:
        return self.secrets / "munge.key"

    def host_key(self, node: str) -> Path:
        """A node's private ssh host key (ed25519); the public one is beside it as `.pub`."""
        return self.secrets / f"{node}.ssh_host_ed25519_key"

    @property
    def ssh(self) -> Path:
        return self.root / "ssh"

    @property
    def ssh_key(self) -> Path:
        """The key for our logins; created once per cluster."""
        return self.ssh / "id_ed25519"

    @property
    def known_hosts(self) -> Path:
        return self.ssh / "known_hosts"

    @property
    def ssh_config(self) -> Path:
        return self.ssh / "config"

    @property
    def xml(self) -> Path:
        """The XML that was sent to libvirt, one file per object."""
        return self.root / "xml"

    @property
    def console(self) -> Path:
        return self.root / "console"

    def console_log(self, node: str) -> Path:
        """The serial output of a node; written by QEMU through virtlogd."""
        return self.console / f"{node}.log"

    @property
    def provision(self) -> Path:
        """Exists only while a playbook runs: its inventory and variables."""
        return self.root / "provision"

    @property
    def provision_log(self) -> Path:
        """What Ansible printed at the last run of a playbook."""
        return self.root / "provision.log"

    @property
    def ports(self) -> Path:
        """Locked by the process of the cluster's open ports, with what it says (host/ports.py)."""
        return self.root / "ports.json"

    @property
    def kept_ports(self) -> Path:
        """The ports that verbs opened, and that each start opens again (clusters/kept_ports.py)."""
        return self.root / "kept-ports.json"

    @property
    def kubeconfig(self) -> Path:
        """For kubectl of the user; written when it is asked for."""
        return self.root / "kubeconfig"

    @property
    def kubeconfigs(self) -> Path:
        """Which kubeconfigs of the user have an entry of the cluster (cloud/merged.py)."""
        return self.root / "kubeconfigs.json"

    @property
    def ports_log(self) -> Path:
        """The output of that process."""
        return self.root / "ports.log"

    @property
    def collector(self) -> Path:
        """Locked by the process that watches the cluster, with what it says of itself."""
        return self.root / "collector.json"

    @property
    def collector_socket(self) -> Path:
        """Where that process is asked."""
        return self.root / "collector.sock"

    @property
    def collector_log(self) -> Path:
        """The output of that process, and of the one before as `collector.log.1`."""
        return self.root / "collector.log"

    @property
    def history(self) -> Path:
        """The SQLite database of what was seen of the cluster (monitoring/store.py)."""
        return self.root / "history.sqlite"

    @property
    def heals(self) -> Path:
        """What was done to heal the cluster, a line before and after each act."""
        return self.root / "heals.jsonl"

    @property
    def leases(self) -> Path:
        """Devices of the host that nodes have, one file each; of all clusters."""
        return self.root.parent / ".leases"

    @property
    def is_used(self) -> bool:
        """Whether files of a cluster are here: a directory with that name is not enough."""
        signs = (self.state, self.journal, self.secrets, self.evidence)
        return any(sign.exists() for sign in signs)

    @property
    def evidence(self) -> Path:
        """What was saved before a failed run was undone, one directory per run."""
        return self.root / "evidence"


@dataclass(frozen=True, slots=True)
class StoragePaths:
    """The storage that a host's QEMU can access: our own tree, or one below libvirt's."""

    root: Path

    @property
    def bases(self) -> Path:
        """Base images, `<digest>.qcow2`: one per host, shared by all clusters, read-only."""
        return self.root / "bases"

    def base(self, digest: str) -> Path:
        return self.bases / f"{digest}.qcow2"

    def base_kernel(self, digest: str) -> Path:
        return self.bases / f"{digest}.vmlinuz"

    def base_initrd(self, digest: str) -> Path:
        return self.bases / f"{digest}.initrd"

    def verified(self, base: Path) -> Path:
        """The file attributes of a base image when its digest was last computed."""
        return base.with_name(f".{base.name}.verified")

    @property
    def lock(self) -> Path:
        """Held while base images are placed or removed; its directory is 0700, others are not."""
        return self.root / ".locks" / "bases"

    @property
    def saved(self) -> Path:
        """Saved VMs, a directory each, and drafts (`.part-<pid>-…`)."""
        return self.root / "saved"

    @property
    def saved_lock(self) -> Path:
        """Held while a VM is saved, or saved VMs are removed."""
        return self.root / ".locks" / "saved"

    @property
    def preparing(self) -> Path:
        """Drafts (`.part-<pid>-…`) of VMs in which imported images are prepared."""
        return self.root / "preparing"

    @property
    def preparing_lock(self) -> Path:
        """Held while an image is prepared."""
        return self.root / ".locks" / "preparing"

    @property
    def disks(self) -> Path:
        return self.root / "disks"

    def cluster(self, name: str) -> Path:
        return self.disks / name

    def marker(self, name: str) -> Path:
        """Holds the cluster's id: it marks the directory as ours."""
        return self.cluster(name) / ".ai-how"

    def disk(self, name: str, node: str) -> Path:
        return self.cluster(name) / f"{node}.qcow2"

    def memory_copy(self, name: str, node: str) -> Path:
        """Exists only while a node is restored: its own copy of a saved VM's memory."""
        return self.cluster(name) / f".{node}.save.part"


@dataclass(frozen=True, slots=True)
class ImagePaths:
    """The image store: one read-only directory per image, and drafts (`.part-<pid>-…`)."""

    root: Path

    def image(self, digest: str) -> Path:
        return self.root / digest

    @property
    def sources(self) -> Path:
        """Which image was imported from which file or URL, one small file each."""
        return self.root / ".sources"

    def source(self, key: str) -> Path:
        return self.sources / f"{key}.json"

    @property
    def lock(self) -> Path:
        return self.root / ".lock"


@dataclass(frozen=True, slots=True)
class Roots:
    """The three places: clusters, images, and cached facts."""

    state: Path
    data: Path
    cache: Path

    def cluster(self, name: str) -> ClusterPaths:
        """The paths of a cluster. Raises SpecError for an invalid name: it might lead anywhere."""
        if not _CLUSTER_NAME.fullmatch(name):
            raise SpecError(
                f"{name!r} is not a valid name of a cluster",
                details="A name has a-z, 0-9 and -, starts and ends with a letter or digit, "
                "and has 40 characters at most.",
            )
        return ClusterPaths(self.state / name)

    def cluster_names(self) -> tuple[str, ...]:
        """Names with a directory here; names that start with a dot are not clusters."""
        if not self.state.is_dir():
            return ()
        names = (entry.name for entry in self.state.iterdir() if entry.is_dir())
        return tuple(sorted(name for name in names if _CLUSTER_NAME.fullmatch(name)))

    @property
    def images(self) -> Path:
        return resolve_links(self.data / "images")

    @property
    def host_lock(self) -> Path:
        """Host-wide: subnets, bridges and base images are chosen under it."""
        return self.state / ".host.lock"

    @property
    def leases(self) -> Path:
        """Devices of the host that nodes have, one file each."""
        return self.state / ".leases"

    @property
    def warm_log(self) -> Path:
        """The log of saving VMs in the background."""
        return self.state / ".warm.log"

    @property
    def crash_reports(self) -> Path:
        return self.state / ".crashes"

    @property
    def embedded(self) -> EmbeddedPaths:
        return EmbeddedPaths(resolve_links(self.state / ".embedded"))

    @property
    def embedded_storage(self) -> StoragePaths:
        return StoragePaths(resolve_links(self.state / ".embedded" / "storage"))

    @property
    def kvm_verdict(self) -> Path:
        return self.cache / "kvm.json"

    @property
    def bundles(self) -> Path:
        """What was unpacked of bundles of Kubernetes (images/bundles.py)."""
        return resolve_links(self.cache / "bundles")

    @property
    def past_starts(self) -> Path:
        """How the last starts proceeded."""
        return self.cache / "starts.json"


def default_roots(state_dir: Path | None = None) -> Roots:
    """The places of this user; `state_dir` moves everything but images and cached facts.

    Each is a canonical path, as disks, XML and locks use it. Raises HostError for a link on the
    path that another user could change.
    """
    return Roots(
        state=resolve_links(state_dir or platformdirs.user_state_path(APPLICATION)),
        data=resolve_links(platformdirs.user_data_path(APPLICATION)),
        cache=resolve_links(platformdirs.user_cache_path(APPLICATION)),
    )


def ensure_private_directory(path: Path) -> Path:
    """Create a private directory durably.

    Raises HostError if another user's directory or a link is there, or if the file system refuses.
    """
    try:
        ensure_parents(path)
        _make_durably(path, 0o700)
        seen = path.lstat()
        if not stat.S_ISDIR(seen.st_mode):
            raise HostError(f"{path} is not a directory", hint=f"ls -ld {shlex.quote(str(path))}")
        if seen.st_uid != os.geteuid():
            raise HostError(
                f"{path} belongs to another user", hint=f"ls -ld {shlex.quote(str(path))}"
            )
        if seen.st_mode & 0o077:
            path.chmod(0o700)
    except OSError as error:
        raise HostError(
            f"{path} cannot be set up: {error.strerror}",
            hint=f"ls -ld {shlex.quote(str(path.parent))} {shlex.quote(str(path))}",
        ) from error
    return path


def ensure_parents(path: Path) -> None:
    """Create the missing parents of `path` durably; nobody else may write there under any umask."""
    if not os.path.lexists(path.parent):
        ensure_parents(path.parent)
        _make_durably(path.parent, 0o755)


def _make_durably(path: Path, mode: int) -> None:
    """Create a directory and sync its name; an existing one is not changed."""
    with suppress(FileExistsError):
        path.mkdir(mode=mode)
        # Otherwise its content would persist, but under no name after a power loss. A directory in
        # which we may create names but not list them cannot be opened to be synced.
        if os.access(path.parent, os.R_OK):
            fsync_directory(path.parent)
