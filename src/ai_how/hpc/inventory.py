"""The inventory of a SLURM cluster for Ansible: hosts, groups and variables (pure)."""

import re
import shlex
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from ai_how.clusters.status import ClusterStatus, NodeStatus
from ai_how.libvirt_client.vm_state import VmState
from ai_how.spec.models import SlurmConfigSpec
from ai_how.spec.nodes import Role
from ai_how.state.models import ClusterState, NodeState
from ai_how.state.paths import ClusterPaths

Variables = Mapping[str, object]

# What common roles call the same nodes: galaxyproject.slurm, then stackhpc.openhpc.
_OF_CONTROLLER = ("slurmservers", "cluster_control", "cluster_login")
_OF_COMPUTE = ("slurmexechosts", "cluster_batch")
# An emulated guest may take so long to answer.
_CONNECT_S = 120
_NO_IDENTIFIER = re.compile(r"[^A-Za-z0-9_]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """All nodes of a cluster with their variables, and the nodes of each group."""

    hosts: Mapping[str, Variables]
    groups: Mapping[str, tuple[str, ...]]
    variables: Variables
    """Of all hosts."""

    def as_script(self) -> dict[str, object]:
        """The answer to `--list` of Ansible's script protocol."""
        return {
            "_meta": {"hostvars": {name: {**one} for name, one in self.hosts.items()}},
            "all": {
                "hosts": list(self.hosts),
                "children": list(self.groups),
                "vars": {**self.variables},
            },
            **{name: {"hosts": list(members)} for name, members in self.groups.items()},
        }

    def as_file(self) -> dict[str, object]:
        """The content of an inventory file in YAML."""
        children = {
            name: {"hosts": dict.fromkeys(members)} for name, members in self.groups.items()
        }
        hosts = {name: {**one} for name, one in self.hosts.items()}
        return {"all": {"hosts": hosts, "vars": {**self.variables}, "children": children}}

    def with_group(self, name: str, members: Iterable[str]) -> "Inventory":
        """The same inventory with one group more."""
        groups = {**self.groups, name: tuple(members)}
        return Inventory(hosts=self.hosts, groups=groups, variables=self.variables)


def make_inventory(
    state: ClusterState, seen: ClusterStatus, slurm: SlurmConfigSpec, paths: ClusterPaths
) -> Inventory:
    """The inventory of a cluster whose nodes are as they were `seen`.

    A node that does not run is in `all` and in its groups, with its `ai_how_state`, but in no group
    `…_up`.
    """
    known = {one.name: one for one in state.nodes}
    hosts = {node.name: _of_node(node, known[node.name]) for node in seen.nodes}
    running = {node.name for node in seen.nodes if node.state is VmState.RUNNING}
    return Inventory(
        hosts=hosts,
        groups=_groups(state.name, seen.nodes, slurm, running),
        variables=_of_all(state, seen, paths),
    )


def _of_all(state: ClusterState, seen: ClusterStatus, paths: ClusterPaths) -> Variables:
    controller = next((node.name for node in seen.nodes if node.role is Role.CONTROLLER), None)
    return {
        "ansible_user": state.user,
        "ansible_ssh_private_key_file": str(paths.ssh_key),
        # The configuration leads into the network of the cluster, and has the keys of its hosts.
        "ansible_ssh_common_args": f"-F {shlex.quote(str(paths.ssh_config))}",
        # A variable is stronger than ansible.cfg: there it is often turned off for all hosts.
        "ansible_ssh_host_key_checking": True,
        "ansible_ssh_pipelining": True,
        "ansible_ssh_timeout": _CONNECT_S,
        "ansible_python_interpreter": "/usr/bin/python3",
        # Homes are on NFS: there, root of a compute node cannot read what the account has copied.
        "ansible_remote_tmp": f"/tmp/.ansible-{state.user}",  # noqa: S108  nobody else logs in
        "ai_how_cluster": state.name,
        "ai_how_controller": controller,
        "ai_how_subnet": str(state.network.subnet),
        "ai_how_slurm_version": seen.slurm_version,
    }


def _of_node(node: NodeStatus, known: NodeState) -> Variables:
    gpus = {one.type: one.count for one in node.gpus}
    return {
        # The name is that of our ssh configuration, and all nodes resolve it.
        "ansible_host": node.name,
        # Ansible keeps connections by address and user, which are the same in many clusters.
        "ansible_control_path": f"%(directory)s/ai-how-{known.uuid.hex[:16]}",
        "ai_how_address": str(node.ip),
        "ai_how_role": node.role.value,
        "ai_how_state": node.state.value,
        "ai_how_cpus": node.vcpus,
        "ai_how_memory_mib": node.memory_mib,
        "ai_how_disk_gib": node.disk_gib,
        "ai_how_gpus": gpus,
        "ai_how_gres": ",".join(f"gpu:{kind}:{count}" for kind, count in gpus.items()),
        "ai_how_cards": list(known.cards or ()),
    }


def _groups(
    cluster: str, nodes: Collection[NodeStatus], slurm: SlurmConfigSpec, running: Collection[str]
) -> dict[str, tuple[str, ...]]:
    everyone = tuple(node.name for node in nodes)
    controller = tuple(node.name for node in nodes if node.role is Role.CONTROLLER)
    compute = tuple(node.name for node in nodes if node.role is Role.COMPUTE)
    groups = {"hpc": everyone, "controller": controller, "compute": compute}
    groups |= dict.fromkeys(_OF_CONTROLLER, controller) | dict.fromkeys(_OF_COMPUTE, compute)
    taken = {*groups, *everyone, "all", "ungrouped"}
    groups.setdefault(_identifier(cluster), everyone)
    for partition in slurm.partitions:
        names = partition.nodes or ()
        members = compute if partition.has_all_nodes else tuple(n for n in compute if n in names)
        name = _identifier(partition.name)
        groups[f"partition_{name}"] = members
        groups[_identifier(f"{cluster}_{name}")] = members
        if name not in taken:
            groups[name] = members
    groups.setdefault("gpu", tuple(node.name for node in nodes if node.gpus))
    for kind in sorted({one.type for node in nodes for one in node.gpus}):
        groups[f"gpu_{_identifier(kind)}"] = tuple(
            node.name for node in nodes if any(one.type == kind for one in node.gpus)
        )
    up = {
        f"{name}_up": tuple(one for one in members if one in running)
        for name, members in groups.items()
        if name in {"hpc", "controller", "compute"} or name.startswith("partition_")
    }
    return groups | up


def _identifier(name: str) -> str:
    """A name of a group that Ansible takes without a warning."""
    text = _NO_IDENTIFIER.sub("_", name)
    return f"_{text}" if text[:1].isdigit() else text
