"""The columns of the two tables: what a cell shows, and by what its row is sorted (pure)."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Generic, TypeVar

from ai_how.monitoring.model import NodeSample, VmSample
from ai_how.top.plain import UNKNOWN, duration, figure, mib, part, percent, plain, size
from ai_how.top.rows import JobRow, NodeRow

Row = TypeVar("Row")
Order = float | str | tuple[int | float | str, ...] | None

_FULL = 0.9
_WASTED = 0.25
_WIDEST_NAME = 24


class Tone(Enum):
    """How a cell is shown. Each but `OLD` only stresses what its text says."""

    GOOD, WARN, BAD, DIM, OLD = range(5)


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell: harmless text, and its tone."""

    text: str
    tone: Tone | None = None


@dataclass(frozen=True, slots=True)
class Column(Generic[Row]):
    """A column. Rows whose `order` is None are last, in either direction."""

    key: str
    title: str
    cell: Callable[[Row], Cell]
    order: Callable[[Row], Order]
    width: int
    widest: int = 0
    """Of a column that grows with its texts; 0 if it does not."""
    is_right: bool = False
    is_largest_first: bool = False


def _number(
    key: str,
    title: str,
    cell: Callable[[Row], Cell],
    order: Callable[[Row], Order],
    width: int,
    widest: int = 0,
) -> Column[Row]:
    """A column of figures."""
    return Column(key, title, cell, order, width, widest, is_right=True, is_largest_first=True)


def old(cell: Cell, *, is_old: bool) -> Cell:
    """The cell, marked with a `?` if its source is silent."""
    return Cell(f"{cell.text}?", Tone.OLD) if is_old and cell.text != UNKNOWN else cell


def _vm(show: Callable[[VmSample], Cell]) -> Callable[[NodeRow], Cell]:
    """A cell of libvirt's figures."""

    def cell(row: NodeRow) -> Cell:
        vm = row.node.vm
        return old(show(vm), is_old=row.is_vm_old) if vm else Cell(UNKNOWN, Tone.DIM)

    return cell


def _state(vm: VmSample) -> Cell:
    text = plain(vm.state)
    return Cell(text, None if text == "running" else Tone.WARN)


def slurm_words(row: NodeRow) -> Cell:
    """The state of a node in SLURM: its base state, and what is added to it."""
    if row.node.slurm is None:
        return Cell(UNKNOWN, Tone.DIM)
    states = row.node.slurm.states
    words = plain("+".join(states), 40)
    if row.node.slurm.is_working:
        return old(Cell(words, Tone.GOOD), is_old=row.is_slurm_old)
    tone = Tone.WARN if row.node.slurm.is_drained else Tone.BAD
    return old(Cell(words, tone), is_old=row.is_slurm_old)


def _slurm_state(row: NodeRow) -> Cell:
    return Cell(f"{row.mark}…", Tone.WARN) if row.mark else slurm_words(row)


def _cpu(vm: VmSample) -> Cell:
    tone = Tone.WARN if vm.cpus_busy is not None and vm.cpus_busy > _FULL * vm.vcpus else None
    return Cell(part(figure(vm.cpus_busy), str(vm.vcpus)), tone)


def _memory(vm: VmSample) -> Cell:
    given = vm.guest_memory_mib or vm.memory_mib
    used = vm.guest_memory_used_mib
    tone = Tone.WARN if used is not None and used > _FULL * given else None
    return Cell(part(mib(used), mib(given)), tone)


def _pair(first: float | None, second: float | None) -> Cell:
    return Cell(part(size(first), size(second)))


def _sum(*parts: float | None) -> float | None:
    known = [one for one in parts if one is not None]
    return sum(known) if known else None


def _gpu(row: NodeRow) -> Cell:
    """How busy the GPUs are, as their driver says; else how many SLURM has given away."""
    busy = [one.busy_percent for one in row.gpus if one.busy_percent is not None]
    if busy:
        mean = sum(busy) / len(busy)
        text = f"{mean:.0f}%" if len(row.gpus) == 1 else f"{len(row.gpus)}x{mean:.0f}%"
        return old(Cell(text), is_old=row.is_guest_old)
    slurm = row.node.slurm
    if slurm is None or not slurm.gpus:
        return Cell(UNKNOWN, Tone.DIM)
    given, there = (sum(one.allotted for one in slurm.gpus), sum(one.count for one in slurm.gpus))
    return old(Cell(f"{given}/{there}"), is_old=row.is_slurm_old)


def _gpu_order(row: NodeRow) -> Order:
    busy = [one.busy_percent for one in row.gpus if one.busy_percent is not None]
    if busy:
        return sum(busy)
    return _sum(*(one.allotted for one in row.node.slurm.gpus)) if row.node.slurm else None


def _jobs(row: NodeRow) -> Cell:
    if row.node.slurm is None:
        return Cell(UNKNOWN, Tone.DIM)
    return old(Cell(str(len(row.jobs))), is_old=row.is_slurm_old)


def _which_jobs(row: NodeRow) -> Cell:
    """Which jobs run there; why none may, of a node that takes none."""
    shown = " ".join(plain(one.shown_id, 20) for one in row.jobs[:20])
    reason = row.node.slurm.reason if row.node.slurm and not row.node.slurm.is_working else None
    if reason:
        return Cell(plain(f"{shown} ({reason})" if shown else f"({reason})", 80), Tone.WARN)
    return Cell(shown)


def _of_vm(value: Callable[[VmSample], float | None]) -> Callable[[NodeRow], Order]:
    return lambda row: value(row.node.vm) if row.node.vm else None


def _name_order(node: NodeSample) -> Order:
    return (0 if node.role == "controller" else 1, node.name)


NODE_COLUMNS: tuple[Column[NodeRow], ...] = (
    Column(
        "node",
        "NODE",
        lambda row: Cell(plain(row.node.name, 64)),
        lambda row: _name_order(row.node),
        8,
        _WIDEST_NAME,
    ),
    Column("vm", "VM", _vm(_state), lambda row: row.node.vm.state if row.node.vm else None, 7, 12),
    Column(
        "slurm",
        "SLURM",
        _slurm_state,
        lambda row: row.node.slurm.states if row.node.slurm else None,
        6,
        16,
    ),
    _number("cpu", "CPU", _vm(_cpu), _of_vm(lambda vm: vm.cpus_busy), 7),
    _number("mem", "MEM", _vm(_memory), _of_vm(lambda vm: vm.guest_memory_used_mib), 9),
    _number(
        "disk",
        "DISK r/w",
        _vm(lambda vm: _pair(vm.disk_read_bytes_s, vm.disk_written_bytes_s)),
        _of_vm(lambda vm: _sum(vm.disk_read_bytes_s, vm.disk_written_bytes_s)),
        9,
    ),
    _number(
        "net",
        "NET r/s",
        _vm(lambda vm: _pair(vm.net_received_bytes_s, vm.net_sent_bytes_s)),
        _of_vm(lambda vm: _sum(vm.net_received_bytes_s, vm.net_sent_bytes_s)),
        9,
    ),
    _number("gpu", "GPU", _gpu, _gpu_order, 4, 7),
    _number("jobs", "JOBS", _jobs, lambda row: len(row.jobs) if row.node.slurm else None, 4),
    Column("which", "JOBS, REASON", _which_jobs, lambda row: _which_jobs(row).text or None, 12, 60),
    _number(
        "steal",
        "STEAL",
        _vm(lambda vm: Cell(figure(vm.cpus_waiting))),
        _of_vm(lambda vm: vm.cpus_waiting),
        5,
    ),
    _number(
        "qemu",
        "QEMU",
        _vm(lambda vm: Cell(mib(vm.qemu_memory_mib))),
        _of_vm(lambda vm: vm.qemu_memory_mib),
        5,
    ),
    _number(
        "space",
        "QCOW2",
        _vm(lambda vm: _pair(vm.disk_used_bytes, vm.disk_capacity_bytes)),
        _of_vm(lambda vm: vm.disk_used_bytes),
        9,
    ),
)

_STATE_ORDER = {"running": 0, "completing": 1, "suspended": 2, "configuring": 3, "pending": 4}
_SHORT = {"completed": Tone.DIM, "running": Tone.GOOD, "completing": Tone.GOOD, "pending": None}


def _job_state(row: JobRow) -> Cell:
    if row.mark:
        return Cell(f"{row.mark}…", Tone.WARN)
    word = plain(row.job.state, 20)
    tone = _SHORT.get(word, Tone.BAD if row.job.has_ended else Tone.WARN)
    return old(Cell(word, tone), is_old=row.is_old)


def _where(row: JobRow) -> Cell:
    """As squeue's NODELIST(REASON)."""
    job = row.job
    text = ",".join(job.nodes)
    if job.reason and job.reason != "None" and (not job.nodes or job.has_ended):
        text = f"{text} ({job.reason})" if text else f"({job.reason})"
    return Cell(plain(text, 80))


def _share(value: float | None, row: JobRow, *, warns_below: bool) -> Cell:
    if value is None:
        return Cell(UNKNOWN, Tone.DIM)
    tone = Tone.WARN if warns_below and value < _WASTED else None
    return old(Cell(percent(value), tone), is_old=row.is_old)


def _text(value: str | None) -> Cell:
    return Cell(plain(value, 64)) if value else Cell(UNKNOWN, Tone.DIM)


def _id_order(row: JobRow) -> Order:
    return int(row.job.id) if row.job.id.isascii() and row.job.id.isdecimal() else 0


def _by_state(row: JobRow) -> Order:
    """Those that run first, the newest of each state on top of it."""
    at = row.job.ended_at or row.job.started_at or row.job.submitted_at or 0.0
    return (_STATE_ORDER.get(row.job.state, 9), row.job.state, -at)


JOB_COLUMNS: tuple[Column[JobRow], ...] = (
    Column("job", "JOB", lambda row: Cell(plain(row.job.shown_id, 24)), _id_order, 4, 14),
    Column("user", "USER", lambda row: _text(row.job.user), lambda row: row.job.user, 4, 10),
    Column(
        "partition",
        "PART",
        lambda row: _text(row.job.partition),
        lambda row: row.job.partition,
        4,
        10,
    ),
    Column("state", "STATE", _job_state, _by_state, 7, 11),
    Column("where", "NODES (REASON)", _where, lambda row: _where(row).text or None, 14, 26),
    _number(
        "time",
        "TIME",
        lambda row: old(Cell(duration(row.elapsed_s)), is_old=row.is_old),
        lambda row: row.elapsed_s,
        7,
        11,
    ),
    _number(
        "limit",
        "LIMIT",
        lambda row: Cell(duration(row.job.limit_s)),
        lambda row: row.job.limit_s,
        7,
        11,
    ),
    _number(
        "cpu",
        "CPU%",
        lambda row: _share(row.cpu_share, row, warns_below=row.job.is_running),
        lambda row: row.cpu_share,
        5,
    ),
    _number(
        "mem",
        "MEM%",
        lambda row: _share(row.memory_share, row, warns_below=False),
        lambda row: row.memory_share,
        5,
    ),
    Column("name", "NAME", lambda row: _text(row.job.name), lambda row: row.job.name, 8, 40),
    _number(
        "cpus", "CPUS", lambda row: Cell(str(row.job.cpus or UNKNOWN)), lambda row: row.job.cpus, 4
    ),
    _number(
        "asked",
        "ASKED",
        lambda row: Cell(mib(row.job.memory_mib)),
        lambda row: row.job.memory_mib,
        5,
    ),
    _number(
        "peak",
        "PEAK",
        lambda row: Cell(mib(row.job.memory_peak_mib)),
        lambda row: row.job.memory_peak_mib,
        5,
    ),
)
