"""libvirtd is down, dies, hangs or is cut off, while real verbs run on a real cluster.

The guests have an empty disk and no system; what their agents would say is made up.
"""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from ai_how.host.embedded import EmbeddedHost
from ai_how.libvirt_client.client import PATIENCE_S, LibvirtClient
from ai_how.libvirt_client.vm_state import VmState
from ai_how.process import run
from ai_how.vm_management.networks.definition import render_network
from ai_how.waiting import Deadline, wait_until
from daemons import (
    CutSocket,
    daemon_of,
    kill_daemon,
    qemus_of,
    send,
    socket_of,
    supervisor_of,
    wait_for_stop,
    without_daemon,
)
from leaks import look_at_host, settled
from ledger import Points
from shapes import NETWORK
from tiny_cluster import Ended, TinyHome, opened
from tiny_guest import remove_tiny_guest, render_tiny_guest, start_tiny_guest

pytestmark = pytest.mark.libvirt

# What an impatient verb waits for libvirt; a restart takes a second or two.
SHORT_S = 3
UNDONE, LEFT = 4, 5
VERBS = {"stop": ("hpc", "stop"), "destroy": ("hpc", "destroy", "--force")}


@pytest.fixture(scope="module")
def home(host: EmbeddedHost) -> Iterator[TinyHome]:
    """One compute node is enough here."""
    with opened(TinyHome(host.paths.root.parent, nodes=1)) as home:
        yield home


def states(home: TinyHome, cluster: str = "hpc") -> dict[str, VmState]:
    daemon_of(home.host)
    wanted = (f"{cluster}-controller", f"{cluster}-compute-01")
    with home.client() as client:
        return {one.name: one.state for one in client.list_domains() if one.name in wanted}


def remembered(home: TinyHome, cluster: str = "hpc") -> dict[Path, bytes]:
    """Every file of a cluster's state, but for its lock."""
    paths = home.paths(cluster)
    files = [file for file in paths.root.rglob("*") if file.is_file() and file != paths.lock]
    return {file: file.read_bytes() for file in files}


def destroy(home: TinyHome, cluster: str = "hpc") -> None:
    ended = home.call(*VERBS["destroy"], name=cluster)
    assert ended.code == 0, ended.said


def start(home: TinyHome, cluster: str = "hpc") -> Ended:
    ended = home.call("hpc", "start", name=cluster)
    assert ended.code == 0, ended.said
    assert set(states(home, cluster).values()) == {VmState.RUNNING}
    return ended


def spread(total: int, most: int, *, is_long: bool) -> list[int]:
    """Which of so many to try: all by `--long`, else `most`, as far apart as can be."""
    if is_long or total <= most:
        return list(range(total))
    return [number * (total - 1) // (most - 1) for number in range(most)]


@pytest.mark.fault("F27", "SIGKILL to libvirtd at records of the journal of a start")
def test_a_start_outlives_libvirtd_at_any_step(
    home: TinyHome, points: Points, figures: dict[str, int], is_long: bool
) -> None:
    total = len(start(home).boundaries)
    destroy(home)
    before = look_at_host(home.host)
    ends = []
    for at in spread(total, 6, is_long=is_long):
        kill = [(daemon_of(home.host), signal.SIGKILL)]
        ended = home.call("hpc", "start", at=at, act="signal", signals=kill)
        assert ended.code in {0, UNDONE}, f"at {ended.boundaries[at]}: {ended.said}"
        there = set(states(home).values())
        assert there == ({VmState.RUNNING} if ended.code == 0 else set()), ended.said
        destroy(home)
        assert settled(before, lambda: look_at_host(home.host)) == "", ended.boundaries[at]
        ends.append(ended.code)
        points(1)
    figures["starts that went on after a killed libvirtd"] += ends.count(0)
    # The rest was undone: never more than a guest that was just being started when it happened.
    assert ends.count(UNDONE) < len(ends) / 2, ends


@pytest.mark.fault("F27", "SIGKILL to libvirtd at records of the journal of a stop or destroy")
@pytest.mark.parametrize("verb", VERBS)
def test_a_stop_or_destroy_outlives_libvirtd_at_any_step(
    home: TinyHome, points: Points, is_long: bool, verb: str
) -> None:
    start(home)
    total = len(home.call(*VERBS[verb]).boundaries)
    for at in spread(total, 3, is_long=is_long):
        start(home)
        kill = [(daemon_of(home.host), signal.SIGKILL)]
        ended = home.call(*VERBS[verb], at=at, act="signal", signals=kill)
        assert ended.code == 0, f"at {ended.boundaries[at]}: {ended.said}"
        assert set(states(home).values()) <= {VmState.SHUT_OFF}
        points(1)
    destroy(home)
    assert states(home) == {}


@pytest.mark.fault("F27", "SIGKILL to libvirtd in the middle of a start, and it stays away")
def test_a_libvirtd_that_stays_away_ends_a_start_and_the_next_one_undoes_it(
    home: TinyHome, points: Points
) -> None:
    # Past the last boot a start may end well without a libvirtd.
    moments = [("before intent", "domain/hpc-controller"), ("before intent", "boot/hpc-controller")]
    assert set(moments) <= set(start(home).boundaries)
    destroy(home)
    for moment in moments:
        daemon, supervisor = daemon_of(home.host), supervisor_of(home.host)
        away = [(supervisor, signal.SIGSTOP), (daemon, signal.SIGKILL)]
        began = time.monotonic()
        try:
            ended = home.call(
                "hpc", "start", at_any=[moment], act="signal", signals=away, patience_s=SHORT_S
            )
        finally:
            send(signal.SIGCONT, supervisor)
            daemon_of(home.host)
        assert time.monotonic() - began < 60
        assert ended.code == LEFT, ended.said
        assert "no connection to libvirt" in ended.err
        assert home.paths("hpc").journal.exists()
        assert "undoing the start that was cut short" in start(home).err
        destroy(home)
        points(1)


@pytest.mark.fault("F26", "SIGKILL to libvirtd, then a command before the supervisor saw it")
def test_a_command_waits_for_a_libvirtd_that_is_started_again(
    home: TinyHome, points: Points
) -> None:
    for words in (("hpc", "start"), ("hpc", "status"), *VERBS.values()):
        send(signal.SIGKILL, daemon_of(home.host))
        ended = home.call(*words)
        assert ended.code == 0, ended.said
        points(1)


@pytest.mark.fault("F26", "a libvirtd that cannot start, under every verb")
def test_a_libvirtd_that_cannot_start_is_named_and_nothing_is_forgotten(
    home: TinyHome, points: Points
) -> None:
    start(home)
    before = remembered(home)
    settings = home.host.paths.etc / "libvirtd.conf"
    good = settings.read_text()
    settings.write_text("max_workers = nonsense\n")
    kill_daemon(home.host)
    try:
        for words in (("hpc", "status"), ("hpc", "start"), *VERBS.values()):
            ended = home.call(*words, patience_s=SHORT_S)
            assert ended.code == 3, ended.said
            assert str(socket_of(home.host)) in ended.err
            assert "hint: ai-how " in ended.err
            assert remembered(home) == before
            points(1)
    finally:
        settings.write_text(good)
    daemon_of(home.host)
    assert set(states(home).values()) == {VmState.RUNNING}
    destroy(home)


@pytest.mark.fault("F28", "SIGSTOP to libvirtd, under every verb and in the middle of a start")
def test_every_verb_ends_in_time_when_libvirtd_hangs(
    home: TinyHome, points: Points, figures: dict[str, int]
) -> None:
    for cluster in ("hpc", "other"):
        start(home, cluster)
    before = remembered(home), remembered(home, "other")
    daemon = daemon_of(home.host)
    try:
        # The first makes it hang, among its own steps; the rest come when it does.
        hang = {"act": "signal", "signals": [(daemon, signal.SIGSTOP)]}
        midst = home.begin("hpc", "start", name="third", at=30, **hang)
        wait_for_stop(daemon)
        began = time.monotonic()
        hung = [
            home.begin("hpc", "status", name="hpc"),
            home.begin("hpc", "stop", name="hpc"),
            home.begin(*VERBS["destroy"], name="other"),
            home.begin("hpc", "start", name="fourth"),
        ]
        for ended in [end() for end in hung]:
            assert ended.code == 3, ended.said
            assert f"libvirt did not answer within {PATIENCE_S:g} s" in ended.err
        figures["seconds until a verb gives a hung libvirtd up"] = round(time.monotonic() - began)
        left = midst()
        figures["seconds until a start does, and leaves its journal"] = round(
            time.monotonic() - began
        )
        # All at once and in order: never a patience for each of them.
        assert time.monotonic() - began < 180
        assert left.code == LEFT, left.said
        assert (remembered(home), remembered(home, "other")) == before
        assert home.paths("third").journal.exists()
        assert not home.paths("fourth").journal.exists()
    finally:
        send(signal.SIGCONT, daemon)
    points(5)
    for cluster in ("hpc", "other", "third", "fourth"):
        destroy(home, cluster)
        assert states(home, cluster) == {}


@pytest.mark.fault("F28", "SIGSTOP to libvirtd, then host up")
def test_host_up_ends_a_libvirtd_that_hangs_and_guests_run_on(home: TinyHome) -> None:
    start(home)
    pids = qemus_of(home.host, "hpc")
    hung = daemon_of(home.host)
    send(signal.SIGSTOP, hung)
    ended = home.call("host", "up")
    assert ended.code == 0, ended.said
    assert "restarting libvirtd; guests keep running" in ended.err
    assert daemon_of(home.host) != hung
    assert qemus_of(home.host, "hpc") == pids
    assert set(states(home).values()) == {VmState.RUNNING}
    destroy(home)


@pytest.mark.fault("F27", "a bridge that a killed libvirtd had made, and forgot")
def test_what_a_killed_libvirtd_had_made_of_a_network_is_removed(
    home: TinyHome, client: LibvirtClient
) -> None:
    def links() -> str:
        return run(home.host.enter(["ip", "-br", "link"])).stdout

    client.define_network(render_network(NETWORK))
    run(home.host.enter(["ip", "link", "add", NETWORK.bridge, "type", "bridge"]))
    try:
        kill_daemon(home.host)
        client.start_network(NETWORK.uuid)
        assert NETWORK.bridge in links()
        assert f"removing the bridge {NETWORK.bridge}" in home.host.paths.supervisor_log.read_text()
    finally:
        client.destroy_network(NETWORK.uuid)
        client.undefine_network(NETWORK.uuid)
    assert NETWORK.bridge not in links()


@pytest.mark.fault("F27", "a directory of a VM that a libvirtd which ended had made, and forgot")
def test_what_a_killed_libvirtd_had_made_of_a_vm_is_removed(
    home: TinyHome, client: LibvirtClient
) -> None:
    start(home)
    # Somebody's, whose name is not written in XML as it is on disk.
    named = render_tiny_guest().replace("<name>tiny</name>", "<name>R&amp;D's</name>")
    start_tiny_guest(client, named)
    used = vm_directories(home.host)
    assert used
    forget_directories(home.host)
    kill_daemon(home.host)
    assert set(states(home).values()) == {VmState.RUNNING}
    assert vm_directories(home.host) == used
    remove_tiny_guest(client)
    destroy(home)


def test_what_a_killed_host_had_made_of_a_vm_is_removed(own_host: EmbeddedHost) -> None:
    own_host.up(with_kvm=False)
    forget_directories(own_host)
    send(signal.SIGKILL, supervisor_of(own_host))
    wait_until(lambda: own_host.find_supervisor() is None, Deadline.after(60), "its end")
    own_host.up(with_kvm=False)
    assert vm_directories(own_host) == set()


def vm_directories(host: EmbeddedHost) -> set[Path]:
    return set((host.paths.lib / "qemu").rglob("domain-*"))


def forget_directories(host: EmbeddedHost) -> None:
    for top in (host.paths.lib / "qemu", host.paths.lib / "qemu/channel/target"):
        (top / "domain-99-hpc-controller").mkdir(parents=True)
        (top / "domain-99-hpc-controller/master-key.aes").touch()


@pytest.mark.fault("F29", "the connection is closed in the nth reply, under a start")
def test_a_start_goes_on_when_a_reply_is_cut_in_half(
    home: TinyHome, points: Points, is_long: bool
) -> None:
    before = look_at_host(home.host)
    with CutSocket(home.host) as link:
        link.arm(None)
        start(home)
        total = link.packets
        destroy(home)
        for at in spread(total, 6, is_long=is_long):
            link.arm(at)
            ended = home.call("hpc", "start")
            cuts = link.cuts
            link.arm(None)
            assert ended.code == 0, f"reply {at} of {total}: {ended.said}"
            assert set(states(home).values()) == {VmState.RUNNING}
            destroy(home)
            points(cuts)
    assert total > 60
    assert settled(before, lambda: look_at_host(home.host)) == ""


@pytest.mark.fault("F29", "the connection is closed in the nth reply, under a destroy")
def test_a_destroy_goes_on_when_a_reply_is_cut_in_half(home: TinyHome, points: Points) -> None:
    with CutSocket(home.host) as link:
        for at in (3, 10, 17):
            start(home)
            link.arm(at)
            ended = home.call(*VERBS["destroy"])
            assert ended.code == 0, f"reply {at}: {ended.said}"
            points(link.cuts)
            link.arm(None)
            assert states(home) == {}


@contextmanager
def meddler(host: EmbeddedHost, rounds: list[int]) -> Iterator[None]:
    """Somebody who makes and removes VMs and networks as fast as can be, while the block runs."""
    over = threading.Event()
    xml = render_tiny_guest().replace("<name>tiny</name>", "<name>hpc-compute-011</name>")
    network = replace(NETWORK, name="hpc-net")

    def work() -> None:
        with LibvirtClient(host.uri) as client:
            while not over.is_set():
                client.define_domain(xml)
                client.define_network(render_network(network))
                client.list_domains()
                client.undefine_network(network.uuid)
                remove_tiny_guest(client)
                rounds.append(1)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@pytest.mark.fault("F25", "VMs and networks come and go by another's hand, under every verb")
def test_whoever_else_works_with_libvirt_disturbs_no_verb(
    home: TinyHome, points: Points, figures: dict[str, int]
) -> None:
    rounds: list[int] = []
    with meddler(home.host, rounds):
        for _ in range(2):
            for words in (("hpc", "start"), ("hpc", "status"), VERBS["stop"], ("hpc", "start")):
                ended = home.call(*words)
                assert ended.code == 0, ended.said
                points(1)
            destroy(home)
            points(1)
    assert rounds
    figures["rounds of somebody else on the same libvirt"] += len(rounds)


@pytest.mark.fault("F27", "libvirtd is away for a while, under a command that had begun")
def test_a_command_that_had_begun_waits_for_libvirtd_to_come_back(home: TinyHome) -> None:
    start(home)
    with LibvirtClient(home.host.uri) as client:
        known = {one.name: one.domid for one in client.list_domains()}
        answers: list[dict[str, int | None]] = []
        with without_daemon(home.host):
            asking = threading.Thread(
                target=lambda: answers.append(
                    {one.name: one.domid for one in client.list_domains()}
                )
            )
            asking.start()
            time.sleep(2)
            assert answers == []
        asking.join()
        assert answers == [known]
    destroy(home)
