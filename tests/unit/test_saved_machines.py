"""Saved machines: there whole or not at all, found by what they fit, and gone when of no use."""

import json
import os
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from test_save_image import GOOD

from ai_how.errors import HostError
from ai_how.spec.nodes import nodes_of
from ai_how.state.paths import StoragePaths
from ai_how.vm_management.nodes.domain_definition import DomainDefinition
from ai_how.vm_management.saved_machines.generic_vm import (
    MachineKey,
    cold_boot_reason,
    machine_key_of,
)
from ai_how.vm_management.saved_machines.matching import find_matches
from ai_how.vm_management.saved_machines.store import (
    DISK,
    MAX_KEPT,
    MEMORY,
    SavedMachine,
    SavedMachines,
    SavedManifest,
)
from cluster_bench import draft_of, read_hpc
from shapes import COMPUTE, COMPUTE_GPU, CONTROLLER

HERE = "QEMU 7.2.22, libvirt 9.0.0, an emulated CPU"
DIGEST = "d" * 64


@pytest.fixture
def machines(tmp_path: Path) -> SavedMachines:
    return SavedMachines(StoragePaths(tmp_path / "storage"))


def manifest_of(draft: Path, fit: MachineKey, *, digest: str = DIGEST) -> SavedManifest:
    (draft / MEMORY).write_bytes(GOOD.render())
    (draft / DISK).write_bytes(b"disk")
    (draft / "console.log").write_text("boot")
    return SavedManifest(
        key=fit.key,
        shape=fit.definition_digest,
        host=fit.host,
        id=uuid4(),
        made_at=datetime.now(UTC),
        image_digest=digest,
        vcpus=1,
        memory_mib=1024,
        memory_bytes=len(GOOD.render()),
        disk_gib=10,
        memory_sha256=sha256(GOOD.render()).hexdigest(),
        disk_sha256=sha256(b"disk").hexdigest(),
    )


def fit(shape: DomainDefinition = COMPUTE, *, host: str = HERE, disk_gib: int = 10) -> MachineKey:
    return machine_key_of(shape, image_digest=DIGEST, disk_gib=disk_gib, host=host)


def save(machines: SavedMachines, wanted: MachineKey, *, digest: str = DIGEST) -> SavedMachine:
    with machines.making() as draft:
        return machines.add(draft, manifest_of(draft, wanted, digest=digest))


def test_what_was_saved_is_found_by_what_it_fits(machines: SavedMachines) -> None:
    made = save(machines, fit())
    assert machines.find(fit().key) == made
    assert machines.find(fit().key, made.manifest.id) == made
    assert machines.find(fit().key, uuid4()) is None
    assert machines.find_damage(made) is None
    names = {path.name for path in made.directory.iterdir() if path.name[0] != "."}
    assert names == {DISK, MEMORY, "manifest.json"}
    assert [path.name for path in machines.storage.saved.iterdir()] == [fit().key]


def test_every_node_of_a_kind_fits_and_no_other() -> None:
    same = replace(COMPUTE, name="other", uuid=UUID(int=5), mac="52:54:00:aa:bb:cc", title="x")
    same = replace(same, disk=Path("/elsewhere"), network="net", genid=UUID(int=6))
    assert fit(same) == fit()
    assert fit(replace(CONTROLLER, vcpus=COMPUTE.vcpus, cpu=COMPUTE.cpu)).host == HERE
    others = [
        fit(replace(COMPUTE, memory_mib=COMPUTE.memory_mib * 2)),
        fit(replace(COMPUTE, boot=replace(COMPUTE.boot, cmdline="quiet"))),
        fit(replace(COMPUTE, backing_chain=(Path("/other"),))),
        fit(host="QEMU 8.0.0"),
        fit(disk_gib=20),
        machine_key_of(COMPUTE, image_digest="e" * 64, disk_gib=10, host=HERE),
    ]
    assert len({one.key for one in (*others, fit())}) == len(others) + 1


def test_a_draft_that_is_not_added_is_gone(machines: SavedMachines) -> None:
    with machines.making() as draft:
        manifest_of(draft, fit())
    assert list(machines.storage.saved.iterdir()) == []


def test_what_changed_while_it_was_saved_is_not_added(machines: SavedMachines) -> None:
    with machines.making() as draft:
        manifest = manifest_of(draft, fit())
        (draft / DISK).write_bytes(b"more")
        with pytest.raises(HostError, match="changed while it was saved"):
            machines.add(draft, manifest)
    assert machines.list() == ()


def test_the_draft_of_a_run_that_died_is_swept(machines: SavedMachines) -> None:
    save(machines, fit())
    dead = machines.storage.saved / ".part-999999999-00000000"
    dead.mkdir()
    assert machines.dead_drafts() == (dead,)
    with machines.making():
        assert not dead.exists()


@pytest.mark.parametrize("name", [MEMORY, DISK])
def test_what_was_written_to_is_damaged(machines: SavedMachines, name: str) -> None:
    made = save(machines, fit())
    path = made.directory / name
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"x")
    assert name in (machines.find_damage(made) or "")


def test_what_is_damaged_makes_room_for_another(machines: SavedMachines) -> None:
    made = save(machines, fit())
    assert machines.discard_damaged(made) is None
    made.disk.chmod(0o600)
    made.disk.write_bytes(b"other")
    assert DISK in (machines.discard_damaged(made) or "")
    assert machines.find(fit().key) is None
    machines.remove(made)  # as another run that found the same does


def test_others_that_may_write_there_could_give_a_node_another_memory(
    machines: SavedMachines,
) -> None:
    made = save(machines, fit())
    machines.storage.saved.chmod(0o777)
    assert "other users can write" in (machines.find_damage(made) or "")


def test_a_machine_replaces_the_one_of_its_key_and_has_another_id(machines: SavedMachines) -> None:
    first, second = save(machines, fit()), save(machines, fit())
    assert machines.find(fit().key, first.manifest.id) is None
    assert machines.list() == (second,)


def test_what_fits_no_more_is_removed_and_what_is_used_is_kept(machines: SavedMachines) -> None:
    kept = save(machines, fit())
    save(machines, fit(host="QEMU 6.2.0"))
    save(machines, fit(disk_gib=20), digest="e" * 64)
    gone = machines.remove_unfit(hosts={HERE}, images={DIGEST})
    assert {one.manifest.host for one in gone} == {"QEMU 6.2.0", HERE}
    assert machines.list() == (kept,)


def test_no_machine_outlives_its_image(machines: SavedMachines) -> None:
    machines.remove_of_image(DIGEST)
    kept = save(machines, fit(), digest="e" * 64)
    save(machines, fit(disk_gib=20))
    machines.remove_of_image(DIGEST)
    assert machines.list() == (kept,)


def test_the_longest_unused_go_first(machines: SavedMachines) -> None:
    made = [save(machines, fit(disk_gib=number)) for number in range(1, MAX_KEPT + 3)]
    for age, machine in enumerate(reversed(made)):
        os.utime(machine.directory, (1_000_000 - age, 1_000_000 - age))
    machines.mark_used(made[0])
    machines.remove_unfit(hosts={HERE}, images={DIGEST})
    assert set(machines.list()) == {made[0], *made[3:]}


def test_whatever_stands_where_a_manifest_was_there_is_no_machine(machines: SavedMachines) -> None:
    made = save(machines, fit())
    for text in ("", "{", "[]", '{"key": "../../etc"}', json.dumps({"schema_version": 2})):
        (made.directory / "manifest.json").write_text(text)
        assert machines.find(fit().key) is None
    assert machines.list() == ()


def test_nodes_with_devices_or_mounts_of_the_host_boot_and_it_is_said(
    machines: SavedMachines,
) -> None:
    assert cold_boot_reason(COMPUTE) is None
    assert cold_boot_reason(COMPUTE_GPU) == "it has a device of the host"
    draft = draft_of(read_hpc())
    shapes = {"compute-01": COMPUTE_GPU}
    found = find_matches(
        draft.nodes, lambda node, _one: shapes.get(node.name, COMPUTE), machines, HERE
    )
    assert found.machines == {}
    assert found.notes == ("compute-01: booting cold, as it has a device of the host",)


def test_a_machine_of_another_host_is_not_used_and_it_is_said(machines: SavedMachines) -> None:
    draft = draft_of(read_hpc())
    save(
        machines,
        machine_key_of(COMPUTE, image_digest=digest_of(draft), disk_gib=10, host="QEMU 6.2.0"),
    )
    found = find_matches(draft.nodes, lambda _node, _one: COMPUTE, machines, HERE)
    assert found.machines == {}
    names = ", ".join(node.name for node in nodes_of(draft.section))
    assert found.notes == (
        f"{names}: booting cold, as the saved VM is of QEMU 6.2.0, this host is {HERE}",
    )


def digest_of(draft: object) -> str:
    return draft.state.nodes[0].image_digest
