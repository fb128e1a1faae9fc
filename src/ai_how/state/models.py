"""What is remembered of a cluster."""

from collections.abc import Collection
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Annotated
from uuid import UUID

from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    FiniteFloat,
    NonNegativeInt,
)

from ai_how.errors import StateError
from ai_how.spec.roles import Role

# A version refuses a file with an unknown field. Every new field therefore raises this number: then
# an older version says which version is needed, not that the file is damaged.
SCHEMA_VERSION = 1

# The kind of a cluster whose state, journal or mark names none.
HPC = "hpc"


# File and directory names contain these: no value may lead to another directory.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$")]


def _no_number(value: object) -> object:
    """An address is written as text; a number, or `true`, is refused, though ipaddress takes it."""
    if isinstance(value, int):
        raise ValueError("not an address")  # noqa: TRY004  pydantic takes no TypeError
    return value


Address = Annotated[IPv4Address, BeforeValidator(_no_number)]
Subnet = Annotated[IPv4Network, BeforeValidator(_no_number)]


class Remembered(BaseModel):
    """Frozen; unknown fields are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class NodeState(Remembered):
    """A node that ai-how created, or was about to create."""

    name: Name
    role: Role
    uuid: UUID
    domain_name: str
    mac: str
    ip: Address
    cpu_cores: Annotated[int, Field(ge=1)]
    memory_mib: Annotated[int, Field(ge=1)]
    disk_gib: Annotated[int, Field(ge=1)]
    disk: Path
    image_digest: str
    auto_start: bool
    stages_s: dict[str, FiniteFloat] = {}
    """The seconds of each stage of its last bring-up."""
    gpus: dict[str, NonNegativeInt] | None = None
    """Its simulated GPUs for SLURM, by type; empty if it had some once, and has none now.

    It is also empty if a start that was undone may have told it of some. None if it never had any;
    then it is not written, as older versions do not know it.
    """
    cards: tuple[str, ...] | None = None
    """The PCI addresses of the cards that were chosen for it, or of the VF that is its vGPU.

    Not written if there are none.
    """
    is_untold: bool = False
    """Whether it was not told the configuration that the others were told last.

    It was suspended or off then. It is told by the next start that finds it on or brings it up. Not
    written if it was told.
    """


class NetworkState(Remembered):
    """The cluster's network."""

    uuid: UUID
    name: str
    bridge: str
    subnet: Subnet
    gateway: Address
    uplink: bool = True
    """Whether nodes reach the outside; not written where they do, as they always did at first."""


class PlaybookState(Remembered):
    """An entry of `provision` that ran to its end without an error."""

    entry: str
    """The playbook with its tags and limit: what tells the entries of a file apart."""
    digest: str
    """SHA-256 of all that it depends on: the files beside the playbook, and its variables."""
    nodes: tuple[Name, ...]
    """The nodes on which it ran."""


class ClusterState(Remembered):
    """One cluster. `serial` grows with every write, `lineage` is the cluster's id for ever."""

    schema_version: int = SCHEMA_VERSION
    serial: NonNegativeInt = 0
    """0 before the first write."""
    lineage: UUID
    kind: str = HPC
    """The kind of the cluster; not written for SLURM, which was the only kind at first."""
    name: Name
    created_at: AwareDatetime
    updated_at: AwareDatetime
    host_uri: str
    user: str
    home: str = ""
    """`nfs` or `none`; empty if it was not recorded."""
    network: NetworkState
    nodes: tuple[NodeState, ...] = ()
    config_digest: str = ""
    """SHA-256 of what the nodes were last told about the cluster: hosts and SLURM settings.

    Nodes that were not told are marked (`is_untold`). Empty if it is not known what they were told.
    The next start then tells all nodes.
    """
    provisioned: tuple[PlaybookState, ...] | None = None
    """Not written if no playbook ran, as older versions do not know it."""

    @property
    def was_up(self) -> bool:
        """Whether some start of it came to its end."""
        return any(node.stages_s for node in self.nodes)

    @property
    def marked_kind(self) -> str | None:
        """The kind as marks in libvirt have it."""
        return None if self.kind == HPC else self.kind

    def as_record(self) -> dict[str, object]:
        """The JSON form, without what older versions do not know where it is as it always was."""
        record = self.model_dump(mode="json")
        if self.kind == HPC:
            del record["kind"]
        if self.network.uplink:
            del record["network"]["uplink"]
        if not self.provisioned:
            del record["provisioned"]
        for node in record["nodes"]:
            for name in ("gpus", "cards"):
                if node[name] is None:
                    del node[name]
            if not node["is_untold"]:
                del node["is_untold"]
        return record

    def without_provisioned(self, names: Collection[str]) -> "ClusterState":
        """The same state, as if no playbook had run on these nodes."""
        left = tuple(
            one.model_copy(update={"nodes": tuple(n for n in one.nodes if n not in names)})
            for one in self.provisioned or ()
        )
        return self.model_copy(update={"provisioned": left or None})

    def find_node(self, name: str) -> NodeState | None:
        return next((node for node in self.nodes if node.name == name), None)

    def get_node(self, name: str) -> NodeState:
        """The node. Raises StateError with the existing names if there is none."""
        if node := self.find_node(name):
            return node
        raise StateError(
            f"cluster {self.name} has no node {name}",
            details=f"it has: {', '.join(node.name for node in self.nodes) or 'none'}",
        )

    def find_controller(self) -> NodeState | None:
        return next((node for node in self.nodes if node.role is Role.CONTROLLER), None)

    def get_controller(self) -> NodeState:
        """Raises StateError where there is none."""
        if controller := self.find_controller():
            return controller
        raise StateError(f"cluster {self.name} has no controller")
