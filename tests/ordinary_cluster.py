"""What an ordinary user does with a cluster, from nothing to nothing, by the program."""

import json
import os
import sys
from contextlib import suppress
from pathlib import Path

from ai_how.process import Completed, run

PROJECT = Path.home() / ".cache" / "project"
DATA = Path.home() / ".cache" / "data"
FILE = f"""\
version: "1.0"
clusters:
  hpc:
    name: hpc
    controller:
      cpu_cores: 1
      memory_gb: 0.75
      disk_gb: 5
      virtio_fs_mounts:
        - {{tag: project, host_path: {PROJECT}, mount_point: {PROJECT}, owner: admin}}
        - {{tag: data, host_path: {DATA}, mount_point: /root/data, readonly: true}}
    compute_nodes: {{count: 1, cpu_cores: 1, memory_gb: 0.75, disk_gb: 5}}
"""
VERB_S = 1200
# What a guest's user writes, and what only the host may do with a share that is read-only.
IN_GUEST = f"""
cd {PROJECT} && cat closed/mine && stat -c '%U:%G %a' closed . && mkdir made && echo two > made/file
cat /root/data/kept; sudo mount -o remount,rw /root/data && sudo touch /root/data/new
"""


def call(*words: str, is_well: bool = True) -> Completed:
    argv = [sys.executable, "-m", "ai_how", "-c", str(FILE_PATH), *words]
    done = run(argv, check=False, timeout_s=VERB_S)
    sys.stdout.write(done.stdout + done.stderr)
    if is_well and done.returncode != 0:
        raise SystemExit(f"{words} ended with {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done


def require(is_true: bool, what: object) -> None:
    if not is_true:
        raise SystemExit(str(what))


def share_files() -> None:
    """The user is the login account on the other side, and a read-only share is read-only."""
    done = call("hpc", "ssh", "controller", "--", IN_GUEST, is_well=False)
    require(done.stdout.split() == ["one", "hpc:hpc", "700", "hpc:hpc", "755", "kept"], done)
    require("Read-only file system" in done.stderr, done)
    made = PROJECT / "made" / "file"
    require(made.read_text() == "two\n", "the file of the guest")
    owners = {(path.stat().st_uid, path.stat().st_gid) for path in (made, made.parent)}
    require(owners == {(os.getuid(), os.getgid())}, owners)
    require([path.name for path in DATA.iterdir()] == ["kept"], "the read-only share")
    suspend = call("hpc", "stop", "--suspend", is_well=False)
    require("controller cannot be suspended: it has virtiofs mounts" in suspend.stderr, suspend)


def lose_server() -> None:
    """A server that ends is reported, with the way to get the share back."""
    record = Path.home() / ".local/state/ai-how/.embedded/supervisor.json"
    # The server has another of the user's ids: only as root of their own host may they end it.
    enter = ["nsenter", "-t", str(json.loads(record.read_text())["pid"]), "-U", "--"]
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if f"source={PROJECT},".encode() in (process / "cmdline").read_bytes():
                run([*enter, "kill", "-KILL", process.name])
    said = " ".join(call("hpc", "status").stdout.split())
    require(f"the server of its share {PROJECT} has ended" in said, said)
    again = call("hpc", "start", is_well=False)
    require("hpc stop controller && " in again.stderr, again)


for directory in (PROJECT / "closed", DATA):
    directory.mkdir(parents=True)
(PROJECT / "closed").chmod(0o700)
(PROJECT / "closed" / "mine").write_text("one\n")
(DATA / "kept").write_text("kept\n")
FILE_PATH = Path.home() / ".cache" / "cluster.yaml"
FILE_PATH.write_text(FILE)
call("image", "warm")
call("hpc", "start")
call("hpc", "ssh", "controller", "--", "srun hostname")
share_files()
lose_server()
call("hpc", "destroy", "--force")
call("host", "down")
call("hpc", "status", is_well=False)
