"""`hpc exec` on a real node: bytes, streams, signals, time-outs, and what remains after a kill."""

import os
import signal
import subprocess  # noqa: TID251  a program is spoken to while it runs
import time
from collections.abc import Callable, Sequence

import pytest

from ai_how.process import child_environment
from real_cluster import Cluster

pytestmark = pytest.mark.slurm

NODE = "compute-02"
# Of a program that runs until it is ended, whose children leave its session and its parent.
TREE = "(setsid sleep 98765 &); setsid sleep 98765 & echo begun; sleep 98765"
DEADLINE_S = 600


class Exec:
    """`hpc exec` on one node."""

    def __init__(self, used: Cluster) -> None:
        self.env = used.env
        self.argv = [*used.argv, "-c", str(used.file), "hpc", "exec", NODE]
        self.abandoned = "none"

    def start(self, *words: str, options: Sequence[str] = ()) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(  # noqa: S603
            [*self.argv, *options, "--", *words],
            env=child_environment(self.env),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def run(
        self, line: str, stdin: bytes = b"", options: Sequence[str] = ()
    ) -> tuple[int, bytes, bytes]:
        with self.start("sh", "-c", line, options=options) as program:
            out, err = program.communicate(stdin, timeout=DEADLINE_S)
        return program.returncode, out, err

    def wait_until_nothing_is_left(self, what: str = "98765") -> None:
        """No process of the program, no file and no cgroup of ours, but of the abandoned one."""
        look = (
            f"(pgrep -f 'sleep [{what[0]}]{what[1:]}'; ls -d /run/ai-how-exec-*;"
            f" find /sys/fs/cgroup -name 'ai-how-exec-*') | grep -v {self.abandoned}"
        )

        def left() -> list[bytes]:
            """Other than the directory and the cgroup of this question."""
            return self.run(f"({look}) 2>/dev/null | wc -l")[1].split()

        wait_for(lambda: left() == [b"2"])


def wait_for(is_so: Callable[[], bool]) -> None:
    until = time.monotonic() + DEADLINE_S
    while not is_so():
        assert time.monotonic() < until
        time.sleep(1)


@pytest.fixture(scope="module")
def node(used: Cluster) -> Exec:
    return Exec(used)


@pytest.fixture(scope="module", autouse=True)
def abandoned(node: Exec) -> None:
    """A program whose client is killed at the beginning; the last test looks for it."""
    with node.start("sh", "-c", TREE.replace("98765", "87654")) as program:
        assert program.stdout
        assert program.stdout.readline() == b"begun\n"
        program.kill()
    # Those of these questions are gone at the next one.
    seen = [set(node.run("cd /run && ls -d ai-how-exec-*")[1].split()) for _ in range(2)]
    [name] = seen[0] & seen[1]
    node.abandoned = name.decode()


def test_bytes_pass_both_ways_unchanged(node, tmp_path):
    data = os.urandom(2_000_003)
    code, out, err = node.run("cat > /root/copy && cat /root/copy && rm /root/copy", data)
    assert (code, err) == (0, b"")
    assert out == data


def test_what_is_no_text_and_has_no_line_end_stays_so(node):
    assert node.run("printf '\\377\\376\\000'; printf '\\r\\nx' >&2; exit 7") == (
        7,
        b"\xff\xfe\x00",
        b"\r\nx",
    )


@pytest.mark.long
def test_output_of_any_size_comes(node):
    code, out, err = node.run("head -c 5000000 /dev/zero; head -c 100000 /dev/zero >&2")
    assert (code, len(out), len(err)) == (0, 5_000_000, 100_000)


def test_output_comes_as_it_is_written_and_input_is_taken_as_it_comes(node):
    with node.start("sh", "-c", "echo begun; while read -r line; do echo $line$line; done") as one:
        assert one.stdin
        assert one.stdout
        assert one.stdout.readline() == b"begun\n"
        one.stdin.write(b"a\n")
        one.stdin.flush()
        assert one.stdout.readline() == b"aa\n"
        one.stdin.close()
        assert one.wait(DEADLINE_S) == 0


@pytest.mark.long
def test_a_reader_that_has_enough_ends_the_program(node):
    with node.start("yes") as program:
        assert program.stdout
        assert program.stdout.read(4) == b"y\ny\n"
        program.stdout.close()
        assert program.wait(DEADLINE_S) == 128 + signal.SIGPIPE


@pytest.mark.long
def test_two_at_once_do_not_mix(node):
    with (
        node.start("sh", "-c", "sleep 1; head -c 600000 /dev/zero | tr '\\0' a") as first,
        node.start("sh", "-c", "sleep 1; head -c 600000 /dev/zero | tr '\\0' b") as second,
    ):
        outs = [one.communicate(timeout=DEADLINE_S)[0] for one in (first, second)]
    assert outs == [b"a" * 600_000, b"b" * 600_000]


@pytest.mark.parametrize(("line", "code"), [("kill -9 $$", 137), ("no-such-program", 127)])
def test_the_exit_code_is_that_of_a_shell(node, line, code):
    assert node.run(line)[0] == code


@pytest.mark.fault("F68", "Ctrl-C, SIGTERM and SIGHUP, in a real node")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_all_processes(node, number):
    with node.start("sh", "-c", TREE) as program:
        assert program.stdout
        assert program.stdout.readline() == b"begun\n"
        program.send_signal(number)
        assert program.wait(DEADLINE_S) == 130
    node.wait_until_nothing_is_left()


@pytest.mark.fault("F68", "--timeout, in a real node")
def test_a_time_out_ends_all_processes(node):
    code, out, err = node.run(TREE, options=("--timeout", "20"))
    assert (code, out) == (124, b"begun\n")
    # A shell may tell of its own end first.
    assert b"error: timed out waiting for the end of " in err
    node.wait_until_nothing_is_left()


@pytest.mark.long
def test_what_is_left_in_the_background_goes_on(node):
    assert node.run("sleep 76543 & echo begun")[:2] == (0, b"begun\n")
    assert node.run("pgrep -x sleep > /dev/null && pkill -f '^sleep 76543'")[0] == 0


@pytest.mark.long
@pytest.mark.fault("F68", "a full /run in a real node")
def test_a_full_run_delays_the_output_and_loses_none(node):
    line = (
        "head -c 1000000000 /dev/zero > /run/full 2>/dev/null; sleep 2; (sleep 2; rm /run/full) &"
        " seq 200000"
    )
    code, out, _ = node.run(line)
    assert code == 0
    assert out.split() == [str(number).encode() for number in range(1, 200_001)]


@pytest.mark.long
@pytest.mark.fault("F68", "an agent that restarts, in a real node")
def test_a_program_outlives_nothing_but_is_told_of_it(node):
    """A new agent ends what the one before had started: that must be said."""
    code, _, err = node.run("sleep 1; systemctl restart qemu-guest-agent; sleep 600")
    assert code == 3
    assert b"error: " in err
    node.wait_until_nothing_is_left("600")


@pytest.mark.fault("F68", "kill -9 of the command, in a real node")
def test_after_a_kill_nothing_is_left(node, abandoned):
    node.abandoned = "none"
    node.wait_until_nothing_is_left("87654")
