"""What an ordinary user does with the embedded host, from nothing to nothing; see desktop.py."""

import os
import signal
import sys

from ai_how.errors import AiHowError
from ai_how.host.checks import Status, check_embedded
from ai_how.host.embedded import EmbeddedHost
from ai_how.host.facts import read_facts
from ai_how.libvirt_client.client import LibvirtClient
from ai_how.libvirt_client.vm_state import VmState
from ai_how.process import run
from ai_how.vm_management.networks.definition import render_network
from ai_how.waiting import Deadline, wait_until
from leaks import look_at_machine, pids_inside, private_host, uplink_of
from shapes import NETWORK
from tiny_guest import TINY, render_tiny_guest, start_tiny_guest

OF_UPLINK = 2  # pasta, and what answers names


def use_it() -> None:
    """A network and a guest on it; then again what was defined, on a host that was down."""
    [check] = check_embedded(read_facts())
    assert check.status is Status.OK, check
    with private_host() as host:
        machine = look_at_machine()
        host.up(with_kvm=False)
        assert host.status().is_up
        with LibvirtClient(host.uri) as client:
            client.define_network(render_network(NETWORK))
            client.start_network(NETWORK.uuid)
            run_guest(host, client)
        assert look_at_machine() == machine
        host.down()
        assert not host.status().is_up
        host.up(with_kvm=False)
        with LibvirtClient(host.uri) as client:
            assert client.get_domain(TINY).state is VmState.SHUT_OFF


def run_guest(host: EmbeddedHost, client: LibvirtClient) -> None:
    log = host.paths.root / "storage" / "tiny.log"
    log.parent.mkdir()
    xml = render_tiny_guest(network=NETWORK.name, console_log=log)
    assert start_tiny_guest(client, xml, paused=False).state is VmState.RUNNING
    wait_until(lambda: "SeaBIOS" in log.read_text(), Deadline.after(120), "the firmware's line")
    assert len(pids_inside(host, "qemu-system-x86")) == 1
    assert pids_inside(host, "dnsmasq")
    links = run(host.enter(["ip", "-br", "addr"])).stdout
    assert str(NETWORK.gateway) in links
    assert "vnet0" in links


def lose_uplink() -> None:
    """The uplink goes with its host, whether that is taken down or killed."""
    for end in (EmbeddedHost.down, kill_supervisor):
        with private_host() as host:
            host.up(with_kvm=False)
            supervisor = host.find_supervisor()
            assert supervisor
            await_uplink(supervisor.pid, OF_UPLINK)
            end(host)
            await_uplink(supervisor.pid, 0)


def kill_supervisor(host: EmbeddedHost) -> None:
    supervisor = host.find_supervisor()
    assert supervisor
    os.kill(supervisor.pid, signal.SIGKILL)


def await_uplink(pid: int, count: int) -> None:
    wait_until(lambda: len(uplink_of(pid)) == count, Deadline.after(60), f"{count} programs")


def be_refused() -> None:
    """Print what `doctor` finds, and with what words the host does not start."""
    for check in check_embedded(read_facts()):
        sys.stdout.write(f"{check.status}\t{check.found}\t{check.advice}\n")
    with private_host() as host:
        try:
            host.up(with_kvm=False)
            with LibvirtClient(host.uri) as client:
                client.define_network(render_network(NETWORK))
                client.start_network(NETWORK.uuid)
                start_tiny_guest(client, render_tiny_guest(network=NETWORK.name))
        except AiHowError as error:
            sys.stdout.write(f"{type(error).__name__}\t{error.brief}\t{error.details}\n")


if __name__ == "__main__":
    {"use": use_it, "be-refused": be_refused, "lose-uplink": lose_uplink}[sys.argv[1]]()
