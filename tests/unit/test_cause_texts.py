"""From what real guests, QEMUs and SLURMs wrote when they failed to the cause, and no further."""

from dataclasses import replace
from pathlib import Path

import pytest

from ai_how.clusters.diagnosis.causes import (
    ACCEPTED,
    Failure,
    NodeEvidence,
    Rank,
    find_cause,
    find_first_cause,
)
from ai_how.guest.serial_log import find_console_cause, one_line
from ai_how.hpc.workload import node_readiness
from ai_how.libvirt_client.vm_state import VmState

# Of Debian's 6.12 under QEMU 7.2, with systemd 257 and SLURM 24.11; cut short.
BANNER = "\x1b[!p\x1b]104\x07\x1b[?7h"
PANIC = """\
[    2.392955]  entry_SYSCALL_64_after_hwframe+0x76/0x7e
[    2.389501] Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000000
[    2.395490] ---[ end Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000000 ]---
"""
NO_ROOT_DEVICE = """\
[    2.284631] /dev/root: Can't lookup blockdev
[    2.285928] Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)
[    2.286406] CPU: 0 UID: 0 PID: 1 Comm: swapper/0 Not tainted 6.12.118+deb13-cloud-amd64
"""
NO_ROOT = """\
mount: mounting /dev/vda on /root failed: Invalid argument
ai-how: no root disk: /dev/vda cannot be mounted
[    3.637902] reboot: Power down
"""
DEADLOCK = """\
[    2.697507] Kernel panic - not syncing: System is deadlocked on memory
[    2.699752]  out_of_memory.cold+0x2d/0x78
"""
KILLED = """\
[    8.228098] Out of memory: Killed process 130 (busybox) total-vm:194276kB, anon-rss:192128kB, \
file-rss:1276kB, shmem-rss:0kB, UID:0 pgtables:420kB oom_score_adj:0
Killed
"""
JOB_KILLED = """\
[   88.228098] Memory cgroup out of memory: Killed process 930 (python3) total-vm:274276kB
"""
EMERGENCY = (
    BANNER
    + """\
You are in emergency mode. After logging in, type "journalctl -xb" to view
system logs, "systemctl reboot" to reboot, or "exit"
to continue bootup.

Cannot open access to console, the root account is locked.
"""
)
UP = BANNER + "[   10.540447] ai-how: the guest agent starts\n"
KILLED_QEMU = """\
2026-11-24 14:05:33.061+0000: Domain id=5 is tainted: high-privileges
char device redirected to /dev/pts/1 (label charserial0)
2026-11-24 14:05:34.792+0000: shutting down, reason=crashed
"""
BROKEN_QEMU = """\
char device redirected to /dev/pts/1 (label charserial0)
qemu-system-x86_64: ../../block/qcow2.c:123: qcow2_x: Assertion `x == y' failed.
2026-11-24 14:05:34.792+0000: shutting down, reason=crashed
"""
SLURMD_JOURNAL = """\
[   41.512776] compute-01 systemd[1]: Starting slurmd.service - Slurm node daemon...
[   43.615656] compute-01 slurmd[194]: error: _fetch_child: failed to fetch remote configs: \
Protocol authentication error
[   43.671843] compute-01 slurmd[192]: error: _establish_configuration: failed to load configs. \
Retrying in 10 seconds.
"""
SLURMCTLD_JOURNAL = """\
[   30.146105] controller slurmctld[177]: slurmctld: error: _parse_next_key: Parsing error at \
unrecognized key: NoSuchSetting
[   30.156105] controller slurmctld[177]: slurmctld: fatal: Unable to process configuration file
"""
JOBS = """\
126 ai-how-grow.service    start waiting
28  slurmd.service         start waiting
44  home.mount             start waiting
51  ai-how-home.service    start running
"""
PORT = JOBS.replace("28  slurmd.service         start waiting", "28 slurmd.service start running")

NODE = NodeEvidence(name="compute-01", domain="hpc-compute-01", state=VmState.RUNNING, console=UP)
CONTROLLER = replace(NODE, name="controller", domain="hpc-controller", is_controller=True)
DEAD = replace(NODE, state=VmState.SHUT_OFF, reason="crashed")
STUCK = replace(
    NODE, state=VmState.PAUSED, reason="I/O error", disk_directory=Path("/srv/d"), free_bytes=0
)
ABSENT = node_readiness("compute-01", "unknown*", None)
LOW = node_readiness(
    "compute-01", "inval", "Low RealMemory (reported:211 < 90.00% of configured:401)"
)
TIMED_OUT = Failure("agent/hpc-compute-01", "")
NOT_READY = Failure("ready/hpc", "")


@pytest.mark.parametrize(
    ("seen", "rank", "text"),
    [
        (
            replace(NODE, console=PANIC),
            Rank.MACHINE,
            "compute-01: kernel panic: Attempted to kill init! exitcode=0x00000000",
        ),
        (
            replace(NODE, console=NO_ROOT_DEVICE),
            Rank.MACHINE,
            "compute-01: kernel panic: VFS: Unable to mount root fs on unknown-block(0,0)",
        ),
        (
            replace(DEAD, reason="shutdown", console=NO_ROOT),
            Rank.MACHINE,
            "compute-01: its root disk was not found (/dev/vda cannot be mounted)",
        ),
        (
            replace(NODE, console=DEADLOCK),
            Rank.MACHINE,
            "compute-01: it ran out of memory: System is deadlocked on memory",
        ),
        (
            replace(NODE, console=KILLED + PANIC),
            Rank.MACHINE,
            "compute-01: it ran out of memory: busybox was killed",
        ),
        (
            replace(NODE, console=EMERGENCY),
            Rank.MACHINE,
            "compute-01: its systemd gave up and is in emergency mode",
        ),
        (
            STUCK,
            Rank.MACHINE,
            (
                "compute-01: the guest is paused on an I/O error: the disk of the host is full "
                "(/srv/d, 0 bytes free)"
            ),
        ),
        (
            replace(STUCK, free_bytes=2**40),
            Rank.MACHINE,
            "compute-01: the guest is paused on an I/O error of its disk",
        ),
        (
            replace(DEAD, qemu_log=KILLED_QEMU, qemu_signal=9),
            Rank.MACHINE,
            "compute-01: QEMU was killed (signal 9)",
        ),
        (
            replace(DEAD, qemu_log=KILLED_QEMU),
            Rank.MACHINE,
            "compute-01: QEMU was killed or crashed; its log does not say why",
        ),
        (
            replace(DEAD, qemu_log=BROKEN_QEMU),
            Rank.MACHINE,
            (
                "compute-01: QEMU was killed or crashed; qemu-system-x86_64: "
                "../../block/qcow2.c:123: qcow2_x: Assertion `x == y' failed."
            ),
        ),
        # The serial line of a system's libvirt may not be read: a panic would look the same.
        (
            replace(DEAD, console=None),
            Rank.MACHINE,
            "compute-01: the guest panicked, or its QEMU was killed",
        ),
        (
            replace(NODE, munge="unmunge: Error: Expired credential\n", skew_s=-1203.4),
            Rank.CLOCK,
            "the clock of compute-01 is 20 min 3 s behind: munge refuses what it signs",
        ),
        (
            replace(NODE, munge="unmunge: Error: Invalid credential\n", skew_s=2.0),
            Rank.MUNGE,
            (
                "munge on compute-01 refuses the controller's credentials (other key or clock): "
                "unmunge: Error: Invalid credential"
            ),
        ),
        (
            replace(NODE, munge="unmunge: Error: Invalid credential\n"),
            Rank.MUNGE,
            (
                "munge on compute-01 refuses the controller's credentials (other key or clock): "
                "unmunge: Error: Invalid credential"
            ),
        ),
        (
            replace(NODE, munge='unmunge: Error: Failed to access "/run/munge/munge.socket.2"'),
            Rank.MUNGE,
            (
                "munge on compute-01 does not work: unmunge: Error: Failed to access "
                '"/run/munge/munge.socket.2"'
            ),
        ),
        (
            replace(
                CONTROLLER,
                slurm_trouble="slurm_load_partitions: Unable to contact slurm controller",
                journal=SLURMCTLD_JOURNAL,
            ),
            Rank.SLURMCTLD,
            "slurmctld on controller does not answer: fatal: Unable to process configuration file",
        ),
        (
            replace(NODE, munge=ACCEPTED, slurm=ABSENT, journal=SLURMD_JOURNAL),
            Rank.SLURMD,
            (
                "slurmd on compute-01 did not register: error: _fetch_child: failed to fetch "
                "remote configs: Protocol authentication error"
            ),
        ),
        (
            replace(NODE, slurm=ABSENT, jobs=JOBS, journal=""),
            Rank.SLURMD,
            "slurmd on compute-01 did not register: slurmd.service waits for ai-how-home.service",
        ),
        (
            replace(NODE, slurm=ABSENT, jobs=PORT),
            Rank.SLURMD,
            (
                "slurmd on compute-01 did not register: slurmd.service still waits for the "
                "controller's port"
            ),
        ),
        (
            replace(NODE, slurm=ABSENT),
            Rank.SLURMD,
            "slurmd on compute-01 did not register: SLURM has it as unknown*",
        ),
        (
            replace(NODE, slurm=LOW),
            Rank.SLURMD,
            (
                "SLURM has compute-01 as inval: "
                "Low RealMemory (reported:211 < 90.00% of configured:401)"
            ),
        ),
    ],
)
def test_what_is_certain_is_named(seen, rank, text):
    cause = find_cause(seen)
    assert cause is not None
    assert (cause.rank, cause.text) == (rank, text)


@pytest.mark.parametrize(
    "seen",
    [
        NODE,
        CONTROLLER,
        NodeEvidence(name="compute-01", domain="hpc-compute-01"),
        replace(NODE, console=UP + JOB_KILLED),
        replace(NODE, munge=ACCEPTED, slurm=node_readiness("compute-01", "idle", None)),
        replace(DEAD, reason="destroyed"),
        replace(NODE, state=VmState.PAUSED, reason="user"),
    ],
)
def test_what_is_not_certain_is_not_named(seen):
    assert find_cause(seen) is None
    assert find_first_cause(NOT_READY, [seen]) is None


@pytest.mark.parametrize("text", [PANIC, NO_ROOT, NO_ROOT_DEVICE, DEADLOCK, EMERGENCY])
def test_a_guest_that_will_never_come_up_is_known_by_its_serial_line(text):
    assert find_console_cause(UP + text)


@pytest.mark.parametrize("text", ["", UP, KILLED, JOB_KILLED])
def test_a_guest_that_may_still_come_up_is_waited_for(text):
    assert find_console_cause(text) is None


def test_an_agent_that_never_came_is_told_with_the_last_that_was_heard_of_its_guest():
    said = find_first_cause(TIMED_OUT, [CONTROLLER, replace(NODE, console=UP)])
    assert said == (
        "the guest agent of compute-01 never came: last line on its serial console: "
        "[ 10.540447] ai-how: the guest agent starts"
    )
    silent = find_first_cause(TIMED_OUT, [replace(NODE, console=BANNER)])
    assert silent == "the guest agent of compute-01 never came: its serial console is empty"


def test_the_node_whose_step_failed_comes_before_all_others():
    nodes = [replace(CONTROLLER, console=PANIC), replace(NODE, console=NO_ROOT)]
    assert "compute-01: its root disk" in (find_first_cause(TIMED_OUT, nodes) or "")


def test_what_is_a_consequence_comes_after_its_cause():
    unregistered = replace(NODE, slurm=ABSENT)
    refused = replace(NODE, name="compute-02", munge="unmunge: Error: Rewound credential")
    dead = replace(CONTROLLER, console=KILLED)
    assert "did not register" in (find_first_cause(NOT_READY, [CONTROLLER, unregistered]) or "")
    assert "munge on" in (find_first_cause(NOT_READY, [unregistered, refused]) or "")
    assert "out of memory" in (find_first_cause(NOT_READY, [unregistered, refused, dead]) or "")


def test_services_that_could_not_be_started_are_told_in_their_own_words():
    failure = Failure("services/hpc-compute-01", "Failed: Unit slurmd.service is masked.\n")
    assert find_first_cause(failure, [NODE]) == (
        "compute-01 did not start its services: Failed: Unit slurmd.service is masked."
    )


@pytest.mark.parametrize("step", ["", "disk/hpc-compute-01", "network/hpc", "base/0123456789ab"])
def test_a_failure_of_the_host_is_left_to_its_own_words(step):
    assert find_first_cause(Failure(step, ""), [replace(NODE, console=PANIC)]) is None


def test_a_clock_that_is_off_is_left_to_its_own_words():
    refused = replace(NODE, munge="unmunge: Error: Rewound credential")
    assert find_first_cause(Failure("clocks/hpc", ""), [refused]) is None


def test_what_a_guest_wrote_reaches_the_terminal_as_one_plain_line():
    assert one_line("\x1b[31mred\x1b]0;title\x07\x1bc \x9b2J and\ttabs\n\rlines") == (
        "red 2J and tabs lines"
    )
    assert len(one_line("x" * 5000)) == 200
