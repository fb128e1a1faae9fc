"""Whoever prepares an imported image is killed or interrupted: nothing half-made is left."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from ai_how.libvirt_client.client import LibvirtClient
from ai_how.vm_management.preparing.drafts import PREPARING_ID
from ai_how.waiting import Deadline, wait_until
from invariants import check_told
from tiny_cluster import TinyHome

pytestmark = pytest.mark.libvirt

MIB = 1 << 20
BUILD = ("image", "build", "blank")


@pytest.fixture(scope="module")
def home(tiny_home: TinyHome, tmp_path_factory: pytest.TempPathFactory) -> TinyHome:
    """With an image that never boots: its VM stays as long as it is let."""
    blank = tmp_path_factory.mktemp("blank") / "blank.raw"
    blank.write_bytes(bytes(MIB))
    check_told(tiny_home.call("image", "import", str(blank)), {0})
    return tiny_home


@pytest.fixture(autouse=True)
def nothing_left(home: TinyHome) -> Iterator[None]:
    yield
    home.end_all()
    check_told(home.call("image", "rm", "blank-prepared"), {3})


def prepared_vms(client: LibvirtClient) -> list[str]:
    return [one.name for one in client.list_domains() if one.mark and one.mark.id == PREPARING_ID]


def networks(client: LibvirtClient) -> list[str]:
    names = [one.name for one in client.list_networks()]
    return [name for name in names if name.startswith("ai-how-prepare-")]


def drafts(home: TinyHome) -> list[Path]:
    places = (home.roots.embedded_storage.preparing, home.roots.images)
    return [path for place in places for path in place.glob(".part-*")]


def begin(home: TinyHome, client: LibvirtClient):
    pids: list[int] = []
    former = set(prepared_vms(client))
    ended = home.begin(*BUILD, on_pid=pids.append, agents=False)
    wait_until(lambda: set(prepared_vms(client)) - former != set(), Deadline.after(120), "the VM")
    return pids[0], ended


@pytest.mark.fault("H19", "the process that prepares an image gets a signal")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_vm_and_removes_its_network(
    home: TinyHome, client: LibvirtClient, number: signal.Signals
) -> None:
    pid, ended = begin(home, client)
    os.kill(pid, number)
    check_told(ended(), {130})
    assert (prepared_vms(client), networks(client), drafts(home)) == ([], [], [])


@pytest.mark.fault("H19", "SIGKILL of the process that prepares an image")
def test_what_a_kill_leaves_is_removed_by_the_next_command(
    home: TinyHome, client: LibvirtClient
) -> None:
    pid, ended = begin(home, client)
    os.kill(pid, signal.SIGKILL)
    assert ended().code == -signal.SIGKILL
    wait_until(lambda: not prepared_vms(client), Deadline.after(60), "the end of the VM")
    # The next one that prepares an image removes it; this one is interrupted as well.
    pid, ended = begin(home, client)
    assert len(networks(client)) == 1
    os.kill(pid, signal.SIGINT)
    check_told(ended(), {130})
    assert (networks(client), drafts(home)) == ([], [])


@pytest.mark.fault("H19", "libvirtd and the process that prepares an image are killed")
def test_what_both_left_is_removed(home: TinyHome, client: LibvirtClient) -> None:
    pid, ended = begin(home, client)
    os.kill(pid, signal.SIGSTOP)
    home.host.restart_daemon()
    os.kill(pid, signal.SIGKILL)
    assert ended().code == -signal.SIGKILL
    pid, ended = begin(home, client)
    assert len(prepared_vms(client)) == len(networks(client)) == 1
    os.kill(pid, signal.SIGINT)
    check_told(ended(), {130})
    assert (prepared_vms(client), networks(client), drafts(home)) == ([], [], [])


@pytest.mark.fault("H19", "the VM ends while its image is prepared")
def test_a_vm_that_ends_is_told(home: TinyHome, client: LibvirtClient) -> None:
    _, ended = begin(home, client)
    for one in client.list_domains():
        if one.mark and one.mark.id == PREPARING_ID:
            client.destroy_domain(one.uuid)
    done = ended()
    check_told(done, {3})
    assert "the image blank cannot be prepared for a cluster: it ended before" in done.err
    assert (prepared_vms(client), networks(client), drafts(home)) == ([], [], [])


def test_two_at_once_are_one_after_the_other(home: TinyHome, client: LibvirtClient) -> None:
    first, ended = begin(home, client)
    second: list[int] = []
    other = home.begin(*BUILD, on_pid=second.append, agents=False)
    assert home.roots.embedded_storage.preparing_lock.exists()
    os.kill(first, signal.SIGINT)
    check_told(ended(), {130})
    wait_until(lambda: bool(prepared_vms(client)), Deadline.after(120), "the second VM")
    os.kill(second[0], signal.SIGINT)
    check_told(other(), {130})
    assert (prepared_vms(client), networks(client), drafts(home)) == ([], [], [])
