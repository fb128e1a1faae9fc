"""The verbs for Ansible: the inventory of the cluster."""

import os
from typing import TYPE_CHECKING, Annotated

import typer

from ai_how import console
from ai_how.cli.context import context_of
from ai_how.cli.groups import new_app
from ai_how.cli.hpc_cluster import Cluster, File, find_manager
from ai_how.errors import SpecError

if TYPE_CHECKING:
    from ai_how.hpc.inventory import Inventory
    from ai_how.hpc.manager import HpcManager

app = new_app()


@app.command(short_help="Print the inventory of the cluster for Ansible.")
def inventory(
    ctx: typer.Context,
    file: File = None,
    cluster: Cluster = None,
    is_list: Annotated[
        bool, typer.Option("--list", help="All hosts and groups as JSON; this is the default.")
    ] = False,
    host: Annotated[
        str | None, typer.Option("--host", metavar="NAME", help="The variables of one node.")
    ] = None,
    is_yaml: Annotated[
        bool, typer.Option("--yaml", help="Print the content of an inventory file.")
    ] = False,
) -> None:
    """Print the inventory of the cluster for Ansible, as its nodes are now.

    ai-how-inventory is the same as a program for ansible-playbook -i: it finds the cluster by
    AI_HOW_CONFIG or ./cluster.yaml, or by AI_HOW_CLUSTER and AI_HOW_STATE_DIR. Host keys are
    checked. Nodes that do not run are in all and in their groups, but in no group that ends in _up.
    """
    context = context_of(ctx)
    if is_list + (host is not None) + is_yaml > 1:
        raise SpecError("--list, --host and --yaml exclude each other")
    found = find_inventory(find_manager(context, cluster, file))
    if host is not None:
        # Ansible's protocol: a host that is not known has no variables.
        console.show_json(found.hosts.get(host, {}))
    elif is_yaml:
        console.show_text(_as_yaml(found))
    else:
        console.show_json(found.as_script())


def find_inventory(manager: "HpcManager") -> "Inventory":
    """The inventory of a cluster as it is now. Raises StateError if there is no such cluster."""
    from ai_how.hpc.inventory import make_inventory
    from ai_how.spec.models import SlurmConfigSpec
    from ai_how.spec.nodes import get_hpc
    from ai_how.spec.reader import read_spec

    state, kept = manager.get_state(), manager.paths.spec
    slurm = SlurmConfigSpec()
    if kept.is_file():
        spec = read_spec(kept, os.environ, copied_from=manager.paths.root)
        slurm = get_hpc(spec).slurm_config
    return make_inventory(state, manager.status(), slurm, manager.paths)


def _as_yaml(found: "Inventory") -> str:
    from io import StringIO

    from ruamel.yaml import YAML

    text, yaml = StringIO(), YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False
    yaml.dump(found.as_file(), text)
    return text.getvalue().rstrip("\n")
