"""A pytest plugin: tests on a real SLURM cluster, by the fixtures `slurm_cluster` and `slurm_node`.

A session (of each worker of pytest-xdist) has one cluster, which is started for the first test that
asks for it and destroyed at the end. After each test jobs are cancelled, what it left at home is
removed, and drained nodes are resumed.
"""

import os
import shlex
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, ExitStack, suppress
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from ai_how.api.slurm_cluster import Cluster, Node

NODES = 2
_CLUSTER = "slurm_cluster"
_PLAN = pytest.StashKey[dict[str, int]]()
_STARTED = pytest.StashKey["Cluster"]()

# Nodes come back by `resume` only if they were drained or down; else scontrol complains.
_CLEAN = """\
scancel --user "$USER"
until [ -z "$(squeue --noheader --user "$USER")" ]; do sleep 0.5; done
cd && find . -mindepth 1 -maxdepth 1 ! -name .ssh {kept} -exec rm -rf {{}} +
for moment in 1 2 3 4 5 6 7 8; do
    left=$(sinfo --noheader --states completing,drain,down --format %n)
    [ -n "$left" ] && [ -n "$(sinfo --noheader --states completing --format %n)" ] || break
    sleep 0.5
done
echo $left
"""
# As root, through the guest agent, which takes longer than ssh: only where it is needed.
_RESUME = """\
for node in $(sinfo --noheader --Node --states drain,down --format %n | sort -u); do
    scontrol update nodename=$node state=resume
done
until [ -z "$(sinfo --noheader --states completing,drain,down --format %n)" ]; do sleep 0.5; done
"""
_EVIDENCE = "sinfo --Node --long; squeue --all; scontrol show jobs; journalctl -n 40 -u slurmctld"


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options of the plugin."""
    group = parser.getgroup("ai-how", "SLURM clusters of ai-how")
    group.addoption(
        "--slurm-required",
        action="store_true",
        help="fail, instead of skipping, where this host cannot have a cluster",
    )
    group.addoption("--slurm-file", metavar="FILE", help="a cluster file; its cluster is kept")
    group.addoption(
        "--slurm-memory", metavar="GIB", type=float, default=1.0, help="of each node; default: 1"
    )


def pytest_configure(config: pytest.Config) -> None:
    """The marker."""
    config.addinivalue_line(
        "markers",
        "slurm(nodes=2, gpus=0): the compute nodes, and the simulated GPUs of each, that a test "
        "needs; the cluster of the session has what the test that needs most does",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Add up what the tests need."""
    needs = {"nodes": NODES, "gpus": 0}
    for item in items:
        for mark in item.iter_markers("slurm"):
            for name, most in needs.items():
                needs[name] = max(most, mark.kwargs.get(name, 0))
    config.stash[_PLAN] = needs


@pytest.fixture(scope="session")
def slurm_session(request: pytest.FixtureRequest) -> Iterator["Cluster"]:
    """The cluster of the session, which tests get by `slurm_cluster`."""
    from ai_how.errors import AiHowError, HostError, ImageError  # noqa: PLC0415  slow to load

    config = request.config
    with ExitStack() as stack:
        try:
            started = stack.enter_context(_cluster(config))
        except (HostError, ImageError) as error:
            if config.getoption("--slurm-required"):
                raise
            pytest.skip(f"no SLURM cluster here: {error.brief}")
        except AiHowError as error:
            pytest.fail(str(error), pytrace=False)
        config.stash[_STARTED] = started
        yield started


@pytest.fixture
def slurm_cluster(slurm_session: "Cluster") -> Iterator["Cluster"]:
    """A cluster that is ready, without jobs: `ai_how.Cluster`."""
    kept = slurm_session.run("cd && ls -A", check=True).stdout.splitlines()
    yield slurm_session
    names = " ".join(f"! -name {shlex.quote(_pattern(name))}" for name in kept)
    if slurm_session.run(_CLEAN.format(kept=names), check=True, timeout=120).stdout.strip():
        slurm_session.nodes["controller"].exec(_RESUME, timeout=120)


@pytest.fixture
def slurm_node(slurm_cluster: "Cluster") -> "Node":
    """The first compute node of the cluster."""
    return next(one for name, one in slurm_cluster.nodes.items() if name != "controller")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Attach what SLURM says to the report of a test that failed."""
    report = yield
    if (
        report.when == "call"
        and report.failed
        and _CLUSTER in getattr(item, "fixturenames", ())
        and _STARTED in item.config.stash
    ):
        with suppress(Exception):  # a report is worth more than what is attached to it
            told = item.config.stash[_STARTED].nodes["controller"].exec(_EVIDENCE, timeout=60)
            report.sections.append(("SLURM", told.stdout))
    return report


def _cluster(config: pytest.Config) -> "AbstractContextManager[Cluster]":
    from ai_how.api.slurm_cluster import Cluster, cluster  # noqa: PLC0415

    if file := config.getoption("--slurm-file"):
        return Cluster.from_file(file)
    needs = config.stash[_PLAN]
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    nodes: dict[str, object] = {}
    if needs["gpus"]:
        nodes = {"gpu": {"simulated": {"type": "a100", "count": needs["gpus"]}}}
    return cluster(
        name=f"pytest-{os.getpid()}{worker and f'-{worker}'}",
        compute_nodes=needs["nodes"],
        memory_gb=config.getoption("--slurm-memory"),
        of_nodes=nodes,
    )


def _pattern(name: str) -> str:
    """A name that find(1) takes as it is."""
    return "".join(f"\\{one}" if one in "*?[]\\" else one for one in name)
