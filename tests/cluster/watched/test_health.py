"""Faults made for real: each is found, what is safe is healed, the rest is left alone."""

import json
from collections.abc import Iterator
from uuid import UUID

import pytest

from ai_how.libvirt_client.client import LibvirtClient
from ai_how.monitoring.heal_log import BEGUN, DONE, HealLog
from ai_how.state.cluster_state import read_state
from real_cluster import Cluster

pytestmark = pytest.mark.slurm
FIRST, SECOND = "compute-01", "compute-02"
HEALTHY, ILL = 0, 8
CHECK_S = 600
FILLER = "/var/tmp/filler"


def checked(cluster: Cluster, *words: str) -> tuple[int, dict]:
    done = cluster.try_call("hpc", "check", "--json", *words, timeout_s=CHECK_S)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def found(told: dict) -> set[tuple[str, str]]:
    return {(one["id"], one["subject"]) for one in told["findings"]}


def healed(told: dict) -> list[tuple[str, str, str]]:
    return [(one["id"], one["subject"], one["outcome"]) for one in told["healed"]]


def pause(cluster: Cluster, node: str) -> None:
    state = read_state(cluster.paths)
    assert state
    with LibvirtClient(cluster.host.uri) as client:
        client.pause_domain(UUID(str(state.get_node(node).uuid)))


def have_healthy(cluster: Cluster) -> None:
    code, told = checked(cluster, "--wait", "240")
    assert (code, told["findings"]) == (HEALTHY, [])


@pytest.fixture
def whole(watched: Cluster) -> Iterator[Cluster]:
    """The cluster; afterwards nothing is left of what was broken."""
    have_healthy(watched)
    try:
        yield watched
    finally:
        watched.try_call("hpc", "check", "--heal", "--resume-paused", timeout_s=CHECK_S)
        watched.execute(FIRST, f"rm -f {FILLER}")
        for node in (FIRST, SECOND):
            watched.execute("controller", f"scontrol update nodename={node} state=undrain || :")
        watched.paths.heals.unlink(missing_ok=True)


def test_a_vm_that_was_paused_by_hand_is_resumed_only_if_that_is_asked_for(whole):
    pause(whole, SECOND)
    code, told = checked(whole, SECOND, "--heal")
    assert code == ILL
    assert ("vm-paused", SECOND) in found(told)
    assert healed(told) == []
    code, told = checked(whole, SECOND, "--heal", "--resume-paused", "--wait", "120")
    assert healed(told)[0] == ("vm-paused", SECOND, "done")
    assert code == HEALTHY, told["findings"]
    have_healthy(whole)


@pytest.mark.long  # four minutes
def test_what_is_broken_is_found_and_what_is_safe_is_healed(whole):
    whole.execute(FIRST, "systemctl stop munge")
    whole.execute(FIRST, f"fallocate -l $(($(stat -fc '%a * %S' /) * 95 / 100)) {FILLER}")
    whole.execute(SECOND, "systemctl stop slurmd ai-how-clock chrony; date -s '+1 hour'")
    whole.execute("controller", f"scontrol update nodename={FIRST} state=drain reason='my own'")
    code, told = checked(whole)
    assert code == ILL
    expected = {
        ("munge-down", FIRST),
        ("file-system-filling", FIRST),
        ("node-out-of-service", FIRST),
        ("slurmd-down", SECOND),
        ("clock-off", SECOND),
    }
    # Of a node that was booted a moment ago, nobody expects a clock service yet.
    assert found(told) - {("clock-unkept", SECOND)} == expected
    drained = next(one for one in told["findings"] if one["id"] == "node-out-of-service")
    assert drained["text"] == f"{FIRST}: SLURM has it as drained: my own"
    assert drained["heals"] is False

    code, told = checked(whole, "--heal")
    assert {one[:2] for one in healed(told) if one[2] == "done"} >= {
        ("munge-down", FIRST),
        ("slurmd-down", SECOND),
        ("clock-off", SECOND),
    }
    assert {one[2] for one in healed(told)} == {"done"}
    # What a user drained, and files of users, are theirs.
    assert (code, found(told)) == (
        ILL,
        {("file-system-filling", FIRST), ("node-out-of-service", FIRST)},
    )
    log = [(one.id, one.word) for one in HealLog(whole.paths.heals).read()]
    assert log.count(("munge-down", BEGUN)) == log.count(("munge-down", DONE)) == 1

    whole.execute(FIRST, f"rm {FILLER}")
    whole.execute(SECOND, "systemctl start ai-how-clock chrony")
    whole.execute("controller", f"scontrol update nodename={FIRST} state=undrain")
    have_healthy(whole)
    assert whole.ssh("controller", "srun -N 2 -l hostname | sort").split() == [
        *("0:", FIRST),
        *("1:", SECOND),
    ]
