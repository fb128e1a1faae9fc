"""What the system refuses is said with its limit and its remedy; a short refusal is waited out."""

import os
import resource
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from ai_how.errors import LimitError
from ai_how.limits import begin, find_told_limit, limits_of_cgroups
from ai_how.plan.daemon_pool import CallResult, DaemonPool
from ai_how.process import Completed, run

NOBODY_ELSE = 61234  # no process of this machine has that user


def run_limited(
    code: str, *, limit: str = "NPROC", value: str = "1", uid: int = NOBODY_ELSE
) -> str:
    """What Python code prints that runs as a user of its own, under a limit."""
    program = f"""
import os, resource, sys
from ai_how import limits, process
from ai_how.cli.failures import as_known
from ai_how.cli.arguments import read_command_line
from ai_how.errors import LimitError
from ai_how.plan.daemon_pool import DaemonPool
from ai_how.libvirt_client import connection
from ai_how.libvirt_client.client import LibvirtClient
def told(error):
    print(type(error).__name__, error.brief, error.hint, sep="|")
hard = resource.getrlimit(resource.RLIMIT_{limit})[1]
resource.setrlimit(resource.RLIMIT_{limit}, ({value}, hard))
os.setuid({uid})
{textwrap.dedent(code)}
"""
    done: Completed = run([sys.executable, "-c", program], check=False, timeout_s=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
HARD = str(resource.getrlimit(resource.RLIMIT_NPROC)[1]).replace("-1", "unlimited")
REMEDY = f"ulimit -u {HARD}  # then repeat the command"
SAID = f"the limit of user {NOBODY_ELSE} is 1 (ulimit -u)|{REMEDY}"


@needs_root
@pytest.mark.fault("H08", "ulimit -u: a thread, a program, a daemon, a call to libvirt")
def test_what_cannot_be_begun_is_said_with_the_limit() -> None:
    said = run_limited("""
        limits.PATIENCE_S = 0
        for beginning in (
            lambda: limits.start_thread(print, name="x", patience_s=0),
            lambda: limits.begin(lambda: os.posix_spawn("/bin/true", ["true"], {}), patience_s=0),
            lambda: process.run(["/bin/true"]),
            lambda: process.run_lines(["/bin/true"], on_line=print),
            lambda: LibvirtClient("test:///default", patience_s=2).list_domains(),
        ):
            try:
                beginning()
            except LimitError as error:
                told(error)
    """)
    assert said == f"LimitError|no more processes or threads can be started: {SAID}\n" * 5


@needs_root
@pytest.mark.fault("H08", "ulimit -u, met where nobody thought of it")
def test_what_nobody_caught_is_no_bug_either() -> None:
    said = run_limited("""
        import threading
        for beginning in (threading.Thread(target=print).start, os.fork):
            try:
                beginning()
            except Exception as error:
                told(as_known(error, read_command_line([])))
    """)
    assert said == f"LimitError|no more processes or threads can be started: {SAID}\n" * 2


@needs_root
@pytest.mark.fault("H08", "ulimit -u, and a plan that must be undone without a thread")
def test_calls_are_made_where_there_are_no_threads_for_them() -> None:
    said = run_limited("""
        with DaemonPool(4) as crew:
            for number in range(3):
                crew.submit(str(number), lambda number=number: number * 2)
            ended = []
            while len(ended) < 3:
                ended += crew.wait(1)
        print(sorted(one.result for one in ended))
    """)
    assert said == "[0, 2, 4]\n"


@pytest.mark.fault("H08", "ulimit -v, at a thread and at an allocation")
@pytest.mark.parametrize(
    "beginning",
    ["limits.start_thread(print, name='x', patience_s=0)", "bytearray(1 << 30)"],
)
def test_memory_that_is_limited_is_named(beginning: str) -> None:
    pages = "int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize() + (1 << 20)"
    said = run_limited(
        f"""
        try:
            {beginning}
        except (LimitError, MemoryError) as error:
            told(as_known(error, read_command_line([])))
        """,
        limit="AS",
        value=pages,
        uid=os.getuid(),
    )
    assert said.startswith("LimitError|"), said
    assert "(ulimit -v)|ulimit -v unlimited  # then repeat the command" in said


@pytest.mark.fault("H08", "ulimit -f: a write of ours, and a program of others")
def test_a_file_that_may_not_grow_is_named(tmp_path: Path) -> None:
    said = run_limited(
        f"""
        number = os.open({str(tmp_path / "ours")!r}, os.O_RDWR | os.O_CREAT)
        words = ["/bin/dd", "if=/dev/zero", "of={tmp_path / "theirs"}", "bs=5000", "count=1"]
        for write in (
            lambda: [os.write(number, b"x" * 4096) for _ in range(2)],
            lambda: process.run(words),
        ):
            try:
                write()
            except Exception as error:
                told(as_known(error, read_command_line([])))
        """,
        limit="FSIZE",
        value="4096",
        uid=os.getuid(),
    )
    wanted = "LimitError|no file may be larger than 4096 bytes (ulimit -f)|ulimit -f unlimited"
    assert [line.startswith(wanted) for line in said.splitlines()] == [True] * 2, said


def test_a_refusal_that_passes_is_waited_out() -> None:
    left = [BlockingIOError(11, "later"), RuntimeError("can't start new thread")]

    def call() -> str:
        if left:
            raise left.pop()
        return "begun"

    assert begin(call, patience_s=60) == "begun"
    with pytest.raises(RuntimeError, match="another"):
        begin(_fail)


def _fail() -> None:
    raise RuntimeError("another")


@pytest.mark.fault("H08", "pids.max of a cgroup and of one above it, as the system tells them")
def test_the_limits_of_cgroups_are_read_up_to_the_root(tmp_path: Path) -> None:
    told, root = tmp_path / "cgroup", tmp_path / "fs"
    told.write_text("0::/user.slice/user-7.slice/run.scope\n3:cpu:/x\n")
    own = root / "user.slice/user-7.slice/run.scope"
    own.mkdir(parents=True)
    for directory, most in ((own, "max"), (own.parent, "40"), (own.parent.parent, "90")):
        (directory / "pids.max").write_text(f"{most}\n")
        (directory / "pids.current").write_text("39\n")
    found = list(limits_of_cgroups(told, root))
    assert [one.room for one in found] == [1, 51]
    assert found[0].words == f"the limit of cgroup {own.parent} is 40 (pids.max)"
    assert found[0].remedy == "sudo systemctl set-property user-7.slice TasksMax=infinity"
    assert list(limits_of_cgroups(tmp_path / "none", root)) == []


@pytest.mark.parametrize(
    ("text", "is_limit"),
    [
        ("qemu: qemu_thread_create: Resource temporarily unavailable", True),
        ("cannot fork child process: Resource temporarily unavailable", True),
        ("dnsmasq: failed to create helper: Resource temporarily unavailable", True),
        ("sh: 1: Cannot fork\nread: Resource temporarily unavailable", False),
        ("recv: Resource temporarily unavailable", False),
    ],
)
def test_another_programs_words_for_it_are_known(text: str, is_limit: bool) -> None:
    error = find_told_limit(text)
    assert isinstance(error, LimitError) is is_limit


def test_threads_that_there_are_take_the_calls_of_those_that_cannot_be_had() -> None:
    with DaemonPool[str](4) as crew:
        for name in "abcd":
            crew.submit(name, lambda: threading.current_thread().name)
        ended: list[CallResult[str]] = []
        while len(ended) < len("abcd"):
            ended += crew.wait(60)
    assert all(one.error is None for one in ended)


WITH_A_CPU_LIMIT = """\
import resource, sys
from pathlib import Path
resource.setrlimit(resource.RLIMIT_CPU, (40, 40))
from ai_how.images.qcow2_header import read_header
from ai_how.images.qemu_img import check_image
disk = Path(sys.argv[1])
check_image(disk, read_header(disk))
"""


def test_a_limit_of_the_user_below_ours_damages_no_image(tmp_path: Path) -> None:
    # prlimit(1) may not raise a hard limit, and its error was taken for damage.
    disk = tmp_path / "disk.qcow2"
    run(["qemu-img", "create", "-q", "-f", "qcow2", disk, "1M"])
    run([sys.executable, "-c", WITH_A_CPU_LIMIT, disk])
