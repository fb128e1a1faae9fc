"""Test KVM by booting a guest: on some hosts /dev/kvm opens, but guests hang."""

import errno
import json
import os
import shlex
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from enum import Enum, auto
from pathlib import Path
from typing import Literal

from ai_how.errors import DeadlineError, HostError
from ai_how.host.boot_sector import MESSAGE, render_boot_disk
from ai_how.host.facts import PACKAGES, read_cpu, read_user_name, read_version
from ai_how.host.reading import read_text
from ai_how.process import find_tool, start_daemon
from ai_how.state.files import replaced_atomically
from ai_how.state.paths import ensure_private_directory
from ai_how.waiting import Deadline, wait_until

Accelerator = Literal["kvm", "tcg"]

QEMU = "qemu-system-x86_64"
KVM_DEVICE = Path("/dev/kvm")
BANNER = "Linux version"
KERNEL_LINE = "console=ttyS0 panic=-1 earlyprintk=serial"
KILL_S = 5


@dataclass(frozen=True, slots=True)
class KvmVerdict:
    """Whether guests run under KVM, the reason, and what the decision is based on."""

    works: bool
    why: str
    decided_by: str
    remedy: str | None = None


class Outcome(Enum):
    """The outcome of a test guest; RAN only if it printed the expected text."""

    RAN = auto()
    HUNG = auto()
    REFUSED = auto()  # QEMU ended by itself
    CRASHED = auto()  # QEMU died of a signal


@dataclass(frozen=True, slots=True)
class Trial:
    """The outcome of a test guest, and the last line that it printed."""

    outcome: Outcome
    last_line: str


def kvm_verdict(
    *,
    kernel: Path | None,
    cache: Path,
    deadline_s: float = 10,
    device: Path = KVM_DEVICE,
    boot: Path = Path("/boot"),
) -> KvmVerdict:
    """Decide whether KVM works by booting a guest; remembered until the next reboot.

    The guest is `kernel`, else the newest readable kernel of `boot`, else a boot sector. A verdict
    without a guest, or from a QEMU that refused, is not remembered: it is quickly found again, and
    can change (another hypervisor may hold the processor).
    """
    if refusal := _try_device(device):
        return refusal
    qemu = find_tool(QEMU)
    if qemu is None:
        return _no(f"{QEMU} is not installed", QEMU, f"sudo apt-get install {PACKAGES[QEMU]}")
    guest = _find_kernel([kernel] if kernel else boot.glob("vmlinuz-*"))
    key = _cache_key(qemu, guest, device)
    if known := _read_cache(cache, key):
        return known
    trial = boot_trial("kvm", qemu=qemu, kernel=guest, deadline_s=deadline_s)
    verdict = _judge(trial, f"booting {guest or 'a boot sector'}", device, cache)
    if trial.outcome is not Outcome.REFUSED:
        _write_cache(cache, key, verdict)
    return verdict


def choose_accelerator(
    *, enable_kvm: bool | None, verdict: KvmVerdict | None
) -> tuple[Accelerator, str | None]:
    """The accelerator, and one line of warning if it is not KVM although KVM could be used.

    `verdict` may be None only if KVM is not wanted.
    """
    if enable_kvm is False or verdict is None:
        return "tcg", None
    if verdict.works:
        return "kvm", None
    remedy = f"; to solve it: {verdict.remedy}" if verdict.remedy else ""
    why = verdict.why.rstrip(".")
    return "tcg", f"KVM is not used, guests are emulated and slow: {why}{remedy}"


def boot_trial(
    accelerator: Accelerator, *, qemu: Path, kernel: Path | None, deadline_s: float
) -> Trial:
    """Boot a guest without a disk, or the boot sector, until it writes to its serial line.

    QEMU is ended afterwards. It also dies with us, so a killed run leaves none behind.
    """
    with tempfile.TemporaryDirectory(prefix="ai-how-kvm-") as folder:
        disk, serial = Path(folder, "boot.img"), Path(folder, "serial.log")
        disk.write_bytes(render_boot_disk())
        expected = BANNER if kernel else MESSAGE
        guest = _kernel_arguments(kernel) if kernel else _disk_arguments(disk)
        child = start_daemon([*_dying_with_us(), *_machine(qemu, accelerator), *guest], log=serial)

        def look() -> Outcome | None:
            code = child.poll()  # polled first: the output of an ended QEMU is then complete
            if expected in serial.read_text(errors="replace"):
                return Outcome.RAN
            if code is None:
                return None
            return Outcome.CRASHED if code < 0 else Outcome.REFUSED

        try:
            deadline = Deadline.after(deadline_s)
            outcome = wait_until(look, deadline, "a trial guest", interval_s=0.05)
        except DeadlineError:
            outcome = Outcome.HUNG
        finally:
            child.kill()
            # A process that is stuck in KVM in the kernel does not even die of SIGKILL.
            with suppress(DeadlineError):
                wait_until(lambda: child.poll() is not None, Deadline.after(KILL_S), "QEMU's end")
        return Trial(outcome, _last_line(serial.read_text(errors="replace")))


def explain_refusal(error: OSError, device: Path) -> KvmVerdict:
    """Why a device cannot be opened, and the remedy."""
    cpu = read_cpu(Path("/"))
    if error.errno == errno.ENOENT and not (cpu and cpu.virtualization):
        why = f"{device} does not exist: the processor does not offer virtualization"
        remedy = "enable it in the firmware, or nested virtualization in the outer host"
    elif error.errno in (errno.ENOENT, errno.ENXIO, errno.ENODEV):
        why = f"{device} does not exist: the kernel module is not loaded"
        remedy = f"sudo modprobe {cpu.kvm_module if cpu else 'kvm'}"
    elif error.errno in (errno.EACCES, errno.EPERM):
        user = read_user_name()
        why = f"{user} has no access to {device}"
        remedy = f"sudo usermod -aG kvm {user}  # then log in again"
    else:
        why = f"{device} cannot be opened: {os.strerror(error.errno or 0)}"
        remedy = f"ls -l {shlex.quote(str(device))}"
    return _no(why, str(device), remedy)


def _try_device(device: Path) -> KvmVerdict | None:
    try:
        os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return explain_refusal(error, device)
    return None


def _judge(trial: Trial, decided_by: str, device: Path, cache: Path) -> KvmVerdict:
    said = trial.last_line or "it printed nothing"
    again = f"rm {shlex.quote(str(cache))}  # to try again"
    match trial.outcome:
        case Outcome.RAN:
            return KvmVerdict(works=True, why="a guest ran under it", decided_by=decided_by)
        case Outcome.HUNG:
            return _no(f"{device} can be opened, but a guest hangs under it", decided_by, again)
        case Outcome.CRASHED:
            return _no(f"{device} can be opened, but QEMU crashes: {said}", decided_by, again)
        case Outcome.REFUSED:
            return _no(f"QEMU refuses: {said}", decided_by, f"ls -l {shlex.quote(str(device))}")


def _no(why: str, decided_by: str, remedy: str) -> KvmVerdict:
    return KvmVerdict(works=False, why=why, decided_by=decided_by, remedy=remedy)


def _find_kernel(candidates: Iterable[Path]) -> Path | None:
    """The newest readable kernel; some systems let only root read theirs."""
    readable = [path for path in candidates if os.access(path, os.R_OK)]
    return max(readable, key=lambda path: path.stat().st_mtime_ns, default=None)


def _dying_with_us() -> Sequence[str | Path]:
    setpriv = find_tool("setpriv")
    return [setpriv, "--pdeathsig", "KILL"] if setpriv else []


def _machine(qemu: Path, accelerator: Accelerator) -> Sequence[str | Path]:
    options = "-machine q35 -cpu max -m 128 -nodefaults -no-reboot -display none -serial stdio"
    return [qemu, "-accel", accelerator, *options.split()]


def _kernel_arguments(kernel: Path) -> Sequence[str | Path]:
    return ["-kernel", kernel, "-append", KERNEL_LINE]


def _disk_arguments(disk: Path) -> Sequence[str | Path]:
    name = str(disk).replace(",", ",,")  # how QEMU wants a comma in a value
    return ["-drive", f"file={name},format=raw,if=ide"]


def _last_line(text: str) -> str:
    """The last line that is not empty, without terminal control characters."""
    lines = ["".join(filter(str.isprintable, line)).strip() for line in text.splitlines()]
    return next((line[:200] for line in reversed(lines) if line), "")


def _cache_key(qemu: Path, guest: Path | None, device: Path) -> dict[str, str]:
    """Everything that a verdict depends on: another boot, QEMU or kernel invalidates it."""
    return {
        "boot_id": read_text(Path("/proc/sys/kernel/random/boot_id")) or "",
        "release": os.uname().release,
        "qemu": f"{qemu} {read_version(qemu)} {_stamp(qemu)}",
        "guest": f"{guest} {_stamp(guest)}" if guest else "boot sector",
        "device": f"{device} {device.stat().st_rdev}",
    }


def _stamp(path: Path) -> str:
    seen = path.stat()
    return f"{seen.st_mtime_ns}/{seen.st_size}"


def _read_cache(cache: Path, key: dict[str, str]) -> KvmVerdict | None:
    """The cached verdict for exactly this key; a damaged file has none."""
    try:
        seen = json.loads(cache.read_text())
        if seen["key"] != key:
            return None
        return KvmVerdict(**seen["verdict"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write_cache(cache: Path, key: dict[str, str], verdict: KvmVerdict) -> None:
    """Cache a verdict in a private file; a failure to write is ignored."""
    with suppress(OSError, HostError):
        ensure_private_directory(cache.parent)
        with replaced_atomically(cache) as draft:
            draft.write_text(json.dumps({"key": key, "verdict": asdict(verdict)}))
