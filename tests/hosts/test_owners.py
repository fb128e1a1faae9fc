"""Several owners on one system libvirt: each has their own, and is told whose the rest is."""

import json
import pwd
import shlex
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from hosts.system_libvirt import (
    GROUP,
    IMAGES,
    SystemHome,
    SystemLibvirt,
    system_home,
    system_libvirt,
)
from users import made_user

pytestmark = pytest.mark.libvirt

FORMER = IMAGES / "ai-how"
ALICE, BOB = "ah-alice", "ah-bob"
STATE = Path(".local/state/ai-how")


@pytest.fixture(scope="module")
def users() -> Iterator[None]:
    with ExitStack() as stack:
        for name in (ALICE, BOB):
            stack.enter_context(made_user(name, "--groups", GROUP, kept=(STATE.parts[0],)))
        yield


@pytest.fixture(scope="module")
def host(users: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SystemLibvirt]:
    with system_libvirt(tmp_path_factory.mktemp("system")) as host:
        yield host


@pytest.fixture(scope="module")
def alice(host: SystemLibvirt) -> Iterator[SystemHome]:
    with system_home(host, ALICE, home_of(ALICE) / STATE, "hpc", nodes=1) as home:
        yield home


@pytest.fixture(scope="module")
def bob(host: SystemLibvirt) -> Iterator[SystemHome]:
    with system_home(host, BOB, home_of(BOB) / STATE, "hpc", "other", nodes=1) as home:
        yield home


@pytest.fixture(scope="module")
def root(host: SystemLibvirt, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SystemHome]:
    state = tmp_path_factory.mktemp("root") / "state"
    with system_home(host, "root", state, "hpc", nodes=1) as home:
        yield home


@pytest.fixture(autouse=True)
def nothing_is_left(request: pytest.FixtureRequest, host: SystemLibvirt) -> Iterator[None]:
    """Each test begins and ends without VMs, networks and disks."""
    yield
    left = host.virsh("list", "--all", "--name") + host.virsh("net-list", "--all", "--name")
    disks = [line for line in host.files() if line.endswith(".qcow2")]
    host.run("root", "find", IMAGES, "-mindepth", "1", "-delete")
    assert (left.split(), disks) == ([], [])


def home_of(user: str) -> Path:
    return Path(pwd.getpwnam(user).pw_dir)


def own_storage(user: str) -> Path:
    return IMAGES / f"ai-how-{pwd.getpwnam(user).pw_uid}"


def paste(home: SystemHome, hint: str) -> None:
    """Run what was printed as the user would, with a sudo that asks for nothing."""
    words = hint.replace('"$(id -u)"', str(pwd.getpwnam(home.user).pw_uid)).split()
    assert words.pop(0) == "sudo"
    home.system.run("root", *words)


def call(home: SystemHome, *words: str, code: int = 0, name: str = "hpc") -> str:
    done = home.call(*words, name=name)
    assert done.code == code, done.said
    return done.out if code == 0 else done.err


def give_storage(home: SystemHome) -> None:
    """What the hint of a first start makes."""
    refused = call(home, "hpc", "start", code=3)
    paste(home, refused.partition("hint: ")[2].strip())


def running(host: SystemLibvirt) -> list[str]:
    """The VMs that run, with the numbers of their QEMUs: another number is another run."""
    return sorted(host.virsh("list").splitlines()[2:])


@pytest.mark.fault("H04", "another user's cluster of the same name, asked for by every verb")
def test_no_verb_touches_another_owners_cluster_and_each_says_whose_it_is(
    host: SystemLibvirt, alice: SystemHome, bob: SystemHome, root: SystemHome
) -> None:
    give_storage(alice)
    give_storage(bob)
    call(alice, "hpc", "start")
    before, files = running(host), host.files()
    assert len([line for line in before if line.strip()]) == 2
    uid = pwd.getpwnam(ALICE).pw_uid
    whose = f"user {ALICE} (uid {uid}), state directory {alice.state}"
    for stranger in (bob, root):
        for words in (
            ("hpc", "start"),
            ("hpc", "start", "--dry-run"),
            ("hpc", "status"),
            ("hpc", "stop"),
            ("hpc", "ssh", "controller", "true"),
            ("hpc", "destroy", "--force"),
            ("hpc", "recover"),
        ):
            said = call(stranger, *words, code=3)
            assert f"the cluster hpc on qemu:///system is not yours: it is of {whose}" in said
            assert "lost" not in said
        found = json.loads(stranger.call("--json", "validate").out)
        assert not found["is_possible"]
        assert any(whose in check["found"] for check in found["estimate"]["checks"])
    call(bob, "hpc", "start", name="other")
    call(bob, "hpc", "destroy", "--force", name="other")
    assert running(host) == before
    mine = [line for line in host.files() if own_storage(ALICE).name in line]
    assert mine == [line for line in files if own_storage(ALICE).name in line]
    assert "hpc: ready" in call(alice, "hpc", "status")
    call(alice, "hpc", "destroy", "--force")


@pytest.mark.fault("H04", "what auto is, with storage that is absent, another's and one's own")
def test_auto_validate_and_doctor_say_the_same_host(
    host: SystemLibvirt, alice: SystemHome, bob: SystemHome
) -> None:
    assert said(alice) == ("embedded", "embedded")
    host.run("root", "install", "-d", "-o", BOB, "-m", "0711", FORMER)
    assert said(alice) == ("embedded", "embedded")
    assert said(bob) == ("qemu:///system",) * 2
    give_storage(alice)
    assert said(alice) == ("qemu:///system",) * 2


def said(home: SystemHome) -> tuple[str, str]:
    """What `auto` is, to doctor and to validate."""
    doctor = json.loads(home.call("--json", "--connect", "auto", "doctor").out)
    [found] = [one["found"] for one in doctor["checks"] if one["name"] == "host"]
    valid = json.loads(home.call("--json", "--connect", "auto", "validate").out)
    return found.split()[2].strip(":"), valid["estimate"]["host"]


@pytest.mark.fault("H04", "the one directory that all users once had, with a cluster in it")
def test_a_cluster_in_the_former_directory_goes_on_there(
    host: SystemLibvirt, alice: SystemHome, bob: SystemHome
) -> None:
    host.run("root", "install", "-d", "-o", ALICE, "-m", "0711", FORMER)
    call(alice, "hpc", "start")
    assert "libvirt-qemu 600 ai-how/disks/hpc/controller.qcow2" in host.files()
    give_storage(bob)
    assert f"{BOB} 711 {own_storage(BOB).name}" in host.files()
    # A directory of their own beside it takes nothing away.
    host.run("root", "install", "-d", "-o", ALICE, "-m", "0711", own_storage(ALICE))
    call(alice, "hpc", "stop")
    assert f"{ALICE} 600 ai-how/disks/hpc/controller.qcow2" in host.files()
    call(alice, "hpc", "start")
    assert "hpc: ready" in call(alice, "hpc", "status")
    call(alice, "hpc", "destroy", "--force")
    assert [line for line in host.files() if "/disks/hpc" in line] == []


@pytest.mark.fault("H04", "VMs of an earlier version, whose mark names no owner")
def test_a_cluster_without_an_owner_in_its_mark_stays_its_owners(
    host: SystemLibvirt, alice: SystemHome, bob: SystemHome
) -> None:
    give_storage(alice)
    give_storage(bob)
    call(alice, "hpc", "start")
    call(alice, "hpc", "stop")
    script = (
        "for each in hpc-controller hpc-compute-01; do "
        "virsh -c qemu:///system dumpxml --inactive $each "
        '| sed \'s/ uid="[0-9]*" state="[^"]*"//\' >/run/each.xml; '
        "virsh -c qemu:///system define /run/each.xml; done"
    )
    host.run("root", "sh", "-c", script)
    sent = alice.paths("hpc").xml.glob("hpc-*.xml")
    for file in sent:
        text = file.read_text()
        file.write_text(text.partition(' uid="')[0] + "/>" + text.partition('/ai-how"/>')[2])
    assert "uid=" not in host.virsh("dumpxml", "hpc-controller")
    assert f"state directory {alice.state}" in call(bob, "hpc", "status", code=3)
    plan = json.loads(call(alice, "--json", "hpc", "start", "--dry-run"))["steps"]
    assert [step["key"] for step in plan if step["key"].startswith("domain/")] == []
    alice.paths("hpc").state.unlink()
    for backup in alice.paths("hpc").backups.iterdir():
        backup.unlink()
    assert "what was remembered of it is lost" in call(alice, "hpc", "status", code=3)
    call(alice, "hpc", "recover")
    call(alice, "hpc", "destroy", "--force")


@pytest.mark.fault("H04", "the state is lost while QEMU's own user has the disks")
def test_an_ordinary_user_recovers_a_cluster_that_runs(
    host: SystemLibvirt, alice: SystemHome
) -> None:
    give_storage(alice)
    call(alice, "hpc", "start")
    before = running(host)
    known = json.loads(alice.paths("hpc").state.read_text())["nodes"]
    shutil.rmtree(alice.paths("hpc").backups)
    alice.paths("hpc").state.unlink()
    assert "what was remembered of it is lost" in call(alice, "hpc", "status", code=3)
    assert "hpc is remembered again" in call(alice, "hpc", "recover")
    found = json.loads(alice.paths("hpc").state.read_text())["nodes"]
    assert [one | {"stages_s": {}} for one in known] == found
    assert running(host) == before
    call(alice, "hpc", "destroy", "--force")


@pytest.mark.fault("H04", "two state directories of one user, and one that is taken over")
def test_another_state_directory_of_the_same_user_is_another_owner(
    host: SystemLibvirt, alice: SystemHome
) -> None:
    give_storage(alice)
    call(alice, "hpc", "start")
    before = running(host)
    second = home_of(ALICE) / STATE.parent / "second"
    with system_home(host, ALICE, second, "hpc", nodes=1) as other:
        said = call(other, "hpc", "destroy", "--force", code=3)
        hint = said.partition("hint: ")[2].strip()
        assert (
            hint == f"ai-how --state-dir {shlex.quote(str(alice.state))} hpc status --cluster hpc"
        )
        said = call(other, "hpc", "recover", code=3)
        uid = pwd.getpwnam(ALICE).pw_uid
        assert f"ai-how hpc recover --cluster hpc --from-user {uid}" in said
        taking = ("hpc", "recover", "--from-user", ALICE)
        assert "there is no terminal to ask on" in call(other, *taking, code=2)
        assert "is not yours" in call(
            other, "hpc", "recover", "--from-user", BOB, "--force", code=3
        )
        assert running(host) == before
        call(other, *taking, "--force")
        assert "hpc: ready" in call(other, "hpc", "status")
        call(other, "hpc", "destroy", "--force")
    shutil.rmtree(second)
    # What was taken away is gone for whoever had it: nothing is there to remove but the memory.
    call(alice, "hpc", "destroy", "--force")
