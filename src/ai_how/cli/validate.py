"""`ai-how validate`: checks of the file, then of the host's capacity."""

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ai_how import console
from ai_how.cli.context import Context, context_of
from ai_how.cli.groups import new_app
from ai_how.cli.kinds import kinds_in
from ai_how.errors import HostError, SpecError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ai_how.clusters.kind import ClusterKind, ClusterSection
    from ai_how.clusters.preflight.estimate import Estimate
    from ai_how.spec.models import ClusterFile
    from ai_how.spec.problems import Problem

app = new_app()


@app.command()
def validate(
    ctx: typer.Context,
    file: Annotated[Path | None, typer.Argument(metavar="[FILE]", help="The cluster file.")] = None,
    offline: Annotated[
        bool, typer.Option("--offline", help="Check only the file, not the host.")
    ] = False,
) -> None:
    """Check the cluster file, and whether the host can run the cluster.

    The exit code is 2 if the file is wrong, 3 if the host cannot run the cluster.
    """
    context = context_of(ctx)
    path = context.find_spec_path(file)
    spec, problems = _check(path)
    found = _estimates(spec, context) if spec and not offline else {}
    if context.is_json:
        console.show_json(_document(path, spec, problems, found))
    else:
        _show_file(path, spec, problems)
        for name, one in found.items():
            _show_estimate(one, name if found.keys() - {name} else "cluster")
    if spec is None:
        raise typer.Exit(SpecError.exit_code)
    if not all(one.is_possible for one in found.values()):
        raise typer.Exit(HostError.exit_code)


def _check(path: Path | None) -> "tuple[ClusterFile | None, list[Problem]]":
    from ai_how.spec.reader import check_spec_file, default_spec

    return check_spec_file(path, os.environ) if path else (default_spec(), [])


def _estimates(spec: "ClusterFile", context: Context) -> "dict[str, Estimate]":
    """What each cluster of the file takes of the host, by its name."""
    from ai_how.clusters.preflight.estimate import estimate
    from ai_how.images.catalogue import ImageCatalogue
    from ai_how.images.store import ImageStore

    catalogue = ImageCatalogue(ImageStore(context.roots.images), spec)
    found = {}
    for kind in (one.load() for one in kinds_in(spec)):
        section = kind.section_of(spec)
        found[section.name] = estimate(
            kind, section, context.host_uri(spec), context.roots, catalogue
        )
    return found


def _document(
    path: Path | None,
    spec: "ClusterFile | None",
    problems: "list[Problem]",
    found: "Mapping[str, Estimate]",
) -> dict[str, Any]:
    estimates = {
        name: replace(one, checks=console.completed_checks(one.checks))
        for name, one in found.items()
    }
    return {
        "file": path,
        "is_valid": spec is not None,
        "problems": problems,
        "spec": spec,
        "is_possible": all(one.is_possible for one in found.values()) if found else None,
        "estimate": next(iter(estimates.values()), None),
        "estimates": estimates,
    }


def _show_file(path: Path | None, spec: "ClusterFile | None", problems: "list[Problem]") -> None:
    console.show_problems(problems)
    name = str(path) if path else "the built-in cluster"
    if spec is None:
        errors = sum(problem.severity == "error" for problem in problems)
        noun = "problem" if errors == 1 else "problems"
        console.show_error(SpecError(f"{errors} {noun} in {name}"))
        return
    console.show_line(f"{name} is valid", console.Style.GOOD)
    for kind in (one.load() for one in kinds_in(spec)):
        console.show_line(_summary(kind, kind.section_of(spec)))


def _summary(kind: "ClusterKind", section: "ClusterSection") -> str:
    from ai_how.spec.nodes import cost_of

    nodes = kind.nodes_of(section)
    cost = cost_of(nodes)
    return (
        f"{section.name}: {len(nodes)} nodes, {cost.vcpus} vCPUs, "
        f"{cost.memory_mib} MiB memory, {cost.disk_gib_worst_case} GiB disk at most"
    )


def _show_estimate(found: "Estimate", cluster: str) -> None:
    needs, has = found.needs, found.has
    console.show_table(
        ("", cluster, f"host ({found.host})"),
        [
            ("vCPUs", needs.vcpus, has.cpus),
            ("memory", _mib(needs.memory_mib), _mib(has.memory_mib)),
            ("disk, thin", _gib(needs.disk_thin_bytes), _gib(has.disk_bytes)),
            ("disk, worst case", _gib(needs.disk_worst_case_bytes), _gib(has.disk_bytes)),
        ],
    )
    if found.running:
        console.show_line(f"running already: {', '.join(found.running)}")
    console.show_checks(found.checks)
    if found.is_possible:
        console.show_line("this host can run the cluster", console.Style.GOOD)
    else:
        console.show_error(HostError("this host cannot run the cluster"))


def _mib(count: int | None) -> str | None:
    return None if count is None else f"{count} MiB"


def _gib(count: int | None) -> str | None:
    return None if count is None else f"{count / 2**30:.1f} GiB"
