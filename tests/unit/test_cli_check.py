"""`hpc check`: what it prints, its exit codes, its JSON, and that it heals only what it may."""

import json
from dataclasses import replace

import pytest
from cli_runner import Cli
from test_cli_hpc import remember
from test_docs_json import assert_documented

from ai_how.cli.hpc_check import _show_healed
from ai_how.hpc.kind import SLURM
from ai_how.monitoring import checking
from ai_how.monitoring.checking import Verdict, check, check_until_well
from ai_how.monitoring.healing import Healed
from ai_how.monitoring.health import judge_of
from ai_how.monitoring.model import Snapshot
from snapshots import silent, sound, with_guest, with_slurm, with_vm

HEALTHY, ILL, OFF, USAGE = 0, 8, 9, 2
NODE = "compute-01"


@pytest.fixture
def cli(tmp_path, monkeypatch, capsys) -> Cli:
    return Cli(tmp_path, monkeypatch, capsys)


@pytest.fixture
def shown(cli, monkeypatch):
    """Runs `hpc check` on snapshots, the last of them again and again."""
    remember(cli)
    monkeypatch.setattr(checking, "PAUSE_S", 0.01)

    def run(*snapshots: Snapshot, words: tuple[str, ...] = (), is_json: bool = False):
        left = [judged(one) for one in snapshots]
        monkeypatch.setattr(
            checking,
            "look",
            lambda _cluster, is_anew=False: (left.pop(0) if left[1:] else left[0], False),
        )
        option = ("--json",) if is_json else ()
        return cli(*option, "hpc", "check", "--cluster", "demo", *words)

    return run


def judged(seen: Snapshot) -> Snapshot:
    return replace(seen, findings=judge_of(SLURM, is_single=True).judge(seen))


def off(seen: Snapshot) -> Snapshot:
    for one in seen.nodes:
        seen = with_vm(seen, one.name, state="shut_off", reason="shutdown")
    return seen


DEAD = {"services": {"munge": "failed"}}
KILLS = {"oom_kills": 3}


def test_a_healthy_cluster_says_what_was_looked_at(shown):
    ended = shown(sound())
    assert ended.code == HEALTHY
    assert ended.out.splitlines() == [
        "made-up: healthy",
        f"looked at now: {', '.join(one.name for one in sound().sources)}",
    ]


def test_a_finding_is_a_line_with_its_evidence_and_a_command_to_paste(shown):
    ended = shown(with_guest(sound(), NODE, **DEAD))
    assert ended.code == ILL
    lines = ended.out.splitlines()
    assert lines[:3] == [
        "made-up: 1 finding",
        "critical: compute-01: munge does not run (for 0 s) [munge-down]",
        "  munge: failed",
    ]
    assert lines[3].startswith("  remedy: ai-how hpc exec --cluster demo compute-01 -- systemctl")
    assert lines[4] == "  or: ai-how hpc check --cluster demo --heal"


def test_a_cluster_that_is_off_has_a_code_of_its_own(shown):
    ended = shown(off(sound()))
    assert (ended.code, ended.out.splitlines()[0]) == (OFF, "made-up: off")


def test_what_could_not_be_looked_at_is_said(shown):
    ended = shown(silent(sound(), "disks", for_s=10, trouble="no answer for 12 s"))
    assert ended.code == HEALTHY
    assert "not looked at: disks: no answer for 12 s" in ended.out
    assert shown(silent(sound(), "disks")).code == ILL, "it was silent for too long"


@pytest.mark.parametrize(
    ("severity", "code"), [("critical", HEALTHY), ("warning", HEALTHY), ("notice", ILL)]
)
def test_only_what_is_severe_enough_counts(shown, severity, code):
    ended = shown(with_guest(sound(), NODE, **KILLS), words=("--severity", severity))
    assert ended.code == code
    if code == HEALTHY:
        assert ended.out.startswith("made-up: healthy, 1 of less weight or of other nodes")


def test_only_the_nodes_that_are_named_count(shown):
    seen = with_guest(sound(), NODE, **DEAD)
    assert shown(seen, words=("compute-02",)).code == HEALTHY
    assert shown(seen, words=(NODE,)).code == ILL
    assert shown(seen, words=("compute-77",)).code == USAGE


@pytest.mark.parametrize(
    "words",
    [("--severity", "bad"), ("--wait", "-1"), ("--dry-run",), ("--resume-paused",)],
)
def test_options_that_make_no_sense_are_refused(shown, words):
    assert shown(sound(), words=words).code == USAGE


def test_it_waits_until_the_cluster_is_well(shown):
    ill = with_guest(sound(), NODE, **DEAD)
    assert shown(ill, ill, sound(), words=("--wait", "30")).code == HEALTHY
    assert shown(ill, words=("--wait", "0.05")).code == ILL


def test_what_it_would_heal_is_said_and_not_done(shown, cli):
    drained = with_slurm(
        sound(), NODE, states=("idle", "drain"), reason="by alice", reason_user="alice"
    )
    ended = shown(with_guest(drained, "compute-02", **DEAD), words=("--heal", "--dry-run"))
    assert ended.code == ILL
    assert ended.out.splitlines()[0] == "would heal: start munge on compute-02"
    assert ended.out.count("would heal") == 1
    assert not cli.roots.cluster("demo").heals.exists()


def test_the_document_has_what_the_page_says(shown):
    ill = silent(with_guest(sound(), NODE, **DEAD), "disks", for_s=10)
    words, documents = ("--heal", "--dry-run"), []
    for seen, verdict in ((sound(), "healthy"), (ill, "ill"), (off(sound()), "off")):
        ended = shown(
            replace(seen, doing="hpc run" if seen is ill else None), words=words, is_json=True
        )
        documents.append(json.loads(ended.out))
        assert documents[-1]["verdict"] == verdict
        assert ended.code == {"healthy": HEALTHY, "ill": ILL, "off": OFF}[verdict]
    assert_documented("`hpc check`", *documents)


class Doctor:
    """Mends what is found at the first call."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def mend(self, found: checking.Checked) -> bool:
        self.calls.append(len(found.findings))
        return self.calls == [1]


def test_what_was_mended_is_looked_at_anew_and_given_time(monkeypatch):
    monkeypatch.setattr(checking, "PAUSE_S", 0.01)
    ill, asked = check(judged(with_guest(sound(), NODE, **DEAD))), []

    def ask(was_mended: bool) -> checking.Checked:
        asked.append(was_mended)
        return ill if len(asked) < 3 else check(judged(sound()))

    doctor = Doctor()
    found = check_until_well(ask, within_s=0, medic=doctor)  # type: ignore[arg-type]
    assert found.verdict is Verdict.HEALTHY
    assert asked == [False, True, True]


def test_the_results_are_told_by_a_line_each(capsys):
    for outcome in ("done", "planned", "left", "failed"):
        _show_healed(
            Healed(id="x", subject=NODE, what="start munge", outcome=outcome, error="it broke")
        )
    assert capsys.readouterr().out.splitlines() == [
        "healed: start munge",
        "would heal: start munge",
        "not healed: start munge: it was done 3 times within an hour already",
        "not healed: start munge: it broke",
    ]
