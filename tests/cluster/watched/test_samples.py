"""Figures of a snapshot are libvirt's and SLURM's own; the use of a job is that of its cgroup."""

import json
from collections.abc import Iterator

import pytest

from ai_how.errors import DeadlineError
from ai_how.hpc.manager import HpcManager
from ai_how.monitoring.model import Job, Snapshot
from ai_how.monitoring.once import look_once
from ai_how.waiting import Deadline, wait_until
from real_cluster import Cluster

pytestmark = pytest.mark.slurm

LONG_S = 300.0


def look(cluster: Cluster) -> Snapshot:
    """A snapshot in which everything has answered: guests may be too busy for a while.

    An emulated guest tells of its memory, and keeps its clock, minutes after its boot.
    """

    def is_whole(seen: Snapshot) -> bool:
        return not any(one.trouble for one in seen.sources) and all(
            one.vm
            and one.vm.guest_memory_mib
            and one.guest
            and set(one.guest.services.values()) == {"active"}
            for one in seen.nodes
        )

    last: list[Snapshot] = []

    def try_it() -> Snapshot | None:
        seen = look_once(HpcManager(roots=cluster.roots, name="hpc"), within_s=60)
        last[:] = [seen]
        return seen if is_whole(seen) else None

    try:
        return wait_until(try_it, Deadline.after(LONG_S), "an answer of every source")
    except DeadlineError:
        told = [(one.name, one.vm, one.guest) for one in last[0].nodes]
        raise AssertionError((told, last[0].sources)) from None


@pytest.fixture
def job(watched: Cluster) -> Iterator[str]:
    """The number of a job that keeps a processor busy on compute-02."""
    busy = "i=0; while :; do i=$((i+1)); done"
    number = watched.execute(
        "controller",
        f"sbatch --parsable -w compute-02 --mem=64M -t 30 -J busy -o /dev/null --wrap '{busy}'",
    ).strip()
    yield number
    watched.execute("controller", f"scancel {number}")
    wait_until(
        lambda: not watched.execute("controller", f"squeue -h -j {number} || true").strip(),
        Deadline.after(LONG_S),
        "the end of the job",
    )


def test_figures_are_those_of_libvirt_and_slurm(watched: Cluster) -> None:
    seen = look(watched)
    assert [one.name for one in seen.nodes] == ["controller", "compute-01", "compute-02"]
    manager = HpcManager(roots=watched.roots, name="hpc")
    with manager.agent_of(manager.get_state().get_controller()) as agent:
        client = agent.channel
        stats = client.stats([one.uuid for one in manager.get_state().nodes])
    status = {one["name"]: one for one in watched.status()["nodes"]}
    for node in seen.nodes:
        told, said = stats[manager.get_state().get_node(node.name).uuid], status[node.name]
        assert node.vm
        assert node.guest
        assert (node.vm.state, node.vm.domain) == (said["state"], said["domain"])
        assert (node.vm.vcpus, node.vm.memory_mib) == (said["vcpus"], said["memory_mib"])
        counted = node.vm.counters.cpu_time_ns
        assert told.cpu_time_ns * 0.5 <= counted <= told.cpu_time_ns
        assert node.vm.disk_capacity_bytes == told.disk_capacity_bytes
        assert node.vm.guest_memory_mib == told.guest_memory.total_mib
        assert node.vm.guest_memory_used_mib == pytest.approx(told.guest_memory.used_mib, abs=60)
        assert node.guest.uptime_s == pytest.approx(
            float(watched.execute(node.name, "cat /proc/uptime").split()[0]), abs=120
        )
        root = node.guest.file_systems[0]
        free_kib = int(watched.execute(node.name, "df --output=avail /").split()[1])
        assert (root.mount_point, root.free_mib) == ("/", pytest.approx(free_kib / 1024, abs=20))
        assert set(node.guest.services.values()) == {"active"}, (node.name, node.guest.services)
        assert node.guest.is_home_there is (None if node.role == "controller" else True)
    assert seen.slurm
    rows = watched.execute("controller", "sinfo -h -N -o '%N|%c|%m|%t|%P'").splitlines()
    for row in rows:
        name, cpus, memory, state, partition = row.strip().split("|")
        one = seen.find_node(name).slurm
        assert one
        assert (one.cpus, one.memory_mib) == (int(cpus), int(memory))
        assert one.states[0].startswith(state.rstrip("*-")[:3])
        assert partition.rstrip("*") in one.partitions
    defaults = [one.name for one in seen.slurm.partitions if one.is_default]
    assert defaults == [row.rsplit("|")[-1][:-1] for row in rows if row.endswith("*")][:1]
    version = watched.execute("controller", "sinfo --version").split()[-1]
    assert seen.slurm.version == version


def test_a_job_that_runs_is_seen_with_what_its_cgroup_counts(watched: Cluster, job: str) -> None:
    used = f"cat /sys/fs/cgroup/system.slice/*slurmstepd.scope/job_{job}/cpu.stat"
    wait_until(
        lambda: (
            "usage" in watched.try_call("hpc", "exec", "compute-02", "--", "sh", "-c", used).stdout
        ),
        Deadline.after(LONG_S),
        "the cgroup of the job",
    )
    seen = look(watched)
    assert seen.slurm
    one = next(each for each in seen.slurm.jobs if each.id == job)
    now_s = int(watched.execute("compute-02", used).split()[1]) / 1e6
    assert one.cpu_used_s is not None
    assert 0 < one.cpu_used_s <= now_s
    assert one.memory_peak_mib is not None
    assert 0 < one.memory_peak_mib <= 64
    assert_is_told(one, watched)
    assert seen.find_node("compute-02").slurm.cpus_allotted == 1


def assert_is_told(one: Job, watched: Cluster) -> None:
    """SLURM tells the same of the job by squeue."""
    told = watched.execute("controller", f"squeue -h -j {one.id} --json")
    job = json.loads(told)["jobs"][0]
    assert one.state in {word.lower() for word in job["job_state"]}
    assert (one.name, one.user) == (job["name"], job["user_name"])
    assert list(one.nodes) == [job["nodes"]]
    assert (one.cpus, one.memory_mib, one.limit_s) == (1, 64, 1800)
    assert one.started_at == job["start_time"]["number"]
