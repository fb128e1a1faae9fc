"""What `status` makes of a look at things that change meanwhile."""

from pathlib import Path

from ai_how.vm_management.hpc_status import status_of
from ai_how.vm_management.observed import Observed
from cluster_bench import draft_of, read_hpc


def test_a_disk_that_is_destroyed_after_it_was_seen_has_no_size(tmp_path: Path) -> None:
    state = draft_of(read_hpc()).state
    nodes = tuple(one.model_copy(update={"disk": tmp_path / one.name}) for one in state.nodes)
    for one in nodes[1:]:
        one.disk.write_bytes(b"\0" * 2**20)
    state = state.model_copy(update={"nodes": nodes})
    seen = Observed(disks=frozenset(one.name for one in nodes))
    sizes = [one.disk_used_mib for one in status_of(state, seen, {}, {}).nodes]
    assert sizes == [None] + [1] * len(nodes[1:])
