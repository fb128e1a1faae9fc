"""script/bench: its table and its picture, from figures that were made up for this."""

import json
from dataclasses import asdict
from xml.etree import ElementTree as ET

import pytest

from ai_how.clusters.stage_times import STAGES
from boot import parse_marks
from figures import Compared, PeerResult, Results, Run, Watched, render
from main import PICTURE, RESULTS, write_use
from plot import COLOURS, PEER, REST_AND_WAITING, WIDTH, read_bars, render_svg

COLD = {"controller": {"disk": 0.5, "agent": 9.5, "ready": 20.0}, "compute-01": {"agent": 8.0}}

# What a controller answered.
ANSWER = """\
now 1795784480.598323500 72.64
init 2.582024
UserspaceTimestampMonotonic=3564951
Id=qemu-guest-agent.service
ActiveEnterTimestampMonotonic=5641367

Id=munge.service
ActiveEnterTimestampMonotonic=11331140

Id=home.mount
ActiveEnterTimestampMonotonic=0
[   17.690994] controller slurmctld[168]: slurmctld: _job_complete: JobId=1 done
"""


@pytest.fixture
def results() -> Results:
    return Results(
        machine={"commit": "abc", "acceleration": "TCG"},
        runs={
            "hpc status": [Run(0.5, 0.4, 50.0)],
            "hpc start, cold": [Run(wall_s, 3.0, 70.0) for wall_s in (60.0, 40.0, 30.0)],
            "hpc start, cold, and ssh": [Run(44.0, 3.0, 70.0, ssh_s=31.25)],
        },
        stages_s={"cold": COLD},
        peers=[
            PeerResult("quick", "1.0", "up, 3 VMs", "TCG", ssh_s=100.0, command_s=2.0),
            PeerResult("a<b>&c", "2.0", "up, 3 VMs", "cannot be prepared: no such package"),
        ],
    )


def test_a_tool_that_did_not_run_is_listed_with_the_reason(results):
    (line,) = (line for line in render(results).splitlines() if line.startswith("a<b>&c"))
    assert line.split()[1:3] == ["2.0", "-"]
    assert line.endswith("up, 3 VMs; cannot be prepared: no such package")


def test_our_starts_stand_beside_the_others(results):
    table = render(results).partition("who ")[2].splitlines()
    assert [line.split()[0] for line in table[1:]] == ["ai-how", "quick", "a<b>&c"]
    assert table[1].split()[1:4] == ["abc", "31.2", "40.0"]


def test_the_same_work_by_hand_stands_beside_ours(results):
    results.use["16 MiB out"] = Compared([4.0, 2.0, 9.0], [1.0, 2.0, 3.0], [0.5, 7.25], 16, "MiB")
    results.use["a job"] = Compared([3.0], [2.0], [1.0])
    lines = render(results).partition("the same work")[2].splitlines()
    line, _, rates = lines[1].partition("  4.00 and ")
    assert line.split() == ["16", "MiB", "out", "3", "4.00", "2.00", "2.00", "7.2"]
    assert rates == "8.00 MiB/s"
    assert lines[2].split() == ["a", "job", "1", "3.00", "2.00", "1.50", "1.0"]


def test_figures_of_use_stand_among_those_of_another_run(results, tmp_path):
    file = tmp_path / "results.json"
    file.write_text(json.dumps({"runs": {"of": "others"}, "use": {"an old one": {}}}))
    results.use["a job"] = Compared([3.0], [2.0], [1.0])
    write_use(results, file)
    content = json.loads(file.read_text())
    assert content["runs"] == {"of": "others"}
    assert list(content["use"]) == ["a job"]


def test_a_bar_follows_the_last_node_and_comes_to_the_whole_command(results):
    results.stages_s["cold"] = {
        "controller": {"queue": 1.0, "agent": 20.0, "others": 7.0, "ready": 2.0},
        "compute-01": {"queue": 17.0, "agent": 11.0, "others": 0.0, "ready": 2.0},
    }
    ours = read_bars(asdict(results))[0]
    assert ours.parts == (
        *(("queue", 17.0), ("agent", 11.0), ("ready", 2.0)),
        ("the command itself", 10.0),
    )
    assert ours.total_s == 40.0


def test_figures_without_the_time_of_waiting_say_what_is_left_of_the_command(results):
    assert read_bars(asdict(results))[0].parts == (
        *(("disk", 0.5), ("agent", 9.5), ("ready", 20.0)),
        ("waiting for other nodes, and the command itself", 10.0),
    )


def test_the_picture_is_well_formed_and_has_every_tool(results):
    words = [text for text, _, _ in texts_of(render_svg(asdict(results)))]
    for wanted in ("1 + 2 nodes, cold", "40.0 s (ssh 31.2 s)", "quick", "100.0 s"):
        assert wanted in words
    assert words[words.index("a<b>&c") + 1] == "did not run here"


def test_every_stage_has_a_colour_and_no_two_in_a_picture_share_one():
    assert set(STAGES) <= COLOURS.keys()
    shown = [colour for name, colour in COLOURS.items() if name != REST_AND_WAITING]
    assert len({*shown, PEER}) == len(shown) + 1


@pytest.mark.parametrize("kind", ["cold", "warm, 1 + 250 nodes"])
def test_no_label_leaves_the_picture(results, kind):
    results.runs[f"hpc start, {kind}"] = [Run(600.0, 3.0, 70.0)]
    results.stages_s[kind] = {"controller": dict.fromkeys(STAGES, 50.0)}
    found = texts_of(render_svg(asdict(results)))
    assert len(found) > 20
    for text, begins, ends in found:
        assert begins >= 0, text
        assert ends <= WIDTH, text


def test_the_picture_in_the_repository_is_that_of_its_figures():
    assert PICTURE.read_text() == render_svg(json.loads(RESULTS.read_text()))


def texts_of(svg: str) -> list[tuple[str, float, float]]:
    """Each text, and from where to where it goes in a font of wide letters."""
    found = []
    for one in ET.fromstring(svg).iterfind(".//{*}text"):  # noqa: S314  it is ours
        text = "".join(one.itertext())
        wide = len(text) * (6.8 if one.get("class") == "small" else 7.8)
        share = {"end": 1.0, "middle": 0.5}.get(one.get("text-anchor"), 0.0)
        begins = float(one.get("x")) - wide * share
        found.append((text, begins, begins + wide))
    return found


def test_a_picture_of_other_tools_alone_can_be_drawn(results):
    content = {**asdict(results), "runs": {}, "stages_s": {}}
    assert [bar.name for bar in read_bars(content)] == ["quick", "a<b>&c"]
    assert ET.fromstring(render_svg(content)).tag.endswith("svg")  # noqa: S314  it is ours


def test_a_boot_is_read_from_what_its_node_says():
    marks = parse_marks(ANSWER)
    assert marks.pop("firmware") == pytest.approx(1795784407.958, abs=0.001)
    assert marks == {
        "kernel": 2.582024,
        "initrd": 3.564951,
        "agent": 5.641367,
        "munge": 11.33114,
        "job": 17.690994,
    }


def test_the_marks_of_a_boot_are_in_the_text(results):
    results.boot_s = {
        "controller": {"firmware": 0.71, "job": 18.44},
        "compute-01": {"firmware": 1.0},
    }
    lines = render(results).partition("cold boot")[2].splitlines()
    assert lines[0].split()[-2:] == ["firmware", "job"]
    assert lines[1].split() == ["controller", "0.7", "18.4"]
    assert lines[2].split() == ["compute-01", "1.0", "-"]


def test_what_the_monitoring_costs_has_a_line_for_each_size(results):
    results.watched["1 + 7"] = Watched(0.81, 48.25, 30.5, 2.0, 81.0, 84.5, 1.2)
    lines = render(results).splitlines()
    (line,) = (line for line in lines if line.startswith("1 + 7"))
    assert line.split()[3:] == ["0.81", "48.2", "30.5", "2.00", "81.0", "84.5", "1.2"]
