"""The same for `asyncio`: each call waits in a thread of its own."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ai_how.api.jobs import Job, JobResult
from ai_how.api.results import CommandResult
from ai_how.api.slurm_cluster import Cluster, Command, Node
from ai_how.clusters.status import ClusterStatus


class AsyncCluster:
    """A `Cluster` whose methods are coroutines.

    A task that is cancelled does not end what it waits for: give a `timeout`.
    """

    def __init__(self, cluster: Cluster) -> None:
        self.sync = cluster

    @classmethod
    def from_file(cls, path: str | Path, **options: Any) -> Self:  # noqa: ANN401  those of Cluster
        """The cluster of a file, as `Cluster.from_file`."""
        return cls(Cluster.from_file(path, **options))

    @property
    def name(self) -> str:
        return self.sync.name

    @property
    def nodes(self) -> Mapping[str, Node]:
        return self.sync.nodes

    async def start(self, *, warm: bool | None = None) -> None:
        """Start it."""
        await asyncio.to_thread(self.sync.start, warm=warm)

    async def stop(self, *, suspend: bool = False) -> None:
        """Power it off."""
        await asyncio.to_thread(self.sync.stop, suspend=suspend)

    async def destroy(self) -> None:
        """Remove it."""
        await asyncio.to_thread(self.sync.destroy)

    async def status(self) -> ClusterStatus:
        """Its status."""
        return await asyncio.to_thread(self.sync.status)

    async def run(self, command: Command, **options: Any) -> CommandResult:  # noqa: ANN401
        """Run a command, as `Cluster.run`."""
        return await asyncio.to_thread(self.sync.run, command, **options)

    async def sbatch(self, script: str | Path, *options: str) -> Job:
        """Submit a job; `wait_for` waits for it."""
        return await asyncio.to_thread(self.sync.sbatch, script, *options)

    async def wait_for(self, job: Job, timeout: float | None = None) -> JobResult:
        """Wait for the end of a job, as `Job.wait`."""
        return await asyncio.to_thread(job.wait, timeout)

    async def put(self, local: str | Path, remote: str = "", **options: Any) -> None:  # noqa: ANN401
        """Copy to a node."""
        await asyncio.to_thread(self.sync.put, local, remote, **options)

    async def get(self, remote: str, local: str | Path = ".", **options: Any) -> None:  # noqa: ANN401
        """Copy from a node."""
        await asyncio.to_thread(self.sync.get, remote, local, **options)

    async def disconnect(self) -> None:
        """End the logins that commands share, as `Cluster.disconnect`."""
        await asyncio.to_thread(self.sync.disconnect)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await asyncio.to_thread(self.sync.__exit__, kind, error, traceback)
