"""What must hold of a cluster after each fault, whatever it was, checked by one function.

I1 nothing is leaked, I2 nothing foreign is touched (the gate in leaks.py), I3 the same command
again ends where a clean run ends, I4 what is said is clear, I5 the state is sound, I6 destroy
leaves nothing, I7 all of it ends, I8 the user's data is kept.
"""

import hashlib
import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar
from uuid import UUID

from ai_how.process import run
from ai_how.state.cluster_state import read_state
from ai_how.state.models import ClusterState
from leaks import (
    Lines,
    files,
    look_at_objects,
    pid_namespace,
    process_name,
    settled,
    steady,
)
from tiny_cluster import Ended, TinyHome

START = ("hpc", "start")
STOP = ("hpc", "stop")
DESTROY = ("hpc", "destroy", "--force")
STATUS = ("--json", "hpc", "status")
SUSPEND = ("hpc", "stop", "--suspend")
WORDS = {
    "start": START,
    "stop": STOP,
    "suspend": SUSPEND,
    "destroy": DESTROY,
    "status": STATUS,
}
ENDS = {"start": "on", "stop": "off", "suspend": "suspended", "destroy": "absent"}

# What a verb may end with; 1 is a bug.
FAILURES = {2, 3, 4, 5, 6, 130}
WITH_HINT = {2, 3, 6}
# Only a verb that hangs takes as long: the longest of these takes two seconds.
BOUND_S = 240.0
PATTERN = "-P 0x5a 512k 64k"


def look(home: TinyHome) -> Lines:
    """All that there is of a home: its host, its files, its processes."""
    host = home.host
    kept = [home.state / ".embedded" / "storage", home.roots.data, home.roots.cache]
    tops = [path for path in home.state.iterdir() if path.name not in {".embedded", home.root.name}]
    paths = [*tops, *home.root.glob(".order-*")]
    paths += [Path(path) for top in [*kept, *tops] for path in files(top)]
    mine = [f"process: {name}" for name in sorted(_processes_of(home))]
    return look_at_objects(host) | frozenset([f"file: {path}" for path in paths] + mine)


def _processes_of(home: TinyHome) -> list[str]:
    """What runs outside the embedded host and names our state; the zygotes do not count."""
    supervisor = home.host.find_supervisor()
    inside = pid_namespace(supervisor.pid) if supervisor else None
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        pid = int(entry.name)
        with suppress(OSError):
            words = (entry / "cmdline").read_bytes()
            if bytes(home.state) in words and pid_namespace(pid) != inside:
                name = process_name(pid)
                found += [name] if name and pid not in home.zygote_pids else []
    return [f"{name} ({place})" for place, name in enumerate(sorted(found))]


def shape_of(lines: Lines, state: ClusterState | None) -> Lines:
    """The same without what differs from one cluster of a name to the next."""
    text = "\n".join(sorted(lines))
    if state:
        for node in state.nodes:
            text = text.replace(str(node.uuid), node.name)
        text = text.replace(state.network.bridge, "BRIDGE")
    text = re.sub(r"domain-\d+-", "domain-N-", text)
    kept = [
        line
        for line in text.splitlines()
        if not re.search(
            r"/backups/\d+\.json|/evidence(/|$)|link inside: vnet|/cluster\.yaml$", line
        )
    ]
    taps = len(re.findall("link inside: vnet", text))
    return frozenset([*kept, f"{taps} taps"])


def check_told(ended: Ended, codes: Collection[int] = (0, *FAILURES)) -> None:
    """I4 and I7: a documented end, in time; a failure with its cause, and no traceback."""
    said = ended.said
    assert "Traceback" not in ended.out + ended.err, said
    assert ended.took_s < BOUND_S, said
    if ended.code < 0:
        return
    assert ended.code in codes, said
    if ended.code and not ended.out.startswith("{"):
        assert re.search(r"^error: .", ended.err, re.MULTILINE), said
        if ended.code in WITH_HINT:
            assert re.search(r"^hint: .", ended.err, re.MULTILINE), said


@dataclass
class Watched:
    """One cluster of a home, with looks at its clean states to compare with.

    `now` is what there is of it: `absent`, `on`, `off`, `suspended`, or `undone` after a first
    start that was.
    """

    words: ClassVar[Mapping[str, Sequence[str]]] = WORDS
    ends: ClassVar[Mapping[str, str]] = ENDS
    """What there is after each verb."""
    home: TinyHome
    name: str = "hpc"
    now: str = "absent"
    clean: dict[str, Lines] = field(default_factory=dict)
    boundaries: dict[str, tuple[tuple[str, str], ...]] = field(default_factory=dict)
    _serials: dict[UUID, int] = field(default_factory=dict)
    _disks: dict[Path, str] = field(default_factory=dict)

    def learn(self) -> "Watched":
        """See a clean life of the cluster once: what there is, and the records of each verb."""
        self.call("start", codes={0})
        self.call("destroy", codes={0})
        self.clean["absent"] = steady(lambda: look(self.home))
        return self._live(
            ("start", "start", "on"),
            ("stop", "stop", "off"),
            ("restart", "start", "on"),
            ("destroy", "destroy", "absent"),
        )

    def learn_suspending(self) -> "Watched":
        """See that its memory is saved and goes on, once."""
        return self._live(
            ("start", "start", "on"),
            ("suspend", "suspend", "suspended"),
            ("resume", "start", "on"),
            ("destroy", "destroy", "absent"),
        )

    def _live(self, *life: tuple[str, str, str]) -> "Watched":
        for what, verb, then in life:
            self.boundaries[what] = self.call(verb, codes={0}).boundaries
            if then not in self.clean:
                self.clean[then] = steady(self._shape)
            self._became(then)
            self._compare(then)
        return self

    def call(self, verb: str, *, codes: Collection[int] = (0, *FAILURES), **order: object) -> Ended:
        """Run a verb to its end; whatever that is, it is told as it should be."""
        ended = self.home.call(*self.words[verb], name=self.name, **order)
        if "streams" not in order:
            check_told(ended, codes)
        return ended

    def have(self, what: str, *, with_data: bool = False) -> None:
        """Have the cluster `absent`, `on` or `off`; with data of the user's on its disks."""
        if with_data and not self._disks:
            self._have("off")
            self.write_data()
        self._have(what)
        self._compare(what)

    def _have(self, what: str) -> None:
        verbs = {
            "absent": ["destroy"],
            "on": ["start"],
            "off": ["stop"],
            "suspended": ["suspend"],
        }[what]
        if what == "suspended" and self.now != "on":
            verbs = ["start", *verbs]
        if what == "off" and self.now in {"absent", "undone"}:
            verbs = ["start", *verbs]
        for verb in verbs if self.now != what else ():
            self.call(verb, codes={0})
        self._became(what)

    def write_data(self) -> None:
        """Write a pattern on a disk of the cluster, which is off, and remember every disk."""
        nodes = self._state().nodes
        run(["qemu-io", "-f", "qcow2", "-c", f"write {PATTERN}", nodes[-1].disk])
        self._disks = {node.disk: _digest(node.disk) for node in nodes}

    def check(self, fault: Ended, then: str, *, codes: Collection[int] = (0, *FAILURES)) -> None:
        """All invariants, after a verb that ended by some fault; `then` is the verb to recover.

        `status` looks first, and a start follows. A start, first or of a cluster that is off, may
        have been undone or not; of a stop and a destroy, all that was asked for is done.
        """
        check_told(fault, codes)
        self._check_state()
        if then == "status":
            before = self._files()
            self.call("status")
            assert self._files() == before, "status wrote something"
            then = "start"
        was = self.now
        if then == "stop" and was in {"absent", "undone"}:
            # Of a first start that was cut short nothing is left but keys; or it is off.
            self.call("stop", codes={0})
            there = read_state(self.home.paths(self.name))
            self.settled("undone" if there is None else "off")
            return
        self.call(then, codes={0})
        self._became(self.ends[then])
        self._compare(self.now)
        if self.now == "on":
            again = self.call("start", codes={0})
            assert again.boundaries == (), f"a third run did {again.boundaries}"
            self._compare("on")
            # A start that was killed at its very end kept no copy; the next one does.
            assert self.home.paths(self.name).spec.exists()
            self._check_status()

    def clear(self) -> None:
        """Have nothing of it, whatever there was."""
        self.call("destroy", codes={0})
        self._became("absent")

    def settled(self, what: str) -> None:
        """The cluster is `what` now, by whatever way, and just as after a clean run."""
        self._became(what)
        self._compare(what)

    def check_data(self) -> None:
        """I8, byte by byte."""
        assert self._disks
        for disk, digest in self._disks.items():
            assert _digest(disk) == digest, f"{disk} has changed"

    def _became(self, what: str) -> None:
        self.now = what
        if what in {"absent", "undone"}:
            self._disks = {}

    def _compare(self, what: str) -> None:
        """I1, I3, I6: what there is is what there is after a clean run; and I5, I8."""
        self._check_state()
        if what == "undone":
            self._check_nothing_is_made()
        elif what == "absent":
            self._expect(self.clean[what], lambda: look(self.home))
        else:
            self._expect(self.clean[what], self._shape)
        if self._disks:
            self.check_data()

    def _check_nothing_is_made(self) -> None:
        """As if it had never been, but for what is kept until a destroy: its keys and its image."""
        top = f"file: {self.home.paths(self.name).root}"
        bases = f"file: {self.home.state / '.embedded/storage/bases'}/"

        def rest(lines: Lines) -> Lines:
            return frozenset(line for line in lines if not line.startswith((top, bases)))

        self._expect(rest(self.clean["absent"]), lambda: rest(look(self.home)))

    def _expect(self, wanted: Lines, seen: Callable[[], Lines]) -> None:
        left = settled(wanted, seen)
        assert left == "", f"not as after a clean run:\n{left}"

    def _check_state(self) -> None:
        """I5: it can be read, and its serial does not go back."""
        state = read_state(self.home.paths(self.name))
        if state is not None:
            last = self._serials.get(state.lineage, 0)
            assert state.serial >= last
            self._serials[state.lineage] = state.serial

    def _check_status(self) -> None:
        """I5: what is said of the cluster is what libvirt says."""
        told = json.loads(self.call("status", codes={0}).out)
        with self.home.client() as client:
            seen = {one.uuid: str(one.state) for one in client.list_domains()}
        states = {node["name"]: node["state"] for node in told["nodes"]}
        assert states == {node.name: seen[node.uuid] for node in self._state().nodes}

    def _files(self) -> dict[str, str]:
        """What is remembered, and the disks: with all their content."""
        tops = [self.home.paths(self.name).root, self.home.state / ".embedded" / "storage"]
        every = [Path(path) for top in tops for path in files(top)]
        # What a VM says on its serial line is written by libvirt's daemons at any time.
        consoles = self.home.paths(self.name).console
        return {
            str(path): _digest(path)
            for path in every
            if path.is_file() and path.name != "lock" and path.parent != consoles
        }

    def _shape(self) -> Lines:
        return shape_of(look(self.home), read_state(self.home.paths(self.name)))

    def _state(self) -> ClusterState:
        state = read_state(self.home.paths(self.name))
        assert state is not None
        return state


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
