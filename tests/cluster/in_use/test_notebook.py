"""A notebook in a job: docs/files-and-ports.md as it stands, a browser here, and a kernel."""

import os
import re
import shlex
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from ai_how.process import get_tool, run
from ai_how.waiting import Deadline, wait_until
from in_use.test_files_and_ports import forwarding
from pages import DOCS, block_of, commands, run_commands
from real_cluster import ASK_S, Cluster
from sockets import free_port

pytestmark = [pytest.mark.slurm, pytest.mark.long]

SECTION = (DOCS / "files-and-ports.md").read_text().partition("## A notebook in a job\n")[2]
PORT = 8888
UP_S, PAGE_S = 900, 600
BROWSER = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    # Its clock stands still while it awaits an answer of the server.
    *("--timeout=300000", "--virtual-time-budget=120000", "--dump-dom"),
]
# The packages of the page have websocket-client.
KERNEL = """\
import json, sys, urllib.request, uuid
import websocket

place, token = sys.argv[1], sys.stdin.read()
said = {"Authorization": f"token {token}"}

def call(method, path):
    asked = urllib.request.Request(f"http://{place}{path}", method=method, headers=said)
    with urllib.request.urlopen(asked, timeout=600) as answer:
        return json.loads(answer.read() or "null")

kernel = call("POST", "/api/kernels")["id"]
line = websocket.create_connection(
    f"ws://{place}/api/kernels/{kernel}/channels",
    header=[f"{name}: {value}" for name, value in said.items()],
    timeout=600,
)
head = {"msg_id": uuid.uuid4().hex, "session": uuid.uuid4().hex, "msg_type": "execute_request"}
head |= {"username": "", "version": "5.3", "date": ""}
body = {"code": "import platform; platform.node(), 6 * 7", "silent": False}
asked = {"header": head, "parent_header": {}, "metadata": {}, "content": body, "channel": "shell"}
line.send(json.dumps(asked))
while (answer := json.loads(line.recv()))["msg_type"] != "execute_result":
    pass
print(answer["content"]["data"]["text/plain"])
call("DELETE", f"/api/kernels/{kernel}")
"""


@pytest.fixture
def clean(used: Cluster) -> Iterator[Cluster]:
    yield used
    used.execute("controller", "scancel --name=notebook")
    wait_until(
        lambda: not used.execute("controller", "squeue -h --name=notebook"),
        Deadline.after(ASK_S),
        "the end of the job",
    )
    used.execute(
        "controller", "rm -rf /home/hpc/notebook* /home/hpc/.local /home/hpc/.jupyter ~hpc/.ipython"
    )


def wait_for_address(used: Cluster, words: list[str]) -> re.Match[str]:
    """What the page's command finds in the output of the job: the end of the address."""
    said: list[str] = []

    def is_there() -> bool:
        said.append(used.try_call(*words).stdout)
        return "token=" in said[-1]

    wait_until(is_there, Deadline.after(UP_S), "the notebook")
    found = re.fullmatch(r"lab\?token=([0-9a-f]+)\n", said[-1])
    assert found, said
    return found


def page_of(url: str, directory: Path) -> str:
    """What a browser that has never been used shows."""
    chromium = get_tool("chromium", package="chromium")
    argv = [chromium, *BROWSER, f"--user-data-dir={directory}", url]
    return run(argv, check=False, timeout_s=PAGE_S).stdout


def test_the_browser_of_the_host_shows_a_notebook_that_runs_in_a_job(
    clean: Cluster, tmp_path: Path
) -> None:
    (tmp_path / "notebook.sh").write_text(block_of(SECTION, "#!/bin/bash"))
    (tmp_path / "cluster.yaml").write_text(clean.file.read_text())
    *steps, ask = commands(SECTION)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # where `pip` is
    run_commands(steps, tmp_path, clean.state_dir, {"PATH": path})
    words = shlex.split(ask[0])[1:]
    found = wait_for_address(clean, words)
    with forwarding(clean, f"0:compute-01:{PORT}") as (_, [here]):
        shown = page_of(f"http://127.0.0.1:{here}/{found[0].strip()}", tmp_path / "browser")
        assert "<title>JupyterLab" in shown
        assert "jp-LauncherCard" in shown, "it has begun to work"
        program = tmp_path / "kernel.py"
        program.write_text(KERNEL)
        said = run(
            [sys.executable, program, f"127.0.0.1:{here}"],
            stdin=found[1],
            env={"PYTHONPATH": str(tmp_path / "notebook")},
            timeout_s=PAGE_S,
        ).stdout
    assert said == "('compute-01', 42)\n"
    show_exposed(clean, tmp_path, found[0].strip())


def show_exposed(clean: Cluster, directory: Path, address: str) -> None:
    """The port is reached by `expose`, too."""
    text, port = clean.file.read_text(), free_port()
    entry = f"expose: [{{node: compute-01, port: {PORT}, host_port: {port}}}]\n"
    try:
        clean.file.write_text(text + textwrap.indent(entry, "    "))
        assert clean.start() == ["ports/hpc"]
        shown = page_of(f"http://127.0.0.1:{port}/{address}", directory / "another")
        assert "jp-LauncherCard" in shown
    finally:
        clean.file.write_text(text)
        clean.start()
