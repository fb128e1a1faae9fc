"""Remembers how the last starts proceeded, for the estimate of how long the next one takes.

It is an observation in the cache, which outlives the clusters: losing it costs nothing.
"""

import json
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from ai_how.errors import AiHowError
from ai_how.plan.step import Plan
from ai_how.state.files import read_file, replaced_atomically
from ai_how.state.paths import ensure_private_directory

_MOST_STARTS = 20
_MOST_POINTS = 64
_LARGEST_BYTES = 256 * 1024


_Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _PastStart(BaseModel):
    """A start that came to its end."""

    model_config = ConfigDict(frozen=True)

    cluster: str
    steps: dict[str, int]
    """How many steps of each kind its plan had: those of a cold, warm or resumed one differ."""
    done_s: Annotated[tuple[_Seconds, ...], Field(min_length=1, max_length=_MOST_POINTS)]
    """When its steps were done, from its beginning, in equal parts of the steps."""

    @property
    def is_in_order(self) -> bool:
        return all(before <= after for before, after in pairwise(self.done_s))


_FILE = TypeAdapter(tuple[_PastStart, ...])


def find_past_start(path: Path, cluster: str, plan: Plan) -> tuple[float, ...] | None:
    """How the last start with as many steps of each kind proceeded, of this cluster if possible.

    A file that is damaged has none.
    """
    steps = _count(plan)
    alike = [one for one in _read(path) if one.steps == steps]
    own = [one for one in alike if one.cluster == cluster]
    return (own or alike)[-1].done_s if alike else None


def remember_start(path: Path, cluster: str, plan: Plan, done_s: Sequence[float]) -> None:
    """Remember a start that came to its end, in place of the last one like it.

    A failure to write is ignored.
    """
    if not done_s:
        return
    new = _PastStart(cluster=cluster, steps=_count(plan), done_s=_thinned(done_s))
    others = [one for one in _read(path) if (one.cluster, one.steps) != (cluster, new.steps)]
    kept = [*others, new][-_MOST_STARTS:]
    with suppress(OSError, AiHowError):
        ensure_private_directory(path.parent)
        with replaced_atomically(path) as draft:
            draft.write_bytes(_FILE.dump_json(tuple(kept)))


def _count(plan: Plan) -> dict[str, int]:
    return dict(Counter(step.kind for step in plan.steps))


def _thinned(done_s: Sequence[float]) -> tuple[float, ...]:
    """At most so many points, the last one among them."""
    points = min(len(done_s), _MOST_POINTS)
    return tuple(
        round(done_s[(number + 1) * len(done_s) // points - 1], 2) for number in range(points)
    )


def _read(path: Path) -> list[_PastStart]:
    try:
        content = json.loads(read_file(path, largest=_LARGEST_BYTES))
        return [one for one in _FILE.validate_python(content) if one.is_in_order]
    except (OSError, ValueError, RecursionError):
        return []
