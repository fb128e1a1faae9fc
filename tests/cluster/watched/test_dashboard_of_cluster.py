"""The dashboard's server with a real cluster: what it says is what libvirt and SLURM say."""

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from ai_how.clusters.cluster_access import client_of
from ai_how.clusters.collecting import find_collector
from ai_how.hpc.manager import HpcManager
from ai_how.libvirt_client.facts import DomainStats
from ai_how.monitoring.live import COLLECTOR
from ai_how.waiting import Deadline, wait_until
from dashboard_process import Dashboard, dashboard_of
from real_cluster import Cluster

pytestmark = pytest.mark.slurm

PATIENCE_S = 300.0
NODES = ["controller", "compute-01", "compute-02"]


@pytest.fixture
def page(watched: Cluster) -> Iterator[Dashboard]:
    name = watched.paths.name
    with dashboard_of([*watched.argv, "hpc", "dashboard", "--cluster", name, "--console"]) as made:
        yield made
    watched.call("hpc", "monitor", "stop")


def path_of(watched: Cluster, rest: str) -> str:
    return f"/api/clusters/{watched.paths.name}/{rest}"


def await_snapshot(page: Dashboard, watched: Cluster, is_so: Any, what: str) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        seen = page.ask(path_of(watched, "snapshot")).value
        return seen if is_so(seen) else None

    # A page that is open has the cluster followed.
    with closing(page.open_stream()):
        return wait_until(look, Deadline.after(PATIENCE_S), what, interval_s=1)


def has_vms(seen: dict[str, Any]) -> bool:
    return [one["name"] for one in seen["nodes"] if one["vm"]] == NODES


def _asked_at(seen: dict[str, Any]) -> float:
    """When libvirt answered last."""
    return next(one["at"] or 0.0 for one in seen["sources"] if one["name"] == "libvirt")


def stats_of(watched: Cluster) -> dict[str, DomainStats]:
    manager = HpcManager(roots=watched.roots, name=watched.paths.name)
    names = {one.uuid: one.name for one in manager.get_state().nodes}
    with client_of(manager.place()) as client:
        return {names[uuid]: one for uuid, one in client.stats(names).items()}


def test_its_figures_are_those_of_libvirt(page: Dashboard, watched: Cluster) -> None:
    before = stats_of(watched)
    begun = time.time()
    seen = await_snapshot(
        page, watched, lambda one: has_vms(one) and _asked_at(one) > begun, "the nodes"
    )
    after = stats_of(watched)
    state = {
        one.name: one
        for one in HpcManager(roots=watched.roots, name=watched.paths.name).get_state().nodes
    }
    for node in seen["nodes"]:
        name, vm = node["name"], node["vm"]
        old, new = before[name], after[name]
        assert (vm["uuid"], node["ip"]) == (str(state[name].uuid), str(state[name].ip))
        assert vm["state"] == "running"
        assert vm["disk_capacity_bytes"] == new.disk_capacity_bytes
        assert vm["balloon_mib"] == new.memory_current_mib
        for key, least, most in [
            ("cpu_time_ns", old.cpu_time_ns, new.cpu_time_ns),
            ("net_received_bytes", old.net_received_bytes, new.net_received_bytes),
            ("net_sent_bytes", old.net_sent_bytes, new.net_sent_bytes),
        ]:
            assert least <= vm["counters"][key] <= most, (name, key)


def test_its_jobs_and_nodes_are_those_of_slurm(page: Dashboard, watched: Cluster) -> None:
    line = "sbatch --parsable -J seen -n 2 -o /dev/null --wrap 'sleep 600'"
    job = watched.ssh("controller", line).strip()
    try:
        seen = await_snapshot(
            page, watched, lambda one: _state_of(one, job) == "running", "the job that runs"
        )
        told = json.loads(watched.execute("controller", f"scontrol show job {job} --json"))["jobs"]
        [shown] = [one for one in seen["slurm"]["jobs"] if one["id"] == job]
        assert shown["name"] == told[0]["name"] == "seen"
        assert shown["nodes"] == [told[0]["nodes"]]
        assert shown["cpus"] == told[0]["cpus"]["number"] == 2
        assert shown["partition"] == told[0]["partition"]
        assert shown["started_at"] == told[0]["start_time"]["number"]
        nodes = json.loads(watched.execute("controller", "scontrol show nodes --json"))["nodes"]
        allotted = {one["name"]: one["alloc_cpus"] for one in nodes}
        assert {one["name"]: one["cpus_allotted"] for one in seen["slurm"]["nodes"]} == allotted
        assert sum(allotted.values()) == 2
        found = page.ask(path_of(watched, "jobs?since=-600")).value["jobs"]
        assert job in [one["id"] for one in found]
        series = page.ask(path_of(watched, "series?name=jobs_running&subject=slurm&since=-60"))
        means = [value for _, value in series.value["points"] if value is not None]
        assert max(means) > 0
    finally:
        watched.ssh("controller", f"scancel {job}")
    await_snapshot(page, watched, lambda one: _state_of(one, job) == "cancelled", "the end of it")


def _state_of(seen: dict[str, Any], job: str) -> str | None:
    jobs = seen["slurm"]["jobs"] if seen["slurm"] else []
    return next((one["state"] for one in jobs if one["id"] == job), None)


def test_a_console_is_a_shell_of_the_node(page: Dashboard, watched: Cluster) -> None:
    path = path_of(watched, "nodes/compute-01/console")
    with closing(page.open_console(path)) as console:
        assert json.loads(console.receive()) == {"kind": "serial", "node": "compute-01"}
        # The shell of a node that was just booted comes minutes later, and forgets what was typed.
        console.send(b"\r")
        console.until(b":~# ")
        # The line itself says what is typed: the answer is what was not.
        console.send(b"echo $(hostname)-$((6 * 7))-$(id -un)\r")
        console.until(b"compute-01-42-root")
    assert page.ask(path_of(watched, "snapshot")).status == 200


def test_the_journal_is_that_of_the_node(page: Dashboard, watched: Cluster) -> None:
    tag = f"of-the-page-{time.time_ns()}"
    watched.execute("compute-02", f"logger -t {tag} 'said by a test: \033[31mred'")
    found = page.ask(path_of(watched, "nodes/compute-02/journal?lines=50")).value["entries"]
    assert [one["message"] for one in found if one["identifier"] == tag] == ["said by a test: red"]


def test_a_collector_that_is_killed_under_an_open_page_comes_back(
    page: Dashboard, watched: Cluster
) -> None:
    with closing(page.open_stream()) as stream:
        while stream.until("snapshot")["sources"] == []:
            pass
        first = find_collector(watched.paths)
        assert first is not None
        os.kill(first.pid, signal.SIGKILL)
        troubles = []
        while not troubles or troubles[-1]:
            seen = stream.until("snapshot")
            own = [one["trouble"] for one in seen["sources"] if one["name"] == COLLECTOR]
            troubles += own or ([None] if troubles else [])
        assert troubles[0]
        second = find_collector(watched.paths)
        assert second is not None
        assert second.pid != first.pid
    assert page.ask(path_of(watched, "series?name=cpu&subject=host&since=-60")).status == 200
