"""One cluster: started, used and removed by a program."""

import io
import json
import os
import re
import secrets
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from ai_how.api.jobs import Job
from ai_how.api.progress import Progress, ProgressObserver
from ai_how.api.results import TIMED_OUT, CommandResult, CommandTimeoutError, words_of
from ai_how.api.tied import run_tied, tied_words
from ai_how.clusters.images import build_images, find_missing_images
from ai_how.clusters.status import ClusterStatus
from ai_how.errors import AiHowError, GuestError, ProgramTimeoutError, SpecError
from ai_how.guest.exec_channel import HEAD_BYTES, ExecChannel, Input
from ai_how.guest.shared_logins import SharedLogins
from ai_how.guest.ssh import scp_argv, ssh_argv
from ai_how.hpc.manager import HpcManager
from ai_how.plan.observer import Observer
from ai_how.process import run
from ai_how.spec.models import ClusterFile
from ai_how.spec.nodes import get_hpc
from ai_how.spec.reader import read_spec
from ai_how.state.cluster_state import read_state
from ai_how.state.paths import Roots, default_roots

AtExit = Literal["destroy", "stop", "keep"]
OnProgress = Callable[[Progress], None]
Command = str | Sequence[str]

_GRACE_S = 60.0  # beyond the time-out in the guest, for the connection
_SUBMITTED = re.compile(r"^(\d+)(?:;|$)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Node:
    """A node of a cluster that was started."""

    name: str
    ip: IPv4Address
    cluster: "Cluster"

    def run(self, command: Command, **options: Any) -> CommandResult:  # noqa: ANN401  those of run
        """Like `Cluster.run`, on this node."""
        return self.cluster.run(command, node=self.name, **options)

    def exec(
        self,
        command: Command,
        *,
        input: str | None = None,  # noqa: A002  as in subprocess.run
        timeout: float | None = None,
        check: bool = False,
    ) -> CommandResult:
        """Run a command as root, through the guest agent: also where the network is broken.

        `input`, `timeout` and `check` are those of `Cluster.run`.
        """
        manager, words = self.cluster.manager, words_of(command)
        pieces = (bytearray(), bytearray())

        def keep(data: bytes, to_stderr: bool) -> bool:  # noqa: FBT001  a sink of the channel
            pieces[to_stderr].extend(data)
            return True

        with manager.agent_of(manager.get_state().get_node(self.name)) as agent:
            rest = io.BytesIO((input or "").encode())
            head = rest.read(HEAD_BYTES)
            given = Input(head, rest.read if len(head) == HEAD_BYTES else None)
            channel = ExecChannel(agent, given, keep)
            try:
                code = channel.run(
                    [os.fsencode(word) for word in words], timeout_s=timeout, shown=words[0]
                )
            except ProgramTimeoutError as error:
                raise CommandTimeoutError(error.brief, error.details) from error
        output, errors = (bytes(one).decode("utf-8", "replace") for one in pieces)
        result = CommandResult(words, code, output, errors)
        return result.check() if check else result


class Cluster:
    """A SLURM cluster by its file. As a context manager it is up in the block.

    Methods raise what the program says as errors: AiHowError and its subclasses. They may be called
    from several threads; what changes the cluster (`start`, `stop`, `destroy`) is refused with
    LockedError while another thread or process changes it.
    """

    def __init__(
        self,
        spec: ClusterFile,
        source: Path,
        *,
        state_dir: str | Path | None = None,
        connect: str | None = None,
        at_exit: AtExit = "keep",
        on_progress: OnProgress | None = None,
        on_warning: Callable[[str], None] | None = None,
    ) -> None:
        self.spec = spec
        self.source = source
        self.roots: Roots = default_roots(Path(state_dir) if state_dir else None)
        self.at_exit: AtExit = at_exit
        self.manager = HpcManager(
            roots=self.roots,
            name=get_hpc(spec).name,
            connect=connect,
            observer=ProgressObserver(on_progress) if on_progress else Observer(),
            warn=on_warning or (lambda _line: None),
        )
        self._logins = SharedLogins(self.manager.paths.ssh_config)

    @classmethod
    def from_file(cls, path: str | Path, **options: Any) -> Self:  # noqa: ANN401  of __init__
        """The cluster of a file. Raises SpecError with all problems of it. Starts nothing.

        `options` are the keyword arguments of the class: `state_dir` and `connect` as in the
        command line; `at_exit`, what becomes of the cluster at the end of a `with` block; and the
        callbacks `on_progress` and `on_warning`.
        """
        source = Path(path)
        return cls(read_spec(source, os.environ), source, **options)

    @property
    def name(self) -> str:
        return self.manager.name

    @property
    def nodes(self) -> Mapping[str, Node]:
        """The nodes by their names, of the cluster as it was last started."""
        state = self.manager.get_state()
        return {one.name: Node(one.name, one.ip, self) for one in state.nodes}

    @property
    def is_ready(self) -> bool:
        """Whether SLURM gives jobs to every compute node that starts with the cluster."""
        return read_state(self.manager.paths) is not None and self.status().is_ready

    def status(self) -> ClusterStatus:
        """Its state, node by node, from libvirt and SLURM."""
        return self.manager.status()

    def start(self, *, warm: bool | None = None) -> None:
        """Start it; returns when a job has run on every node.

        Missing images are built first. Unless `warm`, nodes boot, and no VM is saved for the next
        start. Default: warm, unless AI_HOW_NO_WARM is set.
        """
        if warm is None:
            warm = os.environ.get("AI_HOW_NO_WARM", "") in ("", "0")
        manager = self.manager
        if missing := find_missing_images(
            manager.kind, self.spec, manager.find_state(), self.roots
        ):
            build_images(
                manager.kind,
                self.spec,
                missing,
                self.roots,
                lambda: manager.place(self.spec.host.uri),
                watch=lambda *_: None,
                warn=manager.warn,
            )
        plan = manager.start(self.spec, source=self.source, is_warm=warm)
        if warm:
            manager.save_for_next_start(self.spec, plan, source=self.source)

    def stop(self, *, suspend: bool = False) -> None:
        """Power it off; with `suspend` its memory is saved, and jobs go on at the next start."""
        self.disconnect()
        self.manager.stop(suspends=suspend)

    def destroy(self) -> None:
        """Remove it: VMs, disks, network, keys and state."""
        self.disconnect()
        self.manager.destroy(snapshots_too=True)

    def run(
        self,
        command: Command,
        *,
        node: str = "controller",
        input: str | None = None,  # noqa: A002  as in subprocess.run
        timeout: float | None = None,
        check: bool = False,
    ) -> CommandResult:
        """Run a command by ssh, as the user of the cluster; a text is a line for the shell.

        Commands on a node, and copies, share one login (see `disconnect`). Raises
        CommandTimeoutError after `timeout` seconds: the command is ended on the node. So it is if
        the program is interrupted or killed, or the connection ends. With `check`, raises
        CommandFailedError unless its exit code is 0.
        """
        words, given = words_of(command), (input or "").encode()
        state = self.manager.get_state()
        host = state.get_node(node).domain_name
        line = tied_words(words, len(given), timeout)
        with self._logins.options(host) as shared:
            argv = ssh_argv(self.manager.paths, host, line, options=shared)
            done = run_tied(argv, given, None if timeout is None else timeout + _GRACE_S)
        if done is None:
            raise CommandTimeoutError(f"ssh to {node} did not end within {timeout:g} s")
        if timeout is not None and done.returncode in (TIMED_OUT, TIMED_OUT + 13):  # KILLed: 137
            raise CommandTimeoutError(f"{words[0]} did not end within {timeout:g} s on {node}")
        result = CommandResult(words, done.returncode, done.stdout, done.stderr)
        return result.check() if check else result

    def sbatch(self, script: str | Path, *options: str) -> Job:
        """Submit a job: a `Path`, or the name of a file that exists, or the text of a script.

        `options` are those of sbatch(1). The job begins in the home of the user.
        """
        text = _text_of(script)
        argv = ["sbatch", "--parsable", *options]
        done = self.run(argv, input=text, check=True)
        found = _SUBMITTED.search(done.stdout)
        if found is None:
            raise GuestError("sbatch did not tell the id of the job", details=done.stdout[-2000:])
        return Job(int(found[1]), self.run)

    def put(self, local: str | Path, remote: str = "", *, node: str = "controller") -> None:
        """Copy a file or a directory to a node; a relative path begins at home."""
        with self._copies_of(node) as (host, options):
            places = [os.path.abspath(local), f"{host}:{_at_home(remote)}"]  # noqa: PTH100
            run(scp_argv(self.manager.paths, places, options=options))

    def get(self, remote: str, local: str | Path = ".", *, node: str = "controller") -> None:
        """Copy a file or a directory from a node; a relative path begins at home."""
        with self._copies_of(node) as (host, options):
            places = [f"{host}:{_at_home(remote)}", os.path.abspath(local)]  # noqa: PTH100
            run(scp_argv(self.manager.paths, places, options=options))

    def disconnect(self) -> None:
        """End the logins that commands share, and what runs by them. The next one logs in again.

        That is needed where a login matters, as for an account that was added to a group. It
        happens by itself at a stop, at the end of a `with` block, and at the end of the process.
        """
        self._logins.close()

    @contextmanager
    def _copies_of(self, node: str) -> Iterator[tuple[str, list[str]]]:
        """The name of a node for scp, and options."""
        host = self.manager.get_state().get_node(node).domain_name
        with self._logins.options(host) as shared:
            yield host, ["-q", *shared]

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            if self.at_exit == "destroy":  # its keys and its evidence would stay
                with suppress(AiHowError):
                    self.destroy()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.disconnect()
        if self.at_exit == "destroy":
            self.destroy()
        elif self.at_exit == "stop":
            self.stop()


class TemporaryCluster(Cluster):
    """A cluster of `ai_how.cluster`, whose file is ours."""

    def scale(self, count: int) -> None:
        """Have so many compute nodes; those that are new are started. None can be taken away."""
        data = self.spec.model_dump(mode="json", exclude_unset=True, by_alias=True)
        [group, *_] = data["clusters"]["hpc"]["compute_nodes"]
        if count < group["count"]:
            raise SpecError(f"{self.name} has {group['count']} nodes, and none can be taken away")
        group["count"] = count
        self.spec = write_file(self.source, data)
        self.start()


@contextmanager
def cluster(
    *,
    name: str | None = None,
    compute_nodes: int = 2,
    cpu_cores: int = 1,
    memory_gb: float = 1,
    disk_gb: int = 10,
    of_nodes: Mapping[str, object] | None = None,
    hpc: Mapping[str, object] | None = None,
    **options: Any,  # noqa: ANN401  those of Cluster
) -> Iterator[TemporaryCluster]:
    """A cluster for the time of a `with` block; it is destroyed at its end.

    All nodes have `cpu_cores`, `memory_gb` and `disk_gb`. As in a file, `of_nodes` has further
    fields of the compute nodes, and `hpc` of `clusters.hpc`: `{"base_image_path": "science"}`.
    Without a `name` it gets one that no other cluster has. `options` are those of
    `Cluster.from_file`. What a process that was killed has left is in the list of clusters.
    """
    size = {"cpu_cores": cpu_cores, "memory_gb": memory_gb, "disk_gb": disk_gb}
    section: dict[str, object] = {
        "name": name or f"py-{secrets.token_hex(3)}",
        "controller": dict(size),
        "compute_nodes": [{"count": compute_nodes, **size, **(of_nodes or {})}],
        **(hpc or {}),
    }
    with tempfile.TemporaryDirectory(prefix="ai-how-") as directory:
        source = Path(directory, "cluster.yaml")
        spec = write_file(source, {"version": "1.0", "clusters": {"hpc": section}})
        with TemporaryCluster(spec, source, **{"at_exit": "destroy", **options}) as made:
            yield made


def write_file(path: Path, data: Mapping[str, object]) -> ClusterFile:
    """Write a cluster file, and read it as any other: SpecError has all its problems."""
    path.write_text(json.dumps(data, indent=2), "utf-8")  # each JSON document is YAML
    return read_spec(path, os.environ)


def _text_of(script: str | Path) -> str:
    if isinstance(script, str) and ("\n" in script or script.startswith("#!")):
        return script
    with suppress(FileNotFoundError):
        return Path(script).read_text("utf-8")
    raise SpecError(f"there is no script {script}")


def _at_home(remote: str) -> str:
    """A path for scp, whose server knows no `~` where it speaks SFTP."""
    return remote.removeprefix("~/") if remote != "~" else ""
