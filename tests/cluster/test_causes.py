"""Every cause of a failed start that we can name, made for real: the error's first line says it."""

import base64
import hashlib
import os
import re
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from ai_how.errors import GuestError, PlanFailedError
from ai_how.guest.agent import GuestAgent
from ai_how.guest.base_identity import Neighbour
from ai_how.host.embedded import EmbeddedHost
from ai_how.hpc import identities
from ai_how.hpc.manager import HpcManager
from ai_how.hpc.node_identity import NodeIdentity
from ai_how.images.build import build_default_image
from ai_how.images.manifest import DISK, MANIFEST, Manifest
from ai_how.images.store import ImageStore
from ai_how.libvirt_client.client import LibvirtClient
from ai_how.libvirt_client.facts import DomainInfo
from ai_how.plan.observer import Observer
from ai_how.plan.step import Step
from ai_how.process import run
from ai_how.spec.reader import read_spec_text
from ai_how.state.paths import ClusterPaths, Roots, default_roots
from ai_how.vm_management.context import Timeouts
from ai_how.waiting import Deadline, wait_until
from decoys import place_decoys
from leaks import (
    count_gate,
    look_at_host,
    look_at_machine,
    pids_inside,
    private_host,
    settled_difference,
)

pytestmark = pytest.mark.slurm

FILE = """\
version: "1.0"
host: {{uri: embedded}}
clusters:
  hpc:
    name: {name}
    controller: {{cpu_cores: 1, memory_gb: 0.5, disk_gb: 5}}
    compute_nodes: {{count: {count}, cpu_cores: 1, memory_gb: 0.5, disk_gb: 5, {image}}}
"""
# A guest without a fault needs a tenth of this at most on a quiet machine.
GOOD = Timeouts(agent_s=300, identity_s=300, ready_s=600)
# For what never comes, however long it is waited for.
SHORT = Timeouts(agent_s=20)
SEEN_S = 600
# A fault is on its way when an image boots so; each has the default image's kernel.
ON_EMPTY_DISK = {
    "panics": "rdinit=/bin/busybox",
    "has-no-root": "",
    "has-no-memory": "mem=48M",
    "has-a-glutton": 'rdinit=/bin/busybox -- sh -c "/bin/busybox mount -t devtmpfs devtmpfs /dev; '
    '/bin/busybox tail /dev/zero; exit"',
}
ON_FULL_DISK = {
    "is-silent": "systemd.unit=local-fs.target",
    "is-in-emergency": "systemd.unit=emergency.target",
}


@dataclass(frozen=True)
class Failed:
    """A start that failed, and the evidence that its error names."""

    error: PlanFailedError
    evidence: Path

    @property
    def first_line(self) -> str:
        return str(self.error).splitlines()[0]

    def read(self, name: str) -> str:
        return (self.evidence / name).read_text()


class At(Observer):
    """Does something when a step has begun, while it is carried out."""

    def __init__(self, key: str, act: Callable[[], None]) -> None:
        self.key = key
        self.act = act

    def begun(self, step: Step) -> None:
        if step.key == self.key:
            self.act()


@dataclass(frozen=True)
class Bench:
    """A private host whose disks lie on a small file system, and a store of faulty images."""

    host: EmbeddedHost
    roots: Roots
    disks: Path

    def paths(self, name: str) -> ClusterPaths:
        return self.roots.cluster(name)

    def fail(
        self,
        name: str,
        *,
        image: str = "",
        count: int = 1,
        timeouts: Timeouts = GOOD,
        observer: Observer | None = None,
    ) -> Failed:
        """Start a cluster that cannot come up; nothing of it is there afterwards."""
        image = f"base_image_path: {image}" if image else ""
        text = FILE.format(name=name, count=count, image=image)
        spec, problems = read_spec_text(text, "test.yaml", {})
        assert spec is not None, problems
        manager = HpcManager(
            roots=self.roots,
            name=name,
            connect="embedded",
            observer=observer or Observer(),
            timeouts=timeouts,
        )
        with pytest.raises(PlanFailedError) as caught:
            manager.start(spec)
        self.assert_nothing_is_left(name)
        details = caught.value.details or ""
        named = re.findall(r"^evidence: (.+)$", details, re.MULTILINE)
        assert len(named) == 1, details
        failed = Failed(caught.value, Path(named[0]))
        self.assert_is_private(failed.evidence)
        assert failed.first_line.startswith("start failed; all its changes were undone: ")
        return failed

    def assert_nothing_is_left(self, name: str) -> None:
        with LibvirtClient(self.host.uri) as client:
            there = [one.name for one in (*client.list_domains(), *client.list_networks())]
        assert [one for one in there if one.startswith(name)] == []
        assert not (self.disks / name).exists()
        assert {path.name for path in self.paths(name).root.iterdir()} == {"lock", "evidence"}

    def assert_is_private(self, evidence: Path) -> None:
        assert evidence.parent.parent.stat().st_mode & 0o077 == 0
        assert {path.stat().st_mode & 0o777 for path in evidence.iterdir()} == {0o600}
        assert {"errors.txt", "summary.txt"} <= {path.name for path in evidence.iterdir()}


def make_store(root: Path) -> None:
    """The default image, and ones with its kernel whose boot goes wrong."""
    default = build_default_image(ImageStore(default_roots().images))
    empty = root / "empty.qcow2"
    root.mkdir(parents=True)
    run(["qemu-img", "create", "-q", "-f", "qcow2", empty, "4G"])
    sha256 = hashlib.sha256(empty.read_bytes()).hexdigest()
    add_image(root, default.manifest, default.directory, default.disk)
    for name, words in ON_EMPTY_DISK.items():
        own = faulty(default.manifest, name, words).model_copy(update={"disk_sha256": sha256})
        add_image(root, own, default.directory, empty)
    for name, words in ON_FULL_DISK.items():
        add_image(root, faulty(default.manifest, name, words), default.directory, default.disk)
    empty.unlink()


def faulty(manifest: Manifest, name: str, words: str) -> Manifest:
    return manifest.model_copy(
        update={
            "name": name,
            "digest": hashlib.sha256(name.encode()).hexdigest(),
            "asked_digest": None,
            "cmdline": f"{manifest.cmdline} {words}".strip(),
        }
    )


def add_image(root: Path, manifest: Manifest, source: Path, disk: Path) -> None:
    directory = root / manifest.digest
    directory.mkdir()
    for name in manifest.sha256_by_file:
        there = disk if name == DISK else source / name
        try:
            os.link(there, directory / name)
        except OSError:  # another file system
            shutil.copyfile(there, directory / name)
    (directory / MANIFEST).write_text(manifest.model_dump_json())


@contextmanager
def small_file_system(directory: Path) -> Iterator[None]:
    """A file system of its own at `directory`, which can be full without harm to others."""
    directory.mkdir(parents=True, mode=0o711)
    run(["mount", "-n", "-t", "tmpfs", "-o", "mode=711,size=512m", "tmpfs", directory])
    try:
        yield
    finally:
        run(["umount", "-n", directory])


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    with private_host() as host:
        state = host.paths.root.parent
        roots = replace(default_roots(state), data=state / ".data")
        make_store(roots.images)
        disks = roots.embedded_storage.disks
        with small_file_system(disks):
            host.up(with_kvm=False)
            place_decoys(host)
            yield Bench(host, roots, disks)


@pytest.fixture(autouse=True)
def nothing_is_left(bench: Bench, figures: dict[str, int]) -> Iterator[None]:
    before = look_at_machine() | look_at_host(bench.host)
    yield
    left = settled_difference(before, bench.host)
    count_gate(figures, left, has_decoys=True)
    assert left == "", f"the test left things behind:\n{left}"


@pytest.mark.fault("F61", "a kernel that panics")
def test_a_kernel_panic_is_named_at_once(bench):
    failed = bench.fail("panic", image="panics")
    assert "compute-01: kernel panic: Attempted to kill init!" in failed.first_line
    assert failed.error.hint == f"less {failed.evidence}/summary.txt"
    assert (failed.error.cause_id, failed.error.node) == ("kernel-panic", "compute-01")
    assert failed.error.evidence == failed.evidence
    assert "Kernel panic - not syncing" in failed.read("compute-01.console.log")
    assert "<name>panic-compute-01</name>" in failed.read("compute-01.xml")
    assert "qemu-system" in failed.read("compute-01.qemu.log")


@pytest.mark.fault("F61", "a kernel that panics after its agent came")
def test_a_guest_that_panics_later_is_off_and_named_at_once(bench):
    def crash() -> None:
        with LibvirtClient(bench.host.uri) as client:
            victim = client.find_domain_by_name("crash-compute-01")
            words = {"path": "/bin/sh", "arg": ["-c", "echo c > /proc/sysrq-trigger"]}
            command = {"execute": "guest-exec", "arguments": words}
            with suppress(GuestError):  # whether it answers before it is gone
                client.agent_command(victim.uuid, command)

    failed = bench.fail("crash", observer=At("services/crash-compute-01", crash))
    assert "compute-01: kernel panic: sysrq triggered crash" in failed.first_line
    assert "crash-compute-01: shut_off (crashed); " in failed.read("summary.txt")


@pytest.mark.fault("F61", "a disk without a system")
def test_a_missing_root_disk_is_named_at_once(bench):
    failed = bench.fail("noroot", image="has-no-root")
    assert "compute-01: its root disk was not found (/dev/vda cannot be mounted)" in (
        failed.first_line
    )
    assert "no root disk" in failed.read("compute-01.console.log")


@pytest.mark.long
@pytest.mark.fault("F61", "a guest with too little memory to boot")
def test_a_guest_without_memory_is_named_at_once(bench):
    failed = bench.fail("nomem", image="has-no-memory")
    assert "compute-01: it ran out of memory: System is deadlocked on memory" in failed.first_line


@pytest.mark.long
@pytest.mark.fault("F61", "a guest whose memory is used up")
def test_a_process_that_was_killed_for_want_of_memory_is_named(bench):
    failed = bench.fail("glutton", image="has-a-glutton")
    assert "compute-01: it ran out of memory: busybox was killed" in failed.first_line


@pytest.mark.long
@pytest.mark.fault("F61", "a systemd that is in emergency mode")
def test_emergency_mode_is_named_at_once(bench):
    failed = bench.fail("emerg", image="is-in-emergency")
    assert "compute-01: its systemd gave up and is in emergency mode" in failed.first_line


@pytest.mark.long
@pytest.mark.fault("F61", "a guest whose agent is never started")
def test_an_agent_that_never_comes_is_named_with_the_last_line_of_the_console(bench):
    failed = bench.fail("silent", image="is-silent", timeouts=SHORT)
    said = (
        r"the guest agent of (controller|compute-01) never connected: "
        r"(its serial console|last line)"
    )
    assert re.search(said, failed.first_line)
    assert "did not connect in time" in (failed.error.details or "")


@pytest.mark.fault("F31", "SIGKILL to QEMU")
def test_a_qemu_that_was_killed_while_its_guest_was_awaited_is_named(bench):
    def kill() -> None:
        words = b"guest=killed-compute-01,"
        pids = pids_inside(bench.host, "qemu-system-x86")
        mine = [pid for pid in pids if words in Path(f"/proc/{pid}/cmdline").read_bytes()]
        os.kill(mine[0], signal.SIGKILL)

    failed = bench.fail("killed", observer=At("agent/killed-compute-01", kill))
    assert "compute-01: QEMU was killed (signal 9)" in failed.first_line
    assert failed.error.cause_id == "qemu-killed"
    assert "reason=crashed" in failed.read("compute-01.qemu.log")


@contextmanager
def filled(directory: Path) -> Iterator[Callable[[], None]]:
    """What takes all the room there is, when it is called; it is given back afterwards."""
    filler = directory / "filler"

    def fill() -> None:
        with filler.open("wb", buffering=0) as file:
            try:
                while file.write(bytes(1 << 20)):
                    pass
            except OSError:
                return

    try:
        yield fill
    finally:
        filler.unlink(missing_ok=True)


@pytest.mark.fault("F48", "the file system of the disks is filled while guests boot")
def test_a_disk_that_fills_up_under_a_guest_is_named_at_once(bench):
    with filled(bench.disks) as fill:
        failed = bench.fail("full", observer=At("agent/full-compute-01", fill))
    assert "the guest is paused on an I/O error: the disk of the host is full" in failed.first_line
    assert f"({bench.disks}/full, 0 bytes free)" in failed.first_line
    assert failed.error.cause_id == "disk-full"


@pytest.mark.long
@pytest.mark.fault("F47", "the file system of the disks is filled before the disks are made")
def test_a_disk_that_is_full_when_disks_are_made_is_named(bench):
    with filled(bench.disks) as fill:
        fill()
        failed = bench.fail("nospace")
    assert f"no space left in {bench.disks}/nospace" in failed.first_line


def tamper(
    monkeypatch: pytest.MonkeyPatch, changes: Mapping[str, Callable[[NodeIdentity], NodeIdentity]]
) -> None:
    """Have nodes become something else than they should."""
    honest = identities.build_identities

    def find(*args: object, **more: object) -> dict[str, Callable[[], NodeIdentity]]:
        found = dict(honest(*args, **more))
        for name, change in changes.items():
            found[name] = lambda make=found[name], change=change: change(make())
        return found

    monkeypatch.setattr(identities, "build_identities", find)


def with_another_key(node: NodeIdentity) -> NodeIdentity:
    return replace(node, munge_key=hashlib.sha512(node.munge_key).digest() * 2)


def with_controller_elsewhere(node: NodeIdentity) -> NodeIdentity:
    """In a cluster of two there is nobody at the last address of the subnet."""
    nowhere = node.subnet.broadcast_address - 1
    others = [one for one in node.neighbours if one.name != "controller"]
    return replace(node, neighbours=(Neighbour("controller", nowhere), *others))


def with_broken_configuration(node: NodeIdentity) -> NodeIdentity:
    return replace(node, slurm_conf=f"{node.slurm_conf}NoSuchSetting=1\n")


def until_said(bench: Bench, cluster: str, node: str, words: str) -> Callable[[], None]:
    """Have the wait for SLURM end as soon as a node's journal has these words."""

    def wait() -> None:
        with LibvirtClient(bench.host.uri) as client:
            asked = client.find_domain_by_name(f"{cluster}-{node}")
            controller = client.find_domain_by_name(f"{cluster}-controller")
            grep = ["sh", "-c", f"journalctl -b | grep -q '{words}'"]
            wait_until(
                lambda: ask(client, asked, grep) == 0,
                Deadline.after(SEEN_S),
                f"{words} in the journal of {node}",
                interval_s=2,
            )
            assert (
                ask(client, controller, ["pkill", "-f", "/usr/lib/ai-how/(ready|wait-for-port)"])
                == 0
            )

    return wait


def ask(client: LibvirtClient, domain: DomainInfo, words: list[str]) -> int:
    agent = GuestAgent(client, domain.uuid, domain.name)
    return agent.run(words, Deadline.after(SEEN_S)).exit_code


@pytest.mark.fault("F62", "another munge key on one node, a wrong address of the controller's")
def test_what_keeps_nodes_from_slurm_is_named(bench, monkeypatch, points):
    points(2)
    changes = {"compute-01": with_another_key, "compute-02": with_controller_elsewhere}
    tamper(monkeypatch, changes)
    secrets: list[bytes] = []

    def act() -> None:
        paths = bench.paths("strange")
        secrets.extend(path.read_bytes() for path in (paths.munge_key, paths.ssh_key))
        until_said(bench, "strange", "compute-01", "Protocol authentication error")()

    failed = bench.fail("strange", count=2, timeouts=GOOD, observer=At("ready/strange", act))
    said = "munge on compute-01 refuses the controller's credentials (different key or clock): "
    assert f"{said}unmunge: Error: Invalid credential" in failed.first_line
    assert (failed.error.cause_id, failed.error.node) == ("munge-refused", "compute-01")
    assert failed.error.step == "ready/strange"
    summary = failed.read("summary.txt")
    assert summary.startswith(said)
    # It looks for the controller elsewhere, also for the home directories: that comes first.
    assert "compute-02: running (booted); the shared /home of compute-02 is not mounted" in summary
    assert "strange-controller: running (booted)\n" in summary
    assert "== sinfo\ncompute-01|" in failed.read("controller.services.log")
    assert "Started munge.service" in failed.read("compute-01.journal.log")
    assert_none_of(secrets, failed.evidence)


@pytest.mark.fault("H13", "one node's clock is set back by twenty minutes while SLURM is awaited")
def test_a_node_whose_clock_is_off_is_named_as_the_cause(bench):
    def act() -> None:
        with LibvirtClient(bench.host.uri) as client:
            late = client.find_domain_by_name("late-compute-01")
            controller = client.find_domain_by_name("late-controller")
            back = (
                "systemctl mask --runtime ai-how-clock chrony; "
                'date -s "@$(($(date +%s) - 1203))"; killall slurmd; true'
            )
            assert ask(client, late, ["/bin/busybox", "sh", "-c", back]) == 0
            end = ["pkill", "-f", "/usr/lib/ai-how/(ready|wait-for-port)"]
            assert ask(client, controller, end) == 0

    failed = bench.fail("late", observer=At("ready/late", act))
    assert "the clock of compute-01 is 20 min " in failed.first_line
    assert "behind: munge refuses what it signs" in failed.first_line
    assert (failed.error.cause_id, failed.error.node) == ("clock-off", "compute-01")


@pytest.mark.fault("F62", "a slurmctld that does not take its configuration")
def test_a_slurmctld_that_does_not_run_is_named(bench, monkeypatch):
    tamper(monkeypatch, {"controller": with_broken_configuration})
    act = until_said(bench, "broken", "controller", "slurmctld.*fatal")
    failed = bench.fail("broken", timeouts=GOOD, observer=At("ready/broken", act))
    assert "slurmctld on controller does not answer: fatal: " in failed.first_line
    assert (failed.error.cause_id, failed.error.node) == ("slurmctld-down", "controller")


def assert_none_of(secrets: list[bytes], evidence: Path) -> None:
    """Not raw, not as hexadecimal, not as base64, and no line of it."""
    assert len(secrets) == 2
    for path in evidence.iterdir():
        data = path.read_bytes()
        for secret in secrets:
            parts = [secret[3:35], secret.hex().encode()[6:60], base64.b64encode(secret)[8:60]]
            assert not [part for part in parts if part in data], path.name
