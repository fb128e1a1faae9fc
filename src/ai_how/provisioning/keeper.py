"""Runs ansible-playbook, and ends all that it started: as a program of its own, for one run.

Its standard input is one line, the order, and then stays open. When it is closed, or its writer is
killed, everything is killed. It prints what the playbook reports, and how it ended.
"""

import ctypes
import json
import os
import select
import shutil
import signal
import sys
from contextlib import suppress
from pathlib import Path

from ai_how.process import Daemon, start_daemon

_PR_SET_CHILD_SUBREAPER = 36
_STDIN, _STDOUT = 0, 1


def main() -> int:
    """Carry out one order. Returns 0, whatever the playbook's exit code is."""
    # What Ansible leaves, such as the masters of ssh, becomes our child and not that of PID 1.
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    order = json.loads(sys.stdin.buffer.readline())
    events, code = os.dup(_STDOUT), 1
    try:
        os.chdir(order["cwd"])
        child = start_daemon(
            order["argv"],
            log=Path(order["log"]),
            env=order["env"] | {"AI_HOW_EVENTS_FD": str(events)},
            pass_fds=(events,),
        )
        code = _wait(child)
    finally:
        end_children()
        shutil.rmtree(order["directory"], ignore_errors=True)
    # Nobody may be there to read it.
    with suppress(OSError):
        os.write(_STDOUT, json.dumps({"event": "end", "code": code}).encode() + b"\n")
    return 0


def _wait(child: Daemon) -> int:
    """The exit code of the child; it is killed as soon as our standard input is closed."""
    watched = os.pidfd_open(child.pid)
    try:
        ready, _, _ = select.select([watched, _STDIN], [], [])
    finally:
        os.close(watched)
    if watched not in ready:
        child.kill()
    return child.wait()


def end_children() -> None:
    """Kill all our descendants: those of a killed child become ours."""
    while True:
        for child in _children():
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def _children() -> list[int]:
    me = os.getpid()
    return [int(pid) for pid in Path(f"/proc/{me}/task/{me}/children").read_text().split()]


if __name__ == "__main__":
    sys.exit(main())
