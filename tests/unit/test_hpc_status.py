"""What `status` makes of a look at things that change meanwhile."""

import io
import re
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from ai_how.cli.cluster_view import show_status
from ai_how.cli.kinds import HPC
from ai_how.clusters.observation import Observed
from ai_how.clusters.status import ClusterStatus, status_of
from ai_how.clusters.workload import GpuUse
from ai_how.hpc.kind import SLURM
from ai_how.libvirt_client.facts import read_stats
from ai_how.libvirt_client.vm_state import VmState
from ai_how.spec.nodes import Role
from cluster_bench import draft_of, read_hpc


def test_a_disk_that_is_destroyed_after_it_was_seen_has_no_size(tmp_path: Path) -> None:
    state = draft_of(read_hpc()).state
    nodes = tuple(one.model_copy(update={"disk": tmp_path / one.name}) for one in state.nodes)
    for one in nodes[1:]:
        one.disk.write_bytes(b"\0" * 2**20)
    state = state.model_copy(update={"nodes": nodes})
    seen = Observed(disks=frozenset(one.name for one in nodes))
    sizes = [one.disk_used_mib for one in status_of(SLURM, state, seen, {}, {}).nodes]
    assert sizes == [None] + [1] * len(nodes[1:])


def stats_told(seconds_ago: float) -> dict[str, int]:
    """As of an emulated node of 512 MiB: its QEMU takes almost as much as the guest may have."""
    return {
        "balloon.rss": 484248,
        "balloon.available": 475840,
        "balloon.usable": 412984,
        "balloon.last-update": int(time.time() - seconds_ago),
    }


@pytest.mark.parametrize(("seconds_ago", "told"), [(5, (464, 61)), (3600, (None, None))])
def test_what_a_guest_uses_is_not_what_its_qemu_takes(seconds_ago, told) -> None:
    """Of a guest that hangs it is not known any more."""
    state = draft_of(read_hpc()).state
    stats = {state.nodes[1].uuid: read_stats(stats_told(seconds_ago))}
    off, on, _ = status_of(SLURM, state, Observed(), stats, {}).nodes
    assert (on.guest_memory_mib, on.guest_memory_used_mib, on.memory_used_mib) == (*told, 472)
    assert (off.guest_memory_mib, off.guest_memory_used_mib, off.memory_used_mib) == (None,) * 3


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def usual(count: int = 12) -> ClusterStatus:
    """A cluster that runs, with what SLURM says of one node in its own words."""
    state = draft_of(
        read_hpc(
            nodes=f"compute_nodes: {{count: {count}, cpu_cores: 4, memory_gb: 64, disk_gb: 200}}"
        )
    ).state
    seen = status_of(SLURM, state, Observed(), {}, {})
    nodes = [
        replace(
            node,
            state=VmState.RUNNING,
            reason="booted",
            agent=True,
            memory_used_mib=63 * 1024 + 512,
            guest_memory_used_mib=50 * 1024,
            disk_used_mib=120 * 1024,
            slurm="allocated" if node.role is Role.COMPUTE else None,
            slurm_reason=None,
        )
        for node in seen.nodes
    ]
    why = "Not responding [slurm@2026-11-28T21:00:00]"
    nodes[-1] = replace(nodes[-1], slurm="down*", slurm_reason=why, agent=False)
    return replace(seen, nodes=tuple(nodes))


def shown(seen: ClusterStatus, columns: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    terminal = Terminal()
    for name, value in (("COLUMNS", str(columns)), ("TERM", "xterm"), ("NO_COLOR", "1")):
        monkeypatch.setenv(name, value)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", terminal)
        show_status(seen, HPC)
    text = re.sub(r"\x1b\[[0-9;]*m", "", terminal.getvalue())
    return [line.rstrip() for line in text.splitlines()]


@pytest.mark.parametrize("columns", [80, 100, 120, 160])
def test_status_has_a_line_for_each_node_and_no_word_is_cut(columns, monkeypatch) -> None:
    seen = usual()
    lines = shown(seen, columns, monkeypatch)
    assert max(map(len, lines[1:])) <= columns
    table = lines[1 : 2 + len(seen.nodes)]
    assert table[0].split()[:3] == ["node", "VM", "address"]
    assert [line.split()[0] for line in table[1:]] == [node.name for node in seen.nodes]
    for line, node in zip(table[1:], seen.nodes, strict=True):
        assert str(node.ip) in line.split()
        assert "running" in line.split()
        assert (node.slurm or "-") in line.split()
        assert "…" not in line
    assert re.search(r" 50\.0(G/| GiB of )64\.0(G|\ GiB) ", table[2])
    # What has no column is said below, of those nodes that it says something of.
    told = "\n".join(lines)
    assert "Not responding [slurm@2026-11-28T21:00:00]" in told
    assert len(lines) <= len(table) + 4
    assert ("its guest agent is not connected" in told) == ("agent" not in table[0].split())


def test_a_pipe_gets_every_column(capsys) -> None:
    show_status(usual(), HPC)
    header, *_ = capsys.readouterr().out.splitlines()[1:]
    wanted = "node VM address vCPU memory QEMU disk agent SLURM reason"
    assert header.split() == wanted.split()


@pytest.mark.parametrize("columns", [20, 40])
def test_names_that_find_no_room_are_cut_and_take_no_second_line(columns, monkeypatch) -> None:
    seen = usual(3)
    lines = shown(seen, columns, monkeypatch)
    _, header, *rows = lines[: 2 + len(seen.nodes)]
    assert header.startswith("node ")
    assert [row[:2] for row in rows] == ["co"] * 4
    assert lines[2 + len(seen.nodes)].startswith("compute-03: SLURM says: Not responding ")


@pytest.mark.parametrize(
    ("skew_s", "said"),
    [
        (-1203.4, "its clock is 20 min 3 s behind"),
        (7200.0, "its clock is 2 h ahead"),
        (-90061.0, "its clock is 1 d 1 h behind"),
        (6.0, "its clock is 6 s ahead"),
        (-3.0, None),
    ],
)
def test_a_clock_that_is_off_is_its_own_nodes_problem(skew_s: float, said: str | None) -> None:
    state = draft_of(read_hpc()).state
    seen = Observed(skews_s={state.nodes[1].uuid: skew_s})
    problems = [one.problems for one in status_of(SLURM, state, seen, {}, {}).nodes]
    assert problems == [(), (said,) if said else (), *[()] * len(state.nodes[2:])]


@pytest.mark.parametrize("columns", [80, 120, 160])
def test_status_shows_what_jobs_have_of_the_gpus_of_each_node(columns, monkeypatch) -> None:
    seen = usual()
    first, *others = seen.nodes[1:]
    gpus = (GpuUse("a100", 8, 2), GpuUse("3g.20gb", 2, None))
    nodes = (seen.nodes[0], replace(first, gpus=gpus), *others)
    lines = shown(replace(seen, nodes=nodes), columns, monkeypatch)
    assert max(map(len, lines[1:])) <= columns
    assert "GPUs" in lines[1].split()
    assert "2/8 a100, ?/2 3g.20gb" in lines[3]
    assert "GPUs" not in shown(seen, columns, monkeypatch)[1].split()
