"""A private embedded host per module, and after each test a look at what it left behind."""

from collections.abc import Iterator

import pytest

from ai_how.host.embedded import EmbeddedHost
from ai_how.vm_management.libvirt_client import LibvirtClient
from leaks import look_at_host, look_at_machine, private_host, settled_difference


@pytest.fixture(scope="module")
def host() -> Iterator[EmbeddedHost]:
    """An embedded host that is up, without KVM; the tests of a module share it."""
    with private_host() as host:
        host.up(with_kvm=False)
        yield host


@pytest.fixture(scope="module")
def client(host: EmbeddedHost) -> Iterator[LibvirtClient]:
    with LibvirtClient(host.uri) as client:
        yield client


@pytest.fixture
def own_host() -> Iterator[EmbeddedHost]:
    """An embedded host for one test, not up yet, for what the others must not see."""
    with private_host() as host:
        yield host


@pytest.fixture(autouse=True)
def nothing_is_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """The gate: after a test, the host and the machine are as they were before."""
    host = request.getfixturevalue("host") if "host" in request.fixturenames else None
    before = look_at_machine() | (look_at_host(host) if host else frozenset())
    yield
    left = settled_difference(before, host)
    assert left == "", f"the test left things behind:\n{left}"
