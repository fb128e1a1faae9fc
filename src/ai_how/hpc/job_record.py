"""What SLURM says of one job, of the nodes and of the jobs that run, as text to be parsed (pure).

The text of scontrol(1) is the same from SLURM 22.05 on, unlike its JSON. Names in it are the
user's: they are cut to one line.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ai_how.guest.serial_log import one_line
from ai_how.hpc.hostlist import expand

# `sh -c ASK_JOB sh JOB`: a number of a job, as squeue shows it.
ASK_JOB = 'export SLURM_TIME_FORMAT=%s; exec timeout 20 scontrol show job "$1" 2>&1'
_RUNNING = "NumCPUs:10|,EndTime:24|,UserName:40|,JobArrayID:40|,NodeList:400|,Name:80"
ASK_QUEUE = f"""\
export SLURM_TIME_FORMAT=%s
echo '== nodes'; timeout 20 scontrol -o show node 2>&1
echo '== partitions'; timeout 20 scontrol -o show partition 2>&1
echo '== running'; timeout 20 squeue -h -t R,S,CF,CG,ST -O '{_RUNNING}' 2>&1
"""

# The value of these is the rest of the line, whatever is in it.
_WHOLE = frozenset(
    {"Command", "WorkDir", "StdErr", "StdIn", "StdOut", "Comment", "AdminComment", "SystemComment"}
)
_FIRST = re.compile(
    r"^JobId=(?P<id>\d+)(?: ArrayJobId=(?P<array>\d+))?(?: ArrayTaskId=(?P<task>\S+))?"
    r".*? JobName=(?P<name>.*)$"
)
_UNKNOWN = ("", "Unknown", "N/A", "None", "(null)", "0")
_SAFE = re.compile(r"[A-Za-z0-9][\w.-]{0,63}")
_WORKING = frozenset({"IDLE", "MIXED", "ALLOCATED", "COMPLETING", "PLANNED", "RESERVED"})
MIB_OF = {"": 1, "K": 1 / 1024, "M": 1, "G": 1024, "T": 1024**2, "P": 1024**3}
"""Of the units of memory that SLURM prints."""


@dataclass(frozen=True, slots=True)
class JobRecord:
    """A job as scontrol(1) shows it; what it does not say is empty."""

    id: str
    array: str
    task: str
    """The number of the array's task, or a list of them: `3`, `4-9%2`."""
    name: str
    fields: Mapping[str, str]

    @property
    def shown_id(self) -> str:
        return f"{self.array}_{self.task}" if self.array and self.task.isdecimal() else self.id

    @property
    def state(self) -> str:
        return self.get("JobState")

    @property
    def reason(self) -> str:
        return self.get("Reason")

    @property
    def user(self) -> str:
        return self.get("UserId").partition("(")[0]

    @property
    def partition(self) -> str:
        return self.get("Partition")

    @property
    def nodes(self) -> tuple[str, ...]:
        return nodes_of(self.get("NodeList"))

    @property
    def exit_code(self) -> tuple[int, int]:
        """The exit code of the script, and the signal that ended it."""
        code, _, number = self.get("ExitCode").partition(":")
        return _number(code) or 0, _number(number) or 0

    def get(self, name: str) -> str:
        """A field as one line; empty if there is none."""
        value = self.fields.get(name, "")
        return "" if value in {"(null)", "N/A"} else one_line(value)

    def time(self, name: str) -> float | None:
        """A field as Unix time; None if it is not known."""
        return read_time(self.fields.get(name, ""))

    def asked(self, what: str) -> str:
        """What it asks for of `cpu`, `mem` or `node`, in all: `2`, `449M`."""
        told = self.get("ReqTRES") or self.get("TRES")
        return dict(one.partition("=")[::2] for one in told.split(",")).get(what, "")


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRoom:
    """A node as SLURM has it, with what it has left."""

    name: str
    states: frozenset[str]
    partitions: tuple[str, ...]
    cpus: int
    cpus_free: int
    memory_mib: int
    memory_free_mib: int
    features: str
    reason: str

    @property
    def is_working(self) -> bool:
        """Whether it takes or runs jobs."""
        return self.states <= _WORKING and bool(self.states)


@dataclass(frozen=True, slots=True)
class RunningJob:
    """A job that has nodes."""

    id: str
    user: str
    name: str
    cpus: int | None
    ends_at: float | None
    """None if it may run for ever."""
    nodes: tuple[str, ...]


def read_jobs(text: str) -> list[JobRecord]:
    """Parse `scontrol show job`. Other lines are ignored."""
    found = []
    for block in re.split(r"\n[ \t]*\n", text):
        lines = [line.strip() for line in block.strip().splitlines()]
        head = _FIRST.match(lines[0]) if lines else None
        if head is None:
            continue
        fields: dict[str, str] = {}
        for line in lines[1:]:
            for key, value in _pairs(line):
                fields.setdefault(key, value)
        array, task = head["array"] or "", head["task"] or ""
        found.append(JobRecord(head["id"], array, one_line(task), one_line(head["name"]), fields))
    return found


def _pairs(line: str) -> Iterator[tuple[str, str]]:
    key, _, value = line.partition("=")
    if key in _WHOLE:
        yield key, value
        return
    for word in line.split():
        key, _, value = word.partition("=")
        yield key, value


def read_nodes(text: str) -> list[NodeRoom]:
    """Parse `scontrol -o show node`. Other lines are ignored."""
    found = []
    for line in text.splitlines():
        words = dict(word.partition("=")[::2] for word in line.partition(" Reason=")[0].split())
        if not (name := words.get("NodeName")):
            continue
        cpus = _number(words.get("CPUEfctv") or words.get("CPUTot")) or 0
        memory = _number(words.get("RealMemory")) or 0
        told = line.partition(" Reason=")[2]
        found.append(
            NodeRoom(
                name=one_line(name),
                states=_states(words.get("State", "")),
                partitions=tuple(words.get("Partitions", "").split(",")),
                cpus=cpus,
                cpus_free=max(0, cpus - (_number(words.get("CPUAlloc")) or 0)),
                memory_mib=memory,
                memory_free_mib=max(0, memory - (_number(words.get("AllocMem")) or 0)),
                features=words.get("AvailableFeatures", "").replace("(null)", ""),
                reason=one_line(re.split(r" \[| +[A-Z]\w+=", told)[0]),
            )
        )
    return found


def _states(text: str) -> frozenset[str]:
    """`DOWN*+DRAIN` is a node that does not respond."""
    words = {word for word in re.split(r"[+*]+", text) if word}
    return frozenset(words | ({"NOT_RESPONDING"} if "*" in text else set()))


def read_partition(text: str, name: str) -> Mapping[str, str]:
    """One partition of `scontrol -o show partition`; empty if it is not there."""
    for line in text.splitlines():
        words = dict(word.partition("=")[::2] for word in line.split())
        if words.get("PartitionName") == name:
            return words
    return {}


def read_running(text: str) -> list[RunningJob]:
    """Parse the jobs that have nodes. Other lines are ignored."""
    found = []
    for line in text.splitlines():
        words = [word.strip() for word in line.split("|", _RUNNING.count("|"))]
        if len(words) != _RUNNING.count("|") + 1:
            continue
        cpus, ends, user, number, nodes, name = words
        found.append(
            RunningJob(
                one_line(number),
                one_line(user),
                one_line(name),
                _number(cpus),
                read_time(ends),
                nodes_of(nodes),
            )
        )
    return found


def nodes_of(text: str) -> tuple[str, ...]:
    """The nodes of a list of SLURM's, which says `(null)` for none."""
    return () if text == "(null)" else expand(text)


def read_time(text: str) -> float | None:
    """A time of SLURM's, as Unix time; None if it is not known."""
    return None if text in _UNKNOWN or not text.isdecimal() else float(text[:12])


def read_mib(text: str) -> int | None:
    """An amount of memory of SLURM's in MiB: `449M`, `1.50G`; None if it is none."""
    found = re.fullmatch(r"([0-9.]{1,12})([KMGT]?)", text)
    try:
        return round(float(found[1]) * MIB_OF[found[2]]) if found else None
    except ValueError:
        return None


def is_safe(word: str) -> bool:
    """Whether a word may be part of a command to paste."""
    return _SAFE.fullmatch(word) is not None


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdecimal() and len(text) < 16 else None  # noqa: PLR2004
