"""Every id of a cause or a finding: docs/troubleshooting.md tells what the catalogue has."""

import re
from pathlib import Path

import pytest

from ai_how.cloud import catalogue as cloud
from ai_how.clusters.diagnosis.catalogue import (
    HOST,
    MACHINE,
    NETWORK,
    Entry,
    HostCause,
    MachineCause,
    NetworkCause,
    fill,
)
from ai_how.hpc.catalogue import CATALOGUE, JOBS, SLURM, JobCause, SlurmCause

PAGE = Path(__file__).resolve().parents[2] / "docs/troubleshooting.md"
# What the line says stands beside the severity, where it is always the same.
ENTRY = re.compile(
    r"^- `(?P<id>[a-z-]+)` \((?P<severity>[a-z]+)(?:, .*?)?\): (?P<meaning>.*)\."
    r" \*\*Remedy:\*\* (?P<remedy>.*)$"
)
PARTS = (
    ("The host, the cluster", HOST, HostCause),
    ("A node as a machine", MACHINE, MachineCause),
    ("The network", NETWORK, NetworkCause),
    ("SLURM", SLURM, SlurmCause),
    ("A job", JOBS, JobCause),
)
KUBERNETES = ("Kubernetes", cloud.KUBERNETES, cloud.KubernetesCause)


def documented(title: str) -> dict[str, tuple[str, str, str]]:
    """Severity, meaning and remedy of each id in a part of the page."""
    section = PAGE.read_text().partition("\n## Causes\n")[2].partition("\n## ")[0]
    part = section.partition(f"\n### {title}\n")[2].partition("\n### ")[0]
    lines = [" ".join(one.split()) for one in re.split(r"\n(?=- )", part.strip())]
    found = [ENTRY.match(line) for line in lines]
    assert all(found), [line for line, seen in zip(lines, found, strict=True) if not seen]
    entries = {seen["id"]: (seen["severity"], seen["meaning"], seen["remedy"]) for seen in found}
    assert len(entries) == len(found), "an id is told twice"
    return entries


def as_told(entry: Entry, kind: str = "hpc") -> tuple[str, str, str]:
    remedy = fill(entry.remedy, kind=kind)
    is_command = re.match(r"(ai-how|[a-z]+ -|sudo|sbatch) ?", remedy)
    told = f"`{remedy}`" if is_command else remedy
    return str(entry.severity), entry.meaning, " ".join(told.split())


ALL_PARTS = (*PARTS, KUBERNETES)


@pytest.mark.parametrize(("title", "entries", "ids"), ALL_PARTS, ids=[one[0] for one in ALL_PARTS])
def test_the_page_tells_of_every_id_what_the_catalogue_has(title, entries, ids):
    assert list(entries) == list(ids)
    kind = "cloud" if title == "Kubernetes" else "hpc"
    assert documented(title) == {str(one): as_told(entry, kind) for one, entry in entries.items()}


def test_an_id_belongs_to_one_cause():
    count = sum(len(entries) for _, entries, _ in PARTS)
    assert len(CATALOGUE) == count
    assert len(cloud.CATALOGUE) == count - len(SLURM) - len(JOBS) + len(cloud.KUBERNETES)
    assert [
        one
        for one in {**CATALOGUE, **cloud.CATALOGUE}
        if not re.fullmatch(r"[a-z]+(-[a-z]+)*", one)
    ] == []


def test_a_word_that_is_not_given_stays_in_capitals():
    remedy = CATALOGUE["node-off"].remedy
    assert fill(remedy, kind="hpc", node="compute-01") == "ai-how hpc start compute-01"
    assert fill(remedy, kind="hpc") == "ai-how hpc start NODE"
