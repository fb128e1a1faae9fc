"""The ssh keys of a cluster, and the ssh configuration that uses them."""

from pathlib import Path

from ai_how.clusters.desired_cluster import DesiredCluster
from ai_how.guest.ssh import (
    ensure_key,
    read_user_keys,
    render_known_hosts,
    render_ssh_config,
)
from ai_how.state.files import replaced_atomically
from ai_how.state.models import ClusterState
from ai_how.state.paths import ClusterPaths, ensure_private_directory


def ensure_ssh_keys(state: ClusterState, paths: ClusterPaths) -> None:
    """Create the user's key for the cluster and a host key for each node, unless they exist."""
    ensure_private_directory(paths.root)
    ensure_key(paths.ssh_key, f"ai-how {state.name}")
    for node in state.nodes:
        ensure_key(paths.host_key(node.name), node.domain_name)


def find_lost_ssh_keys(previous: ClusterState | None, paths: ClusterPaths) -> tuple[str, ...]:
    """Descriptions of the ssh keys that are missing from a cluster that was up."""
    if previous is None or not previous.was_up:
        return ()
    keys = {"the ssh key of the user": paths.ssh_key}
    keys |= {f"the host key of {one.name}": paths.host_key(one.name) for one in previous.nodes}
    return tuple(what for what, path in keys.items() if not path.exists())


def write_ssh_files(state: ClusterState, paths: ClusterPaths, proxy: list[str]) -> None:
    """Write known_hosts and the ssh configuration: logins check host keys, and ask nothing."""
    ensure_private_directory(paths.ssh)
    keys = {node.domain_name: public_key(paths.host_key(node.name)) for node in state.nodes}
    for path, text in (
        (paths.known_hosts, render_known_hosts(keys)),
        (paths.ssh_config, render_ssh_config(state, paths, proxy)),
    ):
        with replaced_atomically(path) as draft:
            draft.write_text(text)


def host_keys(desired: DesiredCluster, paths: ClusterPaths) -> tuple[str, ...]:
    return tuple(public_key(paths.host_key(one.name)) for one in desired.state.nodes)


def own_keys(desired: DesiredCluster) -> tuple[str, ...]:
    asked = desired.section.access.ssh_public_keys
    return asked if asked is not None else read_user_keys(Path.home())


def public_key(private: Path) -> str:
    return private.with_name(f"{private.name}.pub").read_text().strip()
