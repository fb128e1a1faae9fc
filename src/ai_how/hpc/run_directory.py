"""The directory of a job of `hpc run`: whether the nodes share it, and the name of its copy."""

import hashlib
import os
import re
from pathlib import Path, PurePosixPath

from ai_how.errors import SpecError
from ai_how.spec.models import HpcSpec
from ai_how.spec.nodes import nodes_of

_LONGEST_NAME = 40


def find_shared(hpc: HpcSpec, top: Path) -> PurePosixPath | None:
    """Where all nodes have a directory of ours by virtiofs; None if not all have it."""
    found: set[PurePosixPath | None] = set()
    for node in nodes_of(hpc):
        shares = [one for one in node.virtio_fs_mounts if not one.is_read_only]
        inside = [one for one in shares if top.is_relative_to(Path(one.host_path).resolve())]
        best = max(inside, key=lambda one: len(str(one.host_path)), default=None)
        found.add(
            PurePosixPath(best.mount_point) / top.relative_to(Path(best.host_path).resolve())
            if best
            else None
        )
    return found.pop() if len(found) == 1 else None


def check_home(hpc: HpcSpec) -> None:
    """Raises SpecError for a cluster whose nodes have no place for the output of a job."""
    if hpc.storage.home != "nfs":
        raise SpecError(
            "the nodes of this cluster share no home, in which the job's output could be",
            hint="ai-how hpc ssh controller srun CMD  # or storage: {home: nfs} in the file",
        )


def check_directory(top: Path) -> None:
    """Raises SpecError for a directory whose files nobody wants to be copied."""
    if top in (Path("/"), Path.home().resolve()):
        raise SpecError(
            f"all files below {top} would be copied to the cluster",
            hint="cd to the directory of the job  # and repeat the command there",
        )


def directory_name(top: Path) -> str:
    """The name of the copy of a directory: below ~/run on the nodes, one for each path."""
    readable = re.sub(r"[^A-Za-z0-9._]+", "-", top.name).strip("-.")[:_LONGEST_NAME]
    digest = hashlib.sha256(os.fsencode(top)).hexdigest()[:8]
    return f"{readable or 'files'}-{digest}"
