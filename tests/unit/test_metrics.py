import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text

from ai_how.dashboard.metrics import OPENMETRICS, TEXT, Seen, render_metrics, wants_openmetrics
from ai_how.dashboard.metrics_own import NodeStart
from ai_how.dashboard.metrics_page import LONGEST_LABEL, MOST_SERIES, Page, label_of
from ai_how.dashboard.metrics_slurm import MOST_USERS, count_tasks
from ai_how.dashboard.metrics_slurm_names import SCHEDULER
from ai_how.monitoring.model import (
    Finding,
    GpuCount,
    GpuSample,
    SlurmSample,
    SourceState,
    VmCounters,
)
from ai_how.process import run
from made_up_cluster import NOON, make_job, make_snapshot

NATIVE = Path(__file__).parents[1] / "data" / "slurm-26.05.5.prom"
PROMETHEUS_ASKS = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
FINDING = Finding(
    id="slurm.drained", severity="warning", subject="compute-01", text="drained", since=NOON - 60
)


def page_of(*snapshots, now=NOON, accept="", **more):
    return render_metrics([Seen(snapshot=one, **more) for one in snapshots], now=now, accept=accept)


def samples_of(*snapshots, **more):
    """Each sample by its name and its labels."""
    text = page_of(*snapshots, **more)[0].decode()
    found = {}
    for family in read_text(text):
        for one in family.samples:
            key = (one.name, frozenset(one.labels.items()))
            assert key not in found
            found[key] = one.value
    return found


def value_of(samples, name, **labels):
    """The only sample of that name with at least these labels."""
    values = [
        value
        for (own, pairs), value in samples.items()
        if own == name and labels.items() <= dict(pairs).items()
    ]
    assert len(values) == 1, (name, labels, values)
    return values[0]


def names_in(samples):
    return {name for name, _ in samples}


def full_snapshot():
    """With all that may be there."""
    seen = make_snapshot(nodes=3, jobs=24, findings=(FINDING,))
    node = seen.nodes[1]
    counters = VmCounters(
        **dict.fromkeys((one for one in VmCounters.__slots__), 5_000_000_000),
    )
    gpu = GpuSample(index=0, name="A100", busy_percent=50, memory_mib=100, memory_used_mib=10)
    whole = replace(
        node,
        vm=replace(node.vm, counters=counters),
        guest=replace(node.guest, gpus=(gpu,), pressure={"io": 1.0}, failed_units=("a.service",)),
    )
    slurm = replace(
        seen.slurm,
        nodes=tuple(
            replace(one, gpus=(GpuCount(type="a", count=2, allotted=1),))
            for one in seen.slurm.nodes
        ),
        scheduler={word: 1.0 for word, _ in SCHEDULER.values()},
    )
    return replace(seen, nodes=(seen.nodes[0], whole, *seen.nodes[2:]), slurm=slurm)


def everything(**more):
    starts = (NodeStart("compute-01", {"restore": 1.5, "agent": 2.0}),)
    heals, cost = {"compute-01": 2}, {"cpu_s": 1.5, "memory_bytes": 5e7, "database_bytes": 1e6}
    return {"starts": starts, "heals": heals, "own_cost": cost, **more}


@pytest.mark.parametrize(
    ("accept", "is_openmetrics"),
    [
        ("", False),
        ("*/*", False),
        ("text/plain", False),
        ("text/html,application/xhtml+xml,*/*;q=0.8", False),
        (PROMETHEUS_ASKS, True),
        ("application/openmetrics-text", True),
        ("application/openmetrics-text;q=0.2,text/plain;q=0.5", False),
        ("application/openmetrics-text;q=0", False),
        ("application/openmetrics-text;q=x", False),
        (";;,,;q=", False),
    ],
)
def test_the_form_is_the_one_that_is_asked_for(accept, is_openmetrics):
    assert wants_openmetrics(accept) is is_openmetrics
    page, kind = page_of(make_snapshot(), accept=accept)
    assert kind == (OPENMETRICS if is_openmetrics else TEXT)
    assert page.endswith(b"# EOF\n") is is_openmetrics


def test_openmetrics_is_strictly_valid_and_has_the_same_samples():
    seen = full_snapshot()
    page = page_of(seen, accept=PROMETHEUS_ASKS, **everything())[0].decode()
    strict = {
        (one.name, frozenset(one.labels.items())): one.value
        for family in read_openmetrics(page)
        for one in family.samples
    }
    assert strict == samples_of(seen, **everything())


def test_promtool_has_nothing_to_say(tmp_path):
    """But of SLURM's own names, which are not ours to choose."""
    page = page_of(full_snapshot(), **everything())[0].decode()
    done = run(["promtool", "check", "metrics"], stdin=page, check=False)
    complaints = [
        line
        for line in (done.stdout + done.stderr).splitlines()
        if line and not line.startswith(("slurm_", "libvirt_"))
    ]
    assert complaints == []
    assert done.returncode in {0, 3}  # 3: only style


def native_families():
    families, samples = {}, {}
    for family in read_text(NATIVE.read_text()):
        families[family.name] = family
        samples[family.name] = {frozenset(one.labels) for one in family.samples}
    return families, samples


def test_names_types_helps_and_labels_are_those_of_slurm():
    """As slurmctld 26.05.5 served them; an account without a name has no label there."""
    families, labels = native_families()
    page = page_of(with_accounts(full_snapshot()))[0].decode()
    ours = {one.name: one for one in read_text(page) if one.name.startswith("slurm_")}
    assert len(ours) > 150
    for name, family in ours.items():
        assert name in families
        assert (family.type, family.documentation) == (
            families[name].type,
            families[name].documentation,
        )
        own = {frozenset(set(one.labels) - {"cluster"}) for one in family.samples}
        assert own <= labels[name] | {frozenset({"account"})}


def with_accounts(seen):
    jobs = tuple(replace(one, account="lab") for one in seen.slurm.jobs)
    return replace(seen, slurm=replace(seen.slurm, jobs=jobs))


def test_only_what_is_not_known_here_is_missing_of_slurms_metrics():
    families, _ = native_families()
    page = page_of(with_accounts(full_snapshot()))[0].decode()
    missing = set(families) - {one.name for one in read_text(page)}
    known = re.compile(
        r"slurm_((user|account|partition)_)?(jobs_(expediting|powerup_node)"
        r"|jobs_max_job_nodes|jobs_max_job_nodes_nohold|jobs_wait_part_node_limit"
        r"|nodes_cpus_efctv|nodes_mem_avail|nodes_powering_down"
        r"|node_cpus_effective|node_memory_effective_bytes)"
    )
    assert [one for one in missing if not known.fullmatch(one)] == []


def test_slurm_is_counted_as_slurmctld_counts():
    seen = make_snapshot(nodes=2, jobs=8)
    held = replace(
        make_job(1, ["compute-01"], NOON),
        id="90",
        shown_id="90_[1-5%2]",
        state="pending",
        reason="JobHeldUser",
        node_count=2,
    )
    nodes = (
        replace(seen.slurm.nodes[0], states=("idle", "drain"), cpus_allotted=0),
        replace(seen.slurm.nodes[1], states=("mixed", "drain", "planned"), cpus_allotted=2),
    )
    slurm = replace(seen.slurm, jobs=(*seen.slurm.jobs, held), nodes=nodes)
    found = samples_of(replace(seen, slurm=slurm))
    # Four kinds by turns, two of each, and the array.
    assert value_of(found, "slurm_jobs") == 13
    assert value_of(found, "slurm_jobs_pending") == 7
    assert value_of(found, "slurm_jobs_hold") == 5
    assert value_of(found, "slurm_jobs_running") == 2
    assert value_of(found, "slurm_jobs_finished") == 4
    assert value_of(found, "slurm_jobs_started") == 6
    assert value_of(found, "slurm_jobs_memory_alloc") == 2 * 500 * 2**20
    assert value_of(found, "slurm_partition_jobs", partition="compute") == 5
    assert value_of(found, "slurm_partition_jobs", partition="debug") == 0
    assert value_of(found, "slurm_partition_jobs_min_job_nodes", partition="compute") == 2
    assert value_of(found, "slurm_partition_jobs_min_job_nodes_nohold", partition="compute") == 1
    assert value_of(found, "slurm_user_jobs_pending", username=held.user) >= 5
    assert value_of(found, "slurm_nodes_idle") == 1
    assert value_of(found, "slurm_nodes_mixed") == 1
    assert value_of(found, "slurm_nodes_alloc") == 0
    assert value_of(found, "slurm_nodes_drain") == 1
    assert value_of(found, "slurm_nodes_drained") == 1
    assert value_of(found, "slurm_nodes_draining") == 1
    assert value_of(found, "slurm_nodes_planned") == 1
    assert value_of(found, "slurm_node_memory_bytes", node="compute-01") == 3800 * 2**20
    assert value_of(found, "slurm_server_thread_cnt") == 3


@pytest.mark.parametrize(
    ("shown_id", "count"),
    [
        ("12", 1),
        ("12_3", 1),
        ("12_[1-5]", 5),
        ("12_[1-5,9,11-12%3]", 8),
        ("12_[0-10:5]", 3),
        ("12_[5-1]", 1),
        ("12_[1-99999999999]", 4_000_001),
        ("12_[1-5...]", 1),
    ],
)
def test_an_array_that_waits_is_its_tasks(shown_id, count):
    assert count_tasks(shown_id) == count


def test_libvirts_figures_have_its_units():
    found = samples_of(full_snapshot())
    node = {"node": "compute-01", "domain": "made-up-compute-01", "cluster": "made-up"}
    assert value_of(found, "libvirt_domain_info_cpu_time_seconds_total", **node) == 5
    assert value_of(found, "libvirt_domain_vcpu_delay_seconds_total", **node) == 5
    assert value_of(found, "libvirt_domain_block_stats_read_bytes_total", **node) == 5e9
    assert value_of(found, "libvirt_domain_info_maximum_memory_bytes", **node) == 4 * 2**30
    assert value_of(found, "libvirt_domain_state_code", **node) == 1
    usable = value_of(found, "libvirt_domain_memory_stats_usable_bytes", **node)
    used = value_of(found, "ai_how_node_memory_used_bytes", node="compute-01")
    assert usable + used == 3900 * 2**20
    assert "libvirt_domain_info_memory_usage_bytes" not in names_in(found)


def test_what_is_not_known_is_absent_and_not_0():
    seen = make_snapshot(nodes=1)
    node = seen.nodes[1]
    bare = replace(
        node,
        guest=None,
        vm=replace(
            node.vm,
            counters=VmCounters(),
            cpus_busy=None,
            guest_memory_mib=None,
            guest_memory_used_mib=None,
            disk_used_bytes=None,
        ),
    )
    found = samples_of(replace(seen, nodes=(bare,), host=None, slurm=None))
    names = names_in(found)
    assert "ai_how_node_running" in names
    assert not {one for one in names if one.startswith(("slurm_", "ai_how_host_c", "ai_how_job"))}
    assert not {one for one in names if "memory_used" in one or "memory_stats_usable" in one}
    assert "libvirt_domain_info_cpu_time_seconds_total" not in names
    assert "libvirt_domain_block_stats_physicalsize_bytes" not in names
    assert "ai_how_heals_total" not in names


@pytest.mark.parametrize(
    ("source", "prefixes"),
    [
        ("host", ("ai_how_host_cpus", "ai_how_storage")),
        ("libvirt", ("libvirt_domain", "ai_how_node_cpus", "ai_how_node_running")),
        ("slurm", ("slurm_", "ai_how_job")),
        ("guest/compute-01", ("ai_how_node_service", "ai_how_node_clock")),
        ("disks", ("libvirt_domain_block_stats_capacity", "ai_how_node_disk")),
    ],
)
def test_what_a_silent_source_said_disappears(source, prefixes):
    seen = make_snapshot(nodes=1, jobs=8)
    states = {one.name: one for one in seen.sources}
    last = SourceState(name=source, every_s=5, at=NOON, took_s=0.1)
    fresh = replace(seen, sources=tuple((states | {source: last}).values()))
    dead = replace(last, at=NOON - 31, trouble="no answer within 5 s")
    silent = replace(seen, sources=tuple((states | {source: dead}).values()))
    before, after = samples_of(fresh), samples_of(silent)
    assert value_of(before, "ai_how_source_up", source=source) == 1
    assert value_of(after, "ai_how_source_up", source=source) == 0
    asked = value_of(after, "ai_how_source_last_answer_timestamp_seconds", source=source)
    assert asked == NOON - 31
    for prefix in prefixes:
        assert any(one.startswith(prefix) for one in names_in(before))
        left = [dict(labels).get("node") for name, labels in after if name.startswith(prefix)]
        # The other guests still answer.
        assert set(left) <= ({"controller"} if source.startswith("guest/") else set())


def test_a_source_that_never_answered_is_down_and_has_no_time():
    seen = make_snapshot()
    never = SourceState(name="slurm", every_s=15, trouble="slurmctld does not answer")
    found = samples_of(replace(seen, slurm=None, sources=(never,)))
    assert value_of(found, "ai_how_source_up", source="slurm") == 0
    assert "ai_how_source_last_answer_timestamp_seconds" not in names_in(found)


def test_a_page_that_nobody_renews_says_nothing_but_that():
    """The collector is gone: all sources are silent."""
    found = samples_of(make_snapshot(jobs=4), now=NOON + 3600)
    assert value_of(found, "libvirt_up") == 0
    assert "ai_how_findings" not in names_in(found)
    assert not {one for one in names_in(found) if one.startswith(("slurm_", "libvirt_domain"))}


def test_findings_starts_heals_and_the_cost():
    found = samples_of(full_snapshot(), **everything())
    own = {"id": "slurm.drained", "severity": "warning", "subject": "compute-01"}
    assert value_of(found, "ai_how_finding", **own) == 1
    assert value_of(found, "ai_how_finding_since_timestamp_seconds", **own) == NOON - 60
    assert value_of(found, "ai_how_findings", severity="warning") == 1
    assert value_of(found, "ai_how_findings", severity="critical") == 0
    assert value_of(found, "ai_how_start_stage_seconds", node="compute-01", stage="agent") == 2
    assert value_of(found, "ai_how_start_restored", node="compute-01") == 1
    assert value_of(found, "ai_how_heals_total", subject="compute-01") == 2
    assert value_of(found, "ai_how_collector_cpu_seconds_total") == 1.5


def test_a_resumed_node_was_not_restored():
    found = samples_of(make_snapshot(), starts=(NodeStart("controller", {"resume": 1.0}),))
    assert value_of(found, "ai_how_start_restored", node="controller") == 0
    assert value_of(found, "ai_how_start_info", node="controller", way="resume") == 1


def test_several_clusters_are_on_one_page():
    one, other = make_snapshot(), replace(make_snapshot(), cluster="other")
    found = samples_of(one, other)
    assert value_of(found, "slurm_nodes", cluster="made-up") == 2
    assert value_of(found, "slurm_nodes", cluster="other") == 2


HOSTILE = st.text(st.characters(exclude_categories=()), max_size=400)


@given(text=HOSTILE)
def test_a_hostile_name_stays_one_label(text):
    """Line ends, quotes, backslashes, lone surrogates, of any length: what guests may write."""
    seen = make_snapshot(nodes=1)
    job = replace(make_job(4, ["compute-01"], NOON), user=text, name=text, partition=text)
    slurm = SlurmSample(version=text, nodes=seen.slurm.nodes, jobs=(job,), scheduler={text: 1.0})
    page, _ = page_of(replace(seen, slurm=slurm), accept=PROMETHEUS_ASKS)
    infos = [
        one
        for family in read_openmetrics(page.decode("utf-8"))
        for one in family.samples
        if one.name == "ai_how_job_info"
    ]
    assert [one.labels["name"] for one in infos] == [label_of(text)]
    assert len(label_of(text)) <= LONGEST_LABEL
    assert label_of(text) == "" or label_of(text).isprintable()


def test_names_that_are_cut_to_the_same_are_one_series():
    seen = make_snapshot(nodes=1)
    jobs = tuple(
        replace(make_job(4, ["compute-01"], NOON), id=str(one), shown_id=str(one), user=name)
        for one, name in enumerate(("u" * 500 + "1", "u" * 500 + "2"))
    )
    found = samples_of(replace(seen, slurm=replace(seen.slurm, jobs=jobs)))
    assert value_of(found, "slurm_user_jobs_running") == 2


def test_many_users_and_jobs_stay_bounded_and_are_counted():
    seen = make_snapshot(nodes=1)
    jobs = tuple(
        replace(make_job(4, ["compute-01"], NOON), id=str(one), shown_id=str(one), user=f"u{one}")
        for one in range(3000)
    )
    found = samples_of(replace(seen, slurm=replace(seen.slurm, jobs=jobs)))
    users = [labels for name, labels in found if name == "slurm_user_jobs"]
    assert len(users) == MOST_USERS
    assert value_of(found, "slurm_jobs_running") == 3000
    assert len([1 for name, _ in found if name == "ai_how_job_info"]) == 500
    left = value_of(found, "ai_how_metrics_series_left_out")
    assert left == (3000 - MOST_USERS) + (3000 - 500)


def test_a_family_has_a_last_series():
    page = Page()
    for one in range(MOST_SERIES + 3):
        page.add("gauge", "x", "X.", 1.0, {"a": str(one)})
    assert len(page.families["x"].samples) == MOST_SERIES
    assert page.left_out == 3


@pytest.mark.parametrize("value", [None, float("nan"), float("inf")])
def test_what_is_no_number_is_no_sample(value):
    page = Page()
    page.add("gauge", "x", "X.", value, {})
    assert page.collect() == []


def test_a_job_that_ends_is_counted_by_its_state_and_by_its_flag():
    seen = make_snapshot(nodes=1)
    job = make_job(4, ["compute-01"], NOON)
    jobs = (
        replace(job, id="1", shown_id="1", state="completing", flags=("completed",)),
        replace(job, id="2", shown_id="2", state="configuring", flags=("running",)),
        replace(job, id="3", shown_id="3", state="pending", flags=("requeued",)),
    )
    found = samples_of(replace(seen, slurm=replace(seen.slurm, jobs=jobs)))
    for name, count in (
        ("completing", 1),
        ("completed", 1),
        ("finished", 1),
        ("configuring", 1),
        ("running", 1),
        ("started", 2),
        ("requeued", 1),
        ("pending", 1),
        ("cpus_alloc", 1),
    ):
        assert value_of(found, f"slurm_jobs_{name}") == count, name
    assert value_of(found, "slurm_partition_jobs", partition="compute") == 3
