"""Alert rules and dashboards, by promtool and without a cluster; `test_prometheus.py` has one."""

import re
from itertools import combinations

import pytest
from ruamel.yaml import YAML
from test_metrics import everything, full_snapshot

from ai_how.clusters.diagnosis.catalogue import Severity
from ai_how.dashboard.metrics import Seen, make_page
from ai_how.dashboard.metrics_files import DASHBOARDS, RULES, copy_files
from ai_how.errors import HostError
from ai_how.process import run
from made_up_cluster import NOON
from shipped_expressions import (
    of_dashboards,
    of_rules,
    read_dashboards,
    read_rules,
    variables,
    without_conditions,
)

NAME = re.compile(r"\b(?:ai_how|slurm|libvirt)_\w+")
C, N = 'cluster="a"', 'cluster="a",node="n"'
FIRES = {
    "AiHowCritical": {f'ai_how_finding{{{C},severity="critical",id="i",subject="s"}}': 1},
    "AiHowWarning": {f'ai_how_finding{{{C},severity="warning",id="i",subject="s"}}': 1},
    "AiHowNotice": {f'ai_how_finding{{{C},severity="notice",id="i",subject="s"}}': 1},
    "AiHowMetricsAbsent": {"other": 1},
    "AiHowSourceSilent": {f'ai_how_source_up{{{C},source="slurm"}}': 0},
    "AiHowSeriesLeftOut": {"ai_how_metrics_series_left_out": 3},
    "HostStorageShort": {
        f"ai_how_storage_free_bytes{{{C}}}": 5,
        f"ai_how_storage_size_bytes{{{C}}}": 100,
    },
    "HostStorageFullWithinADay": {
        f"ai_how_storage_free_bytes{{{C}}}": "1000-1x200",
        f"ai_how_storage_size_bytes{{{C}}}": 2100,
    },
    "HostMemoryShort": {
        f"ai_how_host_memory_available_bytes{{{C}}}": 1,
        f"ai_how_host_memory_bytes{{{C}}}": 100,
    },
    "HostMemoryPressure": {f'ai_how_host_pressure_percent{{{C},resource="memory"}}': 30},
    "NodeOff": {
        f"ai_how_node_running{{{N}}}": 0,
        f'ai_how_node_running{{{C},node="other"}}': 1,
    },
    "NodeAgentSilent": {
        f"ai_how_node_running{{{N}}}": 1,
        f"ai_how_node_agent_connected{{{N}}}": 0,
    },
    "NodeSteal": {f"ai_how_node_cpus_waiting{{{N}}}": 1.5, f"ai_how_node_cpus{{{N}}}": 2},
    "NodeMemoryShort": {
        f"ai_how_node_memory_used_bytes{{{N}}}": 97,
        f"ai_how_node_memory_bytes{{{N}}}": 100,
    },
    "NodeOutOfMemory": {f"ai_how_node_oom_kills_total{{{N}}}": "0+1x200"},
    "NodeFileSystemShort": {
        f'ai_how_node_filesystem_free_bytes{{{N},mountpoint="/"}}': 1,
        f'ai_how_node_filesystem_size_bytes{{{N},mountpoint="/"}}': 100,
    },
    "NodeClockOff": {f"ai_how_node_clock_skew_seconds{{{N}}}": -3},
    "NodeServiceDown": {f'ai_how_node_service_active{{{N},service="munge"}}': 0},
    "NodeHomeGone": {f"ai_how_node_home_up{{{N}}}": 0},
    "SlurmNodesDown": {f"slurm_nodes_down{{{C}}}": 0, f"slurm_nodes_fail{{{C}}}": 1},
    "SlurmNodesDrained": {f"slurm_nodes_drain{{{C}}}": 1, f"slurm_nodes_draining{{{C}}}": 0},
    "SlurmNodesNotResponding": {f"slurm_nodes_noresp{{{C}}}": 1},
    "SlurmJobsCompletingForLong": {f"slurm_jobs_completing{{{C}}}": 1},
    "SlurmJobsNeverStart": {f'ai_how_jobs_waiting{{{C},reason="DependencyNeverSatisfied"}}': 1},
    "SlurmJobsWaitWhileNodesAreIdle": {
        f"ai_how_jobs_longest_wait_seconds{{{C}}}": 4000,
        f"slurm_nodes_idle{{{C}}}": 1,
    },
    "SlurmSchedulerSlow": {f"slurm_schedule_cycle_last{{{C}}}": 6e6},
}
# With it nothing is absent.
THERE = {'ai_how_build_info{version="1"}': 1}


@pytest.fixture(scope="module")
def known():
    """The names of all samples that are ever served."""
    page = make_page([Seen(snapshot=full_snapshot(), **everything())], now=NOON)
    return {one.name for family in page.collect() for one in family.samples}


def check(tmp_path, *, groups, verb=("check", "rules")):
    path = tmp_path / "made.yml"
    with path.open("w") as opened:
        YAML(typ="safe").dump(groups, opened)
    return run(["promtool", *verb, path], check=False)


def test_promtool_takes_the_rules():
    done = run(["promtool", "check", "rules", RULES], check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"SUCCESS: {len(read_rules())} rules found" in done.stdout


def test_every_alert_fires_when_it_should_and_no_other_one_does(tmp_path):
    """`promtool test rules`: after three hours of a fault, and without any fault."""
    tests = [
        {
            "interval": "1m",
            "input_series": [
                {"series": series, "values": value if isinstance(value, str) else f"{value}x200"}
                for series, value in (faults if "other" in faults else THERE | faults).items()
            ],
            "promql_expr_test": [
                {
                    "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
                    "eval_time": "3h",
                    "exp_samples": [
                        {"labels": f'{{alertname="{one}"}}', "value": 1} for one in alerts
                    ],
                }
            ],
        }
        for alerts, faults in [([name], faults) for name, faults in FIRES.items()] + [([], {})]
    ]
    made = {"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": tests}
    done = check(tmp_path, groups=made, verb=("test", "rules"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert FIRES.keys() == of_rules().keys()


def test_findings_of_every_severity_alert():
    text = " ".join(of_rules().values())
    assert all(f'ai_how_finding{{severity="{one}"}}' in text for one in Severity)


def test_every_name_in_an_expression_is_served(known):
    named = of_rules() | of_dashboards(cluster="a") | dict(variables())
    assert len(named) > 90
    for where, expression in named.items():
        names = set(NAME.findall(f"{where} {expression}"))
        assert names <= known, where
        assert names, where


def test_promtool_takes_every_expression_also_without_its_condition(tmp_path):
    """As recording rules, since promtool has no other check of an expression."""
    bare = {name: without_conditions(one) for name, one in of_rules().items()}
    assert not [one for one in bare.values() if re.search(r"[<>]|==|absent", one)]
    every = [*bare.values(), *of_dashboards(cluster="a").values()]
    rules = [{"record": f"r{number}", "expr": one} for number, one in enumerate(every)]
    done = check(tmp_path, groups={"groups": [{"name": "made", "rules": rules}]})
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("board", read_dashboards(), ids=lambda one: one["uid"])
def test_a_dashboard_is_whole(board):
    """Grafana is in no suite of Debian: nothing more than this was tried of it."""
    panels = board["panels"]
    assert len({one["id"] for one in panels}) == len(panels)
    assert board["schemaVersion"] == 39
    source = {"type": "prometheus", "uid": "${datasource}"}
    names = {one["name"] for one in board["templating"]["list"]}
    for one in panels:
        place = one["gridPos"]
        assert place["x"] + place["w"] <= 24
        if one["type"] == "row":
            continue
        assert one["title"]
        assert one["datasource"] == source
        assert [target["datasource"] for target in one["targets"]] == [source] * len(one["targets"])
        used = set(re.findall(r"\$(\w+)", " ".join(target["expr"] for target in one["targets"])))
        assert used <= names | {"__rate_interval"}
    for one, other in combinations([one["gridPos"] for one in panels], 2):
        is_beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        assert is_beside or one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]


def test_files_are_copied_and_replace_ours_only(tmp_path):
    (tmp_path / "site.yml").write_text("mine")
    written = copy_files((RULES, *DASHBOARDS), tmp_path)
    assert [one.name for one in written] == [
        "ai-how-rules.yml",
        "ai-how-cluster.json",
        "ai-how-jobs.json",
    ]
    assert (tmp_path / "ai-how-rules.yml").read_bytes() == RULES.read_bytes()
    assert copy_files((RULES,), tmp_path / "new" / "one")[0].is_file()
    with pytest.raises(HostError, match="cannot be written"):
        copy_files((RULES,), tmp_path / "site.yml")
