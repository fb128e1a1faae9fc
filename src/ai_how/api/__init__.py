"""The public Python API: everything that `ai_how` exports (`__all__` there); no more is public."""

from ai_how.api.aio import AsyncCluster as AsyncCluster
from ai_how.api.jobs import Job as Job
from ai_how.api.jobs import JobResult as JobResult
from ai_how.api.progress import Progress as Progress
from ai_how.api.results import CommandFailedError as CommandFailedError
from ai_how.api.results import CommandResult as CommandResult
from ai_how.api.results import CommandTimeoutError as CommandTimeoutError
from ai_how.api.slurm_cluster import Cluster as Cluster
from ai_how.api.slurm_cluster import Node as Node
from ai_how.api.slurm_cluster import TemporaryCluster as TemporaryCluster
from ai_how.api.slurm_cluster import cluster as cluster
from ai_how.errors import AiHowError as AiHowError
from ai_how.errors import GuestError as GuestError
from ai_how.errors import HostError as HostError
from ai_how.errors import ImageError as ImageError
from ai_how.errors import LibvirtError as LibvirtError
from ai_how.errors import LockedError as LockedError
from ai_how.errors import PlanError as PlanError
from ai_how.errors import SpecError as SpecError
from ai_how.errors import StateError as StateError
from ai_how.errors import ToolError as ToolError
