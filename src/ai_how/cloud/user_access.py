"""How a user of this host reaches the API of a cluster, and with which keys."""

from ai_how.cloud.facts import API_PORT
from ai_how.cloud.identities import pki_of
from ai_how.cloud.pki import AdminKeys, read_admin
from ai_how.clusters.cluster_access import ClusterAccess
from ai_how.clusters.kept_ports import keep_port


def find_server(access: ClusterAccess) -> str:
    """The URL of the API, as processes of this host reach it.

    Nodes that have a network of their own are reached by a port of the loopback, which is opened
    here, and by each start; it leads to any control plane that answers. Else it is the address of
    the first one. Raises StateError if there is no such cluster.
    """
    node, place = access.get_state().get_controller(), access.place()
    if place.embedded is None:
        return f"https://{node.ip}:{API_PORT}"
    port = keep_port(access, node, API_PORT)
    return f"https://{port.place}"


def admin_of(access: ClusterAccess) -> AdminKeys:
    """The keys of the administrator. Raises StateError if they, or the cluster, are missing."""
    access.get_state()
    return read_admin(pki_of(access.paths))
