"""A directory of disks: nobody else can swap a file in it, and only a marked one is ours."""

import grp
import os
import pwd
import stat
from pathlib import Path
from types import SimpleNamespace
from uuid import UUID

import pytest

from ai_how.errors import HostError, OwnershipError
from ai_how.state import owned_directory
from ai_how.state.owned_directory import (
    check_chain,
    claim,
    ensure_traversable,
    is_ours,
    is_same_file,
    remove_marked,
    strangers,
)

ID = UUID("11111111-2222-3333-4444-555555555555")
OTHER = UUID("99999999-9999-4999-8999-999999999999")
GROUP = 54321


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    directory = tmp_path / "demo"
    directory.mkdir(mode=0o711)
    return directory / ".ai-how"


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_what_is_made_can_be_passed_but_not_listed_whatever_the_umask(tmp_path, umask):
    below, target = tmp_path / "new" / "root", tmp_path / "new" / "root" / "a" / "b"
    former = os.umask(umask)
    try:
        ensure_traversable(target, below=below)
    finally:
        os.umask(former)
    for path in (target, target.parent, below):
        assert path.stat().st_mode & 0o777 == 0o711


def test_what_is_made_is_at_no_moment_wider(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "chmod", lambda path, mode: None)
    former = os.umask(0o000)
    try:
        ensure_traversable(tmp_path / "root" / "a", below=tmp_path / "root")
    finally:
        os.umask(former)
    assert (tmp_path / "root" / "a").stat().st_mode & 0o777 == 0o711


def test_what_is_there_is_made_no_wider(tmp_path):
    (tmp_path / "root").mkdir(mode=0o700)
    ensure_traversable(tmp_path / "root" / "a", below=tmp_path / "root")
    assert (tmp_path / "root").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "root" / "a").is_dir()


def test_nothing_above_the_root_is_touched(tmp_path):
    mode = tmp_path.stat().st_mode
    ensure_traversable(tmp_path / "root", below=tmp_path / "root")
    assert tmp_path.stat().st_mode == mode


@pytest.mark.fault("S13", "a claim under umask 000 and 077")
@pytest.mark.parametrize("umask", [0o000, 0o022])
def test_a_claimed_directory_bears_our_id_and_no_draft(marker, umask):
    former = os.umask(umask)
    try:
        claim(marker, ID)
    finally:
        os.umask(former)
    assert marker.read_text() == f"{ID}\n"
    assert marker.stat().st_mode & 0o777 == 0o644
    assert [path.name for path in marker.parent.iterdir()] == [".ai-how"]
    assert is_ours(marker, ID)


def test_a_claim_can_be_repeated_and_writes_nothing_then(marker):
    claim(marker, ID)
    before = marker.stat()
    claim(marker, ID)
    after = marker.stat()  # its atime may be of now: it was read
    assert (after.st_ino, after.st_ctime_ns) == (before.st_ino, before.st_ctime_ns)


def test_a_claim_is_durable_before_it_returns(marker, monkeypatch):
    order = []
    real_fsync, real_rename = os.fsync, os.rename

    def fsync(descriptor):
        is_directory = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        order.append(("sync", "directory" if is_directory else os.fstat(descriptor).st_size))
        real_fsync(descriptor)

    def rename(*names):
        order.append(("rename",))
        real_rename(*names)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "rename", rename)
    claim(marker, ID)
    assert order == [("sync", len(f"{ID}\n")), ("rename",), ("sync", "directory")]


def test_the_draft_of_a_claim_is_never_an_existing_file(marker, monkeypatch):
    monkeypatch.setattr("secrets.token_hex", lambda size: "0" * 2 * size)
    draft = marker.with_name(".ai-how.00000000.part")
    draft.symlink_to(marker.parent.parent / "elsewhere")
    with pytest.raises(FileExistsError):
        claim(marker, ID)
    draft.unlink()
    draft.write_text("mine")
    with pytest.raises(FileExistsError):
        claim(marker, ID)
    assert draft.read_text() == "mine"
    assert not (marker.parent.parent / "elsewhere").exists()


def test_an_absent_or_an_empty_directory_is_free(marker):
    assert is_ours(marker, ID) is False
    marker.with_name(f"{marker.name}.0123.part").touch()
    assert is_ours(marker, ID) is False
    assert is_ours(marker.parent / "absent" / ".ai-how", ID) is False


def test_a_file_in_the_place_of_the_directory_is_refused(tmp_path):
    (tmp_path / "demo").touch()
    with pytest.raises(OwnershipError, match="is not a directory"):
        is_ours(tmp_path / "demo" / ".ai-how", ID)


def test_a_link_to_a_marked_directory_is_refused(marker, tmp_path):
    claim(marker, ID)
    (tmp_path / "link").symlink_to(marker.parent)
    with pytest.raises(OwnershipError, match="is not a directory"):
        is_ours(tmp_path / "link" / ".ai-how", ID)


def test_a_directory_of_another_user_is_refused(marker, monkeypatch):
    claim(marker, ID)
    monkeypatch.setattr(os, "geteuid", lambda: marker.stat().st_uid + 1)
    with pytest.raises(OwnershipError, match="or others can write to it") as caught:
        is_ours(marker, ID)
    assert caught.value.hint == f"ls -ld {marker.parent}"


def test_a_directory_that_others_can_write_is_refused(marker):
    claim(marker, ID)
    marker.parent.chmod(0o713)
    with pytest.raises(OwnershipError, match="or others can write to it"):
        is_ours(marker, ID)


@pytest.mark.parametrize("kind", ["link", "directory", "missing"])
def test_files_without_a_true_mark_are_not_ours(marker, tmp_path, kind):
    (marker.parent / "thesis.tex").touch()
    if kind == "link":
        (tmp_path / "mark").write_text(f"{ID}\n")
        marker.symlink_to(tmp_path / "mark")
    elif kind == "directory":
        marker.mkdir()
    with pytest.raises(OwnershipError, match="has no mark of ai-how, and is not empty") as caught:
        is_ours(marker, ID)
    assert caught.value.hint == f"ls -la {marker.parent}"


@pytest.mark.parametrize("text", [str(OTHER), "", f"{ID} ", f"{ID}x", "\udcff"])
def test_only_our_very_id_is_our_mark(marker, text):
    marker.write_text(text, errors="surrogateescape")
    if text.strip() == str(ID):
        assert is_ours(marker, ID)
        return
    with pytest.raises(OwnershipError, match="belongs to another cluster") as caught:
        is_ours(marker, ID)
    assert caught.value.details.startswith(f"expected id {ID}\nfound    id ")


def test_strangers_are_all_but_our_mark_and_drafts(marker):
    for name in (".ai-how", "b", "a", ".ai-how.0.part", ".a.qcow2.part", "c.part.x"):
        marker.with_name(name).touch()
    assert strangers(marker) == ["a", "b", "c.part.x"]


def test_a_directory_with_more_in_it_is_not_removed(marker):
    claim(marker, ID)
    for name in ("b", "a", ".x.part"):
        marker.with_name(name).touch()
    with pytest.raises(OwnershipError, match="contains files that ai-how did not create") as caught:
        remove_marked(marker)
    assert caught.value.details == "a\nb"
    assert marker.exists()
    assert marker.with_name(".x.part").exists()


def test_the_mark_is_the_last_to_go(marker, monkeypatch):
    claim(marker, ID)
    drafts = [marker.with_name(name) for name in (".x.part", "y.part")]
    for draft in drafts:
        draft.touch()
    order = []
    real = os.unlink
    monkeypatch.setattr(os, "unlink", lambda path: (order.append(Path(path).name), real(path)))
    synced = []
    monkeypatch.setattr(owned_directory, "fsync_directory", synced.append)
    remove_marked(marker)
    assert sorted(order[:2]) == [".x.part", "y.part"]
    assert order[2:] == [".ai-how"]
    assert not marker.parent.exists()
    assert synced == [marker.parent.parent]


@pytest.mark.parametrize("gone", ["draft", "mark"])
def test_a_removal_that_was_cut_short_is_finished(marker, monkeypatch, gone):
    claim(marker, ID)
    draft = marker.with_name(".x.part")
    draft.touch()
    real = os.unlink

    def unlink(path):
        """Another run is a step ahead."""
        if (Path(path) == draft) == (gone == "draft"):
            real(path)
        real(path)

    monkeypatch.setattr(os, "unlink", unlink)
    remove_marked(marker)
    assert not marker.parent.exists()


def test_a_chain_of_our_own_directories_is_fine(tmp_path):
    check_chain(tmp_path)
    check_chain(tmp_path / "not" / "yet", is_made=False)


def test_what_is_not_there_yet_hides_nothing_above_it(tmp_path):
    tmp_path.chmod(0o777)
    with pytest.raises(HostError, match="other users can write to"):
        check_chain(tmp_path / "not" / "yet", is_made=False)


def test_what_was_there_and_is_gone_or_leads_nowhere_is_refused(tmp_path):
    gone, link = tmp_path / "gone", tmp_path / "link"
    link.symlink_to(gone)
    for path, is_made in ((gone, True), (link, True), (link, False), (link / "a", False)):
        with pytest.raises(HostError, match="does not exist, or is a broken link") as caught:
            check_chain(path, is_made=is_made)
        assert caught.value.hint.startswith("ls -ld ")
    with pytest.raises(HostError, match="does not exist, or is a broken link"):
        check_chain(gone)


def test_roots_directories_are_nobody_elses(tmp_path, monkeypatch):
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    os.chown(tmp_path, GROUP, -1)
    monkeypatch.setattr(os, "geteuid", lambda: GROUP)
    check_chain(tmp_path)


def test_a_file_or_a_link_is_no_storage(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path)
    for name in ("file", "link"):
        with pytest.raises(HostError, match="is not a directory") as caught:
            check_chain(tmp_path / name)
        assert caught.value.hint == f"ls -ld {tmp_path / name}"


def test_a_link_of_ours_above_the_storage_is_followed(tmp_path):
    (tmp_path / "real" / "storage").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    check_chain(tmp_path / "link" / "storage")
    (tmp_path / "real").chmod(0o777)
    with pytest.raises(HostError, match="other users can write to"):
        check_chain(tmp_path / "link" / "storage")


@pytest.mark.fault("S19", "a link of another user above the storage, and one to another's place")
@pytest.mark.parametrize("whose", ["the link", "what it leads to"])
def test_a_link_that_another_could_turn_is_refused(tmp_path, whose):
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    (tmp_path / "real" / "storage").mkdir(parents=True)
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "real")
    given = link if whose == "the link" else tmp_path / "real"
    os.chown(given, GROUP, -1, follow_symlinks=False)
    with pytest.raises(HostError, match=f"{link} belongs to user {GROUP}"):
        check_chain(link / "storage")


def test_a_sticky_directory_is_safe_above_and_not_as_the_storage_itself(tmp_path):
    above = tmp_path / "above"
    (above / "storage").mkdir(parents=True)
    above.chmod(0o1777)
    check_chain(above / "storage")
    with pytest.raises(HostError, match="other users can write to") as caught:
        check_chain(above)
    assert caught.value.hint == f"chmod go-w {above}"
    above.chmod(0o777)
    with pytest.raises(HostError, match="other users can write to"):
        check_chain(above / "storage")


@pytest.fixture
def moved(tmp_path) -> tuple[Path, Path]:
    """A storage that was moved, with a link in its old place: a disk by its new and old path."""
    (tmp_path / "new").mkdir(mode=0o711)
    (tmp_path / "old").symlink_to(tmp_path / "new")
    return tmp_path / "new" / "disk", tmp_path / "old" / "disk"


def test_a_disk_is_known_by_the_path_that_a_moved_storage_had(moved):
    new, old = moved
    assert is_same_file(old, new) is True, "also where it is not there yet"
    assert is_same_file(new, old) is False, "what is not there is not the same as another path"
    new.touch()
    assert is_same_file(old, new) is True
    assert is_same_file(new, old) is True
    new.with_name("other").touch()
    assert is_same_file(new.with_name("other"), new) is False
    assert is_same_file(old.with_name("other"), new) is False


def test_the_same_path_is_the_same_file_whatever_is_in_its_way(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    path = tmp_path / "loop" / "disk"
    assert is_same_file(path, path) is True
    assert is_same_file(tmp_path / "disk", path) is False


def test_a_path_that_depends_on_where_we_are_is_no_disk_of_ours(moved, monkeypatch):
    new, _ = moved
    new.touch()
    monkeypatch.chdir(new.parent)
    assert is_same_file(Path("disk"), new) is False


@pytest.mark.fault("S19", "a disk in a directory that others can write, by another path")
def test_a_file_that_others_could_replace_is_not_taken_for_ours(moved):
    new, old = moved
    new.touch()
    new.parent.chmod(0o777)
    assert is_same_file(new, old) is False
    new.parent.chmod(0o711)
    assert is_same_file(new, old) is True


ME = pwd.getpwuid(os.geteuid())


def group(name: str, *members: str) -> SimpleNamespace:
    return SimpleNamespace(gr_name=name, gr_mem=list(members))


@pytest.mark.parametrize(
    ("found", "is_private"),
    [
        (group(ME.pw_name), True),
        (group(ME.pw_name, ME.pw_name), True),
        (group(ME.pw_name, "somebody"), False),
        (group(ME.pw_name, ME.pw_name, "somebody"), False),
        (group("users"), False),
        (None, False),
    ],
    ids=["ours", "with us in it", "with another", "with both", "of all", "unknown"],
)
def test_a_group_is_private_where_it_is_ours_alone(marker, monkeypatch, found, is_private):
    def getgrgid(gid):
        if found is None:
            raise KeyError(gid)
        return found

    os.chown(marker.parent, -1, ME.pw_gid)
    marker.parent.chmod(0o770)
    monkeypatch.setattr(grp, "getgrgid", getgrgid)
    if is_private:
        assert is_ours(marker, ID) is False
        return
    with pytest.raises(OwnershipError, match="or others can write to it"):
        is_ours(marker, ID)


def test_a_group_that_may_not_write_does_no_harm_whoever_is_in_it(marker, monkeypatch):
    monkeypatch.setattr(grp, "getgrgid", lambda gid: group("users", "somebody"))
    marker.parent.chmod(0o755)
    assert is_ours(marker, ID) is False


def test_a_group_of_our_name_that_is_not_our_first_is_not_private(marker, monkeypatch):
    other = SimpleNamespace(pw_name=ME.pw_name, pw_gid=ME.pw_gid + 1)
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: other)
    monkeypatch.setattr(grp, "getgrgid", lambda gid: group(ME.pw_name))
    marker.parent.chmod(0o770)
    with pytest.raises(OwnershipError, match="or others can write to it"):
        is_ours(marker, ID)
