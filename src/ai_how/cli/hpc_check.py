"""The verb that says whether a cluster is well, and mends what is safe to mend."""

from typing import TYPE_CHECKING, Annotated

import typer

from ai_how import console
from ai_how.cli.cluster import Cluster, Words, split_words
from ai_how.cli.context import context_of
from ai_how.cli.groups import new_app
from ai_how.cli.hpc_cluster import find_manager
from ai_how.errors import SpecError

if TYPE_CHECKING:
    from ai_how.hpc.manager import HpcManager
    from ai_how.monitoring.checking import Checked
    from ai_how.monitoring.healing import Healed
    from ai_how.monitoring.model import Finding

app = new_app()

FEW = 3
"""So many lines of evidence are shown without -v."""


@app.command(short_help="Say what is wrong with the cluster, and mend what is safe.")
def check(
    ctx: typer.Context,
    words: Words = None,
    cluster: Cluster = None,
    severity: Annotated[
        str,
        typer.Option(
            "--severity", metavar="WORD", help="The least that counts: critical, warning, notice."
        ),
    ] = "warning",
    wait: Annotated[
        float,
        typer.Option("--wait", metavar="S", help="Check again, for S seconds, until it is well."),
    ] = 0,
    heal: Annotated[
        bool, typer.Option("--heal", help="Mend what is safe to mend, then check again.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="With --heal: print what it would do.")
    ] = False,
    resume_paused: Annotated[
        bool, typer.Option("--resume-paused", help="With --heal: resume VMs paused by hand, too.")
    ] = False,
) -> None:
    """Say what is wrong with the cluster, or with some of its nodes, since when, and what helps.

    The exit code is 8 if something of the severity, or worse, is wrong. Otherwise it is 9 if the
    cluster is off, and 0 if it is not. -v shows all evidence.

    --heal resumes VMs that were paused on an I/O error, starts services that ended, sets clocks,
    mounts a shared home that is gone, restarts a slurmd that SLURM does not hear, and brings back
    nodes that SLURM or a stop of ours took out of service. It leaves alone what a user drained,
    does each thing three times an hour at most, and ends with the first one that fails.
    """
    from ai_how.clusters.named_nodes import check_nodes
    from ai_how.monitoring.checking import Medic, check_until_well

    _check_options(severity, wait, is_heal_option=dry_run or resume_paused, heal=heal)
    context = context_of(ctx)
    file, nodes = split_words(words)
    manager = find_manager(context, cluster, file)
    check_nodes(manager.name, [one.name for one in manager.get_state().nodes], nodes)
    tell = _ignore if context.is_json else _show_healed
    medic = Medic(manager, tell, resumes_paused=resume_paused, dry_run=dry_run) if heal else None
    found = check_until_well(
        lambda is_anew: _look(manager, severity, nodes, is_anew=is_anew or heal),
        within_s=wait,
        medic=medic,
    )
    if context.is_json:
        console.show_json(_record(found, severity, medic.results if medic else []))
    else:
        _show(found, is_long=context.verbosity > 0)
    raise typer.Exit(int(found.verdict))


def _check_options(severity: str, wait: float, *, is_heal_option: bool, heal: bool) -> None:
    from ai_how.clusters.diagnosis.catalogue import Severity

    if severity not in list(Severity):
        raise SpecError(f"{severity} is no severity", details=f"one of {', '.join(Severity)}")
    if wait < 0:
        raise SpecError("--wait needs seconds, 0 or more")
    if is_heal_option and not heal:
        raise SpecError("--dry-run and --resume-paused need --heal", hint="ai-how hpc check --heal")


def _look(manager: "HpcManager", severity: str, nodes: list[str], *, is_anew: bool) -> "Checked":
    from ai_how.clusters.diagnosis.catalogue import Severity
    from ai_how.monitoring import checking

    seen, is_collected = checking.look(manager, is_anew=is_anew)
    return checking.check(seen, severity=Severity(severity), nodes=nodes, is_collected=is_collected)


def _show(found: "Checked", *, is_long: bool) -> None:
    seen = found.seen
    count = len(found.findings)
    said = f"{count} finding{'s' if count > 1 else ''}" if count else found.verdict.word
    more = f", {found.others} of less weight or of other nodes" if found.others else ""
    doing = f"; {seen.doing} is under way" if seen.doing else ""
    console.show_line(f"{seen.cluster}: {said}{more}{doing}")
    for one in found.findings:
        _show_finding(one, seen.at, is_long=is_long)
    silent = {one.name for one in found.silent}
    looked = [one.name for one in seen.sources if one.at is not None and one.name not in silent]
    by = "by its collector" if found.is_collected else "now"
    console.show_line(f"looked at {by}: {', '.join(looked) or 'nothing'}")
    for source in found.silent:
        console.show_line(f"not looked at: {source.name}: {source.trouble}")


def _show_finding(one: "Finding", now: float, *, is_long: bool) -> None:
    from ai_how.monitoring.judging import time_text

    since = time_text(now - one.since)
    console.show_line(f"{one.severity}: {one.text} (for {since}) [{one.id}]")
    shown = one.evidence if is_long else one.evidence[:FEW]
    for line in shown:
        console.show_line(f"  {line}")
    if len(one.evidence) > len(shown):
        console.show_line(f"  … {len(one.evidence) - len(shown)} more lines: -v")
    console.show_line(f"  remedy: {one.remedy}")
    if one.heals:
        console.show_line("  or: ai-how hpc check --heal")


def _show_healed(one: "Healed") -> None:
    said = {
        "done": f"healed: {one.what}",
        "planned": f"would heal: {one.what}",
        "left": f"not healed: {one.what}: it was done 3 times within an hour already",
        "failed": f"not healed: {one.what}: {one.error}",
    }
    console.show_line(said[one.outcome])


def _ignore(_one: "Healed") -> None:
    """With --json the results are in the document."""


def _record(found: "Checked", severity: str, healed: "list[Healed]") -> dict[str, object]:
    return {
        "cluster": found.seen.cluster,
        "verdict": found.verdict.word,
        "severity": severity,
        "looked_at": found.seen.at,
        "is_collected": found.is_collected,
        "doing": found.seen.doing,
        "findings": found.findings,
        "others": found.others,
        "silent": [{"source": one.name, "trouble": one.trouble} for one in found.silent],
        "healed": healed,
    }
