"""The SLURM cluster that a verb of `ai-how hpc` alone acts on."""

from pathlib import Path
from typing import TYPE_CHECKING, cast

from ai_how.cli import cluster as of_any_kind
from ai_how.cli.context import Context
from ai_how.cli.kinds import HPC

if TYPE_CHECKING:
    from ai_how.hpc.manager import HpcManager


def manager_of(context: Context, name: str, *, is_named: bool = False) -> "HpcManager":
    return cast("HpcManager", of_any_kind.manager_of(context.of(HPC), name, is_named=is_named))


def find_manager(context: Context, cluster: str | None, file: Path | None) -> "HpcManager":
    """The manager of the cluster that --cluster, AI_HOW_CLUSTER or the file names."""
    return cast("HpcManager", of_any_kind.find_manager(context.of(HPC), cluster, file))
