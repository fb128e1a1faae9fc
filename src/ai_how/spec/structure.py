"""pydantic's errors in the words of the cluster file, and placeholders for wrong values.

With the placeholders the rest of the file can be checked, so every problem is reported at once.
"""

import copy
import difflib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from ai_how.spec.lists import without_tags
from ai_how.spec.models import ClusterFile, ComputeNodeSpec
from ai_how.spec.problems import Finding, Loc, are_related, error_at, render_value
from ai_how.spec.shape import known_keys

_EXPECTED = {
    "int": "a whole number",
    "float": "a number",
    "finite": "a number",
    "bool": "true or false",
    "string": "text",
    "tuple": "a list",
    "dict": "a section of keys",
    "model": "a section of keys",
    "uuid": "a UUID",
}
_NODE = {"cpu_cores": 1, "memory_gb": 1, "disk_gb": 1}
_STAND_INS: dict[str, Any] = {
    "version": "1.0",
    "name": "stand-in",
    "controller": _NODE,
    "control_plane": _NODE,
    "compute_nodes": [_NODE],
    "worker_nodes": [_NODE],
    **_NODE,
    "count": 1,
    "type": "stand-in",
    "sockets": 1,
    "cores": 1,
    "threads": 1,
    "tag": "stand-in",
    "host_path": "/stand-in",
    "mount_point": "/stand-in",
    "pci_address": "0000:00:00.0",
    "device_type": "other",
    "clusters": {},
    "node": "controller",
    "port": 1,
}


def read_model(data: dict[str, Any]) -> tuple[ClusterFile | None, list[Finding]]:
    """The spec, or a spec with placeholders and its errors; None if no spec can be built."""
    try:
        return ClusterFile.model_validate(data), []
    except ValidationError as error:
        details = error.errors(include_url=False)
    try:
        repaired = ClusterFile.model_validate(_repaired(data, details))
    except ValidationError:
        repaired = None
    return repaired, _findings(details)


def describe(error: ValidationError) -> Iterator[tuple[Loc, str]]:
    """Each error in our words, with its place in what was checked."""
    for detail in error.errors(include_url=False):
        is_unknown = detail["type"] == "extra_forbidden"
        yield without_tags(detail["loc"]), "unknown key" if is_unknown else _text(detail)


def _findings(details: Sequence[ErrorDetails]) -> list[Finding]:
    """A required key that is missing because it is misspelt is reported only as misspelt."""
    findings, misspelt = [], set()
    for detail in details:
        if detail["type"] == "extra_forbidden":
            loc = without_tags(detail["loc"])
            text, meant = _unknown_key(detail["loc"])
            about = [(*loc[:-1], meant)] if meant else []
            misspelt.update(about)
            findings.append(error_at(text, loc, *about))
    for detail in details:
        loc = without_tags(detail["loc"])
        if detail["type"] != "extra_forbidden" and loc not in misspelt:
            findings.append(error_at(_text(detail), loc))
    return findings


def _unknown_key(loc: Loc) -> tuple[str, str | None]:
    key, known = str(loc[-1]), known_keys(loc[:-1])
    if loc[-2:-1] in (("controller",), ("control_plane",)) and key in ComputeNodeSpec.model_fields:
        return "is for nodes that run jobs; move it to one of them", None
    near = difflib.get_close_matches(key.lower(), known, n=1) or [
        name for name in known if name.startswith(f"{key}_") or key.startswith(f"{name}_")
    ]
    if near:
        return f"unknown key; did you mean `{near[0]}`?", near[0]
    return f"unknown key; known here: {', '.join(sorted(set(known)))}", None


def _text(detail: ErrorDetails) -> str:
    kind, context = detail["type"], detail.get("ctx", {})
    found = f"found {render_value(detail['input'])}; "
    match kind:
        case "missing":
            return "is required"
        case "not_allowed":
            return f"{found}allowed: {context['allowed']}"
        case "literal_error":
            return f"{found}allowed: {context['expected'].replace(chr(39), '')}"
        case "greater_than_equal":
            return f"{found}the minimum is {context['ge']:g}"
        case "less_than_equal":
            return f"{found}the maximum is {context['le']:g}"
    expected = _EXPECTED.get(kind.partition("_")[0])
    return f"{found}expected {expected or detail['msg'].lower()}"


def _repaired(data: dict[str, Any], details: Iterable[ErrorDetails]) -> dict[str, Any]:
    """A copy without the wrong values; required ones are replaced by placeholders."""
    repaired = copy.deepcopy(data)
    doomed: list[tuple[list[Any], int]] = []
    for detail in details:
        parent, key, is_entry = _find_spot(repaired, without_tags(detail["loc"]))
        if isinstance(parent, dict):
            if key in _STAND_INS and detail["type"] != "extra_forbidden":
                parent[key] = copy.deepcopy(_STAND_INS[key])
            else:
                parent.pop(key, None)
        elif is_entry:
            parent[key] = dict(_NODE)
        else:
            doomed.append((parent, key))
    for parent, index in sorted(doomed, key=lambda spot: -spot[1]):
        del parent[index : index + 1]
    return repaired


def _find_spot(data: dict[str, Any], loc: Loc) -> tuple[Any, Any, bool]:
    """The place of a wrong value: its container, its key there, and whether it is a node."""
    spot: tuple[Any, Any, bool] = (data, loc[0] if loc else "", False)
    here: Any = data
    for depth, part in enumerate(loc):
        if isinstance(here, dict) and part == 0:
            continue
        if not isinstance(here, dict | list):
            break
        is_entry = isinstance(here, list) and (
            loc[depth - 1] in ("compute_nodes", "worker_nodes") or loc[depth - 2] == "worker_nodes"
        )
        spot = (here, part, is_entry)
        if isinstance(here, dict):
            here = here.get(str(part))
        else:
            here = here[part] if isinstance(part, int) and part < len(here) else None
    return spot


def without_consequences(findings: Iterable[Finding], wrong: Iterable[Loc]) -> list[Finding]:
    """The findings that are not about a place that is already known to be wrong."""
    wrong = tuple(wrong)
    return [
        finding
        for finding in findings
        if not any(are_related(place, bad) for place in finding.about for bad in wrong)
    ]
