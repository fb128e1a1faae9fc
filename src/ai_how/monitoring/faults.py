"""The source `faults`: what only a look at the host and into the cluster's directory shows.

It starts a few programs of the host (`ip`, `ss`), and asks no guest.
"""

import time
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from ai_how.clusters.diagnosis.catalogue import HostCause, MachineCause
from ai_how.clusters.host_faults import (
    HostFault,
    find_network_faults,
    find_share_faults,
    find_wiring_faults,
    of_disks,
)
from ai_how.clusters.observation import Observed, observe_objects, with_host_faults
from ai_how.clusters.status import describe_impostor, find_disk_problems
from ai_how.host.place import HypervisorHost
from ai_how.host.ports import place_of
from ai_how.monitoring.judging import time_text
from ai_how.monitoring.model import Fault
from ai_how.outside_access import read_certificates
from ai_how.state.lock import read_holder
from ai_how.state.models import HPC, ClusterState
from ai_how.state.paths import ClusterPaths
from ai_how.vm_management.disks.manager import DiskManager

if TYPE_CHECKING:  # it loads libvirt
    from ai_how.libvirt_client.client import LibvirtClient

HOST, NETWORK = "host", "network"
ENDS_S = 30 * 86400.0
"""A certificate that ends within this time is told of."""
CERTIFICATES_S = 3600.0


class FaultSource:
    """Looks for faults of one cluster. Certificates are read once an hour."""

    def __init__(self, paths: ClusterPaths) -> None:
        self._paths = paths
        self._read_at = -CERTIFICATES_S
        self._ends: tuple[tuple[str, float], ...] = ()

    def look(
        self, state: ClusterState, place: HypervisorHost, client: "LibvirtClient | None"
    ) -> tuple[Fault, ...]:
        """The faults now; without a `client` the host of the VMs is down. Raises AiHowError."""
        found = [*find_left(state, self._paths), *self._certificates(state)]
        problems = find_disk_problems(state, DiskManager(place.storage))
        seen = Observed(host_is_down=True)
        if client is not None:
            seen = with_host_faults(observe_objects(client, state), state, place, self._paths)
        return (*found, *find_faults(state, seen, problems))

    def _certificates(self, state: ClusterState) -> Iterator[Fault]:
        if not state.network.uplink:
            return
        if time.monotonic() >= self._read_at + CERTIFICATES_S:
            self._read_at = time.monotonic()
            self._ends = tuple(read_ends(read_certificates()))
        yield from find_ending(self._ends, time.time())


def find_faults(
    state: ClusterState, seen: Observed, problems: Mapping[str, tuple[str, ...]]
) -> Iterator[Fault]:
    """What was seen, as faults (pure). `problems` are those of disks, by node."""
    for one in find_network_faults(state, seen):
        yield _of(NETWORK, one)
    for node in state.nodes:
        if not (node.auto_start or seen.is_on(node)) and node.name not in seen.disks:
            continue  # it was never started
        for one in (
            *of_disks(problems, node.name),
            *find_wiring_faults(node.name, seen, state.kind),
            *find_share_faults(node.name, seen, state.kind),
        ):
            yield _of(node.name, one)
    if seen.ports and not seen.ports.is_current:
        for port in seen.ports.ports:
            text = (
                f"{place_of(port.address, port.host_port)} -> {port.node}:{port.port} is not open"
            )
            yield Fault(id=HostCause.PORT_CLOSED, subject=HOST, text=f"port {text}")
    for name in seen.impostors:
        yield Fault(id=HostCause.FOREIGN_VM, subject=HOST, text=describe_impostor(name))


def find_left(state: ClusterState, paths: ClusterPaths) -> Iterator[Fault]:
    """What is wrong in the directory of the cluster: a run that was killed, keys that are gone."""
    if paths.journal.exists() and read_holder(paths.lock) is None:
        text = "a command was killed before it was done; the next one repairs what it left"
        yield Fault(id=HostCause.RUN_CUT_SHORT, subject=HOST, text=text)
    if not state.was_up:
        return
    keys = {"the ssh key of the cluster": paths.ssh_key}
    if state.kind == HPC:
        keys["the munge key"] = paths.munge_key
    keys |= {f"the host key of {one.name}": paths.host_key(one.name) for one in state.nodes}
    if gone := [what for what, path in keys.items() if not path.exists()]:
        text = f"gone from {paths.root}: {', '.join(gone[:6])}"
        yield Fault(id=HostCause.KEYS_LOST, subject=HOST, text=text)


def read_ends(certificates: Iterable[str]) -> Iterator[tuple[str, float]]:
    """The name of each certificate authority, and when it ends. Others are left out."""
    there = list(certificates)
    if not there:
        return
    import ssl  # noqa: PLC0415  few hosts have certificates of their own, and it takes memory

    for pem in there:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        try:
            context.load_verify_locations(cadata=pem)
        except (ssl.SSLError, ValueError):
            continue
        for one in context.get_ca_certs():
            ends = one.get("notAfter")
            if isinstance(ends, str):
                yield _name_of(one.get("subject")), float(ssl.cert_time_to_seconds(ends))


def find_ending(ends: Iterable[tuple[str, float]], now: float) -> Iterator[Fault]:
    """A fault for each certificate that has ended, or will soon (pure)."""
    for name, at in ends:
        if at - now > ENDS_S:
            continue
        when = f"ends in {time_text(at - now)}" if at > now else "has ended"
        text = f"the certificate authority {name}, which nodes get from this host, {when}"
        yield Fault(id=HostCause.CERTIFICATE_ENDS, subject=HOST, text=text)


def _name_of(subject: object) -> str:
    """`CN=…`, or all that its name has."""
    parts = {}
    for group in subject if isinstance(subject, tuple) else ():
        for pair in group:
            parts[str(pair[0])] = str(pair[1])
    name = parts.get("commonName") or ", ".join(parts.values()) or "without a name"
    return "".join(one for one in name if one.isprintable())[:80]


def _of(subject: str, one: HostFault) -> Fault:
    text = one.text
    if one.id == MachineCause.DISK_MISSING:
        text = "the file of its disk is gone"
    return Fault(id=one.id, subject=subject, text=text, remedy=one.remedy)
