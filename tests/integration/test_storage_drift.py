"""Disks, images, keys and the storage, lost or altered behind our back: healed, or refused."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ai_how.guest.ssh import ensure_key
from ai_how.libvirt_client.vm_state import VmState
from ai_how.process import run
from ai_how.state.cluster_state import read_state
from ai_how.state.paths import StoragePaths
from cluster_bench import DIGEST, MIB
from tiny_cluster import TinyHome, steps

NOBODY = 65534

pytestmark = pytest.mark.libvirt

NODES = ("controller", "compute-01", "compute-02")
SOUND: dict[str, list[str]] = {name: [] for name in NODES}
PATTERN = "-P 0x5a 512k 64k"


@pytest.fixture
def home(tiny_home: TinyHome) -> Iterator[TinyHome]:
    """A cluster that runs."""
    steps(tiny_home)
    yield tiny_home
    call(tiny_home, "destroy", "--force")


@pytest.fixture
def stopped(home: TinyHome) -> TinyHome:
    """A cluster that is off, with data on the first compute node's disk."""
    call(home, "stop")
    run(["qemu-io", "-f", "qcow2", "-c", f"write {PATTERN}", disk(home, "compute-01")])
    return home


def call(home: TinyHome, *words: str) -> str:
    done = home.call("hpc", *words)
    assert done.code == 0, done.said
    return done.err


def problems(home: TinyHome) -> dict[str, list[str]]:
    done = home.call("--json", "hpc", "status")
    assert done.code == 0, done.said
    return {one["name"]: one["problems"] for one in json.loads(done.out)["nodes"]}


def storage(home: TinyHome) -> StoragePaths:
    return home.roots.embedded_storage


def disk(home: TinyHome, node: str) -> Path:
    return storage(home).disk("hpc", node)


def has_pattern(home: TinyHome) -> bool:
    told = run(["qemu-io", "-f", "qcow2", "-c", f"read {PATTERN}", disk(home, "compute-01")])
    return "verification failed" not in told.stdout


def states(home: TinyHome) -> set[VmState]:
    with home.client() as client:
        return {one.state for one in client.list_domains() if one.name[4:] in NODES}


@pytest.mark.fault("F49", "rm of a compute node's disk while it is off")
def test_a_compute_node_without_its_disk_gets_a_new_one_and_that_is_said(stopped: TinyHome) -> None:
    disk(stopped, "compute-02").unlink()
    assert problems(stopped)["compute-02"] == ["disk missing"]
    told = call(stopped, "start")
    assert "the disk of compute-02 is gone with all its data: a new one is created" in told
    assert problems(stopped) == SOUND
    call(stopped, "stop")
    assert has_pattern(stopped)


@pytest.mark.fault("F49", "rm of the controller's disk while it is off")
def test_a_controller_without_its_disk_is_refused_and_nothing_is_booted(stopped: TinyHome) -> None:
    disk(stopped, "controller").unlink()
    refused = stopped.call("hpc", "start")
    assert refused.code == 3, refused.said
    assert "the disk of controller is gone, and with it /home" in refused.err
    assert " hpc destroy  # then start it again" in refused.err
    assert states(stopped) == {VmState.SHUT_OFF}
    assert not disk(stopped, "controller").exists()
    assert has_pattern(stopped)


@pytest.mark.fault("F49", "rm of a disk under a guest that runs")
@pytest.mark.parametrize("node", ["compute-01", "controller"])
def test_a_disk_that_was_deleted_under_its_guest_is_said_and_destroy_goes(
    home: TinyHome, node: str
) -> None:
    disk(home, node).unlink()
    assert problems(home)[node] == ["disk missing"]
    refused = home.call("hpc", "start")
    assert refused.code == 3, refused.said
    assert f"the disk of {node} is gone" in refused.err
    assert states(home) == {VmState.RUNNING}


def flip(path: Path) -> None:
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.chmod(0o644)
    os.truncate(path, path.stat().st_size - 4096)


def replace_by_another(path: Path) -> None:
    """Another image under the same name, not through the link that the store has, too."""
    path.unlink()
    run(["qemu-img", "create", "-q", "-f", "qcow2", path, f"{MIB}"])
    run(["qemu-io", "-f", "qcow2", "-c", "write -P 0x66 0 64k", path])


@pytest.fixture
def copied(stopped: TinyHome) -> Iterator[Path]:
    """The image's copy in the storage, no link of the store's: damage to it is its alone."""
    base = storage(stopped).base(DIGEST)
    sound = base.with_name(".sound")
    shutil.copyfile(base, sound)
    shutil.copyfile(sound, base.with_name("copy"))
    base.with_name("copy").rename(base)
    yield base
    base.unlink(missing_ok=True)
    sound.chmod(0o444)
    sound.rename(base)


@pytest.mark.fault("F50", "a flipped bit, a cut end, another image of the same name")
@pytest.mark.parametrize("damage", [flip, cut, replace_by_another])
def test_an_image_that_was_altered_is_refused_with_both_digests_and_never_booted(
    stopped: TinyHome, copied: Path, damage: Callable[[Path], None]
) -> None:
    damage(copied)
    refused = stopped.call("hpc", "start")
    assert refused.code == 4, refused.said
    assert "is not what its image's manifest says" in refused.err
    assert "expected sha256" in refused.err
    assert "found    sha256" in refused.err
    assert "booting" not in refused.out
    assert states(stopped) == {VmState.SHUT_OFF}
    # What the hint says heals: the store has the image.
    assert f"rm -f {copied}" in refused.err
    copied.unlink()
    steps(stopped)
    call(stopped, "stop")
    assert has_pattern(stopped)


@pytest.mark.fault("F50", "rm of the image while the cluster is off")
def test_an_image_that_was_deleted_is_placed_anew_from_the_store(stopped: TinyHome) -> None:
    base = storage(stopped).base(DIGEST)
    base.unlink()
    assert problems(stopped) == {name: [f"image missing ({base})"] for name in NODES}
    assert f"base/{DIGEST[:12]}" in steps(stopped)
    assert problems(stopped) == SOUND


@pytest.mark.fault("F50", "a disk that stands on another image")
def test_a_disk_on_a_foreign_image_is_said(stopped: TinyHome) -> None:
    foreign = storage(stopped).bases / f"{'f' * 64}.qcow2"
    run(["qemu-img", "create", "-q", "-f", "qcow2", foreign, f"{MIB}"])
    path = disk(stopped, "compute-02")
    run(["qemu-img", "rebase", "-q", "-u", "-f", "qcow2", "-F", "qcow2", "-b", foreign, path])
    base = storage(stopped).base(DIGEST)
    assert problems(stopped)["compute-02"] == [f"its backing file is {foreign}, not {base}"]
    refused = stopped.call("hpc", "start")
    assert refused.code == 3, refused.said
    assert f"its backing file is {foreign}" in refused.err
    assert states(stopped) == {VmState.SHUT_OFF}


def move_away(top: Path) -> None:
    top.rename(top.with_name("aside"))


def empty_mount_point(top: Path) -> None:
    top.rename(top.with_name("aside"))
    top.mkdir(mode=0o711)


def link(top: Path) -> None:
    """One that another user could turn; one that is ours alone is followed."""
    if os.geteuid() != 0:
        pytest.skip("only root can give a link to another user")
    top.rename(top.with_name("aside"))
    top.symlink_to(top.with_name("aside"))
    os.lchown(top, NOBODY, NOBODY)


def open_to_all(top: Path) -> None:
    top.chmod(0o777)


def open_disks(top: Path) -> None:
    (top / "disks").chmod(0o777)


def open_bases(top: Path) -> None:
    (top / "bases").chmod(0o777)


REFUSALS = {
    move_away: "the disks of hpc are gone",
    empty_mount_point: "the disks of hpc are gone",
    link: "is a link that another user could change",
    open_to_all: "other users can write to",
    open_disks: "other users can write to",
    open_bases: "other users can write to",
}


@pytest.mark.fault("F52", "the storage moved away, not mounted, another's link, open to all")
@pytest.mark.parametrize("spoil", REFUSALS)
def test_a_storage_that_is_not_as_it_was_is_refused_before_any_change(
    stopped: TinyHome, spoil: Callable[[Path], None]
) -> None:
    top = storage(stopped).root
    before = read_state(stopped.paths("hpc"))
    modes = {path: path.stat().st_mode & 0o777 for path in (top, *top.glob("[bd]*"))}
    spoil(top)
    try:
        assert stopped.call("hpc", "status").code == (3 if spoil is link else 0)
        refused = stopped.call("hpc", "start")
        assert refused.code == 3, refused.said
        assert REFUSALS[spoil] in refused.err
        assert refused.boundaries == ()
        assert read_state(stopped.paths("hpc")) == before
        assert states(stopped) == {VmState.SHUT_OFF}
    finally:
        if (aside := top.with_name("aside")).exists():
            top.unlink() if top.is_symlink() else top.exists() and top.rmdir()
            aside.rename(top)
        for path, mode in modes.items():
            path.chmod(mode)
    steps(stopped)
    call(stopped, "stop")
    assert has_pattern(stopped)


def whole(directory: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()}


@pytest.mark.fault("F54", "rm of public keys, known_hosts and ssh configuration")
def test_what_can_be_made_again_of_the_keys_is_and_the_keys_are_kept(home: TinyHome) -> None:
    paths = home.paths("hpc")
    before = whole(paths.ssh) | whole(paths.secrets)
    for path in (paths.known_hosts, paths.ssh_config, *paths.root.rglob("*.pub")):
        path.unlink()
    assert steps(home) == []
    assert whole(paths.ssh) | whole(paths.secrets) == before


@pytest.mark.fault("F54", "rm of the munge key, a host key, the user's key")
@pytest.mark.parametrize(
    ("lost", "what"),
    [
        ("munge_key", "the munge key"),
        ("ssh_key", "the ssh key of the user"),
        ("host_key", "the host key of compute-01"),
    ],
)
def test_a_key_that_is_lost_is_made_anew_for_every_node_and_that_is_said(
    home: TinyHome, lost: str, what: str
) -> None:
    paths = home.paths("hpc")
    path = paths.host_key("compute-01") if lost == "host_key" else getattr(paths, lost)
    before = whole(paths.ssh) | whole(paths.secrets)
    path.unlink()
    done = home.call("hpc", "start")
    assert done.code == 0, done.said
    assert f"{what} is gone: a new one is created and sent to every node" in done.err
    for node in NODES:
        assert f"{node}: services" in done.out
    after = whole(paths.ssh) | whole(paths.secrets)
    assert path.read_bytes() != before[path]
    others = {path, path.with_name(f"{path.name}.pub"), paths.known_hosts}
    assert {p: b for p, b in after.items() if p not in others} == {
        p: b for p, b in before.items() if p not in others
    }
    if lost != "munge_key":
        public = ensure_key(path, "")
        assert public == path.with_name(f"{path.name}.pub").read_text().strip()
    assert steps(home) == []
