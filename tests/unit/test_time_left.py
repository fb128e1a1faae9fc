"""How long a start still takes, from the last one like it."""

import json
import math
import re
import stat
from collections.abc import Iterable, Iterator
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from plan_world import Put

from ai_how.clusters.past_starts import find_past_start, remember_start
from ai_how.plan.step import Plan
from ai_how.plan.time_left import TimeLeft

# When the steps of a cold start of 1 + 2 nodes were done.
PAST = (0.0, 0.2, 0.7, 0.7, 0.7, 1.2, 1.2, 1.8, 8.7, 9.2, 9.6, 11.2, 11.9, 13.0, 13.0, 21.5)
FRAME_S = 0.25


def shown(done_s: Iterable[float], past_s: tuple[float, ...] = PAST) -> Iterator[tuple[float, str]]:
    """What a terminal shows at each frame of a start whose steps are done at `done_s`."""
    now_s, left = 0.0, sorted(done_s)
    time_left = TimeLeft(past_s, len(left), now=lambda: now_s)
    while True:
        while left and left[0] <= now_s:
            left.pop(0)
            time_left.step_done()
        if not left:
            return
        yield now_s, time_left.describe() or ""
        now_s += FRAME_S


def seconds_of(text: str) -> float:
    number, unit = re.fullmatch(r"about (\d+) (s|min) left", text).groups()
    return int(number) * (60 if unit == "min" else 1)


def test_a_start_as_the_last_one_counts_down_and_is_right():
    for at_s, text in shown(PAST):
        assert abs(seconds_of(text) - (PAST[-1] - at_s)) <= 3.5


@pytest.mark.parametrize("pace", [0.5, 0.8, 1.25, 1.6])
def test_a_start_at_another_pace_is_told_better_and_better(pace):
    said = [
        (0 if text.startswith("takes longer") else seconds_of(text), PAST[-1] * pace - at_s)
        for at_s, text in shown(one * pace for one in PAST)
    ]
    wrong_s = [abs(told - true) for told, true in said]
    assert max(wrong_s[len(said) // 2 :]) <= 5
    assert wrong_s[-1] <= 3
    rises = [later for (before, _), (later, _) in pairwise(said) if later > before]
    assert len(rises) <= 1


def test_a_start_that_takes_much_longer_says_so_and_guesses_no_more():
    said = [text for _, text in shown(one * 6 for one in PAST)]
    assert said[-1] == "takes longer than the last time (22 s)"
    assert all(seconds_of(text) <= 60 for text in said if text != said[-1])


def test_a_last_step_that_goes_on_is_not_said_to_be_nearly_over():
    said = [text for _, text in shown([*PAST[:-1], 60.0])]
    assert "about 0 s left" not in said
    assert said[-1] == "takes longer than the last time (22 s)"


def test_a_long_start_is_told_in_minutes():
    said = [text for _, text in shown((one * 30 for one in PAST), tuple(p * 30 for p in PAST))]
    assert said[0] == "about 11 min left"
    assert said[-1] == "about 1 s left"


def test_a_short_start_needs_no_estimate():
    assert {text for _, text in shown(PAST, tuple(one / 10 for one in PAST))} == {""}


@given(
    st.lists(st.floats(0, 300), min_size=1, max_size=80),
    st.lists(st.floats(0, 300), min_size=1, max_size=64),
)
def test_whatever_happens_it_is_never_negative_and_never_jumps(done_s, past_s):
    """Between two frames, a quarter of a second apart, it changes by no more than by a third."""
    before = math.nan
    for _, text in shown(done_s, tuple(sorted(past_s))):
        if not text.startswith("about"):
            before = math.nan
            continue
        seconds = seconds_of(text)
        assert seconds >= 1
        if not math.isnan(before):
            assert abs(seconds - before) <= max(seconds, before) / 3 + 10
        before = seconds


def plan_of(*kinds: str) -> Plan:
    steps = []
    for number, kind in enumerate(kinds):
        step_type = type("Step", (Put,), {"kind": kind})
        steps.append(step_type(f"{kind}/{number}"))
    return Plan("start", tuple(steps))


COLD, WARM = plan_of("disk", "boot", "boot"), plan_of("disk", "restore", "restore")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "cache" / "starts.json"


def test_there_is_no_basis_before_the_first_start(path):
    assert find_past_start(path, "hpc", COLD) is None


def test_the_last_start_with_the_same_steps_is_the_basis(path):
    remember_start(path, "hpc", COLD, [1.0, 2.0, 30.0])
    remember_start(path, "hpc", WARM, [1.0, 2.0, 9.0])
    remember_start(path, "hpc", COLD, [1.0, 2.0, 20.0])
    assert find_past_start(path, "hpc", COLD) == (1.0, 2.0, 20.0)
    assert find_past_start(path, "hpc", WARM) == (1.0, 2.0, 9.0)
    assert find_past_start(path, "hpc", plan_of("disk", "boot")) is None


def test_the_clusters_own_start_counts_before_another_clusters(path):
    remember_start(path, "hpc", COLD, [1.0, 2.0, 20.0])
    remember_start(path, "other", COLD, [1.0, 2.0, 50.0])
    assert find_past_start(path, "hpc", COLD) == (1.0, 2.0, 20.0)
    assert find_past_start(path, "new", COLD) == (1.0, 2.0, 50.0)


def test_the_file_is_private_and_does_not_grow(path):
    many = plan_of(*["boot"] * 900)
    for number in range(40):
        remember_start(path, f"c{number}", many, [float(step) for step in range(900)])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.stat().st_size < 12_000
    assert find_past_start(path, "c39", many)[-1] == 899.0
    assert [one["cluster"] for one in json.loads(path.read_text())] == [
        f"c{number}" for number in range(20, 40)
    ]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"{",
        b"[" * 100_000,
        b"{}",
        b"[1]",
        b'[{"cluster": "hpc", "steps": {"disk": 1, "boot": 2}, "done_s": []}]',
        b'[{"cluster": "hpc", "steps": {"disk": 1, "boot": 2}, "done_s": [-1, 5]}]',
        b'[{"cluster": "hpc", "steps": {"disk": 1, "boot": 2}, "done_s": [5, 1]}]',
        b'[{"cluster": "hpc", "steps": {"disk": 1, "boot": 2}, "done_s": [5, Infinity]}]',
        b'[{"cluster": "hpc", "steps": {"disk": 1, "boot": 2}, "done_s": [NaN]}]',
    ],
)
def test_a_damaged_file_is_no_basis_and_is_replaced(path, content):
    path.parent.mkdir()
    path.write_bytes(content)
    assert find_past_start(path, "hpc", COLD) is None
    remember_start(path, "hpc", COLD, [1.0, 2.0, 3.0])
    assert find_past_start(path, "hpc", COLD) == (1.0, 2.0, 3.0)


def test_a_link_in_its_place_is_not_followed(path, tmp_path):
    other = tmp_path / "other"
    other.write_text("precious")
    path.parent.mkdir()
    path.symlink_to(other)
    assert find_past_start(path, "hpc", COLD) is None
    remember_start(path, "hpc", COLD, [1.0])
    assert other.read_text() == "precious"


def test_a_cache_that_cannot_be_written_stops_nothing(tmp_path):
    (tmp_path / "cache").write_text("a file")
    remember_start(tmp_path / "cache" / "starts.json", "hpc", COLD, [1.0])
    assert (tmp_path / "cache").read_text() == "a file"
