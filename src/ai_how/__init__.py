"""ai-how: a working virtual HPC cluster from one YAML file.

What programs can use is here, and described in docs/python.md; all other modules are private.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from ai_how.api import *

__all__ = [
    "AiHowError",
    "AsyncCluster",
    "Cluster",
    "CommandFailedError",
    "CommandResult",
    "CommandTimeoutError",
    "GuestError",
    "HostError",
    "ImageError",
    "Job",
    "JobResult",
    "LibvirtError",
    "LockedError",
    "Node",
    "PlanError",
    "Progress",
    "SpecError",
    "StateError",
    "TemporaryCluster",
    "ToolError",
    "cluster",
]


def __getattr__(name: str) -> object:
    """The public API, which is loaded when it is first used: the command line needs none of it."""
    if name in __all__:
        return getattr(import_module("ai_how.api"), name)
    raise AttributeError(f"module 'ai_how' has no attribute {name!r}")
