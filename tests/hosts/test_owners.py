"""Several owners on one system libvirt: each has their own, and is told whose the rest is."""

import json
import os
import pwd
import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from ai_how.process import Completed, start_daemon
from ai_how.waiting import Deadline, wait_until
from hosts.system_libvirt import (
    GROUP,
    IMAGES,
    SystemHome,
    SystemLibvirt,
    system_home,
    system_libvirt,
)
from sockets import SERVER
from tiny_cluster import state_of
from users import made_user

pytestmark = pytest.mark.libvirt

FORMER = IMAGES / "ai-how"
ALICE, BOB = "ah-alice", "ah-bob"
STATE = Path(".local/state/ai-how")
ASK = """
import socket, sys
with socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=60) as line:
    line.sendall(b"hello")
    print(line.recv(100).decode())
"""


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
    disks = [line for line in host.files() if "/disks/" in line]
    for kind in ("", "net-"):
        for name in host.virsh(f"{kind}list", "--all", "--name").split():
            host.run("root", "virsh", "-c", "qemu:///system", f"{kind}destroy", name, check=False)
            host.virsh(f"{kind}undefine", name)
    host.run("root", "find", IMAGES, "-mindepth", "1", "-delete")
    for name in ("alice", "bob", "root"):
        if name in request.fixturenames:
            shutil.rmtree(request.getfixturevalue(name).paths("hpc").root, ignore_errors=True)
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
    dangerous = (("hpc", "start"), ("hpc", "recover"), ("hpc", "destroy", "--force"))
    harmless = (
        ("hpc", "start", "--dry-run"),
        ("hpc", "status"),
        ("hpc", "stop"),
        ("hpc", "ssh", "controller", "true"),
    )
    for stranger, verbs in ((bob, (*harmless, *dangerous)), (root, dangerous)):
        for words in verbs:
            said = call(stranger, *words, code=3)
            assert f"the cluster hpc on qemu:///system is not yours: it belongs to {whose}" in said
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
    # What an earlier version told the second user to run took the directory over.
    host.run("root", "chown", BOB, FORMER)
    assert "hpc: ready" in call(alice, "hpc", "status")
    call(alice, "hpc", "stop")
    assert f"{FORMER} belongs to user" in call(alice, "hpc", "start", code=3)
    call(bob, "hpc", "start", name="other")
    assert f"libvirt-qemu 600 {own_storage(BOB).name}/disks/other/controller.qcow2" in host.files()
    call(bob, "hpc", "destroy", "--force", name="other")
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
    assert "its state is lost" in call(alice, "hpc", "status", code=3)
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
    assert "its state is lost" in call(alice, "hpc", "status", code=3)
    assert "the state of hpc was restored" in call(alice, "hpc", "recover")
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
        assert f"hpc recover --cluster hpc --from-user {uid}" in said
        taking = ("hpc", "recover", "--from-user", ALICE)
        assert "there is no terminal" in call(other, *taking, code=2)
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


def write_to_serial_line(host: SystemLibvirt, domain: str, text: str) -> None:
    """What a guest that has a system would do: to write to the port of its UART."""
    for letter in text:
        command = f"o /b 0x3f8 {ord(letter)}"
        host.virsh("qemu-monitor-command", domain, "--hmp", command)


@pytest.mark.fault("H05", "an ordinary user asks for a serial line, before and after it was root's")
def test_an_ordinary_user_reads_the_serial_lines_of_their_nodes(
    host: SystemLibvirt, alice: SystemHome
) -> None:
    give_storage(alice)
    call(alice, "hpc", "start")
    logs = ("hpc", "logs", "controller", "--serial")
    write_to_serial_line(host, "hpc-controller", "first\n")
    wait_until(lambda: "first" in call(alice, *logs), Deadline.after(60), "the line")
    log = alice.paths("hpc").console_log("controller")
    # virtlogd turns a long log over, and what it makes anew is root's.
    os.chown(log, 0, 0)
    said = call(alice, *logs, code=3)
    assert f"only root can read {log}" in said
    assert f"hint: sudo tail -n 200 {log}" in said
    call(alice, "hpc", "stop")
    call(alice, "hpc", "start")
    write_to_serial_line(host, "hpc-controller", "second\n")
    wait_until(lambda: "second" in call(alice, *logs), Deadline.after(60), "the line")
    assert "first" in log.with_name(f"{log.name}.0").read_text()
    call(alice, "hpc", "destroy", "--force")


@pytest.mark.fault("H05", "QEMU is killed at a start of an ordinary user's")
def test_what_an_ordinary_user_cannot_read_is_said_with_the_command_that_reads_it(
    host: SystemLibvirt, alice: SystemHome
) -> None:
    give_storage(alice)
    pids: list[int] = []
    ended = alice.begin(
        *("hpc", "start"),
        agents=False,
        at_any=[["after done", "boot/hpc-controller"]],
        act="stop",
        on_pid=pids.append,
    )

    def is_stopped() -> bool:
        return host.run("root", "ps", "-o", "stat=", "-p", str(pids[0])).stdout.startswith("T")

    wait_until(is_stopped, Deadline.after(120), "the start at that step")
    script = "kill -KILL $(cat /run/libvirt/qemu/hpc-controller.pid)"
    host.run("root", "sh", "-c", script)
    wait_until(
        lambda: "shut off" in host.virsh("domstate", "hpc-controller"),
        Deadline.after(60),
        "the end of the VM",
    )
    host.run("root", "kill", "-CONT", str(pids[0]))
    done = ended()
    assert done.code == 4, done.said
    read = "sudo tail -n 50 /var/log/libvirt/qemu/hpc-controller.log"
    assert "controller: QEMU was killed or crashed; only root can read its log" in done.err
    [evidence] = alice.paths("hpc").evidence.iterdir()
    assert read in (evidence / "summary.txt").read_text()
    shutil.rmtree(alice.paths("hpc").root)


@pytest.mark.fault("H05", "starts of an ordinary user's whose file asks for saved machines")
def test_a_start_and_doctor_say_why_nothing_is_restored_for_an_ordinary_user(
    host: SystemLibvirt, alice: SystemHome, root: SystemHome
) -> None:
    give_storage(alice)
    why = "only root can read the memory that qemu:///system saves"
    cold, warm = (f"start: {{warm: {word}}}" for word in ("false", "true"))
    alice.file("hpc").write_text(alice.file("hpc").read_text().replace(cold, warm))
    told = alice.call("hpc", "start")
    assert (told.code, why in told.err) == (0, True), told.said
    assert why not in alice.call("hpc", "start").err
    call(alice, "hpc", "destroy", "--force")
    alice.file("hpc").write_text(alice.file("hpc").read_text().replace(warm, cold))
    assert why not in alice.call("hpc", "start", "--dry-run").err
    for home, is_told in ((alice, True), (root, False)):
        checks = json.loads(home.call("--json", "--connect", "auto", "doctor").out)["checks"]
        assert any(why in one["found"] for one in checks) is is_told


@pytest.mark.fault("H05", "the ports of an ordinary user's cluster, from start to stop")
def test_a_port_is_open_as_long_as_the_cluster_of_its_user_is_up(
    host: SystemLibvirt, alice: SystemHome
) -> None:
    give_storage(alice)
    file = alice.file("hpc")
    text = file.read_text()
    port = 18000  # the namespace has no other
    file.write_text(f"{text}    expose: [{{node: controller, port: 8000, host_port: {port}}}]\n")
    try:
        assert f"open: 127.0.0.1:{port} -> controller:8000" in call(alice, "hpc", "start")
        address = str(state_of(alice).get_controller().ip)
        host.run("root", "ip", "address", "add", f"{address}/32", "dev", "lo")
        with serving(host, address):
            assert ask(host, port).stdout == "HELLO\n"
            again = json.loads(call(alice, "--json", "hpc", "status"))["ports"]
            assert [one["is_open"] for one in again] == [True]
            call(alice, "hpc", "stop")
            assert "refused" in ask(host, port).stderr
        call(alice, "hpc", "destroy", "--force")
    finally:
        file.write_text(text)


@contextmanager
def serving(host: SystemLibvirt, address: str) -> Iterator[None]:
    """A server at port 8000 of that address, which stands in for one in a guest."""
    log = Path(f"/proc/{host.pid}/root/run/served")
    server = start_daemon(host.enter("root", sys.executable, "-uc", SERVER, address), log=log)
    try:
        wait_until(lambda: "up" in log.read_text(), Deadline.after(60), f"the server; see {log}")
        yield
    finally:
        server.kill()
        server.wait(60)


def ask(host: SystemLibvirt, port: int) -> Completed:
    """What the host's own programs get from one of its ports."""
    return host.run("root", sys.executable, "-c", ASK, str(port), check=False)
