"""The process that watches one cluster: it records each round, and answers its readers.

Which rounds, the program of a kind of cluster says (`ClusterKind.collector`). Standard input is a
socket to whoever started it; "ok" is sent by it as soon as readers are answered.
"""

import json
import os
import resource
import signal
import socket
import stat
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ai_how import __version__
from ai_how.clusters.collecting import READY, hold_place, is_in_place, read_end
from ai_how.errors import AiHowError, HostError
from ai_how.limits import start_thread
from ai_how.monitoring.answers import Answers
from ai_how.monitoring.memory import give_back_memory, memory_mib, spare_memory
from ai_how.monitoring.model import Event, Snapshot, SourceState
from ai_how.monitoring.recording import Recorder
from ai_how.monitoring.records import write_snapshot
from ai_how.monitoring.server import Server
from ai_how.monitoring.store import size_of
from ai_how.monitoring.store_watch import StoreWatch
from ai_how.state.paths import ClusterPaths, Roots, default_roots

LINGER_S = 300.0
LOOK_S = 1.0
AGAIN_S = 10.0
END_S = 3.0
LARGEST_LOG = 256 << 10
TRIM_EVERY = 60
COLLECTOR = "collector"

Rounds = Callable[[threading.Event], Iterator[Snapshot]]
"""Each new snapshot, until the event is set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What a collector was started for; see `clusters.collecting.Order`."""

    roots: Roots
    name: str
    stays: bool
    keep_days: int
    begun_by: str = ""
    linger_s: float = LINGER_S

    @property
    def paths(self) -> ClusterPaths:
        return self.roots.cluster(self.name)


def main(new_rounds: Callable[[Task], Rounds], *, linger_s: float = LINGER_S) -> None:
    """Watch the cluster that the command line names."""
    state, name, stays, keep_days, begun_by = sys.argv[1:]
    task = Task(
        roots=default_roots(Path(state)),
        name=name,
        stays=stays == "stay",
        keep_days=int(keep_days),
        begun_by=begun_by,
        linger_s=linger_s,
    )
    os.umask(0o077)
    spare_memory()
    try:
        service = Service(task, new_rounds(task))
    except (AiHowError, OSError) as error:
        os.write(sys.stderr.fileno(), f"{error}\n".encode())
        sys.exit(error.exit_code if isinstance(error, AiHowError) else HostError.exit_code)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: service.end())
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    _tell_ready()
    service.run()
    # A thread may still wait for a libvirt that hangs, and must not hold up the end.
    os._exit(0)


class Service:
    """A collector in this process. Raises HostError if the cluster has one already, or is none."""

    def __init__(self, task: Task, rounds: Rounds) -> None:
        self._task = task
        self._paths = task.paths
        self._rounds = rounds
        if not self._paths.state.exists():
            raise HostError(f"there is no cluster {task.name}")
        self._since = time.time()
        self._place = hold_place(self._paths, self._since)
        self._over = threading.Event()
        self._stop_rounds = threading.Event()
        self._recorder = Recorder(self._paths.history, keep_days=task.keep_days)
        self._store_watch = StoreWatch(self._paths.history)
        self._answers = Answers(self._recorder, self._paths.history)
        self._newest: tuple[float, bytes] | None = None
        self._sources: tuple[SourceState, ...] = ()
        self._stays = task.stays
        self._is_up = True
        self._count = 0
        self._server = Server(self._paths.collector_socket, self._answer)

    def end(self) -> None:
        """Have `run` return; for signal handlers, too."""
        self._over.set()

    def run(self) -> None:
        """Watch until the cluster is gone, `end` is called, or nobody has asked for a while."""
        begun_by = self._task.begun_by or COLLECTOR
        self._note(begun_by, f"{self._task.name} is started" if self._task.begun_by else "begins")
        collecting = start_thread(self._collect, name="rounds")
        while not self._over.wait(LOOK_S) and is_in_place(self._paths, self._place):
            self._bound_log()
            if self._server.idle_s > self._task.linger_s and not (self._stays and self._is_up):
                break
        why = read_end(self._paths) if self._over.is_set() else ""
        why = "" if why == "off" else why
        self._note(why or COLLECTOR, f"{why} of {self._task.name}" if why else "ends")
        self._stop_rounds.set()
        collecting.join(END_S)
        self._server.close()
        if is_in_place(self._paths, self._place):
            self._paths.collector_socket.unlink(missing_ok=True)
        os.close(self._place)

    def _collect(self) -> None:
        """Take each round; a failure of ours is shown and must not end the process."""
        while not self._stop_rounds.is_set():
            try:
                for seen in self._rounds(self._stop_rounds):
                    self._take(seen)
                    if self._stop_rounds.is_set():
                        break
                else:
                    self._stop_rounds.wait(LOOK_S)
            except Exception as error:  # noqa: BLE001  whatever it was, the readers are told
                traceback.print_exc()
                self._fail(f"{type(error).__name__}: {error}"[:300])
                self._stop_rounds.wait(AGAIN_S)
        self._recorder.close()

    def _take(self, seen: Snapshot) -> None:
        seen = self._recorder.take(self._store_watch.judge(seen, self._recorder.source))
        self._sources, self._is_up = seen.sources, seen.is_up
        line = write_snapshot(seen)
        self._newest = (time.monotonic(), line)
        self._server.publish(b'{"snapshot": %b}\n' % line)
        if self._count % TRIM_EVERY == 1:
            give_back_memory()
        self._count += 1

    def _fail(self, trouble: str) -> None:
        self._note("gap", trouble)
        own = SourceState(name=COLLECTOR, every_s=AGAIN_S, trouble=trouble)
        self._sources = (*(one for one in self._sources if one.name != COLLECTOR), own)

    def _answer(self, asked: dict[str, Any]) -> bytes:
        match asked["ask"]:
            case "snapshot":
                if self._newest is None:
                    return b'{"age_s": null, "snapshot": null}'
                at, line = self._newest
                return b'{"age_s": %.3f, "snapshot": %b}' % (time.monotonic() - at, line)
            case "status":
                return json.dumps({"status": self._status()}).encode()
            case "settings":
                self._stays = bool(asked["stays"])
                self._recorder.keep_days = max(1, int(asked["keep_days"]))
                return b'{"done": true}'
        if (answer := self._answers.answer(asked)) is None:
            raise ValueError("unknown question")
        return answer

    def _status(self) -> dict[str, Any]:
        used = resource.getrusage(resource.RUSAGE_SELF)
        now = time.time()
        memory, own_memory = memory_mib()
        return {
            "pid": os.getpid(),
            "since": self._since,
            "version": __version__,
            "stays": self._stays,
            "keep_days": self._recorder.keep_days,
            "readers": self._server.readers,
            "cpu_s": round(used.ru_utime + used.ru_stime, 3),
            "memory_mib": memory,
            "own_memory_mib": own_memory,
            "history_bytes": size_of(self._paths.history),
            "newest_age_s": self._newest and round(time.monotonic() - self._newest[0], 3),
            "sources": [
                {
                    "name": one.name,
                    "every_s": one.every_s,
                    "age_s": None if one.at is None else round(max(0.0, now - one.at), 1),
                    "took_s": one.took_s,
                    "trouble": one.trouble,
                }
                for one in self._sources
            ],
        }

    def _note(self, kind: str, text: str) -> None:
        if kind == COLLECTOR:
            text = f"watching {self._task.name} {text}"
        self._recorder.note(Event(at=time.time(), kind=kind, subject=self._task.name, text=text))

    def _bound_log(self) -> None:
        with suppress(OSError):
            log = os.fstat(sys.stderr.fileno())
            if stat.S_ISREG(log.st_mode) and log.st_size > LARGEST_LOG:
                os.ftruncate(sys.stderr.fileno(), 0)


def _tell_ready() -> None:
    with suppress(OSError), socket.socket(fileno=os.dup(0)) as line:
        line.send(READY)
        line.shutdown(socket.SHUT_RDWR)
    with suppress(OSError):
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
