"""The wall clock is set back and forward by ten years at every look: waits last what they shall."""

import os
import sys

import pytest
from test_state_models import cluster_state

from ai_how.process import get_tool, run
from ai_how.state.cluster_state import read_state
from ai_how.state.paths import ClusterPaths
from savers import written

# Between libc and whoever asks it for the time; the monotonic clock is left alone.
JUMPING_CLOCK = """
#define _GNU_SOURCE
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static long jump(void) {
    static int looks;
    return looks++ % 2 ? 315360000L : -315360000L;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int result = syscall(SYS_clock_gettime, clock, now);
    if (result == 0 && clock == CLOCK_REALTIME) now->tv_sec += jump();
    return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    int result = syscall(SYS_gettimeofday, now, zone);
    if (result == 0) now->tv_sec += jump();
    return result;
}

time_t time(time_t *out) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out) *out = now.tv_sec;
    return now.tv_sec;
}
"""

WAITS = """
import sys, threading, time
from pathlib import Path
from uuid import UUID
from ai_how.errors import DeadlineError, LockedError, ToolError
from ai_how.plan.journal import Journal
from ai_how.process import run
from ai_how.state.cluster_state import read_state, write_state
from ai_how.state.lock import held_lock
from ai_how.state.paths import ClusterPaths
from ai_how.waiting import Deadline, wait_until

paths = ClusterPaths(Path(sys.argv[1]))

def lock():
    with held_lock(paths.lock, doing="first"):
        with held_lock(paths.lock, doing="second", wait_s=0.4):
            pass

def sooner():
    wait_until(lambda: None, Deadline.after(9e9).sooner_of(0.4), "it")

waits = {
    "condition": (lambda: wait_until(lambda: None, Deadline.after(0.4), "it"), DeadlineError),
    "deadline": (sooner, DeadlineError),
    "lock": (lock, LockedError),
    "program": (lambda: run(["sleep", "60"], timeout_s=0.4), ToolError),
}
assert abs(time.time() - time.time()) > 3e8, "the clock does not jump"
for name, (wait, ends) in waits.items():
    began_at = time.monotonic()
    try:
        wait()
    except ends:
        print(name, time.monotonic() - began_at)
for _ in range(3):
    write_state(paths, read_state(paths))
with Journal.create(paths.journal, verb="start", op_id=UUID(int=1), cluster="demo", note={}):
    print("noted", Journal.read(paths.journal, {}).started_at.year)
"""


@pytest.mark.fault("F20", "a libc whose wall clock jumps by ten years at every look")
def test_a_wall_clock_that_jumps_moves_no_deadline_and_costs_no_state(tmp_path, points):
    source, library = tmp_path / "clock.c", tmp_path / "clock.so"
    source.write_text(JUMPING_CLOCK)
    run([get_tool("gcc", package="gcc"), "-shared", "-fPIC", "-O2", "-o", library, source])
    paths = written(tmp_path, cluster_state(), 2)
    done = run(
        [sys.executable, "-c", WAITS, paths.root],
        env={"PYTHONPATH": os.pathsep.join(sys.path), "LD_PRELOAD": str(library)},
        timeout_s=300,
    )
    *waits, noted = (line.split() for line in done.stdout.splitlines())
    assert [name for name, _ in waits] == ["condition", "deadline", "lock", "program"]
    for name, took_s in waits:
        assert 0.4 <= float(took_s) < 60, name
    assert noted[0] == "noted"
    state = read_state(ClusterPaths(paths.root))
    assert state is not None
    assert state.serial == 5
    points(len(waits) + 2)
