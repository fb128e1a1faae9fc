"""A private embedded host per module, and after each test a look at what it left behind."""

from collections.abc import Iterator

import pytest

from ai_how.host.embedded import EmbeddedHost
from ai_how.libvirt_client.client import LibvirtClient
from decoys import place_decoys
from invariants import Watched
from leaks import count_gate, look_at_host, look_at_machine, private_host, settled_difference
from tiny_cluster import TinyHome, opened


@pytest.fixture(scope="module")
def host() -> Iterator[EmbeddedHost]:
    """An embedded host that is up, without KVM; the tests of a module share it.

    On it are things of somebody else's, which no test may touch.
    """
    with private_host() as host:
        host.up(with_kvm=False)
        place_decoys(host)
        yield host


@pytest.fixture(scope="module")
def client(host: EmbeddedHost) -> Iterator[LibvirtClient]:
    with LibvirtClient(host.uri) as client:
        yield client


@pytest.fixture(scope="module")
def tiny_home(host: EmbeddedHost) -> Iterator[TinyHome]:
    """Real verbs on that host, with guests that have no system."""
    with opened(TinyHome(host.paths.root.parent)) as home:
        yield home


@pytest.fixture(scope="module")
def learned(tiny_home: TinyHome) -> Watched:
    """A cluster of tiny guests, whose clean life was seen once."""
    return Watched(tiny_home).learn()


@pytest.fixture
def watched(learned: Watched) -> Iterator[Watched]:
    """The same for one test: not there at its begin, and gone after it."""
    learned.clear()
    yield learned
    learned.home.end_all()
    learned.clear()


@pytest.fixture
def own_host() -> Iterator[EmbeddedHost]:
    """An embedded host for one test, not up yet, for what the others must not see."""
    with private_host() as host:
        yield host


@pytest.fixture(autouse=True)
def nothing_is_left(request: pytest.FixtureRequest, figures: dict[str, int]) -> Iterator[None]:
    """The gate: after a test, the host and the machine are as they were before."""
    host = request.getfixturevalue("host") if "host" in request.fixturenames else None
    before = look_at_machine() | (look_at_host(host) if host else frozenset())
    yield
    left = settled_difference(before, host)
    count_gate(figures, left, has_decoys=host is not None)
    assert left == "", f"the test left things behind:\n{left}"
