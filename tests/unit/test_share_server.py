"""The server of a share: which ids change places, which directory it serves, and by what."""

import itertools
import os
import sys
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai_how.host.checks import Status
from ai_how.host.doctor import check_virtiofsd
from ai_how.host.place import resolve_host
from ai_how.host.share_server import (
    IdRange,
    SharedAs,
    find_maps,
    find_virtiofsd,
    install_virtiofsd,
    partners,
    render_ranges,
    script_of,
    source_of,
    swapped,
    write_scripts,
)
from ai_how.libvirt_client.facts import DomainInfo
from ai_how.libvirt_client.vm_state import VmState
from ai_how.spec.nodes import nodes_of
from ai_how.state.paths import default_roots
from ai_how.vm_management.nodes.host_checks import check_shares
from ai_how.vm_management.nodes.share_faults import find_share_faults
from cluster_bench import read_hpc

ROOT = (IdRange(0, 0, 2**32 - 1),)
USER = (IdRange(0, 1234, 1), IdRange(1, 100000, 65536))
LIVE_XML = """\
<domain><devices>
  <filesystem type='mount'><source dir='{gone}'/><target dir='a'/><alias name='fs0'/></filesystem>
  <filesystem type='mount'><source dir='{kept}'/><target dir='b'/><alias name='fs1'/></filesystem>
  <filesystem type='mount'><source dir='{kept}'/><target dir='c'/><alias name='fs2'/></filesystem>
</devices></domain>
"""


def test_an_ordinary_user_is_the_login_account():
    (uids, gids) = partners(SharedAs.LOGIN, (0, 0), is_of_user=True)
    assert (uids, gids) == ((1000, 0), (1000, 0))
    assert render_ranges(swapped(USER, *uids)) == (
        b"0 1000 1\n1 1 999\n1000 0 1\n1001 1001 64536\n"
    )


def test_the_owner_of_a_directory_is_the_login_account_on_the_host_of_root():
    assert partners(SharedAs.LOGIN, (0, 50), is_of_user=False) == ((1000, 0), (1000, 50))
    assert partners(SharedAs.LOGIN, (1000, 1000), is_of_user=False) == ((1000, 1000),) * 2
    assert partners(SharedAs.ROOT, (1001, 0), is_of_user=False) == ((0, 1001), (0, 0))


def test_root_of_a_rootless_container_is_no_ordinary_user():
    """There the maps are those of a user, and files of others are of root's own accounts."""
    for_root = find_maps(SharedAs.LOGIN, (USER, USER), (33, 33), is_of_user=False)
    assert for_root == (b"0 0 1\n1 1 32\n33 1000 1\n34 34 966\n1000 33 1\n1001 1001 64536\n",) * 2
    assert find_maps(SharedAs.LOGIN, (USER, USER), (1000, 1000), is_of_user=False) is None
    for_user = find_maps(SharedAs.LOGIN, (USER, USER), (33, 33), is_of_user=True)
    assert for_user == (b"0 1000 1\n1 1 999\n1000 0 1\n1001 1001 64536\n",) * 2


def test_a_share_of_a_system_account_keeps_its_numbers_on_the_host_of_root():
    assert partners(SharedAs.OTHER, (7, 8), is_of_user=False) == ((1000, 1000),) * 2
    assert partners(SharedAs.OTHER, (7, 8), is_of_user=True) == ((1000, 0),) * 2


@given(
    st.sampled_from([ROOT, USER]),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**32 - 1) | st.sampled_from([0, 1, 999, 1000, 65535, 65536, 65537]),
)
def test_two_ids_change_places_and_no_other(ranges, one, other):
    made = swapped(ranges, one, other)
    for side in ("inside", "outside"):
        ids = sorted((getattr(piece, side), piece.count) for piece in made)
        assert all(begin + count <= after for (begin, count), (after, _) in itertools.pairwise(ids))
        assert sum(count for _, count in ids) == sum(each.count for each in ranges)
    end = max(each.inside + each.count for each in ranges)
    has = {which for which in (one, other) if which < end}
    for piece in made:
        if piece.inside != piece.outside:
            assert (piece.count, {piece.inside, piece.outside}) == (1, {one, other})
            assert has == {one, other}


@pytest.mark.parametrize(
    ("argv", "source"),
    [
        (["--fd=26", "-o", "source=/srv/a,sandbox=chroot"], "/srv/a"),
        (["--fd=26", "-o", "source=/srv/a,,b,cache=auto"], "/srv/a,b"),
        (["-o", "cache=auto", "-o", "source=/srv/a"], "/srv/a"),
        (["--shared-dir", "/srv/a,b", "--fd", "3"], "/srv/a,b"),
        (["--shared-dir=/srv/a"], "/srv/a"),
        (["--print-capabilities"], None),
        ([], None),
    ],
)
def test_the_directory_is_found_in_what_libvirt_says(argv, source):
    assert source_of(argv) == (source and Path(source))


def test_libvirt_gets_a_program_for_each_kind_of_share(tmp_path):
    scripts = tmp_path / "hooks"
    write_scripts(scripts, is_of_user=False)
    names = sorted(path.name for path in scripts.iterdir())
    assert names == [
        f"ai-how-share-{who}-{how}" for who in ("login", "other", "root") for how in ("ro", "rw")
    ]
    script = scripts / script_of(SharedAs.ROOT, is_read_only=True).name
    assert os.access(script, os.X_OK)
    assert f'{sys.executable} -I -m ai_how.host.share_server root ro of-root "$@"' in (
        script.read_text()
    )
    before = script.stat().st_ino
    write_scripts(scripts, is_of_user=False)
    assert script.stat().st_ino == before
    write_scripts(scripts, is_of_user=True)
    assert 'share_server root ro of-user "$@"' in script.read_text()


def test_virtiofsd_is_found_where_its_package_says(tmp_path):
    described = tmp_path / "usr/share/qemu/vhost-user"
    described.mkdir(parents=True)
    (described / "10-gpu.json").write_text('{"type": "gpu", "binary": "/bin/gpu"}')
    (described / "20-bad.json").write_text("{")
    (described / "50-fs.json").write_text('{"type": "fs", "binary": "/usr/libexec/virtiofsd"}')
    assert find_virtiofsd(tmp_path) != tmp_path / "usr/libexec/virtiofsd"
    program = tmp_path / "usr/libexec/virtiofsd"
    program.parent.mkdir()
    program.touch(mode=0o755)
    assert find_virtiofsd(tmp_path) == program


@pytest.mark.parametrize(
    ("codename", "package"),
    [("bookworm", "qemu-system-common"), ("trixie", "virtiofsd"), ("noble", "virtiofsd")],
)
def test_the_command_that_installs_virtiofsd_is_that_of_the_suite(tmp_path, codename, package):
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/os-release").write_text(f"ID=x\nVERSION_CODENAME={codename}\n")
    assert install_virtiofsd(tmp_path) == f"sudo apt-get install {package}"


def test_without_virtiofsd_doctor_and_start_say_what_installs_it(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    if find_virtiofsd(tmp_path):
        pytest.skip("virtiofsd is among the programs of the system")
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/os-release").write_text("VERSION_CODENAME=trixie\n")
    advice = "sudo apt-get install virtiofsd"
    hint = check_virtiofsd(tmp_path)
    assert (hint.status, hint.advice) == (Status.HINT, advice)
    mounts = f"[{{tag: t, host_path: {tmp_path}, mount_point: /data}}]"
    node = f"{{cpu_cores: 1, memory_gb: 1, disk_gb: 10, virtio_fs_mounts: {mounts}}}"
    nodes = nodes_of(read_hpc(nodes=f"compute_nodes: [{node}]"))
    place = resolve_host("embedded", default_roots(tmp_path / "state"))
    [failure] = check_shares(nodes, place, machine=tmp_path)
    assert failure.found == ("virtiofsd is not installed, for the virtio_fs_mounts of compute-01")
    assert (failure.status, failure.advice) == (Status.FAILURE, advice)
    assert not list(check_shares(nodes[:1], place, machine=tmp_path))


def running(xml: str) -> DomainInfo:
    return DomainInfo(
        uuid4(), "hpc-compute-01", VmState.RUNNING, *(1, 1), *(True, 7), *(1, 512), None, xml
    )


def test_a_share_that_cannot_be_looked_at_is_a_fault_and_no_traceback(tmp_path):
    """As with EACCES, ESTALE and ENOTCONN, which root would not get here."""
    (tmp_path / "srv").mkdir()
    domain = running(LIVE_XML.format(gone="/" + 300 * "x", kept="/srv"))
    [fault] = find_share_faults(domain, tmp_path)
    assert not fault.is_there


def test_a_share_that_was_removed_or_is_not_served_is_a_fault(tmp_path):
    (tmp_path / "srv").mkdir()
    notes = tmp_path / "run/libvirt/qemu"
    notes.mkdir(parents=True)
    (tmp_path / "proc/12").mkdir(parents=True)
    for alias, pid in (("fs0", 12), ("fs1", 12), ("fs2", 13)):
        (notes / f"7-hpc-compute-01-{alias}-fs.pid").write_text(str(pid))
    (notes / "8-hpc-compute-02-fs1-fs.pid").write_text("13")
    domain = running(LIVE_XML.format(gone="/gone", kept="/srv"))
    assert [str(fault) for fault in find_share_faults(domain, tmp_path)] == [
        "its share /gone was removed on this host",
        "the server of its share /srv has ended",
    ]
    assert [fault.is_there for fault in find_share_faults(domain, tmp_path)] == [False, True]
    # libvirt noted nothing for that one.
    assert len(find_share_faults(replace(domain, domid=9), tmp_path)) == 1


def test_nobody_else_may_change_the_programs_whatever_the_umask(tmp_path):
    former = os.umask(0)
    try:
        write_scripts(tmp_path / "hooks", is_of_user=True)
    finally:
        os.umask(former)
    every = [tmp_path / "hooks", *(tmp_path / "hooks").iterdir()]
    assert [path.stat().st_mode & 0o777 for path in every] == [0o755] * len(every)
