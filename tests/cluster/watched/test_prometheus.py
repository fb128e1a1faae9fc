"""A real Prometheus scrapes a real cluster: every expression that we ship has data there."""

import re
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from ai_how.process import run
from ai_how.waiting import Deadline, wait_until
from real_cluster import Cluster
from real_prometheus import Prometheus, prometheus, served
from shipped_expressions import of_dashboards, of_rules, variables, without_conditions

pytestmark = pytest.mark.slurm

DOCS = Path(__file__).parents[3] / "docs" / "monitoring.md"
TOKEN = "0123456789abcdef0123456789abcdef"  # noqa: S105
DRAINED = "compute-02"
DATA_S = 300.0
COUNT = re.compile(r"^(\d+)$", re.M)


@contextmanager
def busy(cluster: Cluster) -> Iterator[None]:
    """One job runs, one is held, one waits for what cannot come, and a node is drained."""
    cluster.execute("controller", f"scontrol update nodename={DRAINED} state=drain reason=a-test")
    try:
        submit = (
            'cd /tmp && j() { sbatch --parsable -o /dev/null "$@"; }; '
            "j -n1 --mem=50 --wrap 'sleep 3600'; j -n1 --hold --wrap true; "
            "bad=$(j -n1 --wrap false) && j -n1 --dependency=afterok:$bad --wrap true"
        )
        cluster.ssh("controller", submit)
        yield
    finally:
        cluster.execute(
            "controller",
            f"squeue -h -o %A | xargs -r scancel; scontrol update nodename={DRAINED} state=resume",
        )
        wait_until(
            lambda: not cluster.execute("controller", "squeue -h").strip(),
            Deadline.after(120),
            "the end of all jobs",
            interval_s=2,
        )


def config_of_the_docs(targets: Path, token: Path) -> str:
    """The configuration in docs/monitoring.md, with other places and a shorter interval."""
    text = DOCS.read_text().partition("\n    scrape_configs:\n")[2].partition("\n\n")[0]
    config = "\n".join(line[4:] for line in ["    scrape_configs:", *text.splitlines()])
    replaced = (
        config.replace("/etc/prometheus/ai-how.token", str(token))
        .replace("/etc/prometheus/ai-how/", f"{targets}/")
        .replace("15s", "3s")
    )
    assert str(token) in replaced
    assert replaced.count(f"{targets}/ai-how-") == 2
    return replaced


@pytest.fixture(scope="module")
def scraped(
    watched: Cluster, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Prometheus, str]]:
    """A Prometheus that scrapes the busy cluster, and the URL that it scrapes."""
    directory = tmp_path_factory.mktemp("prometheus")
    token = directory / "token"
    token.touch(mode=0o600)
    token.write_text(TOKEN + "\n")
    watched.call("hpc", "metrics", "--rules", str(directory))
    words = ("--targets", str(directory), "--token-file", str(token))
    with busy(watched), served(watched, directory, *words) as url:
        config = "global: {evaluation_interval: 3s}\n" + config_of_the_docs(directory, token)
        with prometheus(directory, config) as made:
            yield made, url


def test_every_expression_has_data(scraped: tuple[Prometheus, str]) -> None:
    """Alerts without what they compare with, since most of that is not so; panels as they are."""
    made, _ = scraped
    asked = {name: without_conditions(one) for name, one in of_rules().items()}
    asked |= of_dashboards(cluster="hpc", interval="30s")
    asked |= {selector: selector.replace("$cluster", "hpc") for selector, _ in variables()}
    missing = dict(asked)

    def has_all() -> bool:
        for name in [name for name, one in missing.items() if made.query(one)]:
            del missing[name]
        return not missing

    deadline = time.monotonic() + DATA_S
    while not has_all() and time.monotonic() < deadline:
        time.sleep(2)
    assert missing == {}
    assert len(asked) > 90


def test_prometheus_takes_the_page_and_the_rules(scraped: tuple[Prometheus, str]) -> None:
    made, _ = scraped
    (target,) = made.ask("targets")["activeTargets"]
    assert (target["health"], target["lastError"]) == ("up", "")
    assert target["labels"]["job"] == "ai-how"
    made.wait_for(
        "the rules",
        lambda: {one["health"] for one in rules_of(made)} == {"ok"},
        within_s=60,
    )
    assert {one["name"] for one in rules_of(made)} == set(of_rules())
    assert [one["lastError"] for one in rules_of(made) if one.get("lastError")] == []


def rules_of(made: Prometheus) -> list[dict]:
    return [rule for group in made.ask("rules")["groups"] for rule in group["rules"]]


def test_what_is_wrong_alerts(scraped: tuple[Prometheus, str]) -> None:
    made, _ = scraped

    def alerts() -> set[tuple[str, str | None]]:
        return {
            (one["labels"]["alertname"], one["labels"].get("subject"))
            for one in made.ask("alerts")["alerts"]
        }

    made.wait_for(
        "the alerts of a drained node and of a job that never starts",
        lambda: (
            any(subject == DRAINED for _, subject in alerts())
            and {("SlurmNodesDrained", None), ("SlurmJobsNeverStart", None)} <= alerts()
        ),
        within_s=DATA_S,
    )


def test_figures_are_those_of_slurm_and_libvirt(
    scraped: tuple[Prometheus, str], watched: Cluster
) -> None:
    made, _ = scraped
    told = watched.execute("controller", "squeue -h -t R | wc -l; squeue -h -t PD | wc -l; nproc")
    running, waiting, _ = (int(one) for one in COUNT.findall(told))
    made.wait_for(
        "SLURM's counts",
        lambda: (
            (made.value("slurm_jobs_running"), made.value("slurm_jobs_pending"))
            == (running, waiting)
        ),
        within_s=120,
    )
    assert (running, waiting) == (1, 2)
    assert made.value("slurm_nodes_drain + slurm_nodes_draining") == 1
    assert made.value("slurm_jobs_memory_alloc") == 50 * 2**20
    for node, seen in watched.nodes().items():
        own = f'{{node="{node}"}}'
        vcpus = made.value(f"libvirt_domain_info_virtual_cpus{own}")
        assert vcpus == seen["vcpus"]
        assert made.value(f"libvirt_domain_info_maximum_memory_bytes{own}") == (
            seen["memory_mib"] * 2**20
        )


def test_the_page_is_strictly_valid(scraped: tuple[Prometheus, str]) -> None:
    _, url = scraped
    told = {"Authorization": f"Bearer {TOKEN}", "Accept": "application/openmetrics-text"}
    asked = urllib.request.Request(url, headers=told)  # noqa: S310
    with urllib.request.urlopen(asked, timeout=60) as answer:  # noqa: S310
        page = answer.read().decode()
    assert len(list(text_string_to_metric_families(page))) > 250
    del told["Accept"]
    asked = urllib.request.Request(url, headers=told)  # noqa: S310
    with urllib.request.urlopen(asked, timeout=60) as answer:  # noqa: S310
        text = answer.read().decode()
    done = run(["promtool", "check", "metrics"], stdin=text, check=False)
    said = (done.stdout + done.stderr).splitlines()
    assert [one for one in said if one and not one.startswith(("slurm_", "libvirt_"))] == []


def test_one_look_without_a_server_is_the_same(watched: Cluster) -> None:
    page = watched.call("hpc", "metrics", "--openmetrics", timeout_s=180)
    names = {one.name for one in text_string_to_metric_families(page)}
    assert {"slurm_nodes", "ai_how_findings", "libvirt_domain_info_cpu_time_seconds"} <= names
