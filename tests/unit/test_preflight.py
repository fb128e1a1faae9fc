"""What a start refuses before it changes anything."""

from dataclasses import replace

import pytest

from ai_how.clusters.observation import Observed
from ai_how.clusters.preflight import capacity
from ai_how.errors import HostError
from ai_how.host.facts import DeviceNode, HostFacts
from ai_how.host.place import HypervisorHost
from ai_how.hpc.plan import plan_start
from ai_how.plan.step import Plan
from ai_how.state.paths import StoragePaths, default_roots
from cluster_bench import DIGEST, draft_of, make_image, read_hpc, rendering_of

FOR_ROOT_ALONE = DeviceNode(0o600, is_usable=False)
FACTS = HostFacts(user="ada", is_root=False, tun=DeviceNode(0o666, is_usable=True))


class Start:
    """A first start of the default cluster, up to its checks of the host."""

    def __init__(self, tmp_path, monkeypatch) -> None:
        self.storage = StoragePaths(tmp_path / "storage")
        self.draft = draft_of(read_hpc(), storage=self.storage.root)
        self.images = {DIGEST: make_image(tmp_path / "image")}
        paths = default_roots(tmp_path / "state").cluster("hpc")
        rendering = rendering_of(self.draft, self.storage, paths, self.images)
        self.plan = plan_start(self.draft, Observed(), rendering)
        self.monkeypatch = monkeypatch

    def check(self, facts: HostFacts, *, kind: str = "embedded", plan: Plan | None = None) -> None:
        self.monkeypatch.setattr(capacity, "read_resources", lambda *, directories: facts)
        place = HypervisorHost(kind, "test:///default", kind, self.storage)
        capacity.check_host(
            self.draft, plan or self.plan, Observed(), place, self.images, lambda _line: None
        )


@pytest.fixture
def start(tmp_path, monkeypatch) -> Start:
    return Start(tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("tun", "brief", "hint"),
    [
        (FOR_ROOT_ALONE, "/dev/net/tun has mode 0600", "sudo chmod 0666 /dev/net/tun"),
        (None, "/dev/net/tun does not exist", "sudo modprobe tun"),
    ],
)
def test_a_start_without_a_usable_tun_is_refused_with_doctors_advice(start, tun, brief, hint):
    start.check(FACTS)
    with pytest.raises(HostError) as caught:
        start.check(replace(FACTS, tun=tun))
    assert caught.value.brief == f"{brief}: guests get no network interface"
    assert caught.value.hint == hint


@pytest.mark.parametrize("kind", ["system", "test"])
def test_a_libvirt_that_is_not_ours_opens_the_device_itself(start, kind):
    start.check(replace(FACTS, tun=FOR_ROOT_ALONE), kind=kind)


def test_a_start_that_boots_no_node_needs_no_tun(start):
    told = tuple(step for step in start.plan.steps if step.kind == "network")
    start.check(replace(FACTS, tun=FOR_ROOT_ALONE), plan=Plan("start", told))
