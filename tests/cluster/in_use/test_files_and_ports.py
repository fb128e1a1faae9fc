"""Files to, from and between nodes, and ports of nodes that are reached here."""

import json
import os
import signal
import socket
import subprocess  # noqa: TID251  what forwards is spoken to while it runs
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from ai_how.process import find_tool
from ai_how.waiting import Deadline, wait_until
from real_cluster import ASK_S, Cluster

pytestmark = pytest.mark.slurm

NAMES = ("a b's", 'q"[1]*', "-x", "c:d", "sub dir/leaf ü")
SERVED = 8123
REBOOT_S = 900
# Debian's python3 is in the image; it serves a directory of its own.
SERVE = (
    "mkdir -p /tmp/served && echo hello > /tmp/served/file && "
    f"systemd-run --quiet --unit=served python3 -m http.server -d /tmp/served {SERVED}"
)
UNSERVE = "systemctl stop served; rm -rf /tmp/served"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A directory with odd names in it; each file has its own name as content."""
    top = tmp_path / "a tree's"
    for name in NAMES:
        file = top / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(name)
    return top


@pytest.fixture
def clean(used: Cluster) -> Iterator[Cluster]:
    """The cluster, without what a test copied."""
    yield used
    for node in ("controller", "compute-01"):
        used.execute(node, "rm -rf /tmp/copied /home/hpc/copied /tmp/'a tree'\\''s'")


def contents(top: Path) -> dict[str, str]:
    return {
        str(path.relative_to(top)): path.read_text() for path in top.rglob("*") if path.is_file()
    }


def test_a_directory_with_odd_names_comes_to_a_node_to_another_and_back(
    clean: Cluster, tree: Path, tmp_path: Path
) -> None:
    clean.call("hpc", "cp", str(tree), "controller:/tmp/copied", timeout_s=ASK_S * 3)
    clean.call("hpc", "cp", "controller:/tmp/copied", "compute-01:/tmp/", timeout_s=ASK_S * 3)
    clean.call("hpc", "cp", "-r", "compute-01:/tmp/copied", str(tmp_path / "back"))
    assert contents(tmp_path / "back") == {name: name for name in NAMES}
    # Into a directory that is there, as cp does.
    clean.call("hpc", "cp", "-q", str(tree / "-x"), "controller:")
    assert clean.ssh("compute-01", "cat ~/-x") == "-x", "the home is shared"
    clean.ssh("controller", "rm ~/-x")


@pytest.mark.long
def test_a_copy_of_what_is_not_there_ends_as_scp_does(clean: Cluster, tmp_path: Path) -> None:
    done = clean.try_call("hpc", "cp", "controller:nothing", str(tmp_path))
    assert done.returncode == 1
    assert "nothing" in done.stderr


@pytest.mark.long
@pytest.mark.skipif(find_tool("rsync") is None, reason="rsync is not installed")
def test_rsync_brings_what_changed(clean: Cluster, tree: Path) -> None:
    first = clean.call("hpc", "rsync", "-ai", f"{tree}/", "compute-01:/tmp/copied/")
    assert first.count("<f+++++++++") == len(NAMES)
    (tree / "-x").write_text("other")
    again = clean.call("hpc", "rsync", "-ai", "--delete", f"{tree}/", "compute-01:/tmp/copied/")
    assert again.split() == ["<f.st......", "-x"]
    assert clean.ssh("compute-01", "cat /tmp/copied/-x") == "other"


@contextmanager
def forwarding(used: Cluster, *words: str) -> Iterator[tuple["subprocess.Popen[str]", list[int]]]:
    """`hpc forward` that listens, and its ports."""
    argv = [*used.argv, "-c", str(used.file), "hpc", "forward", *words]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as forward:  # noqa: S603
        assert forward.stdout is not None
        lines = [forward.stdout.readline() for _ in words]
        try:
            yield forward, [int(line.partition(" -> ")[0].rpartition(":")[2]) for line in lines]
        finally:
            forward.kill()


def fetched(port: int) -> str | None:
    """What the server in the node sends; None if it does not."""
    try:
        with urlopen(f"http://127.0.0.1:{port}/file", timeout=60) as answer:
            return str(answer.read().decode())
    except (URLError, OSError):
        return None


def is_refused(port: int) -> bool:
    with socket.socket() as line:
        return line.connect_ex(("127.0.0.1", port)) != 0


@pytest.mark.long
def test_a_server_in_a_node_is_reached_here_also_after_a_reboot_of_the_node(used: Cluster) -> None:
    used.execute("compute-02", SERVE)
    words = (f"0:compute-02:{SERVED}", f"127.0.0.1:0:compute-02:{SERVED}")
    try:
        with forwarding(used, *words) as (forward, ports):
            for port in ports:
                wait_until(
                    lambda p=port: fetched(p) == "hello\n", Deadline.after(ASK_S), "the server"
                )
            used.call("hpc", "stop", "compute-02", timeout_s=REBOOT_S)
            assert fetched(ports[0]) is None
            used.call("hpc", "start", "compute-02", timeout_s=REBOOT_S)
            used.execute("compute-02", SERVE)
            wait_until(
                lambda: fetched(ports[0]) == "hello\n", Deadline.after(ASK_S), "the server again"
            )
            forward.send_signal(signal.SIGINT)
            assert forward.wait(ASK_S) == 0
        with forwarding(used, words[0]) as (forward, ports):
            os.kill(forward.pid, signal.SIGKILL)
            wait_until(lambda: is_refused(ports[0]), Deadline.after(ASK_S), "the child's end")
    finally:
        used.execute("compute-02", UNSERVE)


def test_an_exposed_port_is_open_as_long_as_the_file_asks_for_it(used: Cluster) -> None:
    with socket.socket() as line:
        line.bind(("127.0.0.1", 0))
        port = line.getsockname()[1]
    text = used.file.read_text()
    entry = f"{{node: controller, port: {SERVED}, host_port: {port}}}"
    used.execute("controller", SERVE)
    try:
        used.file.write_text(f"{text}    expose: [{entry}]\n")
        assert used.start() == ["ports/hpc"]
        wait_until(lambda: fetched(port) == "hello\n", Deadline.after(ASK_S), "the server")
        [seen] = json.loads(used.call("hpc", "status", "--json"))["ports"]
        assert (seen["host_port"], seen["is_open"]) == (port, True)
    finally:
        used.file.write_text(text)
        used.start()
        used.execute("controller", UNSERVE)
    assert is_refused(port)
