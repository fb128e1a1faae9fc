"""What a node of a cluster is. Apart from the spec, which takes time and memory to load."""

from enum import StrEnum


class Role(StrEnum):
    CONTROLLER = "controller"
    COMPUTE = "compute"
