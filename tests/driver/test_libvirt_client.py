"""The client against libvirt's own test driver, and against that driver made to fail."""

import os
import socket
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import UUID

import libvirt  # noqa: TID251  its own numbers are what ours are compared with
import pytest
from faulty_libvirt import EVERY, Script, make_error

from ai_how.errors import (
    AgentUnresponsiveError,
    ConnectionLostError,
    DeadlineError,
    GuestError,
    LibvirtError,
    OwnershipError,
    SpecError,
)
from ai_how.libvirt_client.client import LibvirtClient
from ai_how.libvirt_client.connection import BusyError
from ai_how.libvirt_client.console import Console
from ai_how.libvirt_client.error_codes import FROM_RPC, Kind, classify
from ai_how.libvirt_client.facts import DomainEvent, EventKind, Mark
from ai_how.libvirt_client.session import REPEATS
from ai_how.libvirt_client.uri import unix_uri
from ai_how.libvirt_client.vm_state import VmState
from ai_how.process import run
from ai_how.waiting import Deadline, wait_until

URI = f"test://{Path(__file__).with_name('node.xml')}"
COMPUTE = UUID("11111111-1111-4111-8111-111111111111")
CLUSTER = UUID("33333333-3333-4333-8333-333333333333")
NETWORK = UUID("44444444-4444-4444-8444-444444444444")
NEW = UUID("55555555-5555-4555-8555-555555555555")
ABSENT = UUID("99999999-9999-4999-8999-999999999999")

DOMAIN_XML = f"""
<domain type='test'>
  <name>new</name>
  <uuid>{NEW}</uuid>
  <memory unit='MiB'>128</memory>
  <vcpu>1</vcpu>
  <os><type>hvm</type></os>
</domain>"""
NETWORK_XML = f"""
<network>
  <name>new</name>
  <uuid>{NEW}</uuid>
  <metadata>
    <a:node xmlns:a="urn:ai-how:cluster:1" cluster="demo" id="{CLUSTER}" node=""/>
  </metadata>
  <bridge name='ah1'/>
  <ip address='10.9.7.1' netmask='255.255.255.0'/>
</network>"""

# Every number in the table of what errors mean, and some that are in none.
CODES = [*range(1, 114)]
LOST = 5


@pytest.fixture
def client() -> Iterator[LibvirtClient]:
    with LibvirtClient(URI) as client:
        yield client


@pytest.fixture
def script() -> Iterator[Script]:
    script = Script(URI)
    yield script
    script.end()


@pytest.fixture
def faulty(script: Script) -> Iterator[LibvirtClient]:
    with LibvirtClient(URI, patience_s=60, max_calls=2, opener=script.open) as client:
        yield client


@pytest.fixture
def impatient(script: Script) -> Iterator[LibvirtClient]:
    """For calls that never answer: where one does, a busy machine may take as long."""
    with LibvirtClient(URI, patience_s=2, max_calls=2, opener=script.open) as client:
        yield client


# What is there


def test_a_domain_is_seen_with_its_state_size_and_mark(client: LibvirtClient) -> None:
    seen = client.find_domain(COMPUTE)
    assert seen is not None
    assert (seen.uuid, seen.name) == (COMPUTE, "demo-compute-01")
    assert (seen.state, seen.state_number, seen.domid) == (VmState.RUNNING, 1, 1)
    assert (seen.vcpus, seen.memory_mib, seen.is_persistent) == (2, 512, True)
    assert seen.mark == Mark("demo", CLUSTER, "compute-01")
    assert not client.is_agent_connected(COMPUTE)


def test_a_domain_without_our_mark_is_seen_without_one(client: LibvirtClient) -> None:
    assert [seen.mark is None for seen in client.list_domains()] == [False, True]


def test_look_ups_of_what_is_not_there_return_none(client: LibvirtClient) -> None:
    assert client.find_domain(ABSENT) is None
    assert client.find_domain_by_name("demo-compute-0") is None
    assert client.find_network(ABSENT) is None
    assert client.find_network_by_name("demo") is None
    assert not client.is_agent_connected(ABSENT)


def test_getting_what_is_not_there_says_so_with_its_number(client: LibvirtClient) -> None:
    with pytest.raises(LibvirtError, match="looking for VM 99999999") as caught:
        client.get_domain(ABSENT)
    assert caught.value.code == 42


def test_versions_are_those_of_daemon_driver_and_library(client: LibvirtClient) -> None:
    version = client.version()
    assert version.libvirt >= (9, 0, 0)
    assert version.client >= (9, 0, 0)
    assert client.is_alive()


def test_what_the_driver_cannot_do_is_a_libvirt_error(client: LibvirtClient) -> None:
    with pytest.raises(LibvirtError, match="not supported") as caught:
        client.domain_capabilities_xml("kvm", "q35", "x86_64")
    assert caught.value.code == 3
    with pytest.raises(LibvirtError, match="opening the console of VM 1111"):
        client.open_console(COMPUTE)


def test_figures_come_for_those_asked_for_that_are_there(client: LibvirtClient) -> None:
    assert set(client.stats([COMPUTE, ABSENT])) == {COMPUTE}
    assert client.stats([]) == {}


def test_snapshots_are_named(client: LibvirtClient) -> None:
    assert client.snapshot_names(COMPUTE) == ()


# Changes


def test_define_start_destroy_undefine_can_each_be_repeated(client: LibvirtClient) -> None:
    for _ in range(2):
        assert client.define_domain(DOMAIN_XML).state is VmState.SHUT_OFF
    for _ in range(2):
        client.start_domain(NEW)
    assert client.get_domain(NEW).state is VmState.RUNNING
    for _ in range(2):
        client.destroy_domain(NEW)
    assert client.get_domain(NEW).reason_text == "destroyed"
    for _ in range(2):
        client.undefine_domain(NEW, snapshots_too=True)
    client.destroy_domain(NEW)
    assert client.find_domain(NEW) is None


def test_pause_and_resume_can_each_be_repeated(client: LibvirtClient) -> None:
    for _ in range(2):
        client.pause_domain(COMPUTE)
    assert client.get_domain(COMPUTE).state is VmState.PAUSED
    for _ in range(2):
        client.resume_domain(COMPUTE)
    assert client.get_domain(COMPUTE).state is VmState.RUNNING


@pytest.mark.fault("W03", "a libvirtd died between a restore and the run of the VM")
def test_a_start_lets_a_vm_run_that_is_paused_unless_it_is_to_be(client: LibvirtClient) -> None:
    client.pause_domain(COMPUTE)
    client.start_domain(COMPUTE, paused=True)
    assert client.get_domain(COMPUTE).state is VmState.PAUSED
    client.start_domain(COMPUTE)
    assert client.get_domain(COMPUTE).state is VmState.RUNNING


def test_shutdown_resumes_a_paused_guest_first(script: Script, faulty: LibvirtClient) -> None:
    faulty.pause_domain(COMPUTE)
    faulty.shutdown_domain(COMPUTE)
    assert script.calls.index("resume") < script.calls.index("shutdownFlags")
    assert faulty.get_domain(COMPUTE).state is VmState.SHUT_OFF
    faulty.shutdown_domain(COMPUTE)


@pytest.mark.fault("S01", "XML that breaks the schema")
def test_xml_that_breaks_the_schema_is_refused_by_define(client: LibvirtClient) -> None:
    with pytest.raises(LibvirtError, match="defining VM new failed") as caught:
        client.define_domain(DOMAIN_XML.replace("<os>", "<surprise/><os>"))
    assert caught.value.code == 92
    assert "surprise" in str(caught.value)


def test_define_falls_back_where_the_driver_knows_no_validation(
    script: Script, faulty: LibvirtClient
) -> None:
    script.fail("defineXMLFlags", 8)
    assert faulty.define_domain(DOMAIN_XML).uuid == NEW
    assert script.calls.count("defineXMLFlags") == 2


def test_undefine_names_less_to_an_older_driver(script: Script, faulty: LibvirtClient) -> None:
    faulty.define_domain(DOMAIN_XML)
    faulty.undefine_domain(NEW, snapshots_too=False)
    assert script.calls.count("undefineFlags") == 4
    assert faulty.find_domain(NEW) is None


@pytest.mark.parametrize(
    "taken",
    [
        DOMAIN_XML.replace(str(NEW), str(ABSENT)),
        DOMAIN_XML.replace("<name>new", "<name>other"),
    ],
    ids=["name", "uuid"],
)
def test_a_define_never_takes_anothers_name_or_uuid(client: LibvirtClient, taken: str) -> None:
    client.define_domain(DOMAIN_XML)
    with pytest.raises(OwnershipError, match=r"by new|has the name new"):
        client.define_domain(taken)


def test_networks_go_up_and_down_and_each_can_be_repeated(client: LibvirtClient) -> None:
    for _ in range(2):
        seen = client.define_network(NETWORK_XML)
    assert (seen.bridge, seen.is_active) == ("ah1", False)
    for _ in range(2):
        client.start_network(NEW)
    assert {network.name for network in client.list_networks()} == {"demo-net", "new"}
    found = client.find_network(NEW)
    assert found is not None
    assert found.is_active
    assert f"<uuid>{NEW}</uuid>" in client.network_xml(NEW)
    for _ in range(2):
        client.destroy_network(NEW)
    for _ in range(2):
        client.undefine_network(NEW)
    client.destroy_network(NEW)
    assert client.find_network_by_name("new") is None


def test_a_network_define_never_takes_anothers_name(client: LibvirtClient) -> None:
    with pytest.raises(OwnershipError, match="demo-net cannot be defined"):
        client.define_network(NETWORK_XML.replace("<name>new", "<name>demo-net"))


def test_wrong_state_is_an_error_unless_it_is_as_asked(
    script: Script, faulty: LibvirtClient
) -> None:
    faulty.destroy_domain(COMPUTE)
    script.fail("createWithFlags", 55)
    with pytest.raises(LibvirtError, match="starting VM 1111") as caught:
        faulty.start_domain(COMPUTE)
    assert caught.value.code == 55
    script.fail("createWithFlags", 55, is_after=True)
    faulty.start_domain(COMPUTE)


def test_a_domain_that_goes_while_all_are_listed_is_left_out(
    script: Script, faulty: LibvirtClient
) -> None:
    script.fail("XMLDesc", 42)
    assert len(faulty.list_domains()) == 1
    assert len(faulty.list_domains()) == 2


# What errors mean


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (Kind.GONE, "NO_DOMAIN NO_NETWORK NO_STORAGE_POOL NO_STORAGE_VOL"),
        (Kind.LOST, "NO_CONNECT INVALID_CONN RPC"),
        (Kind.BUSY, "OPERATION_TIMEOUT RESOURCE_BUSY"),
        (Kind.AGENT, "AGENT_UNRESPONSIVE AGENT_UNSYNCED"),
        (Kind.EXISTS, "OPERATION_FAILED DOM_EXIST NETWORK_EXIST STORAGE_VOL_EXIST"),
        (Kind.WRONG_STATE, "OPERATION_INVALID"),
        (Kind.UNSUPPORTED, "NO_SUPPORT INVALID_ARG ARGUMENT_UNSUPPORTED OPERATION_UNSUPPORTED"),
        (
            Kind.DENIED,
            "OPERATION_DENIED AUTH_FAILED AUTH_CANCELLED ACCESS_DENIED AUTH_UNAVAILABLE",
        ),
        (Kind.FATAL, "XML_ERROR XML_INVALID_SCHEMA CONFIG_UNSUPPORTED DEVICE_MISSING"),
    ],
)
def test_our_plain_numbers_are_libvirts(kind: Kind, names: str) -> None:
    numbers = [getattr(libvirt, f"VIR_ERR_{name}") for name in names.split()]
    assert {classify(number) for number in numbers} == {kind}


@pytest.mark.parametrize("code", CODES)
def test_each_error_number_has_its_meaning(
    script: Script, faulty: LibvirtClient, code: int
) -> None:
    kind = classify(code)
    script.fail("lookupByUUIDString", code, times=EVERY if kind is not Kind.BUSY else 1)
    if kind is Kind.GONE:
        assert faulty.find_domain(COMPUTE) is None
    elif kind is Kind.BUSY:
        assert faulty.find_domain(COMPUTE) is not None
    elif kind is Kind.DENIED:
        with pytest.raises(LibvirtError, match="libvirt does not permit looking for VM"):
            faulty.find_domain(COMPUTE)
    else:
        expected = ConnectionLostError if kind is Kind.LOST else LibvirtError
        with pytest.raises(LibvirtError, match=f"made by a test .{code}") as caught:
            faulty.find_domain(COMPUTE)
        assert type(caught.value) is expected
        assert caught.value.code == code


@pytest.mark.parametrize(("code", "domain"), [(38, 7), (38, 13), (1, 7), (1, 13), (39, 7)])
def test_a_broken_connection_is_never_taken_for_absence(
    script: Script, faulty: LibvirtClient, code: int, domain: int
) -> None:
    script.fail("lookupByUUIDString", code, domain=domain, times=EVERY)
    with pytest.raises(ConnectionLostError, match="no connection to libvirt for looking for VM"):
        faulty.find_domain(COMPUTE)
    assert script.calls.count("lookupByUUIDString") == 1 + REPEATS


def test_a_busy_libvirt_is_asked_again_until_patience_ends(
    script: Script, impatient: LibvirtClient
) -> None:
    script.fail("createWithFlags", 87, times=EVERY)
    impatient.destroy_domain(COMPUTE)
    with pytest.raises(BusyError, match="libvirt was too busy for starting VM"):
        impatient.start_domain(COMPUTE)
    assert script.calls.count("createWithFlags") > 2


# Connections that break


def test_a_read_is_asked_again_over_a_new_connection(script: Script, faulty: LibvirtClient) -> None:
    script.fail("lookupByUUIDString", LOST)
    assert faulty.find_domain(COMPUTE) is not None
    assert script.opened == 2


def test_a_cut_connection_is_found_before_a_change_is_sent(
    script: Script, faulty: LibvirtClient
) -> None:
    assert faulty.is_alive()
    script.is_cut = True
    script.provide("saveFlags", lambda *_: 0)
    faulty.save_transient(COMPUTE, Path("memory"), timeout_s=60)
    assert (script.opened, script.calls.count("saveFlags")) == (2, 1)


@pytest.mark.parametrize("is_after", [False, True], ids=["before", "after"])
def test_changes_by_uuid_survive_a_reply_that_was_lost(
    script: Script, faulty: LibvirtClient, is_after: bool
) -> None:
    script.fail("defineXMLFlags", LOST, is_after=is_after)
    assert faulty.define_domain(DOMAIN_XML).uuid == NEW
    script.fail("createWithFlags", LOST, is_after=is_after)
    faulty.start_domain(NEW)
    assert faulty.get_domain(NEW).state is VmState.RUNNING
    script.fail("destroyFlags", LOST, is_after=is_after)
    faulty.destroy_domain(NEW)
    script.fail("undefineFlags", LOST, is_after=is_after, nth=1 if is_after else 4)
    faulty.undefine_domain(NEW, snapshots_too=True)
    assert faulty.find_domain(NEW) is None
    assert script.opened == 5


def test_a_save_whose_reply_was_lost_is_not_sent_again(
    script: Script, faulty: LibvirtClient
) -> None:
    script.provide("saveFlags", lambda *_: 0)
    script.fail("saveFlags", LOST, is_after=True)
    with pytest.raises(ConnectionLostError, match="saving VM 1111"):
        faulty.save_transient(COMPUTE, Path("memory"), timeout_s=60)
    assert script.calls.count("saveFlags") == 1


def test_a_daemon_that_comes_back_is_waited_for(script: Script, faulty: LibvirtClient) -> None:
    assert faulty.is_alive()
    script.is_cut = True
    script.fail("open", 38, domain=FROM_RPC, error_number=2, times=2)
    assert faulty.find_domain(COMPUTE) is not None
    assert script.opened == 4


def test_a_daemon_that_stays_away_is_waited_for_once(
    script: Script, impatient: LibvirtClient
) -> None:
    assert impatient.is_alive()
    script.is_cut = True
    script.fail("open", 38, domain=FROM_RPC, error_number=2, times=EVERY)
    with pytest.raises(ConnectionLostError, match="opening a connection"):
        impatient.find_domain(COMPUTE)
    tries = script.opened
    assert tries > 3
    with pytest.raises(ConnectionLostError):
        impatient.destroy_domain(COMPUTE)
    assert script.opened == tries + 1
    assert not impatient.is_alive()


def test_a_daemon_that_was_never_there_is_not_waited_for(
    script: Script, faulty: LibvirtClient
) -> None:
    script.fail("open", 38, domain=FROM_RPC, error_number=2, times=EVERY)
    with pytest.raises(ConnectionLostError):
        faulty.version()
    assert script.opened == 1


@pytest.mark.fault("F66", "libvirt's refusals")
def test_a_refusal_is_not_taken_for_a_lost_daemon(script: Script, faulty: LibvirtClient) -> None:
    script.fail("open", 38, domain=FROM_RPC, error_number=13, times=EVERY)
    with pytest.raises(LibvirtError, match="does not permit opening a connection") as caught:
        faulty.version()
    assert not isinstance(caught.value, ConnectionLostError)


def test_calls_in_flight_survive_the_end_of_their_connection(
    script: Script, faulty: LibvirtClient
) -> None:
    assert faulty.is_alive()
    asked = "getDomainCapabilities"
    script.provide(asked, lambda *_: pause(0.2) or "<domainCapabilities/>")
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(faulty.domain_capabilities_xml, "kvm", "q35", "x86_64")
        wait_until(lambda: asked in script.calls, Deadline.after(60), "the slow call")
        script.fail("lookupByUUIDString", LOST)
        faulty.find_domain(COMPUTE)
        assert slow.result() == "<domainCapabilities/>"
    wait_until(lambda: script.calls.count("close") == 1, Deadline.after(60), "the old one's end")


# Silence


def test_a_call_that_hangs_ends_with_patience(script: Script, impatient: LibvirtClient) -> None:
    began = time.monotonic()
    with (
        script.hanging("lookupByUUIDString"),
        pytest.raises(ConnectionLostError, match=r"did not answer within 2 s") as caught,
    ):
        impatient.find_domain(COMPUTE)
    assert time.monotonic() - began < 20
    assert caught.value.code is None
    assert impatient.find_domain(COMPUTE) is not None


def test_hung_calls_do_not_take_the_turns_of_others(
    script: Script, impatient: LibvirtClient
) -> None:
    with script.hanging("networkLookupByUUIDString"), ThreadPoolExecutor(2) as pool:
        hung = [pool.submit(impatient.find_network, NETWORK) for _ in range(2)]
        wait_until(
            lambda: script.calls.count("networkLookupByUUIDString") == 2,
            Deadline.after(60),
            "both to hang",
        )
        assert impatient.find_domain(COMPUTE) is not None
        assert all(isinstance(call.exception(), ConnectionLostError) for call in hung)


def test_a_daemon_whose_turns_are_all_taken_is_alive(
    script: Script, impatient: LibvirtClient
) -> None:
    with script.hanging("networkLookupByUUIDString"), ThreadPoolExecutor(2) as pool:
        hung = [pool.submit(impatient.find_network, NETWORK) for _ in range(2)]
        wait_until(
            lambda: script.calls.count("networkLookupByUUIDString") == 2,
            Deadline.after(60),
            "both to hang",
        )
        assert impatient.is_alive()
        assert all(call.exception() for call in hung)


def test_an_open_that_hangs_ends_with_patience(script: Script, impatient: LibvirtClient) -> None:
    with script.hanging("open"):
        with pytest.raises(ConnectionLostError, match="opening a connection"):
            impatient.version()
        assert not impatient.is_alive()


def test_no_more_calls_than_allowed_are_under_way_at_once(
    script: Script, faulty: LibvirtClient
) -> None:
    script.answer("getLibVersion", lambda number: pause(0.01) or number)
    with ThreadPoolExecutor(8) as pool:
        versions = list(pool.map(lambda _number: faulty.version(), range(24)))
    assert len(versions) == 24
    assert script.most_at_once <= 2


@pytest.fixture
def deaf_socket(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.fspath(path))
        server.listen()
        yield path


def test_a_deaf_daemon_holds_nobody_up_not_even_the_interpreters_end(deaf_socket: Path) -> None:
    program = f"""
        from ai_how.errors import ConnectionLostError
        from ai_how.libvirt_client.client import LibvirtClient
        with LibvirtClient({unix_uri(deaf_socket)!r}, patience_s=0.3) as client:
            try:
                client.version()
            except ConnectionLostError as error:
                print(error.brief, "|", error.hint)
        """
    done = run([sys.executable, "-c", textwrap.dedent(program)], timeout_s=60)
    assert done.stdout == (
        "libvirt did not answer within 0.3 s: opening a connection | ai-how host up\n"
    )
    assert done.stderr == ""


def test_a_socket_that_is_not_there_names_itself_and_the_remedy(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with (
        LibvirtClient(unix_uri(tmp_path / "none"), patience_s=5) as client,
        pytest.raises(ConnectionLostError, match=str(tmp_path / "none")) as caught,
    ):
        client.find_domain(COMPUTE)
    assert caught.value.hint == "ai-how host up"
    assert caught.value.code == 38
    assert capfd.readouterr() == ("", "")


@pytest.mark.fault("S23", "a URI that is not on the list")
def test_a_uri_that_is_not_allowed_is_refused_before_anything_is_opened() -> None:
    with pytest.raises(SpecError, match="not allowed"):
        LibvirtClient("qemu+ext:///system?command=/tmp/x")


def test_clients_leave_no_threads_and_no_files_behind() -> None:
    def use() -> None:
        with LibvirtClient(URI) as client:
            client.list_domains()

    use()
    threads, files = threading.active_count(), len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for _ in range(30):
        use()
    wait_until(lambda: threading.active_count() <= threads, Deadline.after(60), "threads to end")
    assert len(os.listdir("/proc/self/fd")) <= files  # noqa: PTH208


# Events


def test_events_come_until_the_subscription_ends(client: LibvirtClient) -> None:
    seen: list[DomainEvent] = []
    later: list[DomainEvent] = []
    with client.subscribe(seen.append):
        client.pause_domain(COMPUTE)
        wait_until(lambda: bool(seen), Deadline.after(60), "the event")
    with client.subscribe(later.append):
        client.destroy_domain(COMPUTE)
        wait_until(lambda: bool(later), Deadline.after(60), "the second event")
    assert [(event.uuid, event.kind) for event in seen] == [(COMPUTE, EventKind.SUSPENDED)]
    assert [(event.uuid, event.kind) for event in later] == [(COMPUTE, EventKind.STOPPED)]


def test_events_come_over_the_connection_that_follows_a_broken_one(
    script: Script, faulty: LibvirtClient
) -> None:
    seen: list[DomainEvent] = []
    with faulty.subscribe(seen.append):
        script.is_cut = True
        faulty.pause_domain(COMPUTE)
        wait_until(lambda: bool(seen), Deadline.after(60), "the event")
        assert script.opened == 2
        wait_until(lambda: script.hook_count == 2, Deadline.after(60), "the old one's end")
    assert {event.kind for event in seen} == {EventKind.SUSPENDED}


# The console


class Line:
    """A stream that echoes, takes two bytes at a time, and ends with an error when cut."""

    def __init__(self) -> None:
        self.pending = b""
        self.is_cut = False

    def send(self, data: bytes) -> int:
        if self.is_cut:
            raise make_error(39, FROM_RPC)
        self.pending += data[:2]
        return len(data[:2])

    def recv(self, size: int) -> bytes:
        if self.is_cut:
            raise make_error(39, FROM_RPC)
        got, self.pending = self.pending[:size], self.pending[size:]
        return got

    def abort(self) -> int:
        self.is_cut = True
        return 0


def open_line(line: Line, script: Script, client: LibvirtClient) -> Console:
    """The console of a domain whose driver has one."""
    script.provide("newStream", lambda _flags: line)
    script.provide("openConsole", lambda _name, _stream, _flags: 0)
    return client.open_console(COMPUTE)


def test_a_console_sends_all_and_ends_when_closed(script: Script, faulty: LibvirtClient) -> None:
    line = Line()
    with open_line(line, script, faulty) as console:
        console.send(b"reboot")
        assert console.recv(100) == b"reboot"
    console.close()
    assert console.recv(100) == b""


def test_a_console_whose_daemon_went_says_so(script: Script, faulty: LibvirtClient) -> None:
    line = Line()
    console = open_line(line, script, faulty)
    line.is_cut = True
    with pytest.raises(ConnectionLostError, match="reading from the console"):
        console.recv(1)
    with pytest.raises(ConnectionLostError, match="writing to the console"):
        console.send(b"x")


# Agents


def connected(xml: str) -> str:
    channel = (
        "<channel type='unix'>"
        "<target type='virtio' name='org.qemu.guest_agent.0' state='connected'/></channel>"
    )
    return xml.replace("</devices>", f"{channel}</devices>")


def test_an_agent_that_is_there_is_not_waited_for(script: Script, faulty: LibvirtClient) -> None:
    script.answer("XMLDesc", connected)
    faulty.wait_for_agent(COMPUTE, Deadline.after(0))
    assert faulty.is_agent_connected(COMPUTE)


def test_an_event_ends_the_wait_for_an_agent(script: Script, faulty: LibvirtClient) -> None:
    faulty.pause_domain(COMPUTE)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(faulty.wait_for_agent, COMPUTE, Deadline.after(60))
        wait_until(lambda: "isPersistent" in script.calls, Deadline.after(60), "the first look")
        script.answer("XMLDesc", connected)
        began = time.monotonic()
        faulty.resume_domain(COMPUTE)
        assert waiting.result() is None
    assert time.monotonic() - began < 20


def test_the_wait_for_an_agent_ends_when_its_vm_does(client: LibvirtClient) -> None:
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.wait_for_agent, COMPUTE, Deadline.after(60))
        time.sleep(0.1)
        began = time.monotonic()
        client.destroy_domain(COMPUTE)
        with pytest.raises(GuestError, match=r"demo-compute-01 is shut off \(destroyed\)"):
            waiting.result()
    assert time.monotonic() - began < 20


def test_the_wait_for_the_agent_of_a_vm_that_is_not_there_fails_at_once(
    client: LibvirtClient,
) -> None:
    with pytest.raises(GuestError, match="is gone"):
        client.wait_for_agent(ABSENT, Deadline.after(10))


@pytest.mark.parametrize(("state", "words"), [([3, 5], "paused (I/O error)"), ([6, 1], "crashed")])
def test_a_vm_that_will_not_run_on_ends_the_wait_for_its_agent(
    script: Script, faulty: LibvirtClient, state: list[int], words: str
) -> None:
    script.answer("state", lambda _seen: state)
    with pytest.raises(GuestError) as caught:
        faulty.wait_for_agent(COMPUTE, Deadline.after(60))
    assert words in str(caught.value)


def test_the_wait_for_an_agent_ends_with_its_deadline_or_when_told(client: LibvirtClient) -> None:
    with pytest.raises(DeadlineError, match="timed out waiting for the agent"):
        client.wait_for_agent(COMPUTE, Deadline.after(0.1))
    stop = threading.Event()
    stop.set()
    with pytest.raises(DeadlineError, match="stopped waiting for the agent"):
        client.wait_for_agent(COMPUTE, Deadline.after(60), stop)


def test_an_agents_answer_is_returned_and_its_time_is_bounded() -> None:
    asked: list[tuple[str, int, int]] = []

    def agent(_domain: object, text: str, timeout_s: int, flags: int) -> str:
        asked.append((text, timeout_s, flags))
        return '{"return": {"pid": 7}}'

    with LibvirtClient(URI, ask_agent=agent) as client:
        assert client.agent_command(COMPUTE, {"execute": "guest-ping"}, 0.2) == {"pid": 7}
    assert asked == [('{"execute": "guest-ping"}', 1, 0)]


@pytest.mark.fault("S22", "each of libvirt's numbers for an agent")
@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        (86, AgentUnresponsiveError, "does not answer"),
        (97, AgentUnresponsiveError, "does not answer"),
        (112, AgentUnresponsiveError, "does not answer"),
        (68, AgentUnresponsiveError, "does not answer"),
        (38, AgentUnresponsiveError, "does not answer"),
        (1, GuestError, "did not run the command"),
        (55, GuestError, "did not run the command"),
        (74, GuestError, "did not run the command"),
        (113, GuestError, "did not run the command"),
        (3, LibvirtError, "asking the agent"),
        (5, ConnectionLostError, "asking the agent"),
    ],
)
def test_an_agents_failures_are_told_apart(code: int, kind: type[Exception], words: str) -> None:
    def agent(_domain: object, _text: str, _timeout_s: int, _flags: int) -> str:
        raise make_error(code)

    with (
        LibvirtClient(URI, ask_agent=agent, patience_s=2) as client,
        pytest.raises(kind, match=words) as caught,
    ):
        client.agent_command(COMPUTE, {"execute": "guest-ping"}, 1)
    assert type(caught.value) is kind
    assert caught.value.__cause__ is not caught.value


def test_a_command_is_never_sent_twice_to_an_agent() -> None:
    sent: list[str] = []

    def agent(_domain: object, text: str, _timeout_s: int, _flags: int) -> str:
        sent.append(text)
        raise make_error(LOST)

    with LibvirtClient(URI, ask_agent=agent) as client, pytest.raises(ConnectionLostError):
        client.agent_command(COMPUTE, {"execute": "guest-exec"}, 1)
    assert len(sent) == 1


def pause(seconds: float) -> None:
    time.sleep(seconds)


class Device:
    """A device of the host; the test driver has none of PCI."""

    def __init__(self) -> None:
        self.reattached = 0

    def reAttach(self) -> int:  # noqa: N802  libvirt's name
        self.reattached += 1
        return 0


def test_a_device_is_given_back_by_its_name_in_libvirt(
    script: Script, faulty: LibvirtClient
) -> None:
    device = Device()
    known = {"pci_0000_65_00_1": device}
    script.provide("nodeDeviceLookupByName", known.__getitem__)
    faulty.reattach_device("0000:65:00.1")
    script.fail("nodeDeviceLookupByName", LOST, is_after=True)
    faulty.reattach_device("0000:65:00.1")
    assert device.reattached == 2


def test_a_device_that_libvirt_does_not_know_is_an_error(client: LibvirtClient) -> None:
    with pytest.raises(LibvirtError, match="no node device with matching name 'pci_0000_65_00_0'"):
        client.reattach_device("0000:65:00.0")
