"""docs/cluster-file.md names the fields of the models: all of them, and no others."""

import re
from pathlib import Path

import pytest

from ai_how.spec.hardware import Spec
from ai_how.spec.models import ClusterFile
from ai_how.spec.shape import fields_of, models_in

PAGE = Path(__file__).resolve().parents[2] / "docs" / "cluster-file.md"
ROW = re.compile(r"^\| (?:\*\*)?`([a-z0-9_-]+)`(?:\*\*)? \|", re.MULTILINE)


def every_model() -> dict[str, type[Spec]]:
    """Each section that a cluster file may have, however deep, by its class name."""
    found: dict[str, type[Spec]] = {}
    waiting: list[type[Spec]] = [ClusterFile]
    while waiting:
        model = waiting.pop()
        if model.__name__ not in found:
            found[model.__name__] = model
            waiting += [m for info in fields_of(model).values() for m in models_in(info.annotation)]
    return found


MODELS = every_model()


def test_all_sections_of_the_file_are_looked_at():
    assert {"ClusterFile", "VirtioFsMount", "PcieDevice", "KubernetesConfigSpec"} <= set(MODELS)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_the_page_has_a_row_for_every_field(name):
    rows = set(ROW.findall(PAGE.read_text()))
    assert not [field for field in fields_of(MODELS[name]) if field not in rows]


def test_the_page_has_no_row_for_a_field_that_is_not_there():
    known = {field for model in MODELS.values() for field in fields_of(model)}
    assert not [row for row in ROW.findall(PAGE.read_text()) if row not in known]


@pytest.mark.parametrize("name", sorted(MODELS))
def test_the_page_marks_what_is_required_and_nothing_else(name):
    page = PAGE.read_text()
    for field, info in fields_of(MODELS[name]).items():
        # In `metadata`, of Kubernetes, of a simulated card, and of `gpu` they are optional.
        if field in {"name", "version", "memory_gb", "count"}:
            continue
        assert (f"\n| **`{field}`** |" in page) == info.is_required(), field
