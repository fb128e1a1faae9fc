"""The public Python API: everything that `ai_how` exports; nothing else is public."""

from ai_how.api.aio import AsyncCluster
from ai_how.api.jobs import Job, JobResult
from ai_how.api.progress import Progress
from ai_how.api.results import CommandFailedError, CommandResult, CommandTimeoutError
from ai_how.api.slurm_cluster import Cluster, Node, TemporaryCluster, cluster
from ai_how.errors import (
    AiHowError,
    GuestError,
    HostError,
    ImageError,
    LibvirtError,
    LockedError,
    PlanError,
    SpecError,
    StateError,
    ToolError,
)

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
