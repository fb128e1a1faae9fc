"""Read a cluster file: the result is a spec, or every problem, each with its line."""

import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path

from ai_how.errors import SpecError
from ai_how.spec import yaml_tree
from ai_how.spec.checks import check_file
from ai_how.spec.expand import expand_variables
from ai_how.spec.image_checks import check_image_files
from ai_how.spec.mig_files import read_mig_files
from ai_how.spec.models import ClusterFile
from ai_how.spec.problems import Finding, Loc, Problem, Severity, render_path
from ai_how.spec.provision import check_playbook_files
from ai_how.spec.structure import read_model, without_consequences

DEFAULT_DATA = {
    "version": "1.0",
    "clusters": {
        "hpc": {
            "name": "hpc",
            "network": {"subnet": "auto"},
            "controller": {"cpu_cores": 1, "memory_gb": 1, "disk_gb": 10},
            "compute_nodes": {"count": 2, "cpu_cores": 1, "memory_gb": 1, "disk_gb": 10},
        }
    },
}


def default_spec() -> ClusterFile:
    """What runs without any file: a controller and two compute nodes."""
    return ClusterFile.model_validate(DEFAULT_DATA)


def read_spec(
    path: Path, environment: Mapping[str, str], *, copied_from: Path | None = None
) -> ClusterFile:
    """The spec in a file. Raises SpecError whose details list every error; warnings pass.

    A file that is a copy was in the directory `copied_from`: its relative paths begin there.
    """
    spec, problems = check_spec_file(path, environment, copied_from=copied_from)
    errors = [problem for problem in problems if problem.severity is Severity.ERROR]
    if spec is None or errors:
        noun = "problem" if len(errors) == 1 else "problems"
        raise SpecError(
            f"{len(errors)} {noun} in {path}",
            details="\n".join(map(str, errors)),
            hint=f"ai-how validate {shlex.quote(str(path))}",
        )
    return spec


def check_spec_file(
    path: Path, environment: Mapping[str, str], *, copied_from: Path | None = None
) -> tuple[ClusterFile | None, list[Problem]]:
    """As `read_spec_text`. Raises SpecError only where the file cannot be read at all.

    A file that is a copy was in the directory `copied_from`; whether the files that its images need
    are still there is not asked then.
    """
    try:
        with path.open("rb") as file:
            data = file.read(yaml_tree.MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise SpecError(
            f"cannot read {path}: {reason}",
            hint="ai-how init  # writes a cluster.yaml",
        ) from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        return None, [Problem(str(path), line, "", "not UTF-8 text")]
    directory = copied_from or path.absolute().parent
    return read_spec_text(
        text, str(path), environment, directory=directory, is_copy=copied_from is not None
    )


def read_spec_text(
    text: str,
    name: str,
    environment: Mapping[str, str],
    *,
    directory: Path | None = None,
    is_copy: bool = False,
) -> tuple[ClusterFile | None, list[Problem]]:
    """The spec, None where there are errors; and all problems, errors and warnings, by line.

    Relative paths begin in `directory`. Without one, and of a copy, the files that images need are
    not looked at.
    """
    try:
        written = yaml_tree.read_tree(text)
    except yaml_tree.YamlRefusedError as error:
        return None, [Problem(name, error.line, "", error.text)]
    tree, findings = expand_variables(written, environment)
    spec, misshapen = read_model(yaml_tree.plain(tree))
    findings += without_consequences(misshapen, _places(findings))
    if spec is not None:
        spec = spec.placed_in(directory)
        findings += without_consequences(read_mig_files(spec, directory), _places(findings))
        findings += without_consequences(check_file(spec), _places(findings))
        if directory is not None and not is_copy:
            findings += without_consequences(check_image_files(spec, directory), _places(findings))
            if hpc := spec.clusters.hpc:
                loc: Loc = ("clusters", "hpc", "provision")
                missing = check_playbook_files(hpc.provision, loc, directory)
                findings += without_consequences(missing, _places(findings))
    problems = _with_lines(findings, tree, name)
    is_good = not any(problem.severity is Severity.ERROR for problem in problems)
    return spec if is_good else None, problems


def _places(findings: Iterable[Finding]) -> list[Loc]:
    return [place for finding in findings for place in finding.about]


def _with_lines(findings: Iterable[Finding], tree: yaml_tree.Mapping, name: str) -> list[Problem]:
    """Sort by line; a problem that an alias repeats is reported once."""
    problems: dict[tuple[int, str], Problem] = {}
    for finding in findings:
        line, loc = yaml_tree.find_place(tree, finding.about[0])
        problem = Problem(name, line, render_path(loc), finding.text, finding.severity)
        problems.setdefault((line, finding.text), problem)
    return sorted(problems.values(), key=lambda problem: (problem.line, problem.path))
