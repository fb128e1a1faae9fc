"""Nodes that fail, undo steps that fail, and files that change: with real verbs on tiny guests."""

from itertools import cycle

import pytest

from ai_how.libvirt_client.facts import DomainInfo
from ai_how.state.cluster_state import read_state
from invariants import Watched
from ledger import Points
from tiny_cluster import FILE, Ended

pytestmark = pytest.mark.libvirt

FAILED, REMAINS = 4, 5
SIGKILLED = -9
NODES = ("controller", "compute-01", "compute-02")
TELLING = {f"services/hpc-{name}" for name in NODES}
WAYS = (("domain", "bad-mac"), ("boot", "no-disk"), ("agent", "OSError"))


def failing(nodes: tuple[str, ...], kind: str, how: str) -> dict[str, list[str]]:
    return {f"{kind}/hpc-{node}": ["before", how] for node in nodes}


@pytest.mark.fault("F58", "a MAC address that libvirt refuses, a disk that QEMU misses, no agent")
@pytest.mark.parametrize("nodes", [NODES[:1], NODES[1:]])
@pytest.mark.parametrize(("kind", "how"), WAYS)
def test_a_node_that_fails_is_named_and_all_is_undone(
    watched: Watched, nodes: tuple[str, ...], kind: str, how: str
) -> None:
    ended = watched.call("start", codes={FAILED}, fail=failing(nodes, kind, how))
    assert any(f"while applying {kind}/hpc-{node}" in ended.err for node in nodes), ended.said
    assert "all its changes were undone" in ended.err
    watched.settled("undone")
    watched.check(ended, "start" if len(nodes) > 1 else "destroy")


@pytest.mark.fault("F59", "a step of the undo fails, for each step")
def test_an_undo_step_that_fails_keeps_no_other_and_what_remains_is_listed_and_cleared(
    watched: Watched, points: Points, *, is_long: bool
) -> None:
    keys = list(dict.fromkeys(key for _, key in watched.boundaries["start"] if key))
    chosen = keys if is_long else [key for key in keys if not key.endswith(("-01", "-02"))][::2]
    thens = cycle(["start", "destroy", "stop"])
    for key in chosen:
        ended = watched.call(
            "start", codes={REMAINS}, fail={keys[-1]: ["before", "OSError"]}, fail_undo=[key]
        )
        assert f"  {key}: " in ended.err, ended.said
        undone = {name for moment, name in ended.boundaries if moment == "after undone"}
        # The directory of the disks goes when all of them have gone.
        kept = {"disks/hpc"} if key.startswith("disk/") else set()
        assert undone == set(keys) - {key} - kept
        watched.check(ended, next(thens))
        watched.have("absent")
    points(len(chosen))


@pytest.mark.fault("F59", "two steps of the undo fail, and fail again in the next command")
def test_what_cannot_be_undone_twice_is_undone_at_last(watched: Watched, points: Points) -> None:
    stuck = ["domain/hpc-compute-01", "network/hpc"]
    fail = {"ready/hpc": ["before", "OSError"]}
    ended = watched.call("start", codes={REMAINS}, fail=fail, fail_undo=stuck)
    for verb in ("start", "stop", "destroy"):
        again = watched.call(verb, codes={REMAINS}, fail_undo=stuck)
        assert all(f"  {key}: " in again.err for key in stuck), again.said
    watched.check(ended, "start")
    points(4)


def rewrite(watched: Watched, **changes: str) -> None:
    """The cluster's file, with other values; without any, as it was."""
    text = FILE.format(name=watched.name, count=watched.home.nodes, warm="false")
    for old, new in CHANGES.items():
        if old in changes:
            assert new in text
            text = text.replace(new, changes[old])
    watched.home.file(watched.name).write_text(text)


CHANGES = {
    "start": "start: {warm: false}",
    "count": "compute_nodes: {count: 2",
    "compute_memory": "count: 2, cpu_cores: 1, memory_gb: 0.5",
    "compute_disk": "memory_gb: 0.5, disk_gb: 1}\n",
}


def domains(watched: Watched) -> dict[str, DomainInfo]:
    with watched.home.client() as client:
        return {one.name: one for one in client.list_domains() if one.name in ours()}


def ours(count: int = 4) -> set[str]:
    return {"hpc-controller", *(f"hpc-compute-{number:02}" for number in range(1, count))}


@pytest.mark.fault("F46", "a start of a healthy cluster that grows fails or is killed at any step")
def test_a_cluster_that_grows_stays_healthy_when_that_fails_or_is_killed(
    watched: Watched, points: Points, *, is_long: bool
) -> None:
    watched.have("on", with_data=True)
    before = domains(watched)
    rewrite(watched, count="compute_nodes: {count: 3")
    try:
        grown = watched.call("start", codes={0})
        pairs = list(dict.fromkeys(grown.boundaries))
        keys = list(dict.fromkeys(key for _, key in pairs if key))
        assert domains(watched).keys() == ours()
        watched.clear()
        rewrite(watched)
        watched.have("on", with_data=True)
        before = domains(watched)
        rewrite(watched, count="compute_nodes: {count: 3")
        made = 0
        for key in keys if is_long else keys[::2]:
            watched.call("start", codes={FAILED}, fail={key: ["after", "OSError"]})
            check_untouched(watched, before)
            assert domains(watched).keys() == ours(3)
            made += 1
        for pair in pairs if is_long else pairs[::17]:
            ended = watched.call("start", at_any=[pair], act="kill")
            assert ended.code == SIGKILLED, ended.said
            check_untouched(watched, before)
            # It may be recovered either way; then it fails, which undoes what it had made.
            watched.call("start", codes={0, FAILED}, fail={keys[-1]: ["before", "OSError"]})
            check_untouched(watched, before)
            if domains(watched).keys() == ours():
                break
            made += 1
        watched.call("start", codes={0})
        check_untouched(watched, before)
        assert domains(watched).keys() == ours()
    finally:
        rewrite(watched)
        watched.clear()
    points(made)


@pytest.mark.fault("F60", "other settings of SLURM, and that start fails or is killed at any step")
def test_nodes_that_were_told_other_settings_are_told_the_old_file_again(
    watched: Watched, points: Points, *, is_long: bool
) -> None:
    watched.have("on", with_data=True)
    before = domains(watched)
    other = 'start: {warm: false}\n    slurm_config: {max_job_time: "1:00:00"}'
    try:
        rewrite(watched, start=other)
        told = watched.call("start", codes={0})
        pairs = list(dict.fromkeys(told.boundaries))
        check_told_again(watched, told)
        keys = list(dict.fromkeys(key for _, key in pairs if key))
        faults: list[dict[str, object]] = [
            {"fail": {key: ["after", "OSError"]}} for key in (keys if is_long else keys[::3])
        ]
        chosen = pairs if is_long else [*pairs[:1], *pairs[3:-2:9]]
        faults += [{"at_any": [pair], "act": "kill"} for pair in chosen]
        for fault in faults:
            rewrite(watched, start=other)
            ended = watched.call("start", **fault)
            assert ended.code in {FAILED, SIGKILLED}, ended.said
            check_told_again(watched, ended)
        check_untouched(watched, before)
    finally:
        rewrite(watched)
        watched.clear()
    points(len(faults))


def check_told_again(watched: Watched, ended: Ended) -> None:
    """A start with the old file tells all nodes, if a step of `ended` told one."""
    rewrite(watched)
    begun = intents(ended)
    again = watched.call("start", codes={0})
    assert intents(again) == (begun and TELLING), ended.said + again.said
    assert watched.call("start", codes={0}).boundaries == ()


def intents(ended: Ended) -> set[str]:
    """The steps that tell a node something and were in the journal before they began."""
    return {key for moment, key in ended.boundaries if moment == "after intent"} & TELLING


def check_untouched(watched: Watched, before: dict[str, DomainInfo]) -> None:
    """The nodes that were there run on, in the same QEMU, and their disks are as they were."""
    now = domains(watched)
    assert {name: (now[name].domid, now[name].state) for name in before} == {
        name: (one.domid, one.state) for name, one in before.items()
    }
    watched.check_data()


@pytest.mark.fault("F46", "a start that boots one node again fails or is killed at any step")
def test_nodes_that_run_run_on_when_a_start_that_boots_another_fails_or_is_killed(
    watched: Watched, points: Points, *, is_long: bool
) -> None:
    watched.have("on", with_data=True)
    every = domains(watched)
    gone = every.pop("hpc-compute-02")
    with watched.home.client() as client:
        client.destroy_domain(gone.uuid)
        healed = watched.call("start", codes={0})
        pairs = list(dict.fromkeys(healed.boundaries))
        keys = list(dict.fromkeys(key for _, key in pairs if key))
        made = 0
        for key in keys if is_long else keys[::2]:
            client.destroy_domain(gone.uuid)
            watched.call("start", codes={FAILED}, fail={key: ["after", "OSError"]})
            check_untouched(watched, every)
            made += 1
        for pair in pairs if is_long else pairs[::9]:
            client.destroy_domain(gone.uuid)
            watched.call("start", at_any=[pair], act="kill")
            check_untouched(watched, every)
            ended = watched.call("start", codes={0})
            check_untouched(watched, every)
            made += 1
    watched.check(ended, "start")
    points(made)


@pytest.mark.fault("F60", "a node more and less, more memory, a larger and a smaller disk")
def test_what_changes_in_the_file_is_done_or_refused_and_nothing_is_lost(
    watched: Watched, points: Points
) -> None:
    home, paths = watched.home, watched.home.paths("hpc")
    watched.have("on", with_data=True)
    try:
        before = domains(watched)
        rewrite(watched, count="compute_nodes: {count: 3")
        watched.call("start", codes={0})
        assert domains(watched).keys() == ours()
        check_untouched(watched, before)

        rewrite(watched)
        less = watched.call("start", codes={0})
        assert "compute-03 is no longer in the file" in less.err, less.said
        assert domains(watched).keys() == ours()
        check_untouched(watched, before)

        more = "count: 2, cpu_cores: 1, memory_gb: 1"
        rewrite(watched, compute_memory=more)
        refused = watched.call("start", codes={2})
        assert "is running, so its size cannot change" in refused.err, refused.said
        check_untouched(watched, before)
        watched.call("stop", codes={0})
        watched.call("start", codes={0})
        sizes = {node.name: node.memory_mib for node in read_state(paths).nodes}
        assert sizes["compute-01"] == 1024
        watched.check_data()

        watched.call("stop", codes={0})
        rewrite(watched, compute_memory=more, compute_disk="memory_gb: 1, disk_gb: 2}\n")
        watched.call("start", codes={0})
        watched.call("stop", codes={0})
        rewrite(watched)
        smaller = watched.call("start", codes={2, 3})
        assert "shrink" in smaller.err or "smaller" in smaller.err, smaller.said
    finally:
        rewrite(watched)
        watched.clear()
    assert home.paths("hpc").root.exists() is False
    points(5)
