"""The specification of what goes with the PCI devices of the host that a node has."""

from typing import Annotated

from pydantic import Field

from ai_how.spec import fields
from ai_how.spec.hardware import Spec


class NodeHardwareSpec(Spec):
    """For a node with devices of the host. What is not given is chosen by a start."""

    numa: Annotated[
        bool | None,
        Field(
            description="Whether vCPUs and memory are kept on the NUMA node of the devices. true: "
            "a start that cannot is refused. Default: where its CPUs suffice.",
            examples=[True],
        ),
    ] = None
    hugepages: Annotated[
        bool | None,
        Field(
            description="Whether the memory is of huge pages of the host. true: a start without "
            "enough free ones is refused. Default: where enough are free, or as for the cluster.",
            examples=[True],
        ),
    ] = None
    mmio_gb: Annotated[
        int | None,
        Field(
            ge=1,
            le=65536,
            description="The window of addresses for the memory of PCI devices, in GiB. Default: "
            "what the devices need, at least 32.",
            examples=[64],
        ),
    ] = None
    balloon: Annotated[
        bool,
        Field(
            description="Whether it has a memory balloon, which takes no memory from a VM with "
            "such devices, but tells `hpc status` how much its programs use.",
            examples=[False],
        ),
    ] = False
    rom: Annotated[
        bool,
        Field(description="Whether the guest sees the ROM of its devices.", examples=[True]),
    ] = True
    rom_file: Annotated[
        fields.AbsolutePath | None,
        Field(
            description="A file with the ROM of its graphics card, in place of the card's own.",
            examples=["/srv/roms/card.rom"],
        ),
    ] = None
