"""The verbs of `cloud` under faults: real libvirt, QEMU, disks, keys and journals.

The guests have no system, and their API is made up by tiny_cloud.py. A short run takes only the
steps that Kubernetes has of its own, as the tests of SLURM's clusters take all others. `--long`
takes every record.
"""

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle

import pytest
from test_kill_everywhere import SIGKILLED, Pair, kill_everywhere, without_twins

from ai_how.host.embedded import EmbeddedHost
from ai_how.waiting import Deadline, wait_until
from cloud_invariants import WORDS, WORKER, CloudWatched
from daemons import daemon_of
from invariants import BOUND_S, check_told
from ledger import Points
from tiny_cloud import DIES, JOBS, NEVER_READY, CloudHome
from tiny_cluster import Ended, opened

pytestmark = pytest.mark.libvirt

FAILED, LOCKED, INTERRUPTED = 4, 6, 130
OTHER = "worker-02"
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
    pairs = without_twins(watched.boundaries[what], is_long=is_long, twin=f"-{OTHER}")
    # What closes nodes has few records.
    if is_long or what == "drain":
        return pairs
    own = sorted(pair for pair in pairs if pair[1].startswith(OWN))
    # Any start has nearly the same steps, of which a first one and a rotation take all.
    return set(own if what in {"start", "rotate"} else own[::2])


def own_keys(watched: CloudWatched, what: str) -> list[str]:
    """Kubernetes' own steps of that verb, in order; of two nodes that are alike, the first."""
    keys = dict.fromkeys(key for _, key in watched.boundaries[what])
    return [key for key in keys if key.startswith(OWN) and not key.endswith(OTHER)]


@pytest.mark.fault("K06", "SIGKILL at every record of the journal of each verb")
@pytest.mark.parametrize(
    ("what", "verb", "was", "thens"),
    [
        ("start", "start", "absent", ["destroy", "start", "stop", "status"]),
        ("restart", "start", "off", ["stop", "start", "status", "rotate"]),
        pytest.param("stop", "stop", "on", ["stop", "start", "destroy"], marks=pytest.mark.long),
        ("drain", "drain", "on", ["start", "drain", "join", "stop", "status"]),
        ("join", "join", "partly", ["drain", "join", "start", "stop"]),
        pytest.param("suspend", "suspend", "on", ["start", "suspend"], marks=pytest.mark.long),
        ("resume", "start", "suspended", ["start", "status"]),
        pytest.param("destroy", "destroy", "on", ["destroy", "start"], marks=pytest.mark.long),
        ("rotate", "rotate", "on", ["start", "rotate", "status", "destroy"]),
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
        if was != "absent" and not watched.closed:
            watched.close(OTHER)
        if what == "rotate":
            watched.outdated = watched.leaves()
        ended = watched.call(verb, at_any=pairs, act="kill")
        if what == "destroy":  # whatever comes next carries it on
            watched.forget()
        return ended

    kill_everywhere(watched, records(watched, what, is_long=is_long), begin, thens, points, figures)


@pytest.mark.fault("K06", "SIGKILL or SIGINT while a stop waits for Jobs")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_no_node_stays_closed_by_a_stop_that_ended_while_it_waited_for_jobs(
    watched: CloudWatched, number: signal.Signals
) -> None:
    watched.have("on")
    watched.close(OTHER)
    told: list[int] = []
    ended = watched.home.begin(
        *WORDS["stop"],
        "--wait",
        name=watched.name,
        environment={JOBS: "default/sum"},
        on_pid=told.append,
    )
    wait_until(lambda: WORKER in watched.api.closed, Deadline.after(BOUND_S), "the wait")
    os.kill(told[0], number)
    how = ended()
    if number is signal.SIGINT:
        check_told(how, {INTERRUPTED})
        watched.settled("on")
    else:
        assert how.code == SIGKILLED
    watched.check(how, "start")


@pytest.mark.fault("K07", "an error before or after each step")
def test_a_start_that_fails_in_a_step_is_undone(
    watched: CloudWatched, points: Points, *, is_long: bool
) -> None:
    moments, made = cycle(["before", "after"]), 0
    for what, verb, was, then in (
        ("start", "start", "absent", "undone"),
        ("restart", "start", "off", "off"),
        ("join", "join", "partly", "partly"),
        ("resume", "start", "suspended", "suspended"),
    ):
        keys = own_keys(watched, what)
        for key in keys if is_long else [keys[-1]] if what != "start" else keys[1::3]:
            watched.have(was)
            ended = watched.call(verb, codes={FAILED}, fail={key: [next(moments), "OSError"]})
            assert "made by a test at" in ended.err, ended.said
            watched.settled(then)
            made += 1
        watched.check(ended, "start")
    points(made)


@pytest.mark.fault("K07", "SIGINT while the check of the nodes runs")
@pytest.mark.parametrize(("was", "then"), [("absent", "undone"), ("off", "off")])
def test_ctrl_c_in_the_check_undoes_the_start(watched: CloudWatched, was: str, then: str) -> None:
    watched.have(was)
    told: list[int] = []
    ended = watched.home.begin(
        *WORDS["start"],
        name=watched.name,
        environment={NEVER_READY: OTHER},
        on_pid=told.append,
    )
    journal, text = watched.home.paths(watched.name).journal, '"key":"ready/sky","kind":"ready"}'
    wait_until(
        lambda: journal.exists() and text in journal.read_text(), Deadline.after(BOUND_S), text
    )
    os.kill(told[0], signal.SIGINT)
    how = ended()
    check_told(how, {INTERRUPTED})
    watched.settled(then)
    watched.check(how, "start")


@pytest.mark.fault("K07", "SIGKILL to libvirtd at records of a start, a drain and a rotation")
def test_libvirtd_is_started_again_under_a_verb(
    watched: CloudWatched, points: Points, *, is_long: bool
) -> None:
    made = 0
    for what, verb, was in (
        ("start", "start", "absent"),
        ("drain", "drain", "on"),
        ("rotate", "rotate", "on"),
    ):
        pairs = [("after intent", key) for key in own_keys(watched, what)]
        for pair in pairs if is_long else pairs[:: 3 if what == "start" else 9]:
            watched.have(was)
            kill = [(daemon_of(watched.home.host), signal.SIGKILL)]
            ended = watched.call(verb, codes={0, FAILED}, at_any=[pair], act="signal", signals=kill)
            daemon_of(watched.home.host)
            watched.check(ended, "start")
            made += 1
    points(made)


@pytest.mark.fault("K07", "six starts at once, and one worker that is stopped")
def test_starts_at_once_take_turns(watched: CloudWatched, points: Points) -> None:
    words = [*[WORDS["start"]] * 6, WORDS["drain"]]
    for was in ("absent", "off"):
        watched.have(was)
        every = watched.home.crowd(*words, names=[watched.name] * len(words))
        for ended in every[:-1]:
            check_told(ended, {0, LOCKED})
        # 3: there is no cluster yet.
        check_told(every[-1], {0, 3, LOCKED})
        assert [one for one in every[:-1] if one.code == 0 and one.boundaries]
        watched.check(every[0], "start")
        points(len(every))


@pytest.mark.fault("K08", "SIGKILL between the files of keys, of a first start and a rotation")
def test_keys_that_were_half_made_or_half_removed_are_completed(
    watched: CloudWatched, points: Points, *, is_long: bool
) -> None:
    made, thens = 0, cycle(["start", "rotate", "status", "destroy"])
    # A first start makes 6 files for the cluster, then those of its nodes. A rotation removes a
    # directory for each of three nodes; then all that was in them is made anew.
    for verb, was, numbers in (("start", "absent", (2, 5, 9)), ("rotate", "on", (1, 3, 4, 8))):
        for number in range(1, 15) if is_long else numbers:
            watched.have(was)
            if was == "on":
                watched.outdated = watched.leaves()
            ended = watched.call(verb, environment={DIES: str(number)})
            assert ended.code == SIGKILLED, ended.said
            watched.check(ended, next(thens))
            made += 1
    points(made)


@pytest.mark.fault("K08", "many rotations and starts at once")
def test_rotations_at_once_leave_every_node_with_what_is_kept_here(
    watched: CloudWatched, points: Points
) -> None:
    watched.have("on")
    watched.outdated = watched.leaves()
    words = [WORDS["rotate"], WORDS["start"]] * 4
    every = watched.home.crowd(*words, names=[watched.name] * len(words))
    for ended in every:
        check_told(ended, {0, LOCKED})
    watched.check(every[0], "start")
    points(len(every))


@pytest.mark.fault("K08", "SIGKILL to a rotation, then a suspend, then a start")
def test_nodes_that_slept_are_told_of_a_rotation_that_was_killed(watched: CloudWatched) -> None:
    watched.have("on")
    watched.outdated = watched.leaves()
    key = own_keys(watched, "rotate")[0]
    assert watched.call("rotate", at_any=[("before intent", key)], act="kill").code == SIGKILLED
    watched.call("suspend", codes={0})
    watched.call("start", codes={0})
    watched.settled("on")


@pytest.mark.fault("K08", "a rotation whose start is refused")
def test_without_an_administrator_a_kubeconfig_is_refused_and_the_start_is_named(
    watched: CloudWatched,
) -> None:
    watched.have("on")
    watched.outdated = watched.leaves()
    with other_file(watched, "cpu_cores: 1", "cpu_cores: 2"):
        refused = watched.call("rotate", codes={2})
        assert "is running, so its size cannot change" in refused.err
    ask = ("cloud", "kubeconfig", "--stdout")
    without = watched.home.call(*ask, name=watched.name)
    check_told(without, {3})
    assert "cloud start  # makes them anew" in without.err
    watched.check(refused, "start")
    check_told(watched.home.call(*ask, name=watched.name), {0})


@pytest.mark.fault("K08", "SIGKILL to a start that adds a worker, then a rotation without it")
def test_a_rotation_undoes_the_start_that_was_killed_before_it(watched: CloudWatched) -> None:
    watched.have("on")
    with other_file(watched, "count: 2", "count: 3"):
        ended = watched.call("start", at_any=[("after intent", "ready/sky")], act="kill")
    assert ended.code == SIGKILLED
    rotated = watched.call("rotate", codes={0})
    assert "undoing the start that was cut short" in rotated.err
    with watched.home.client() as client:
        assert "sky-worker-03" not in {one.name for one in client.list_domains()}
    watched.call("destroy", codes={0})
    watched.settled("absent")


@contextmanager
def other_file(watched: CloudWatched, text: str, instead: str) -> Iterator[None]:
    """The file of the cluster has this instead while the block runs."""
    file = watched.home.file(watched.name)
    kept = file.read_text()
    file.write_text(kept.replace(text, instead))
    yield
    file.write_text(kept)
