"""What a section of the cluster file has whatever kind of cluster it describes."""

from typing import Annotated, Literal

from pydantic import Field

from ai_how.spec import fields
from ai_how.spec.hardware import HardwareSpec, Spec


class NetworkSpec(Spec):
    subnet: Annotated[
        fields.Subnet,
        Field(
            description="The subnet of the cluster: auto, or a private range from /16 to /28 that "
            "the host does not use, such as 192.168.100.0/24.",
            examples=["auto"],
        ),
    ] = None
    bridge: Annotated[
        fields.BridgeName | None,
        Field(
            description="The name of the bridge on the host, at most 15 characters. Default: "
            "derived from the cluster's id.",
            examples=["hpcbr0"],
        ),
    ] = None
    uplink: Annotated[
        bool,
        Field(
            description="Whether nodes reach what the host reaches, and resolve the names that it "
            "resolves. false: they reach each other alone.",
            examples=[True],
        ),
    ] = True


class AccessSpec(Spec):
    user: Annotated[
        fields.UserName,
        Field(description="The user account on every node, with sudo.", examples=["hpc"]),
    ] = "hpc"
    ssh_public_keys: Annotated[
        tuple[fields.PublicKey, ...] | None,
        Field(
            description="Additional keys that may log in. Default: ~/.ssh/*.pub.",
            examples=[[]],
        ),
    ] = None
    proxy: Annotated[
        Literal["host", "none"],
        Field(
            description="host: nodes use the proxies of the environment and of apt, and trust the "
            "certificates that were added to this host. none: they do not.",
            examples=["host"],
        ),
    ] = "host"


class StartSpec(Spec):
    warm: Annotated[
        bool,
        Field(
            description="Restore new nodes from a saved VM of the same type; save one after a "
            "start that found none.",
            examples=[True],
        ),
    ] = True
    boot_limit: Annotated[
        fields.BootLimit,
        Field(
            description="How many nodes may boot at once: a number, or auto (chosen from the "
            "processors and the free memory of the host).",
            examples=["auto"],
        ),
    ] = None


class MonitoringSpec(Spec):
    enabled: Annotated[
        bool,
        Field(
            description="Watch the cluster as long as it is up; else only while somebody looks.",
            examples=[False],
        ),
    ] = False
    keep_days: Annotated[
        fields.KeepDays,
        Field(description="For how many days is kept what was seen.", examples=[7]),
    ] = 7


class ClusterSpec(Spec):
    """The fields of both kinds of cluster."""

    name: Annotated[
        fields.Label,
        Field(description="Name of the cluster: at most 40 of a-z, 0-9, -.", examples=["cloud"]),
    ]
    base_image_path: Annotated[
        fields.ImageReference | None,
        Field(
            description="Image of the nodes: a name in `images` or in the store, a path (with a /) "
            "relative to this file, or https://host/x.qcow2#sha256=DIGEST. Default: built in.",
            examples=["default"],
        ),
    ] = None
    network: Annotated[NetworkSpec, Field(description="The network of the cluster.")] = (
        NetworkSpec.model_construct()
    )
    hardware: Annotated[HardwareSpec, Field(description="The virtual hardware of all nodes.")] = (
        HardwareSpec.model_construct()
    )
