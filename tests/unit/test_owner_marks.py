"""Whose a cluster on a shared libvirt is: by its mark, else by where its serial line is kept."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
from test_seen import seen

from ai_how.errors import HostError
from ai_how.host.place import HypervisorHost, storage_of
from ai_how.libvirt_client.facts import DomainInfo, Mark, Owner, read_mark
from ai_how.state.paths import ClusterPaths, StoragePaths
from ai_how.vm_management.owners import (
    belongs_to_caller,
    caller_of,
    describe_owner,
    find_uid,
    is_owned_by,
    is_same_definition,
    owner_of,
)
from ai_how.vm_management.saved_machines.generic_vm import machine_key_of
from ai_how.vm_management.xml.render import render_domain
from shapes import COMPUTE, OWNER

WITHOUT = replace(COMPUTE, mark=replace(COMPUTE.mark, owner=None))
ME = Owner(os.geteuid(), Path("/home/me/.local/state/ai-how"))


def vm(xml: str) -> DomainInfo:
    return replace(seen(xml), mark=read_mark(xml))


def test_the_mark_says_whose_a_vm_is():
    assert owner_of(vm(render_domain(COMPUTE))) == OWNER
    assert caller_of(ClusterPaths(ME.state / "demo")) == ME


def test_a_vm_of_an_earlier_version_is_of_the_directory_that_has_its_serial_line(tmp_path):
    log = tmp_path / "demo/console/compute-01.log"
    found = owner_of(vm(render_domain(replace(WITHOUT, console_log=log))))
    assert found == Owner(os.geteuid(), tmp_path)
    gone = owner_of(vm(render_domain(WITHOUT)))
    assert gone is not None
    assert gone.state == ME.state
    elsewhere = replace(WITHOUT, console_log=Path("/srv/other/console/compute-01.log"))
    assert owner_of(vm(render_domain(elsewhere))) is None
    assert owner_of(seen("<domain/>")) is None


@pytest.mark.parametrize(
    "broken", ['uid="x" state="/s"', 'uid="1000"', 'state="/s"', 'uid="" state=""']
)
def test_half_an_owner_is_none_and_breaks_nothing(broken):
    xml = render_domain(WITHOUT).replace('node="compute-01"', f'node="compute-01" {broken}')
    mark = read_mark(xml)
    assert mark is None or mark.owner is None


def test_another_user_and_another_directory_are_another_owner(tmp_path):
    assert is_owned_by(ME, ME)
    assert is_owned_by(None, ME)
    assert is_owned_by(replace(ME, uid=None), ME)
    assert not is_owned_by(replace(ME, uid=ME.uid + 1), ME)
    assert not is_owned_by(replace(ME, state=tmp_path), ME)
    real, link = tmp_path / "real", tmp_path / "link"
    real.mkdir()
    link.symlink_to(real)
    assert is_owned_by(replace(ME, state=link), replace(ME, state=real))


def test_what_is_on_an_embedded_host_that_was_moved_is_its_directorys(tmp_path):
    there = tmp_path / "there"
    there.mkdir()
    embedded = HypervisorHost("embedded", "test:///default", "embedded", StoragePaths(tmp_path))
    system = replace(embedded, kind="system")
    for place, state, is_ours in (
        (embedded, there, False),
        (embedded, tmp_path / "gone", True),
        (system, tmp_path / "gone", False),
    ):
        mark = Mark("demo", COMPUTE.mark.id, "compute-01", replace(ME, state=state))
        assert belongs_to_caller(replace(seen("<domain/>"), mark=mark), ME, place) is is_ours


def test_a_vm_that_was_defined_before_owners_were_noted_is_not_defined_anew():
    now, before = render_domain(COMPUTE), render_domain(WITHOUT)
    assert now != before
    assert is_same_definition(now, now)
    assert is_same_definition(before, now)
    assert not is_same_definition(before, render_domain(replace(COMPUTE, memory_mib=2048)))
    moved = replace(COMPUTE.mark, owner=replace(OWNER, state=Path("/else")))
    assert not is_same_definition(now, render_domain(replace(COMPUTE, mark=moved)))


def test_a_saved_machine_fits_whoever_asks():
    other = replace(COMPUTE, mark=replace(COMPUTE.mark, owner=Owner(7, Path("/else"))))
    fits = {
        machine_key_of(one, image_digest="d", disk_gib=1, host="h").key
        for one in (COMPUTE, WITHOUT, other)
    }
    assert len(fits) == 1


def test_owners_and_users_are_told_in_words():
    assert describe_owner(Owner(0, Path("/s"))) == "user root (uid 0), state directory /s"
    assert describe_owner(Owner(4_000_000, Path("/s"))) == "uid 4000000, state directory /s"
    assert describe_owner(Owner(None, Path("/s"))).startswith("an unknown user")
    assert (find_uid("root"), find_uid("12")) == (0, 12)
    with pytest.raises(HostError, match="there is no user nobody-of-that-name"):
        find_uid("nobody-of-that-name")


def test_a_disk_tells_the_storage_that_it_was_made_in():
    storage = StoragePaths(Path("/var/lib/libvirt/images/ai-how"))
    assert storage_of(storage.disk("hpc", "controller")) == storage
    assert storage_of(Path("/disk.qcow2")) is None
