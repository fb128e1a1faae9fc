"""What other clusters of the user will have in a moment: the notes of their unfinished runs."""

from collections.abc import Iterator, Mapping
from typing import Any

from ai_how.errors import AiHowError
from ai_how.plan.journal import Journal
from ai_how.state.paths import Roots


def read_notes(roots: Roots, *, besides: str | None) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The name of each cluster with a journal, and its note; without the cluster `besides`.

    A journal that cannot be read is left out: libvirt still shows what is there.
    """
    for name in roots.cluster_names():
        if name == besides:
            continue
        try:
            note = Journal.read_note(roots.cluster(name).journal)
        except AiHowError:
            continue
        if note:
            yield name, note
