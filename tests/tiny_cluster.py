"""The program that users run, with guests that have an empty disk and no system.

Libvirt, QEMU, networks, disks, state and journal are real; only what the guests' agents would say
is made up. `TinyHome` calls verbs in processes of their own, forked from one that has everything
loaded already, and has them end, fail or wait at any record of a journal.
"""

import base64
import builtins
import json
import os
import resource
import signal
import subprocess  # noqa: TID251  what forks for us is spoken to while it runs
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import IO, ClassVar, NoReturn
from uuid import UUID

from ai_how.cli import main as ai_how
from ai_how.clusters import cleanup, cluster_access, known_cluster, save_machines
from ai_how.host.embedded import EmbeddedHost
from ai_how.hpc import manager as hpc_manager
from ai_how.hpc.plan import STEP_TYPES
from ai_how.images.store import ImageStore
from ai_how.libvirt_client.client import PATIENCE_S, LibvirtClient
from ai_how.libvirt_client.facts import DomainInfo
from ai_how.libvirt_client.vm_state import VmState
from ai_how.plan import interrupts, journal
from ai_how.plan.step import Applied, Step
from ai_how.spec.nodes import Role
from ai_how.state.cluster_state import read_state
from ai_how.state.models import ClusterState
from ai_how.state.paths import ClusterPaths, Roots, default_roots
from ai_how.vm_management.context import PlanContext, Timeouts
from ai_how.vm_management.saved_machines import save_file
from ai_how.vm_management.steps.domains import StartDomain
from cluster_bench import make_image

FILE = """\
version: "1.0"
host: {{uri: embedded}}
clusters:
  hpc:
    name: {name}
    base_image_path: tiny
    start: {{warm: {warm}}}
    hardware: {{acceleration: {{enable_kvm: false}}}}
    controller: {{cpu_cores: 1, memory_gb: 0.5, disk_gb: 1}}
    compute_nodes: {{count: {count}, cpu_cores: 1, memory_gb: 0.5, disk_gb: 1}}
"""
VERB_S = 300.0
Order = Mapping[str, object]


class TinyClient(LibvirtClient):
    """A client to whom a guest's agent is there as soon as its QEMU runs, and does all it is told.

    What it is told to power off is off at once; SLURM has every node that runs.
    """

    def get_domain(self, uuid: UUID) -> DomainInfo:
        return _with_agent(super().get_domain(uuid))

    def list_domains(self) -> tuple[DomainInfo, ...]:
        return tuple(_with_agent(one) for one in super().list_domains())

    def agent_command(
        self, uuid: UUID, command: Mapping[str, object], timeout_s: float = 5
    ) -> object:
        match command:
            case {"execute": "guest-get-time"}:
                return time.time_ns()
            case {"execute": "guest-exec", "arguments": {"path": path, "arg": words}}:
                if words == ["poweroff"]:
                    self.destroy_domain(uuid)
                asks_all = any("== sinfo" in word for word in words)
                return {"pid": 2 if path == "sinfo" else 3 if asks_all else 1}
            case {"execute": "guest-exec-status", "arguments": {"pid": 2}}:
                text = base64.b64encode(self._sinfo(uuid).encode()).decode()
                return {"exited": True, "exitcode": 0, "out-data": text}
            case {"execute": "guest-exec-status", "arguments": {"pid": 3}}:
                text = base64.b64encode(f"== sinfo\n{self._sinfo(uuid)}".encode()).decode()
                return {"exited": True, "exitcode": 0, "out-data": text}
            case {"execute": "guest-exec-status"}:
                return {"exited": True, "exitcode": 0}
        return {}

    def _sinfo(self, controller: UUID) -> str:
        every = self.list_domains()
        # It may be gone since it was asked.
        mine = next((one.mark for one in every if one.uuid == controller), None)
        return "".join(
            f"{one.mark.node}|{'idle' if one.state is VmState.RUNNING else 'down*'}|none\n"
            for one in every
            if one.mark and mine and one.mark.id == mine.id and one.mark.node != Role.CONTROLLER
        )


def _with_agent(seen: DomainInfo) -> DomainInfo:
    if seen.state is not VmState.RUNNING:
        return seen
    return replace(seen, xml=seen.xml.replace("state='disconnected'", "state='connected'"))


@dataclass(frozen=True)
class Ended:
    """How a verb ended; `code` is negative where a signal ended it, as in subprocess."""

    code: int
    out: str
    err: str
    boundaries: tuple[tuple[str, str], ...]
    """The records of journals that it came by, each as (`before intent`, key) and so on."""
    took_s: float

    @property
    def said(self) -> str:
        return f"exit code {self.code}\n{self.out}\n{self.err}"


@dataclass
class TinyHome:
    """A user's directories with a tiny image, and their embedded host.

    `state` is the directory of the clusters; what else there is lies in `.tiny` in it.
    """

    template: ClassVar[str] = FILE
    kubernetes: ClassVar[str | None] = None
    """The version of Kubernetes that the image says it has."""
    state: Path
    nodes: int = 2
    is_warm: bool = False
    zygote_pids: set[int] = field(default_factory=set)
    _zygotes: list[subprocess.Popen[str]] = field(default_factory=list)
    _busy: dict[subprocess.Popen[str], list[int]] = field(default_factory=dict)

    @property
    def root(self) -> Path:
        return self.state / ".tiny"

    @property
    def roots(self) -> Roots:
        return replace(
            default_roots(self.state),
            data=self.root / "data/ai-how",
            cache=self.root / "cache/ai-how",
        )

    @property
    def host(self) -> EmbeddedHost:
        return EmbeddedHost(self.roots.embedded)

    def paths(self, name: str) -> ClusterPaths:
        return self.roots.cluster(name)

    def client(self) -> LibvirtClient:
        """A client that sees what is really there."""
        return LibvirtClient(self.host.uri)

    def file(self, name: str) -> Path:
        path = self.root / f"{name}.yaml"
        if not path.exists():
            path.write_text(
                self.template.format(name=name, count=self.nodes, warm=str(self.is_warm).lower())
            )
        return path

    def prepare(self) -> None:
        """Have the image, and a host that is up without KVM."""
        self.root.mkdir(exist_ok=True)
        store = ImageStore(self.roots.images)
        image = make_image(self.root / "image", kubernetes=self.kubernetes)
        target = store.paths.image(image.digest)
        target.parent.mkdir(parents=True)
        image.directory.rename(target)
        (target / "manifest.json").write_text(image.manifest.model_dump_json())
        self.have_host()

    def have_host(self) -> None:
        """Have the libvirt on which the verbs work."""
        self.host.up(with_kvm=False)

    def program(self) -> list[str | Path]:
        """What is run to have verbs run: it forks for each of them."""
        return [sys.executable, __file__, str(self.root)]

    def call(self, *words: str, name: str = "hpc", **order: object) -> Ended:
        """Run `ai-how WORDS` for that cluster to its end.

        `at=N, act="kill"`: at the Nth record that it comes by (from 0) it is killed, or gets an
        interrupt (`int`; `int-int`: two; `term`, `hup`), or fails as by a bug (`raise`), or stops
        itself (`stop`: SIGSTOP), or sends `signals`, each a pid and a number (`signal`).
        `at_any=[...]`: at the first record that is one of these.

        `fail={key: [moment, error]}`: that step fails so, `before` or `after` its change; by
        libvirt's or QEMU's own word with `bad-mac` (a define) and `no-disk` (a boot).
        `hang={key: seconds}`: that step first does nothing for so long.
        `fail_undo=[key, ...]`: these steps cannot be reverted.
        `descriptors`: no more of them may be open at once (`ulimit -n`).
        `limit`: a number of the resource module's, and its value.
        `environment`: variables that it has besides ours.
        `kill_in`: it is killed in the middle of a step: while it is `copying` a saved memory,
        or when libvirt was told to begin (`restoring`); or when a VM has been `undefined`.
        `streams`: stdout and stderr are `closed`, a `pipe` without a reader, or `full`.
        `patience_s` and `shutdown_s` are how long it waits for libvirt and for a guest's end; with
        `agents=False` no agent ever comes.
        """
        return self.begin(*words, name=name, **order)()

    def begin(self, *words: str, name: str = "hpc", **order: object) -> Callable[[], Ended]:
        """Begin a verb and return at once; what is returned waits for its end.

        `on_pid` (keyword) is called with the pid of the process.
        """
        on_pid = order.pop("on_pid", None)
        pids, ended = self._begin([{"argv": self.argv(*words, name=name), **order}])
        if callable(on_pid):
            on_pid(pids[0])
        return lambda: ended()[0]

    def crowd(self, *calls: Sequence[str], names: Sequence[str] = ()) -> list[Ended]:
        """Run all these verbs at the same time, each for the cluster at its place in `names`."""
        named = zip(calls, names or ["hpc"] * len(calls), strict=True)
        return self._begin([{"argv": self.argv(*words, name=name)} for words, name in named])[1]()

    def argv(self, *words: str, name: str = "hpc") -> list[str]:
        return ["--state-dir", str(self.state), "-c", str(self.file(name)), *words]

    def _begin(self, orders: Sequence[Order]) -> tuple[list[int], Callable[[], list[Ended]]]:
        zygote = self._zygotes.pop() if self._zygotes else self._start_zygote()
        json.dump(orders, zygote.stdin)
        zygote.stdin.write("\n")
        zygote.stdin.flush()
        pids = json.loads(zygote.stdout.readline())
        self._busy[zygote] = pids

        def ended() -> list[Ended]:
            every = json.loads(zygote.stdout.readline())
            self._zygotes.append(zygote)
            del self._busy[zygote]
            for told in every:
                told["boundaries"] = tuple((moment, key) for moment, key in told["boundaries"])
            return [Ended(**told) for told in every]

        return pids, ended

    def close(self) -> None:
        self.end_all()
        for zygote in self._zygotes:
            zygote.stdin.close()
            zygote.stdout.close()
            zygote.wait()
        self._zygotes.clear()

    def end_all(self) -> None:
        """Kill the verbs whose end nobody has waited for, as the test that began them failed."""
        for zygote, pids in self._busy.items():
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            zygote.stdout.readline()
            self._zygotes.append(zygote)
        self._busy.clear()

    def _start_zygote(self) -> subprocess.Popen[str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("AI_HOW_", "XDG_"))}
        env = {
            **kept,
            "XDG_DATA_HOME": str(self.root / "data"),
            "XDG_CACHE_HOME": str(self.root / "cache"),
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        argv = self.program()
        pipe = subprocess.PIPE
        zygote = subprocess.Popen(  # noqa: S603
            argv, stdin=pipe, stdout=pipe, text=True, env=env
        )
        self.zygote_pids.add(zygote.pid)
        return zygote


def steps(home: TinyHome) -> list[str]:
    """What a start of the cluster does, by the keys of its steps."""
    done = home.call("--json", "hpc", "start")
    assert done.code == 0, done.said
    return [step["key"] for step in json.loads(done.out)["steps"]]


def state_of(home: TinyHome) -> ClusterState:
    """What is remembered of the cluster, which must be something."""
    state = read_state(home.paths("hpc"))
    assert state is not None
    return state


@contextmanager
def opened(home: TinyHome) -> Iterator[TinyHome]:
    """Prepare it, and end its processes afterwards; the host is the caller's to end."""
    try:
        home.prepare()
        yield home
    finally:
        home.close()


def serve(
    root: Path,
    made_up: type[TinyClient] = TinyClient,
    step_types: Mapping[str, type[Step]] = STEP_TYPES,
) -> None:
    """The process that forks: reads an order a line, says the child's pid, and how it ended.

    `made_up` says what the guests' agents say, and `step_types` are those of the kind of cluster.
    """
    # Loaded once here, not once in each child.
    from ai_how.cli import host, hpc, image  # noqa: F401, PLC0415
    from ai_how.clusters import plan_runner, start  # noqa: F401, PLC0415
    from ai_how.vm_management.saved_machines import saving  # noqa: F401, PLC0415

    for number, line in enumerate(sys.stdin):
        scratches = {}
        begun_at = time.monotonic()
        for place, order in enumerate(json.loads(line)):
            scratch = root / f".order-{os.getpid()}-{number}-{place}"
            child = os.fork()
            if child == 0:
                _obey(order, scratch, made_up, step_types)
            scratches[child] = scratch
        _answer(list(scratches))
        ended = {}
        while len(ended) < len(scratches):
            pid, status = os.wait()
            ended[pid] = (os.waitstatus_to_exitcode(status), time.monotonic() - begun_at)
        _answer([_told(scratch, *ended[pid]) for pid, scratch in scratches.items()])


def _answer(what: object) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def _told(scratch: Path, code: int, took_s: float) -> dict[str, object]:
    """How a child ended, from the files that it wrote."""
    told: dict[str, object] = {"code": code, "took_s": took_s}
    for name in ("out", "err", "boundaries"):
        file = scratch.with_name(f"{scratch.name}.{name}")
        text = file.read_text(errors="replace")
        told[name] = [json.loads(one) for one in text.splitlines()] if name[0] == "b" else text
        file.unlink()
    return told


def _obey(
    order: Order, scratch: Path, made_up: type[TinyClient], step_types: Mapping[str, type[Step]]
) -> None:
    """In the child: run the verb, and end."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    out, err, met = (
        os.open(scratch.with_name(f"{scratch.name}.{name}"), flags, 0o600)
        for name in ("out", "err", "boundaries")
    )
    os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
    _open_streams(out, err, order.get("streams"))
    client = made_up if order.get("agents", True) else LibvirtClient
    client = partial(client, patience_s=order.get("patience_s", PATIENCE_S))
    for module in (cluster_access, known_cluster, cleanup, save_machines):
        module.LibvirtClient = client
    # What is saved in the background would speak to agents that are not there.
    save_machines.start_detached = lambda *_words, **_streams: None
    _kill_in(order.get("kill_in"))
    if "shutdown_s" in order:
        timeouts = Timeouts(shutdown_s=order["shutdown_s"])
        hpc_manager.HpcManager = partial(hpc_manager.HpcManager, timeouts=timeouts)
    os.environ.update(order.get("environment", {}))
    if limit := order.get("descriptors"):
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    if "limit" in order:
        number, value = order["limit"]
        resource.setrlimit(number, (value, resource.getrlimit(number)[1]))
    _break_steps(order, step_types)
    at_any = {tuple(pair) for pair in order.get("at_any", ())}
    passed, has_acted = 0, False

    def on_boundary(moment: str, key: str) -> None:
        nonlocal passed, has_acted
        os.write(met, (json.dumps([moment, key]) + "\n").encode())
        if passed == order.get("at") or ((moment, key) in at_any and not has_acted):
            has_acted = True
            _act(str(order["act"]), order.get("signals", ()))
        passed += 1

    journal._ignore_boundary = on_boundary
    code = ai_how(list(order["argv"]))
    if sys.stdout is not None:
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _open_streams(out: int, err: int, how: object) -> None:
    """Have stdout and stderr in these files, or spoiled as the order says."""
    if how == "closed":
        sys.stdout = sys.stderr = None
        os.closerange(1, 3)
        return
    if how == "pipe":
        reader, out = os.pipe()
        err = out
        os.close(reader)
    elif how == "full":
        out = err = os.open("/dev/full", os.O_WRONLY)
    os.dup2(out, 1)
    os.dup2(err, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")


def _kill_in(moment: object) -> None:
    def die(*_values: object, **_names: object) -> NoReturn:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError

    if moment == "copying":
        honest = save_file.copy_range

        def copy_half(
            source: IO[bytes], target: IO[bytes], begin: int, end: int, *, target_at: int
        ) -> None:
            honest(source, target, begin, (begin + end) // 2, target_at=target_at)
            die()

        save_file.copy_range = copy_half
    elif moment == "restoring":
        begin = TinyClient.restore_domain

        def restore(self: TinyClient, *values: object, **names: object) -> None:
            threading.Timer(0.1, die).start()
            begin(self, *values, **names)

        TinyClient.restore_domain = restore
    elif moment == "undefined":
        undefine = TinyClient.undefine_domain

        def undefine_last(self: TinyClient, *values: object, **names: object) -> None:
            undefine(self, *values, **names)
            die()

        TinyClient.undefine_domain = undefine_last


def _break_steps(order: Order, step_types: Mapping[str, type[Step]]) -> None:
    """Have steps fail as the order says."""
    failing, hanging = order.get("fail", {}), order.get("hang", {})
    wanted = ("fail", "hang", "fail_undo")
    for kind in step_types.values() if any(word in order for word in wanted) else ():

        def apply(
            step: Step, context: PlanContext, *, honest: Callable[..., Applied] = kind.apply
        ) -> Applied:
            time.sleep(hanging.get(step.key, 0))
            moment, error = failing.get(step.key, (None, ""))
            if error == "bad-mac":
                return honest(replace(step, xml=step.xml.replace("52:54:", "zz:54:")), context)
            if error == "no-disk":
                _disk_of(step, context).unlink()
                return honest(step, context)
            applied = honest(step, context) if moment != "before" else None
            if moment is not None:
                _fail(error, step.key)
            return applied

        def revert(
            step: Step, context: PlanContext, *, honest: Callable[..., None] = kind.revert
        ) -> None:
            if step.key in order.get("fail_undo", ()):
                _fail("OSError", step.key)
            honest(step, context)

        kind.apply, kind.revert = apply, revert


def _disk_of(step: StartDomain, context: PlanContext) -> Path:
    node = step.domain.removeprefix(f"{context.paths.name}-")
    return context.disks.storage.disk(context.paths.name, node)


def _fail(error: str, where: str) -> NoReturn:
    if error == "RecursionError":
        _fail(error, where)
    raise getattr(builtins, error)(f"made by a test at {where}")


def _act(act: str, others: Iterable[tuple[int, int]]) -> None:
    if act == "raise":
        raise MemoryError("made by a test")
    if act == "signal":
        for pid, number in others:
            os.kill(pid, number)
        return
    signals = {"kill": "SIGKILL", "stop": "SIGSTOP", "term": "SIGTERM", "hup": "SIGHUP"}
    for number, word in enumerate(act.split("-")):
        if number:
            # Counted from when the first was heard, which a busy machine puts off.
            time.sleep(interrupts.SAME_INTERRUPT_S * 5)
        os.kill(os.getpid(), getattr(signal, signals.get(word, "SIGINT")))


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
