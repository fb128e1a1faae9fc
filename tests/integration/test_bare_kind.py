"""Another kind of cluster than SLURM has all that every cluster has: on the real host, kills too.

Its guests have no system; what is asked of their agents is answered by tiny_cluster.py.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from test_kill_everywhere import SIGKILLED, Pair, kill_everywhere, without_twins

import bare_kind
from ai_how.host.embedded import EmbeddedHost
from ai_how.libvirt_client.facts import read_mark
from ai_how.plan.journal import Journal
from ai_how.process import run
from invariants import Watched, check_told
from ledger import Points
from tiny_cluster import Ended, TinyHome, opened, state_of

pytestmark = pytest.mark.libvirt


class BareHome(TinyHome):
    """Real verbs, of clusters of that kind."""

    def program(self) -> list[str | Path]:
        return [sys.executable, bare_kind.__file__, str(self.root)]


@pytest.fixture(scope="module")
def tiny_home(host: EmbeddedHost) -> Iterator[TinyHome]:
    with opened(BareHome(host.paths.root.parent)) as home:
        yield home


@pytest.fixture(scope="module")
def learned(tiny_home: TinyHome) -> Watched:
    return Watched(tiny_home).learn().learn_suspending()


def test_a_kind_imports_nothing_of_another(tiny_home: TinyHome) -> None:
    code = "import bare_kind, sys; print([one for one in sys.modules if '.hpc' in one])"
    assert run([sys.executable, "-c", code], env={"PYTHONPATH": ":".join(sys.path)}).stdout == (
        "[]\n"
    )


def test_state_journal_and_marks_have_the_kind(watched: Watched) -> None:
    watched.have("on")
    state = state_of(watched.home)
    assert state.kind == "bare"
    written = json.loads(watched.home.paths("hpc").state.read_text())
    assert written["kind"] == "bare"
    with watched.home.client() as client:
        found = [client.get_domain(one.uuid).mark for one in state.nodes]
        network = client.find_network(state.network.uuid)
    assert network is not None
    assert {one.kind for one in [*found, read_mark(network.xml)] if one} == {"bare"}
    assert None not in found
    watched.have("off")
    ended = watched.call("start", at_any=[("after intent", "running/hpc")], act="kill")
    assert ended.code == SIGKILLED
    note = Journal.read_note(watched.home.paths("hpc").journal)
    assert note is not None
    assert note["kind"] == "bare"
    watched.check(ended, "start")


def test_status_says_what_the_kind_says(watched: Watched) -> None:
    watched.have("on")
    told = json.loads(watched.call("status", codes={0}).out)
    assert told["is_ready"]
    assert {node["slurm"] for node in told["nodes"]} == {"running"}
    watched.have("off")
    assert not json.loads(watched.call("status", codes={0}).out)["is_ready"]


@pytest.mark.fault("F16", "the verbs of SLURM, on a cluster of another kind")
def test_the_verbs_of_another_kind_leave_it_alone(watched: Watched, host: EmbeddedHost) -> None:
    watched.have("on")
    before = watched.home.paths("hpc").state.read_bytes()
    other = TinyHome(host.paths.root.parent)
    try:
        for words in (
            ("hpc", "start"),
            ("hpc", "stop"),
            ("hpc", "status"),
            ("hpc", "destroy", "--force"),
        ):
            ended = other.call(*words)
            check_told(ended, {3})
            assert "error: hpc is a cluster of the kind bare, not hpc" in ended.err
    finally:
        other.close()
    assert watched.home.paths("hpc").state.read_bytes() == before
    watched.settled("on")


def test_nodes_start_and_stop_alone(watched: Watched) -> None:
    watched.have("on")
    home = watched.home
    check_told(home.call("hpc", "stop", "compute-01"), {0})
    with home.client() as client:
        on = [one.name for one in state_of(home).nodes if client.get_domain(one.uuid).state.is_on]
    assert on == ["controller", "compute-02"]
    check_told(home.call("hpc", "start", "compute-01"), {0})
    watched.settled("on")


@pytest.mark.fault("F01", "SIGKILL at every record of a start, of another kind of cluster")
@pytest.mark.fault("F02", "SIGKILL at every record of a stop or destroy, of another kind")
@pytest.mark.fault("W03", "SIGKILL at every record of a suspend, and of going on, of another kind")
@pytest.mark.parametrize(
    ("what", "was", "thens"),
    [
        ("start", "absent", ["destroy", "start", "stop", "status", "destroy"]),
        pytest.param("restart", "off", ["stop", "start", "stop", "status"], marks=pytest.mark.long),
        pytest.param("stop", "on", ["stop", "start", "destroy"], marks=pytest.mark.long),
        pytest.param("suspend", "on", ["start", "suspend", "status"], marks=pytest.mark.long),
        ("resume", "suspended", ["start", "status"]),
        ("destroy", "on", ["destroy", "start"]),
    ],
)
def test_each_verb_killed_at_any_record_is_recovered(
    watched: Watched,
    points: Points,
    figures: dict[str, int],
    what: str,
    was: str,
    thens: Sequence[str],
    *,
    is_long: bool,
) -> None:
    verb = {"restart": "start", "resume": "start"}.get(what, what)

    def begin(pairs: list[Pair]) -> Ended:
        watched.have(was)
        return watched.call(verb, at_any=pairs, act="kill")

    pairs = without_twins(watched.boundaries[what], is_long=is_long)
    if not is_long:  # the engine is that of a SLURM cluster, which is killed at more of them
        pairs = {(moment, key) for moment, key in pairs if moment != "after intent"}
    if what == "resume":
        watched.have("absent")  # "on" would not be resumed
    kill_everywhere(watched, pairs, begin, thens, points, figures)


@pytest.mark.fault("F06", "SIGKILL at every record of a recovery, of another kind of cluster")
def test_a_recovery_killed_at_any_record_is_recovered_itself(
    watched: Watched, points: Points, figures: dict[str, int]
) -> None:
    last = ("before done", "running/hpc")
    assert watched.call("start", at_any=[last], act="kill").code == SIGKILLED
    kills = 0
    while True:
        ended = watched.call("stop", at=2, act="kill")
        if ended.code != SIGKILLED:
            break
        kills += 1
    assert kills > 2
    watched.settled("undone")
    watched.check(ended, "start")
    figures["kills at a record"] += kills
    points(kills)


def test_the_state_that_was_lost_is_recovered(watched: Watched) -> None:
    watched.have("on")
    paths = watched.home.paths("hpc")
    lineage = state_of(watched.home).lineage
    for path in (paths.state, *paths.backups.iterdir()):
        path.unlink()
    refused = watched.home.call("hpc", "start")
    check_told(refused, {3})
    assert "ai-how bare recover --cluster hpc" in refused.err
    check_told(watched.home.call("hpc", "recover", "--cluster", "hpc"), {0})
    state = state_of(watched.home)
    assert (state.kind, state.lineage) == ("bare", lineage)
