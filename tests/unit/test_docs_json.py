"""docs/json.md is what verbs print with --json: every key with its type, and no others.

A key that may be null is seen both null and not, so that none is null for ever.
"""

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cli_runner import GOOD, Cli
from plan_world import Bench, Put, raise_at
from test_cli_verbs import add_image, remember

from ai_how import console
from ai_how.cli.cluster_logs import _document as log_document
from ai_how.cli.cluster_why import document as why_document
from ai_how.cli.kinds import HPC
from ai_how.cli.validate import _document
from ai_how.clusters.diagnosis.catalogue import MachineCause
from ai_how.clusters.diagnosis.kind import Cause, Rank
from ai_how.clusters.diagnosis.why import Answer
from ai_how.clusters.file_systems import FileSystem
from ai_how.clusters.observation import Observed
from ai_how.clusters.preflight.estimate import Estimate, Has, Needs
from ai_how.clusters.status import PortStatus, status_of
from ai_how.clusters.workload import GpuUse
from ai_how.console.text import to_jsonable
from ai_how.errors import HostError, PlanFailedError
from ai_how.guest.journal import LogEntry
from ai_how.host.checks import Check, Status
from ai_how.hpc.kind import SLURM
from ai_how.plan.failures import SavedEvidence
from ai_how.plan.step import Plan
from cluster_bench import draft_of, read_hpc

DOCS = Path(__file__).resolve().parents[2] / "docs"
ROW = re.compile(r"^\| `([^`]+)` \| ([^|]+) \|", re.MULTILINE)
JQ = "jq\t1.7.1-6\tamd64\tjq\t1.7.1-6\n"
NULL, EMPTY = "null", "empty list"
CHECKS = (
    Check("tun", Status.FAILURE, "not there", "sudo modprobe tun"),
    Check("kvm", Status.OK, "works"),
)


def documented(section: str) -> Mapping[str, set[str]]:
    """The types of each key that a section of the page tells of."""
    text = (DOCS / "json.md").read_text().partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    rows = ROW.findall(text)
    assert len(rows) == len({key for key, _ in rows}), "a key has two rows"
    return {key: set(kind.strip().split(" or ")) for key, kind in rows}


def seen_in(value: Any, key: str, rows: Mapping[str, set[str]]) -> Iterator[tuple[str, str]]:
    """Each key of a document with the type of its value, in the words of the page."""
    wanted = rows.get(key, set())
    if isinstance(value, list):
        yield from seen_in_list(value, key, rows)
    elif not isinstance(value, dict):
        yield key, type_of(value)
    elif maps := [one for one in wanted if one.startswith("object of ")]:
        assert {f"object of {type_of(one)}s" for one in value.values()} <= set(maps), key
        yield key, maps[0]
    else:
        if key:
            yield key, "object"
        if not key or any(row.startswith(f"{key}.") for row in rows):
            for name, one in value.items():
                yield from seen_in(one, f"{key}.{name}" if key else name, rows)


def seen_in_list(
    value: list[Any], key: str, rows: Mapping[str, set[str]]
) -> Iterator[tuple[str, str]]:
    is_of_errors = "list of errors" in rows.get(key, set())
    if is_of_errors or not key:
        yield from [(key, "list of errors")] if value and key else []
        yield from [(key, EMPTY)] if not value else []
        for one in value:
            yield from seen_in(one, "error" if is_of_errors else "[]", rows)
    elif all(isinstance(one, dict) for one in value):
        yield key, "list of objects" if value else EMPTY
        for one in value:
            yield from list(seen_in(one, f"{key}[]", rows))[1:]
    else:
        assert all(isinstance(one, str) for one in value), key
        yield key, "list of text"


def type_of(value: Any) -> str:
    if value is None:
        return NULL
    names = {bool: "boolean", int: "integer", float: "number", str: "text"}
    return names[type(value)]


def assert_documented(section: str, *documents: Any) -> None:
    """Together the documents show each type of each key of the section, and no others."""
    rows = documented(section)
    seen = defaultdict(set)
    for document in documents:
        for key, kind in seen_in(document, "", rows):
            if key not in ("", "[]"):
                seen[key].add(kind)
    assert {key: kinds - {EMPTY} for key, kinds in seen.items()} == rows
    for document in documents:
        assert_whole(document, "", rows)


def assert_whole(value: Any, key: str, rows: Mapping[str, set[str]]) -> None:
    """Each object has each of its keys."""
    if isinstance(value, list):
        for one in value:
            is_error = "list of errors" in rows.get(key, set())
            assert_whole(one, "error" if is_error else f"{key}[]", rows)
    elif isinstance(value, dict):
        prefix = f"{key}." if key else ""
        wanted = {row.removeprefix(prefix) for row in rows if row.startswith(prefix)}
        names = {row for row in wanted if not re.search(r"[.\[]", row)}
        assert not names or set(value) == names, key
        for name, one in value.items() if names else ():
            assert_whole(one, prefix + name, rows)


def as_json(value: Any) -> Any:
    return json.loads(json.dumps(to_jsonable(value)))


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(tmp_path, monkeypatch, capsys)


def test_an_error_is_as_the_page_says(cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    verbs = (("image", "rm", "nope"), ("init", "nowhere/cluster.yaml"))
    ours = [json.loads(cli("--json", *words).out) for words in verbs]
    bench = Bench(cli.home)
    bench.world.on = raise_at(
        "before apply", "agent/demo-compute-01", HostError("late", "for 20 s", hint="df -h")
    )
    saved = SavedEvidence(
        Path("/state/evidence/now"),
        "compute-01: kernel panic: no more",
        "less there",
        MachineCause.KERNEL_PANIC,
        "compute-01",
        "ai-how image verify",
    )
    with pytest.raises(PlanFailedError) as caught:
        bench.run(Plan("start", (Put("agent/demo-compute-01"),)), evidence=lambda _failures: saved)
    report = console.report_of(caught.value)
    capsys.readouterr()
    console.show_error_json(report)
    planned = json.loads(capsys.readouterr().out)
    assert_documented("A verb that fails", *ours, planned)

    error = planned["error"]
    assert (error["kind"], error["exit_code"]) == ("PlanFailedError", 4)
    assert (error["cause"], error["node"]) == ("kernel-panic", "compute-01")
    assert error["step"] == "agent/demo-compute-01"
    assert error["evidence"] == "/state/evidence/now"
    [inner] = error["errors"]
    assert (inner["kind"], inner["brief"], inner["hint"]) == ("HostError", "late", "df -h")
    assert (inner["step"], inner["node"]) == ("agent/demo-compute-01", "compute-01")

    console.show_error(report)
    assert capsys.readouterr().err.splitlines() == [
        "error: start failed; all its changes were undone: compute-01: kernel panic: no more",
        "  late (while applying agent/demo-compute-01)",
        "  for 20 s",
        "  evidence: /state/evidence/now",
        "  cause: kernel-panic",
        "  remedy: ai-how image verify",
        "hint: less there",
    ]


def test_an_entry_of_a_log_is_as_the_page_says() -> None:
    entry = LogEntry(
        "controller", "ready", datetime.now(UTC), "slurmctld", 7, "slurmctld.service", 6, "s=1"
    )
    line = LogEntry("controller", "login:")
    assert_documented("`hpc logs`", *(as_json(log_document(one)) for one in (entry, line)))


def test_status_is_as_the_page_says() -> None:
    state = draft_of(read_hpc()).state
    poor = replace(
        status_of(SLURM, state, Observed(), {}, {}), slurm_trouble="the controller is off"
    )
    full = replace(
        poor,
        slurm_version="24.11.5",
        slurm_trouble=None,
        network_problems=("it is gone",),
        impostors=("a copy",),
        ports=(PortStatus("127.0.0.1", 8080, "controller", 80, is_open=True),),
        nodes=tuple(
            replace(
                node,
                memory_used_mib=472,
                guest_memory_mib=464,
                guest_memory_used_mib=61,
                disk_used_mib=200,
                slurm="down*",
                slurm_reason="Not responding",
                gpus=(GpuUse("a100", 8, 2), GpuUse("h100", 4, None)),
                stages_s={"boot": 0.5},
                file_systems=(FileSystem("/", 900, 1000),),
                problems=("not on the network",),
            )
            for node in poor.nodes
        ),
    )
    assert_documented("`hpc status`", as_json(poor), as_json(full))


def test_an_answer_to_why_is_as_the_page_says() -> None:
    cause = Cause(Rank.MACHINE, "qemu-killed", "compute-01", "it was killed")
    poor = Answer(cluster="hpc", subject="hpc", is_well=True, says="hpc is ready", cause=None)
    told = replace(cause, evidence=("libvirt: shut_off (crashed)",), remedy="ai-how {kind} start")
    full = replace(
        poor, is_well=False, cause=told, also=(told,), notes=("a note",), silent=("libvirt: …",)
    )
    assert_documented("`hpc why`", *(as_json(why_document(one, HPC)) for one in (poor, full)))
    assert why_document(full, HPC)["cause"]["remedy"] == "ai-how hpc start"


def test_validate_is_as_the_page_says(cli: Cli) -> None:
    cli.write("good.yaml", GOOD)
    cli.write("bad.yaml", GOOD.replace("memory_gb: 1", "memory_gb: -1"))
    here = ("--connect", "test:///default", "--json")
    documents = [
        json.loads(cli("validate", *words).out)
        for words in (("good.yaml", *here), ("bad.yaml", *here), ("--offline", "--json"))
    ]
    has = Has(cpus=None, memory_mib=None, disk_bytes=None, disk_directory=Path("/srv"))
    found = Estimate("embedded", Needs(1, 1, 1024, 1, 2), has, ("controller",), CHECKS)
    assert_documented("`validate`", *documents, as_json(_document(None, None, [], {"demo": found})))


def test_doctor_is_as_the_page_says(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ai_how.host.doctor.run_doctor", lambda _roots, kind, kernel: CHECKS)
    assert_documented("`doctor`", json.loads(cli("doctor", "--json").out))


def test_a_list_of_images_is_as_the_page_says(cli: Cli) -> None:
    remember(cli, "demo", add_image(cli))
    add_image(cli, "ours", kernel=b"a kernel", packages=JQ)
    (cli.roots.images / ("b" * 64)).mkdir()
    assert_documented("`image list`", json.loads(cli("image", "list", "--json").out))


def test_what_is_in_an_image_is_as_the_page_says(cli: Cli) -> None:
    remember(cli, "demo", add_image(cli))
    add_image(cli, "ours", packages=JQ + "bc\t1\tamd64\tbc\t1\n")
    add_image(cli, "theirs", packages=JQ.replace("1.7.1", "1.8") + "ed\t1\tamd64\ted\t1\n")
    shown = [json.loads(cli("image", "show", name, "--json").out) for name in ("debian", "ours")]
    assert_documented("`image show`", *shown)
    found = json.loads(cli("image", "diff", "ours", "theirs", "--json").out)
    assert_documented("`image diff`", found)
    assert found["changed"] == [{"name": "jq", "before": "1.7.1-6", "after": "1.8-6"}]
    assert cli("image", "diff", "ours", "theirs").out.splitlines() == [
        "+ ed 1",
        "- bc 1",
        "  jq 1.7.1-6 -> 1.8-6",
    ]
    bill = json.loads(cli("image", "show", "ours", "--sbom").out)
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    assert "pkg:deb/debian/jq@1.7.1-6?arch=amd64&distro=trixie" in [
        one["purl"] for one in bill["components"]
    ]
    assert cli("image", "show", "debian", "--sbom").code == 3
    refused = cli("image", "diff", "debian", "ours")
    assert refused.code == 3
    assert "the packages of debian" in refused.err


@pytest.mark.parametrize(
    "broken",
    [
        {"is_able": True, "checks": [], "more": 1},
        {"checks": []},
        {"is_able": None, "checks": []},
        {"is_able": True, "checks": [{"name": "tun", "status": "ok", "found": "x"}]},
    ],
)
def test_a_document_that_differs_from_the_page_is_found(broken: dict[str, Any]) -> None:
    good = {
        "is_able": True,
        "checks": [
            {"name": "tun", "status": "ok", "found": "x", "advice": advice}
            for advice in (None, "y")
        ],
    }
    assert_documented("`doctor`", good)
    with pytest.raises(AssertionError):
        assert_documented("`doctor`", good, broken)
