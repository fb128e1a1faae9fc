"""How long the client waits, for whom, and what it says then; the driver is made to fail."""

import threading
import time
from collections.abc import Iterator
from uuid import UUID

import pytest
from faulty_libvirt import EVERY, Script
from test_libvirt_client import COMPUTE, URI

from ai_how.errors import ConnectionLostError, LibvirtError
from ai_how.libvirt_client import domains, session
from ai_how.libvirt_client.client import LibvirtClient
from ai_how.libvirt_client.connection import BusyError
from ai_how.libvirt_client.error_codes import FROM_REMOTE, FROM_RPC, FROM_STORAGE

FROM_QEMU = 10


@pytest.fixture
def script() -> Iterator[Script]:
    script = Script(URI)
    yield script
    script.end()


@pytest.fixture
def kept(script: Script) -> Iterator[LibvirtClient]:
    """A client of a daemon that somebody starts again."""
    with LibvirtClient(URI, patience_s=20, opener=script.open, is_kept=True) as client:
        yield client


@pytest.fixture
def impatient(script: Script) -> Iterator[LibvirtClient]:
    """The same, for calls that are never answered."""
    with LibvirtClient(URI, patience_s=2, opener=script.open, is_kept=True) as client:
        yield client


def test_a_daemon_that_is_kept_is_waited_for_at_the_first_call(
    script: Script, kept: LibvirtClient
) -> None:
    script.fail("open", 38, domain=FROM_RPC, error_number=2, times=2)
    assert kept.find_domain(COMPUTE) is not None
    assert script.opened == 3


def test_a_daemon_that_is_kept_and_stays_away_is_told_as_that(
    script: Script, impatient: LibvirtClient
) -> None:
    script.fail("open", 38, domain=FROM_RPC, error_number=2, times=EVERY)
    with pytest.raises(ConnectionLostError, match="no connection to libvirt") as caught:
        impatient.find_domain(COMPUTE)
    assert caught.value.code == 38
    tries = script.opened
    assert tries > 2
    with pytest.raises(ConnectionLostError, match="no connection to libvirt"):
        impatient.find_domain(COMPUTE)
    assert script.opened == tries + 1


def test_whoever_was_silent_is_not_waited_for_again_and_asked_anew_later(
    script: Script, impatient: LibvirtClient
) -> None:
    with script.hanging("open"):
        for _ in range(3):
            with pytest.raises(ConnectionLostError, match="did not answer"):
                impatient.find_domain(COMPUTE)
        assert script.opened == 1
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            assert impatient.find_domain(COMPUTE) is not None
        except ConnectionLostError:
            time.sleep(0.05)
        else:
            break
    assert script.opened == 2


def test_a_call_whose_connections_keep_breaking_ends_in_its_time(
    script: Script, kept: LibvirtClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "ALIVE_WITHIN_S", 0.1)
    script.fail("getDomainCapabilities", 39, domain=FROM_RPC, times=EVERY)
    began = time.monotonic()
    with pytest.raises(ConnectionLostError):
        kept.domain_capabilities_xml("kvm", "q35", "x86_64")
    # Not the forty seconds that four connections could take.
    assert time.monotonic() - began < 20
    assert script.calls.count("getDomainCapabilities") == 1 + session.REPEATS


@pytest.mark.fault("F33", "a QEMU that gives no figures, among others that do")
def test_a_vm_without_figures_hides_no_others(
    script: Script, kept: LibvirtClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(domains, "STATS_S", 3.0)
    released = threading.Event()
    every = [one.uuid for one in kept.list_domains()]
    others = set(every) - {COMPUTE}
    assert others

    def stats(domains: list[object], _what: int, _flags: int) -> list[object]:
        uuids = {UUID(domain.UUIDString()) for domain in domains}
        if COMPUTE in uuids:
            released.wait(30)
        return [(domain, {"cpu.time": 5}) for domain in domains]

    script.provide("domainListGetStats", stats)
    try:
        assert set(kept.stats(every)) == others
    finally:
        released.set()


# What the errors of libvirt that matter mean, as whoever asks for a VM is told of them.
TABLE = [
    *[(code, FROM_QEMU, None) for code in (42, 43, 49, 50)],
    *[
        (code, origin, ConnectionLostError)
        for code in (38, 1)
        for origin in (FROM_RPC, FROM_REMOTE)
    ],
    *[(code, FROM_RPC, ConnectionLostError) for code in (5, 6, 39)],
    *[(code, FROM_QEMU, BusyError) for code in (68, 87)],
    (1, FROM_STORAGE, BusyError),
    *[(code, FROM_QEMU, LibvirtError) for code in (86, 9, 90, 28, 37, 55)],
    *[(code, FROM_QEMU, LibvirtError) for code in (27, 92, 67, 8, 3, 45, 94, 88, 99, 80, 1)],
]


def test_every_error_of_the_table_is_raised_and_has_its_meaning(
    script: Script, figures: dict[str, int]
) -> None:
    for code, origin, kind in TABLE:
        script.fail("lookupByUUIDString", code, domain=origin, times=EVERY)
        # Only of one that is busy the time runs out.
        patience_s = 0.5 if kind is BusyError else 30
        with LibvirtClient(URI, patience_s=patience_s, opener=script.open) as client:
            if kind is None:
                assert client.find_domain(COMPUTE) is None
                continue
            with pytest.raises(LibvirtError) as caught:
                client.find_domain(COMPUTE)
            assert type(caught.value) is kind, (code, origin)
            assert caught.value.code == code
    figures["error codes of libvirt raised and mapped"] += len(TABLE)
