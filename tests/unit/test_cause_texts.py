"""From what real guests, QEMUs and SLURMs wrote when they failed to the cause, and no further."""

from dataclasses import replace
from pathlib import Path

import pytest

from ai_how.clusters.diagnosis.catalogue import MachineCause
from ai_how.clusters.diagnosis.causes import find_cause, find_first_cause
from ai_how.clusters.diagnosis.kind import Cause, NodeAnswer, Rank
from ai_how.clusters.diagnosis.node_evidence import NodeEvidence
from ai_how.errors import GuestError, HostError, StepFailure
from ai_how.guest.serial_log import find_console_cause, one_line
from ai_how.hpc.catalogue import SlurmCause
from ai_how.hpc.causes import ACCEPTED, SlurmDiagnosis, SlurmEvidence, SlurmSigns
from ai_how.hpc.workload import node_readiness
from ai_how.libvirt_client.vm_state import VmState
from ai_how.plan.step import node_of

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
FEWER_GPUS = node_readiness(
    "compute-01", "inval", "gres/gpu count reported lower than configured (7 < 8)"
)
LOW = node_readiness(
    "compute-01", "inval", "Low RealMemory (reported:211 < 90.00% of configured:401)"
)
TIMED_OUT = StepFailure("agent/hpc-compute-01", GuestError("late"), "compute-01", "agent")
NOT_READY = StepFailure("ready/hpc", GuestError("not ready"), kind="ready")
REFUSED = "unmunge: Error: Rewound credential"


def first_cause(
    failure: StepFailure, *nodes: NodeEvidence, **signs: SlurmSigns
) -> tuple[str, str] | None:
    """The node and the text of the first cause; of SLURM's signs by node, with _ for -."""
    slurm = SlurmEvidence({name.replace("_", "-"): one for name, one in signs.items()})
    cause = find_first_cause(failure, nodes, slurm, SlurmDiagnosis.awaiting)
    return (cause.node, cause.text) if cause else None


@pytest.mark.parametrize(
    ("seen", "cause_id", "text"),
    [
        (
            replace(NODE, console=PANIC),
            MachineCause.KERNEL_PANIC,
            "compute-01: kernel panic: Attempted to kill init! exitcode=0x00000000",
        ),
        (
            replace(NODE, console=NO_ROOT_DEVICE),
            MachineCause.KERNEL_PANIC,
            "compute-01: kernel panic: VFS: Unable to mount root fs on unknown-block(0,0)",
        ),
        (
            replace(DEAD, reason="shutdown", console=NO_ROOT),
            MachineCause.NO_ROOT_DISK,
            "compute-01: its root disk was not found (/dev/vda cannot be mounted)",
        ),
        (
            replace(NODE, console=DEADLOCK),
            MachineCause.OUT_OF_MEMORY,
            "compute-01: it ran out of memory: System is deadlocked on memory",
        ),
        (
            replace(NODE, console=KILLED + PANIC),
            MachineCause.OUT_OF_MEMORY,
            "compute-01: it ran out of memory: busybox was killed",
        ),
        (
            replace(NODE, console=EMERGENCY),
            MachineCause.EMERGENCY_MODE,
            "compute-01: its systemd gave up and is in emergency mode",
        ),
        (
            STUCK,
            MachineCause.DISK_FULL,
            (
                "compute-01: the guest is paused on an I/O error: the disk of the host is full "
                "(/srv/d, 0 bytes free)"
            ),
        ),
        (
            replace(STUCK, free_bytes=2**40),
            MachineCause.DISK_IO_ERROR,
            "compute-01: the guest is paused on an I/O error of its disk",
        ),
        (
            replace(DEAD, qemu_log=KILLED_QEMU, qemu_signal=9),
            MachineCause.QEMU_KILLED,
            "compute-01: QEMU was killed (signal 9)",
        ),
        (
            replace(DEAD, qemu_log=KILLED_QEMU),
            MachineCause.QEMU_ENDED,
            "compute-01: QEMU was killed or crashed; its log does not say why",
        ),
        (
            replace(DEAD, qemu_log=BROKEN_QEMU),
            MachineCause.QEMU_ENDED,
            (
                "compute-01: QEMU was killed or crashed; qemu-system-x86_64: "
                "../../block/qcow2.c:123: qcow2_x: Assertion `x == y' failed."
            ),
        ),
        # The serial line of a system's libvirt may not be read: a panic would look the same.
        (
            replace(DEAD, console=None),
            MachineCause.QEMU_ENDED,
            "compute-01: the guest panicked, or its QEMU was killed",
        ),
        (
            replace(NODE, state=VmState.CRASHED, reason="panicked"),
            MachineCause.GUEST_CRASHED,
            "compute-01: the guest crashed (panicked)",
        ),
    ],
)
def test_what_is_certain_of_a_machine_is_named(seen, cause_id, text):
    assert find_cause(seen, SlurmEvidence()) == Cause(Rank.MACHINE, cause_id, "compute-01", text)


@pytest.mark.parametrize(
    ("seen", "signs", "rank", "cause_id", "text"),
    [
        (
            replace(NODE, skew_s=-1203.4),
            SlurmSigns(munge="unmunge: Error: Expired credential\n"),
            Rank.CLOCK,
            SlurmCause.CLOCK_OFF,
            "the clock of compute-01 is 20 min 3 s behind: munge refuses what it signs",
        ),
        (
            replace(NODE, skew_s=2.0),
            SlurmSigns(munge="unmunge: Error: Invalid credential\n"),
            Rank.CREDENTIALS,
            SlurmCause.MUNGE_REFUSED,
            (
                "munge on compute-01 refuses the controller's credentials "
                "(different key or clock): unmunge: Error: Invalid credential"
            ),
        ),
        (
            NODE,
            SlurmSigns(munge="unmunge: Error: Invalid credential\n"),
            Rank.CREDENTIALS,
            SlurmCause.MUNGE_REFUSED,
            (
                "munge on compute-01 refuses the controller's credentials "
                "(different key or clock): unmunge: Error: Invalid credential"
            ),
        ),
        (
            NODE,
            SlurmSigns(munge='unmunge: Error: Failed to access "/run/munge/munge.socket.2"'),
            Rank.CREDENTIALS,
            SlurmCause.MUNGE_DOWN,
            (
                "munge on compute-01 does not work: unmunge: Error: Failed to access "
                '"/run/munge/munge.socket.2"'
            ),
        ),
        (
            replace(CONTROLLER, journal=SLURMCTLD_JOURNAL),
            SlurmSigns(trouble="slurm_load_partitions: Unable to contact slurm controller"),
            Rank.CONTROLLER,
            SlurmCause.SLURMCTLD_DOWN,
            "slurmctld on controller does not answer: fatal: Unable to process configuration file",
        ),
        (
            replace(NODE, journal=SLURMD_JOURNAL),
            SlurmSigns(munge=ACCEPTED, seen=ABSENT),
            Rank.NODE,
            SlurmCause.NODE_NOT_REGISTERED,
            (
                "slurmd on compute-01 did not register: error: _fetch_child: failed to fetch "
                "remote configs: Protocol authentication error"
            ),
        ),
        (
            replace(NODE, journal=""),
            SlurmSigns(seen=ABSENT, jobs=JOBS),
            Rank.NODE,
            SlurmCause.NODE_NOT_REGISTERED,
            "slurmd on compute-01 did not register: slurmd.service waits for ai-how-home.service",
        ),
        (
            NODE,
            SlurmSigns(seen=ABSENT, jobs=PORT),
            Rank.NODE,
            SlurmCause.NODE_NOT_REGISTERED,
            (
                "slurmd on compute-01 did not register: slurmd.service still waits for the "
                "controller's port"
            ),
        ),
        (
            NODE,
            SlurmSigns(seen=ABSENT),
            Rank.NODE,
            SlurmCause.NODE_NOT_REGISTERED,
            "slurmd on compute-01 did not register: SLURM reports it as unknown*",
        ),
        (
            NODE,
            SlurmSigns(seen=FEWER_GPUS),
            Rank.NODE,
            SlurmCause.GPUS_REFUSED,
            (
                "SLURM refuses the GPUs of compute-01: "
                "gres/gpu count reported lower than configured (7 < 8)"
            ),
        ),
        (
            NODE,
            SlurmSigns(seen=LOW),
            Rank.NODE,
            SlurmCause.NODE_OUT_OF_SERVICE,
            (
                "SLURM reports compute-01 as inval: "
                "Low RealMemory (reported:211 < 90.00% of configured:401)"
            ),
        ),
    ],
)
def test_what_is_certain_of_slurm_is_named(seen, signs, rank, cause_id, text):
    slurm = SlurmEvidence({seen.name: signs})
    assert find_cause(seen, slurm) == Cause(rank, cause_id, seen.name, text)


IDLE = SlurmSigns(munge=ACCEPTED, seen=node_readiness("compute-01", "idle", None))


@pytest.mark.parametrize(
    ("seen", "signs"),
    [
        (NODE, SlurmSigns()),
        (CONTROLLER, SlurmSigns()),
        (NodeEvidence(name="compute-01", domain="hpc-compute-01"), SlurmSigns()),
        (replace(NODE, console=UP + JOB_KILLED), SlurmSigns()),
        (NODE, IDLE),
        (replace(DEAD, reason="destroyed"), SlurmSigns()),
        (replace(NODE, state=VmState.PAUSED, reason="user"), SlurmSigns()),
    ],
)
def test_what_is_not_certain_is_not_named(seen, signs):
    slurm = SlurmEvidence({seen.name: signs})
    assert find_cause(seen, slurm) is None
    assert find_first_cause(NOT_READY, [seen], slurm, SlurmDiagnosis.awaiting) is None


def test_slurm_is_read_from_the_controller_alone_and_told_of_nodes_that_hang():
    """A guest can print what it likes: only the controller's sinfo counts."""
    forged = NodeAnswer("compute-01", False, {"sinfo": "compute-02|idle|none\n", "jobs": JOBS})
    told = NodeAnswer("controller", True, {"sinfo": "compute-02|down*|none\n"})
    read = SlurmDiagnosis().read([forged, told])
    assert read.nodes["compute-01"] == SlurmSigns(jobs=JOBS)
    assert read.nodes["controller"] == SlurmSigns()
    assert read.nodes["compute-02"].seen == node_readiness("compute-02", "down*", None)


def test_without_a_credential_no_node_is_asked_about_munge():
    diagnosis = SlurmDiagnosis()
    assert "unmunge" in diagnosis.script(is_controller=False, has_input=True)
    assert "unmunge" not in diagnosis.script(is_controller=False, has_input=False)
    assert "sinfo" in diagnosis.script(is_controller=True, has_input=False)


def test_a_sinfo_that_fails_is_the_controllers_trouble():
    answer = NodeAnswer("controller", True, {"sinfo": "Unable to contact slurm controller\n"})
    read = SlurmDiagnosis().read([answer])
    assert read.nodes["controller"].trouble == "Unable to contact slurm controller\n"
    assert SlurmDiagnosis().read([]) == SlurmEvidence({})


@pytest.mark.parametrize("text", [PANIC, NO_ROOT, NO_ROOT_DEVICE, DEADLOCK, EMERGENCY])
def test_a_guest_that_will_never_come_up_is_known_by_its_serial_line(text):
    assert find_console_cause(UP + text)


@pytest.mark.parametrize("text", ["", UP, KILLED, JOB_KILLED])
def test_a_guest_that_may_still_come_up_is_waited_for(text):
    assert find_console_cause(text) is None


def test_an_agent_that_never_came_is_told_with_the_last_that_was_heard_of_its_guest():
    assert first_cause(TIMED_OUT, CONTROLLER, replace(NODE, console=UP)) == (
        "compute-01",
        (
            "the guest agent of compute-01 never connected: last line on its serial console: "
            "[ 10.540447] ai-how: the guest agent starts"
        ),
    )
    assert first_cause(TIMED_OUT, replace(NODE, console=BANNER)) == (
        "compute-01",
        "the guest agent of compute-01 never connected: its serial console is empty",
    )


def test_the_node_whose_step_failed_comes_before_all_others():
    nodes = replace(CONTROLLER, console=PANIC), replace(NODE, console=NO_ROOT)
    node, text = first_cause(TIMED_OUT, *nodes) or ("", "")
    assert node == "compute-01"
    assert text.startswith("compute-01: its root disk")


def test_what_is_a_consequence_comes_after_its_cause():
    signs = {"compute_01": SlurmSigns(seen=ABSENT), "compute_02": SlurmSigns(munge=REFUSED)}
    refused = replace(NODE, name="compute-02")
    dead = replace(CONTROLLER, console=KILLED)
    for nodes, said in (
        ((CONTROLLER, NODE), ("compute-01", "did not register")),
        ((NODE, refused), ("compute-02", "munge on")),
        ((NODE, refused, dead), ("controller", "out of memory")),
    ):
        node, text = first_cause(NOT_READY, *nodes, **signs) or ("", "")
        assert node == said[0]
        assert said[1] in text


def test_services_that_could_not_be_started_are_told_in_their_own_words():
    error = GuestError("become failed", "Failed: Unit slurmd.service is masked.\n")
    failure = StepFailure("services/hpc-compute-01", error, "compute-01", "services")
    assert first_cause(failure, NODE) == (
        "compute-01",
        "compute-01 did not start its services: Failed: Unit slurmd.service is masked.",
    )


@pytest.mark.parametrize("step", ["", "disk/hpc-compute-01", "network/hpc", "base/0123456789ab"])
def test_a_failure_of_the_host_is_left_to_its_own_words(step):
    kind, _, subject = step.partition("/")
    failure = StepFailure(step or None, HostError("no"), node_of(subject, "hpc"), kind or None)
    assert first_cause(failure, replace(NODE, console=PANIC)) is None


def test_a_clock_that_is_off_is_left_to_its_own_words():
    failure = StepFailure("clocks/hpc", GuestError("off"), kind="clocks")
    assert first_cause(failure, NODE, compute_01=SlurmSigns(munge=REFUSED)) is None


def test_what_a_guest_wrote_reaches_the_terminal_as_one_plain_line():
    assert one_line("\x1b[31mred\x1b]0;title\x07\x1bc \x9b2J and\ttabs\n\rlines") == (
        "red 2J and tabs lines"
    )
    assert len(one_line("x" * 5000)) == 200
