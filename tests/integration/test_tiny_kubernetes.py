"""The verbs of `cloud` under faults: real libvirt, QEMU, disks, keys and journals.

The guests have no system, and their API is made up by tiny_cloud.py. A short run kills only at the
steps that Kubernetes has of its own, as test_kill_everywhere.py does at all others. `--long` takes
every record.
"""

from collections.abc import Iterator, Sequence

import pytest
from test_kill_everywhere import SIGKILLED, Pair, kill_everywhere, without_twins

from ai_how.host.embedded import EmbeddedHost
from cloud_invariants import CloudWatched
from ledger import Points
from tiny_cloud import CloudHome
from tiny_cluster import Ended, opened

pytestmark = pytest.mark.libvirt

TWIN = "-worker-02"
OWN = ("services/", "clock/", "api/", "manifests/", "ready/", "drain/")


@pytest.fixture(scope="module")
def tiny_home(host: EmbeddedHost) -> Iterator[CloudHome]:
    with opened(CloudHome(host.paths.root.parent)) as home:
        yield home


@pytest.fixture(scope="module")
def learned(tiny_home: CloudHome) -> CloudWatched:
    return CloudWatched(tiny_home).learn_all()


def records(watched: CloudWatched, what: str, *, is_long: bool) -> set[Pair]:
    """The records at which to kill."""
    pairs = without_twins(watched.boundaries[what], is_long=is_long, twin=TWIN)
    return {pair for pair in pairs if is_long or pair[1].startswith(OWN)}


@pytest.mark.fault("K06", "SIGKILL at every record of the journal of each verb")
@pytest.mark.parametrize(
    ("what", "verb", "was", "thens"),
    [
        ("start", "start", "absent", ["destroy", "start", "stop", "status"]),
        ("restart", "start", "off", ["stop", "start", "status", "rotate", "suspend"]),
        ("stop", "stop", "on", ["stop", "start", "destroy"]),
        ("drain", "drain", "on", ["drain", "start", "stop", "join", "status", "suspend"]),
        ("join", "join", "partly", ["join", "drain", "start", "stop"]),
        ("suspend", "suspend", "on", ["start", "suspend", "status"]),
        ("resume", "start", "suspended", ["start", "status"]),
        ("destroy", "destroy", "on", ["destroy", "start"]),
    ],
)
def test_each_verb_killed_at_any_record_is_recovered_by_whatever_comes_next(
    watched: CloudWatched,
    points: Points,
    figures: dict[str, int],
    what: str,
    verb: str,
    was: str,
    thens: Sequence[str],
    *,
    is_long: bool,
) -> None:
    def begin(pairs: list[Pair]) -> Ended:
        watched.have(was, with_data=what == "restart")
        return watched.call(verb, at_any=pairs, act="kill")

    pairs = records(watched, what, is_long=is_long)
    print(what, len(watched.boundaries[what]), len(pairs), sorted(pairs))
    kill_everywhere(watched, pairs, begin, thens, points, figures)
