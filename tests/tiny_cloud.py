"""Kubernetes clusters of tiny guests (see tiny_cluster.py): an API that is made up, with a memory.

It knows what each node was told, and which nodes are closed, as etcd does on the disk of a control
plane. As a program, `tiny_cloud.py ROOT`, it serves the verbs of `ai-how cloud`.
"""

import base64
import fcntl
import io
import json
import os
import shutil
import signal
import sys
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import sha256
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar
from uuid import UUID

from ai_how.cloud import pki
from ai_how.cloud.guest import PROGRAM
from ai_how.cloud.plan import STEP_TYPES
from ai_how.errors import AgentUnresponsiveError
from ai_how.libvirt_client.facts import DomainInfo
from ai_how.libvirt_client.vm_state import VmState
from tiny_cluster import TinyClient, TinyHome, serve

FILE = """\
version: "1.0"
host: {{uri: embedded}}
clusters:
  cloud:
    name: {name}
    base_image_path: tiny
    start: {{warm: {warm}}}
    hardware: {{acceleration: {{enable_kvm: false}}}}
    control_plane: {{cpu_cores: 1, memory_gb: 0.5, disk_gb: 1}}
    worker_nodes: {{count: {count}, cpu_cores: 1, memory_gb: 0.5, disk_gb: 1}}
"""
BECOME = "/usr/lib/ai-how/become"
KEYS = "etc/kubernetes/pki/"
NEVER_READY, JOBS = "TINY_NEVER_READY", "TINY_JOBS"
"""Variables of a verb: a node that does not become Ready, and the Pod of a Job that never ends."""
DIES = "TINY_DIES"
"""Another: the verb is killed at so manieth change of the cluster's keys."""


class CloudHome(TinyHome):
    """Real verbs, of clusters with one control plane and workers."""

    template: ClassVar[str] = FILE
    kubernetes: ClassVar[str | None] = "1.34.2"

    def program(self) -> list[str | Path]:
        return [sys.executable, __file__, str(self.root)]

    def api(self, lineage: UUID) -> "MadeUpApi":
        return MadeUpApi(self.root, lineage)


class MadeUpApi:
    """What the API of one cluster remembers; verbs that run at once share it."""

    def __init__(self, root: Path, lineage: UUID) -> None:
        self._file = root / f"api-{lineage}.json"

    @contextmanager
    def changed(self) -> Iterator[dict[str, dict]]:
        """What it remembers, to be changed."""
        with self._file.open("a+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            known = json.loads(file.read() or "{}")
            for name in ("told", "closed"):
                known.setdefault(name, {})
            yield known
            file.truncate(0)
            json.dump(known, file)

    @property
    def told(self) -> dict[str, dict[str, str]]:
        """The digests of the keys and certificates of each node, by their paths."""
        with self.changed() as known:
            return known["told"]

    @property
    def closed(self) -> dict[str, str]:
        """The nodes that take no Pods, each with who closed it: `us` or `user`."""
        with self.changed() as known:
            return known["closed"]

    def close(self, name: str) -> None:
        """As a user does by `kubectl cordon`."""
        with self.changed() as known:
            known["closed"][name] = "user"


class CloudClient(TinyClient):
    """A client whose guests answer `kube` as well, from that memory."""

    root: ClassVar[Path]
    _pids = count(100)
    _programs: ClassVar[dict[int, Callable[[], object]]] = {}
    """What each program says now, by its pid; None as long as it waits."""

    def agent_command(
        self, uuid: UUID, command: Mapping[str, object], timeout_s: float = 5
    ) -> object:
        match command:
            case {"execute": "guest-exec", "arguments": {"path": path} as asked} if path == PROGRAM:
                verb, *names = asked["arg"]
                pid = next(self._pids)
                self._programs[pid] = self._kube(uuid, verb, names)
                return {"pid": pid}
            case {"execute": "guest-exec", "arguments": {"path": path} as asked} if path == BECOME:
                self._become(uuid, base64.b64decode(asked["input-data"]))
            case {"execute": "guest-exec-status", "arguments": {"pid": pid}} if (
                program := self._programs.get(pid)
            ):
                if (said := program()) is None:
                    return {"exited": False}
                text = base64.b64encode(json.dumps(said).encode()).decode()
                return {"exited": True, "exitcode": 0, "out-data": text}
        return super().agent_command(uuid, command, timeout_s)

    def _nodes(self, uuid: UUID) -> tuple[MadeUpApi, dict[str, DomainInfo]]:
        """The API of the cluster that a VM is of, and the VMs of that, by their nodes."""
        every = self.list_domains()
        mine = next((one.mark for one in every if one.uuid == uuid), None)
        if mine is None:  # it is gone since it was asked
            raise AgentUnresponsiveError("the agent did not answer")
        nodes = {one.mark.node: one for one in every if one.mark and one.mark.id == mine.id}
        return MadeUpApi(self.root, mine.id), nodes

    def _become(self, uuid: UUID, archive: bytes) -> None:
        api, nodes = self._nodes(uuid)
        name = next(node for node, one in nodes.items() if one.uuid == uuid)
        with tarfile.open(fileobj=io.BytesIO(archive)) as files:
            keys = {
                file.name.removeprefix(KEYS): sha256(files.extractfile(file).read()).hexdigest()
                for file in files
                if file.isfile() and file.name.startswith(KEYS)
            }
        with api.changed() as known:
            known["told"][name] = keys

    def _kube(self, uuid: UUID, verb: str, names: Sequence[str]) -> Callable[[], object]:
        if verb == "ready":
            return lambda: self._ready(uuid, names)
        said = self._say(uuid, verb, names)
        return lambda: said

    def _say(self, uuid: UUID, verb: str, names: Sequence[str]) -> object:
        """The answer of a verb that does not wait."""
        api, nodes = self._nodes(uuid)
        with api.changed() as known:
            closed = known["closed"]
            match verb:
                case "nodes":
                    return [_seen(name, nodes.get(name), closed) for name in known["told"]]
                case "close" | "drain":
                    new = [name for name in names if name not in closed]
                    closed |= dict.fromkeys(new, "us")
                    return new if verb == "close" else []
                case "open":
                    _reopen(closed, names)
                    return names
                case "jobs":
                    return [os.environ[JOBS]] if JOBS in os.environ else []
                case "healthy" | "apply":
                    return "ok"
        raise AssertionError(verb)

    def _ready(self, uuid: UUID, names: Sequence[str]) -> object:
        """None until all nodes are there, and were told by one CA who they are."""
        api, nodes = self._nodes(uuid)
        with api.changed() as known:
            there = [_seen(name, nodes.get(name), {}) for name in names if name in known["told"]]
            cas = {known["told"][one["name"]]["ca.crt"] for one in there}
            if len(there) < len(names) or len(cas) != 1:
                return None
            if any(one["ready"] != "True" for one in there):
                return None
            _reopen(known["closed"], names)
        return names


def _seen(name: str, vm: DomainInfo | None, closed: Mapping[str, str]) -> dict[str, object]:
    is_on = vm is not None and vm.state is VmState.RUNNING
    is_ready = is_on and name != os.environ.get(NEVER_READY)
    return {
        "name": name,
        "ready": "True" if is_ready else "Unknown",
        "reason": "" if is_ready else "NodeStatusUnknown",
        "closed": name in closed,
        "ours": closed.get(name) == "us",
    }


def _reopen(closed: dict[str, str], names: Sequence[str]) -> None:
    """Those that a user closed stay as they are."""
    for name in names:
        if closed.get(name) == "us":
            del closed[name]


def _die_among_keys() -> None:
    """Have a verb that is told so killed between two files of keys."""
    changes, write = count(1), pki._write

    def changed() -> None:
        if str(next(changes)) == os.environ.get(DIES):
            os.kill(os.getpid(), signal.SIGKILL)

    def write_and_count(path: Path, content: bytes) -> None:
        write(path, content)
        changed()

    def remove_and_count(path: Path) -> None:
        shutil.rmtree(path)
        changed()

    pki._write, pki.shutil = write_and_count, SimpleNamespace(rmtree=remove_and_count)


def main(root: Path) -> None:
    CloudClient.root = root
    _die_among_keys()
    serve(root, CloudClient, STEP_TYPES)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
