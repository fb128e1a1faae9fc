"""Each rule of health: it fires, it does not, and what is not known is no finding."""

from dataclasses import replace

import pytest

from ai_how.hpc.kind import SLURM
from ai_how.monitoring.health import judge_of
from ai_how.monitoring.model import (
    Fault,
    FileSystemUse,
    Finding,
    GuestSample,
    JobUse,
    Snapshot,
    VmCounters,
)
from made_up_cluster import make_job
from snapshots import (
    keep_looking,
    later,
    look_once,
    silent,
    sound,
    told,
    with_guest,
    with_host,
    with_slurm,
    with_vm,
)

GIB = 1024
NODE = "compute-01"


def disk(place: str, *, size: int = 10 * GIB, free: int) -> tuple[FileSystemUse, ...]:
    return (FileSystemUse(mount_point=place, size_mib=size, used_mib=size - free, free_mib=free),)


def storage(free_mib: int, size_mib: int = 500 * GIB) -> FileSystemUse:
    return FileSystemUse(
        mount_point="/srv", size_mib=size_mib, used_mib=size_mib - free_mib, free_mib=free_mib
    )


def only(found: tuple[Finding, ...]) -> Finding:
    assert len(found) == 1, found
    return found[0]


def test_a_sound_cluster_has_no_finding():
    judge = judge_of(SLURM)
    assert look_once(sound()) == ()
    assert keep_looking(judge, sound(), 900)[1] == ()


def test_a_cluster_of_which_nothing_is_known_has_no_finding():
    seen = sound()
    nodes = tuple(replace(one, vm=None, guest=None, slurm=None) for one in seen.nodes)
    assert look_once(replace(seen, nodes=nodes, slurm=None, host=None)) == ()
    unknown = tuple(replace(one, guest=GuestSample()) for one in seen.nodes)
    assert look_once(replace(seen, nodes=unknown)) == ()


def test_a_guest_that_is_busy_is_not_ill():
    seen = with_vm(sound(), NODE, cpus_busy=4.0, guest_memory_used_mib=3000)
    seen = with_guest(seen, NODE, load=(80.0, 60.0, 40.0), pressure={"cpu": 99.0, "io": 80.0})
    seen = with_host(seen, cpus_busy=16.0, load=(300.0, 300.0, 300.0), pressure={"cpu": 99.0})
    assert keep_looking(judge_of(SLURM), seen, 900)[1] == ()


MACHINES = [
    ({"state": "crashed", "reason": "panicked"}, "guest-crashed", "critical"),
    ({"state": "paused", "reason": "crashed"}, "guest-crashed", "critical"),
    ({"state": "shut_off", "reason": "crashed"}, "qemu-ended", "critical"),
    ({"state": "shut_off", "reason": "failed"}, "qemu-ended", "critical"),
    ({"state": "absent", "reason": "not defined"}, "vm-undefined", "critical"),
    ({"state": "paused", "reason": "user"}, "vm-paused", "critical"),
    ({"state": "paused", "reason": "I/O error"}, "disk-io-error", "critical"),
    ({"is_agent_connected": False}, "agent-silent", "critical"),
    ({"balloon_mib": 2048}, "balloon-short", "warning"),
]


@pytest.mark.parametrize(("change", "name", "severity"), MACHINES, ids=[m[1] for m in MACHINES])
def test_a_fault_of_a_machine_is_found_by_one_look(change, name, severity):
    found = only(look_once(with_vm(sound(), NODE, **change)))
    assert (found.id, found.subject, found.severity) == (name, NODE, severity)
    assert found.text.startswith(f"{NODE}: ")
    assert found.remedy
    assert "{" not in found.remedy


@pytest.mark.parametrize("reason", ["saving", "starting up", "migrating", "dumping"])
def test_a_pause_of_libvirt_itself_is_no_finding(reason):
    assert look_once(with_vm(sound(), NODE, state="paused", reason=reason)) == ()


def test_a_vm_that_waits_for_room_on_the_host_is_told_as_such():
    seen = with_vm(sound(), NODE, state="paused", reason="I/O error")
    found = look_once(with_host(seen, storage=storage(10)))
    assert told(found) == {("disk-full", NODE), ("host-disk-full", "host")}
    one = next(each for each in found if each.id == "disk-full")
    assert "/srv of the host has 10 MiB free" in one.evidence
    assert not one.heals
    with_room = only(look_once(seen))
    assert with_room.heals


def test_a_cluster_that_is_off_has_no_finding_of_its_nodes():
    seen = sound()
    for one in seen.nodes:
        seen = with_vm(seen, one.name, state="shut_off", reason="shutdown")
    assert look_once(seen) == ()
    assert look_once(replace(seen, is_up=False)) == ()
    for one in seen.nodes:
        seen = with_vm(seen, one.name, state="shut_off", reason="crashed")
    assert {each.id for each in look_once(seen)} == {"qemu-ended"}


def test_what_a_paused_guest_said_before_is_no_finding():
    seen = with_guest(sound(), NODE, services={"munge": "failed"}, oom_kills=4)
    seen = with_vm(seen, NODE, state="paused", reason="user")
    seen = with_slurm(seen, NODE, states=("idle", "not_responding"))
    assert told(look_once(seen)) == {("vm-paused", NODE)}


def test_a_guest_whose_agent_hangs_is_found_though_it_is_connected():
    found = only(look_once(silent(sound(), f"guest/{NODE}", trouble="no answer for 40 s")))
    assert (found.id, found.subject) == ("guest-hangs", NODE)
    assert found.evidence == ("no answer for 40 s", "its last answer is 5 min old")


def test_steal_is_a_finding_after_minutes_and_over_when_it_is_clearly_less():
    judge = judge_of(SLURM)
    seen, found = keep_looking(judge, with_vm(sound(), NODE, cpus_waiting=2.4), 240)
    assert found == ()
    seen, found = keep_looking(judge, seen, 120)
    assert told(found) == {("steal", NODE)}
    assert only(found).severity == "notice"
    seen, found = keep_looking(judge, with_vm(seen, NODE, cpus_waiting=1.6), 60)
    assert told(found) == {("steal", NODE)}, "between the thresholds it stays"
    seen, found = keep_looking(judge, with_vm(seen, NODE, cpus_waiting=1.0), 20)
    assert found == ()


def test_errors_of_a_disk_are_new_ones():
    judge, seen = judge_of(SLURM), with_vm(sound(), NODE, counters=VmCounters(disk_errors=7))
    assert judge.judge(seen) == ()
    seen = later(with_vm(seen, NODE, counters=VmCounters(disk_errors=9)))
    found = only(judge.judge(seen))
    assert (found.id, found.evidence) == (
        "disk-errors",
        ("2 more errors, 9 since its VM was started",),
    )
    assert keep_looking(judge, seen, 660)[1] == ()


FULL = [
    ("/", 10, "root-full", "critical"),
    ("/scratch", 10, "file-system-full", "critical"),
    ("/", 900, "file-system-filling", "warning"),
    ("/scratch", 900, "file-system-filling", "warning"),
]


@pytest.mark.parametrize(("place", "free", "name", "severity"), FULL)
def test_a_file_system_that_is_full_or_nearly(place, free, name, severity):
    found = only(look_once(with_guest(sound(), NODE, file_systems=disk(place, free=free))))
    assert (found.id, found.severity, found.subject) == (name, severity, NODE)
    assert place in found.text
    assert look_once(with_guest(sound(), NODE, file_systems=disk(place, free=3000))) == ()


def test_home_is_told_of_by_the_controller_alone():
    home = disk("/home", free=3)
    assert look_once(with_guest(sound(), NODE, file_systems=home)) == ()
    found = only(look_once(with_guest(sound(), "controller", file_systems=home)))
    assert found.id == "home-full"


def test_a_file_system_that_will_be_full_within_the_hour_is_filling():
    judge, seen = judge_of(SLURM), sound()
    for step in range(13):
        left = disk("/", free=3000 - 60 * step)
        found = judge.judge(with_guest(seen, NODE, file_systems=left))
        seen = later(seen, 60)
    one = only(found)
    assert one.id == "file-system-filling"
    assert one.evidence[1] == "it grew by 60 MiB a minute lately: full in 38 min"


def test_a_file_system_near_the_threshold_does_not_flap():
    judge, seen, since = judge_of(SLURM), sound(), set()
    for step in range(20):
        near = disk("/", free=1000 if step % 2 else 1060)
        for one in judge.judge(with_guest(seen, NODE, file_systems=near)):
            since.add(one.since)
        seen = later(seen)
    assert len(since) == 1


def test_processes_that_were_killed_are_news_for_a_while():
    judge, seen = judge_of(SLURM), sound()
    assert judge.judge(seen) == ()
    seen = later(with_guest(seen, NODE, oom_kills=2))
    found = only(judge.judge(seen))
    assert (found.id, found.severity) == ("out-of-memory", "critical")
    assert "killed 2 processes" in found.text
    seen, found = keep_looking(judge, seen, 660)
    assert only(found).severity == "notice"
    assert judge.judge(later(with_guest(seen, NODE, oom_kills=0), 20)) == ()


def test_kills_before_the_first_look_are_a_notice():
    assert only(look_once(with_guest(sound(), NODE, oom_kills=2))).severity == "notice"


def test_a_job_that_took_more_than_it_asked_for_is_not_the_nodes_fault():
    judge, seen = judge_of(SLURM), sound()
    judge.judge(seen)
    jobs = (JobUse(job="7", oom_kills=1),)
    found = judge.judge(later(with_guest(seen, NODE, oom_kills=1, jobs=jobs)))
    assert {(one.id, one.severity) for one in found} == {
        ("job-out-of-memory", "notice"),
        ("out-of-memory", "notice"),
    }
    assert seen.slurm
    ended = replace(
        make_job(3, [NODE], seen.at), state="out_of_memory", nodes=(NODE,), ended_at=seen.at
    )
    judge = judge_of(SLURM)
    judge.judge(seen)
    over = later(with_guest(seen, NODE, oom_kills=1))
    over = replace(over, slurm=replace(seen.slurm, jobs=(ended,)))
    found = judge.judge(over)
    assert "processes of job 3" in next(one.text for one in found if one.id == "job-out-of-memory")
    assert {one.severity for one in found} == {"notice"}


def test_memory_that_is_used_up_for_minutes():
    judge, seen = judge_of(SLURM), with_vm(sound(), NODE, guest_memory_used_mib=3850)
    seen, found = keep_looking(judge, seen, 60)
    assert found == ()
    seen, found = keep_looking(judge, seen, 90)
    assert told(found) == {("memory-full", NODE)}
    seen, found = keep_looking(judge, with_vm(seen, NODE, guest_memory_used_mib=None), 20)
    assert found == (), "what is not known is no finding"


def test_failed_units_are_named_and_services_have_rules_of_their_own():
    units = ("backup.service", "munge.service", "evil\x1b[2Jname.service")
    seen = with_guest(sound(), NODE, failed_units=units, services={"munge": "failed"})
    found = {one.id: one for one in look_once(seen)}
    assert set(found) == {"munge-down", "unit-failed"}
    assert "munge" not in found["unit-failed"].text
    assert "\x1b" not in found["unit-failed"].text


HOSTS = [
    ({"storage": storage(100)}, "host-disk-full", "critical"),
    ({"storage": storage(9000)}, "host-disk-filling", "warning"),
    ({"memory_available_mib": 600}, "host-memory-short", "warning"),
]


@pytest.mark.parametrize(("change", "name", "severity"), HOSTS, ids=[h[1] for h in HOSTS])
def test_a_fault_of_the_host(change, name, severity):
    seen = with_host(sound(), **change)
    found = {one.id: one for one in look_once(seen)}
    found.pop("host-disk-promised", None)
    assert set(found) == {name}
    assert (found[name].subject, found[name].severity) == ("host", severity)


def test_a_host_whose_programs_wait_for_memory():
    judge, seen = judge_of(SLURM), with_host(sound(), pressure={"memory": 40.0})
    seen, found = keep_looking(judge, seen, 50)
    assert found == ()
    seen, found = keep_looking(judge, seen, 60)
    assert told(found) == {("host-memory-pressure", "host")}


def test_disks_that_may_outgrow_the_host_are_a_notice():
    found = only(look_once(with_host(sound(), storage=storage(40 * GIB))))
    assert (found.id, found.severity) == ("host-disk-promised", "notice")
    assert found.text == "the disks of the nodes could grow by 57.0 GiB, and 40.0 GiB are free"


def test_storage_that_grows_is_told_with_the_time_that_is_left():
    judge, seen = judge_of(SLURM), sound()
    for step in range(13):
        found = judge.judge(with_host(seen, storage=storage(100 * GIB - 1200 * step)))
        seen = later(seen, 60)
    one = next(each for each in found if each.id == "host-disk-filling")
    assert one.evidence[-1] == "it grew by 1200 MiB a minute: full in 1 h 13 min"


def test_a_source_that_is_silent_is_a_finding_of_its_own():
    assert told(look_once(silent(sound(), "disks"))) == {("source-silent", "disks")}
    assert look_once(silent(sound(), "disks", for_s=10)) == ()
    found = look_once(silent(sound(), "libvirt", trouble="libvirt did not answer within 8 s"))
    assert told(found) == {("libvirt-silent", "host")}
    assert found[0].evidence[0] == "libvirt did not answer within 8 s"


def test_faults_of_the_host_are_findings_with_their_ids():
    faults = (
        Fault(id="bridge-gone", subject="network", text="its bridge virbr7 is gone"),
        Fault(id="share-lost", subject=NODE, text="its share /a was removed", remedy="mkdir /a"),
        Fault(id="share-lost", subject=NODE, text="its share /b was removed", remedy="mkdir /b"),
        Fault(id="run-cut-short", subject="host", text="a command was killed"),
    )
    found = {one.id: one for one in look_once(replace(sound(), faults=faults))}
    assert set(found) == {"bridge-gone", "share-lost", "run-cut-short"}
    assert found["bridge-gone"].text == "network: its bridge virbr7 is gone"
    assert found["bridge-gone"].remedy == "ai-how hpc start"
    assert found["share-lost"].evidence == ("its share /b was removed",)
    assert found["share-lost"].remedy == "mkdir /a"


def test_names_of_a_guest_reach_no_command():
    place = "/x; rm -rf ~\x1b[31m"
    seen = with_guest(sound(), NODE, file_systems=disk(place, free=1))
    found = only(look_once(seen))
    assert "rm -rf" not in found.remedy
    assert "\x1b" not in f"{found.text}{found.evidence}"


@pytest.fixture
def every() -> list[Snapshot]:
    """A snapshot for each fault of a machine."""
    return [with_vm(sound(), NODE, **change) for change, _, _ in MACHINES]


def test_the_worst_is_told_first(every):
    seen = with_guest(every[0], "controller", oom_kills=1)
    seen = with_host(seen, memory_available_mib=300)
    ranks = ["critical", "warning", "notice"]
    found = [ranks.index(one.severity) for one in look_once(seen)]
    assert found == sorted(found)
    assert len(set(found)) == 3
