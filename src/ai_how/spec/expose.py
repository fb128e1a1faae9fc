"""The ports of nodes that are reached at this host: `expose` of a cluster."""

from typing import Annotated

from pydantic import Field

from ai_how.spec import fields
from ai_how.spec.hardware import Spec


class ExposedPort(Spec):
    """A port of a node, and where it is reached."""

    node: Annotated[
        str,
        Field(description="The node: controller, compute-01, ...", examples=["controller"]),
    ]
    port: Annotated[fields.Port, Field(description="Its port (TCP).", examples=[8888])]
    host_port: Annotated[
        fields.Port | None,
        Field(description="The port of this host. Default: the same.", examples=[8888]),
    ] = None
    address: Annotated[
        fields.HostAddress,
        Field(
            description="The address of this host that listens. The default is reached by this "
            "host alone; 0.0.0.0 by every host that reaches this one.",
            examples=["127.0.0.1"],
        ),
    ] = "127.0.0.1"

    @property
    def place(self) -> tuple[str, int]:
        return self.address, self.host_port or self.port
