"""What was seen of the scenarios that a program went through on an emulated host."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ai_how.errors import ToolError
from emulated_host import run_inside

LIFE_S = 3600
Said = dict[str, Any]
Asked = Callable[[str], Said]


def lived(out: Path, program: str, *scenarios: str, has_iommu: bool = True) -> Asked:
    """Boot the host, and have these happen there; what is returned has what was seen of each.

    `out` is /out there, with what it has.
    """
    ended: object
    try:
        ended = run_inside(program, *scenarios, out=out, timeout_s=LIFE_S, has_iommu=has_iommu)
    except ToolError as error:  # what happened before is judged all the same
        ended = error
    file = out / "said.json"
    said = json.loads(file.read_text()) if file.exists() else {}

    def seen(name: str) -> Said:
        assert name in said, ended
        assert "broken" not in said[name], said[name]["broken"]
        return said[name]

    return seen


def check(said: Said, code: int = 0) -> None:
    """A verb ended with this code."""
    assert said["code"] == code, f"{said['out']}\n{said['err']}"
