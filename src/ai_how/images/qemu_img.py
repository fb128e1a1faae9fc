"""The only caller of qemu-img: absolute paths, explicit formats, limits on time and memory.

Every file here was accepted by `qcow2_header` or written by ai-how.
"""

import json
import re
import resource
from collections.abc import Sequence
from pathlib import Path

from ai_how.errors import HostError, ImageError, ToolError
from ai_how.images.copying import Progress, full_disk
from ai_how.images.qcow2_header import Qcow2Header
from ai_how.limits import find_told_limit
from ai_how.process import Argument, Completed, dying_with_us, get_tool, run, run_lines

_MEMORY_BYTES = 2 << 30
_QUICK_S = 30
_CHECK_S = 300
_CONVERT_S = 3600
# The ratio of wall time to CPU time: a slow disk is not an attack.
_PATIENCE = 10
_LEAKED_CLUSTERS = 3
_PERCENT = re.compile(r"\((\d+\.\d+)/100%\)")


def check_image(path: Path, header: Qcow2Header) -> None:
    """Check a disk with an accepted header by QEMU. Raises ImageError if QEMU finds damage.

    Leaked clusters do not harm a guest, and are accepted.
    """
    seen = _qemu_img("info", "-f", "qcow2", "--output=json", path, cpu_s=_QUICK_S)
    if seen.returncode:
        raise ImageError(f"{path} cannot be opened by QEMU", details=seen.stderr.strip())
    info = json.loads(seen.stdout)
    if info["virtual-size"] != header.virtual_size_bytes or "full-backing-filename" in info:
        raise ImageError(f"{path} is refused: QEMU and ai-how read its header differently")
    checked = _qemu_img("check", "-f", "qcow2", "-q", path, cpu_s=_CHECK_S)
    if checked.returncode not in (0, _LEAKED_CLUSTERS):
        raise ImageError(
            f"{path} is damaged (qemu-img check: exit code {checked.returncode})",
            details=(checked.stderr or checked.stdout).strip()[-2000:] or None,
        )


def make_overlay(path: Path, *, base: Path, virtual_bytes: int) -> None:
    """Write an empty qcow2 on top of `base`; nothing is preallocated."""
    made = _qemu_img(
        *("create", "-q", "-f", "qcow2", "-b", base.absolute(), "-F", "qcow2", path),
        str(virtual_bytes),
        cpu_s=_QUICK_S,
    )
    if made.returncode:
        raise _failure(f"{path} cannot be created", path.parent, made.stderr)


def grow(path: Path, *, virtual_bytes: int) -> None:
    """Increase the virtual size of an unused disk; qemu-img itself refuses to shrink it."""
    done = _qemu_img("resize", "-q", "-f", "qcow2", path, str(virtual_bytes), cpu_s=_QUICK_S)
    if done.returncode:
        raise _failure(f"{path} cannot be resized", path.parent, done.stderr)


def name_backing(path: Path, *, base: Path) -> None:
    """Write another name of the backing file into an overlay; both files must have one content."""
    done = _qemu_img(
        *("rebase", "-q", "-u", "-f", "qcow2", "-b", base.absolute(), "-F", "qcow2", path),
        cpu_s=_QUICK_S,
    )
    if done.returncode:
        raise _failure(f"{path} cannot be changed", path.parent, done.stderr)


def convert(
    source: Path,
    target: Path,
    *,
    source_format: str,
    compress: bool = False,
    on_progress: Progress | None = None,
) -> None:
    """Write `source`, flattened, as a qcow2 to `target`."""
    said: list[str] = []

    def hear(line: str) -> None:
        if found := _PERCENT.search(line):
            if on_progress:
                on_progress(float(found[1]) / 100)
        elif line:
            said.append(line)

    options = ("-c",) if compress else ()
    words = ("convert", "-p", *options, "-f", source_format, "-O", "qcow2", source, target)
    try:
        run_lines(_limited(words, cpu_s=None if compress else _CONVERT_S), on_line=hear)
    except ToolError:
        raise _failure(f"{source} cannot be converted", target.parent, "\n".join(said)) from None


def read_start(path: Path, *, blocks: int, scratch: Path) -> bytes:
    """The first `blocks` of 512 bytes that a guest sees on a qcow2; `scratch` is a file to use.

    A smaller disk gives fewer.
    """
    words = ("dd", "-f", "qcow2", "-O", "raw", "bs=512", f"count={blocks}")
    done = _qemu_img(*words, f"if={path.absolute()}", f"of={scratch.absolute()}", cpu_s=_QUICK_S)
    if done.returncode:
        raise _failure(f"{path} cannot be read", path.parent, done.stderr)
    try:
        return scratch.read_bytes()
    finally:
        scratch.unlink()


def check_same(source: Path, copy: Path) -> None:
    """Read two qcow2 files to their end. Raises ImageError if a guest would see other bytes."""
    words = ("compare", "-f", "qcow2", "-F", "qcow2", source, copy)
    seen = run(_limited(words, cpu_s=None), check=False)
    if seen.returncode:
        said = (seen.stderr or seen.stdout).strip()[-2000:]
        raise ImageError(f"{copy} and {source} have different content", details=said or None)


def _qemu_img(*words: Argument, cpu_s: int) -> Completed:
    return run(_limited(words, cpu_s=cpu_s), timeout_s=cpu_s * _PATIENCE, check=False)


def _limited(words: Sequence[Argument], *, cpu_s: int | None) -> list[Argument]:
    # prlimit(1) rather than preexec: Python code between fork and exec can deadlock in a process
    # that has threads, and plans run in threads.
    limits = [f"--as={_at_most(_MEMORY_BYTES, resource.RLIMIT_AS)}"]
    if cpu_s:
        limits.append(f"--cpu={_at_most(cpu_s, resource.RLIMIT_CPU)}")
    tools = get_tool("prlimit", package="util-linux"), get_tool("qemu-img", package="qemu-utils")
    absolute = [word.absolute() if isinstance(word, Path) else word for word in words]
    return dying_with_us([tools[0], *limits, tools[1], *absolute])


def _at_most(wanted: int, limit: int) -> int:
    """`wanted`, or the hard limit that is set already: only root may raise that."""
    hard = resource.getrlimit(limit)[1]
    return wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)


def _failure(brief: str, directory: Path, stderr: str) -> HostError:
    if "No space left on device" in stderr:
        return full_disk(directory, None)
    if limit := find_told_limit(stderr):
        limit.details = f"{brief}\n{stderr.strip()[-2000:]}"
        return limit
    return HostError(brief, details=stderr.strip()[-2000:] or None)
