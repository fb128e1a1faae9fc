"""The keys of the cluster file by place, read from the models for messages and documents."""

from typing import Any, get_args

from pydantic.fields import FieldInfo

from ai_how.spec.hardware import Spec
from ai_how.spec.lists import GROUP, NODE
from ai_how.spec.models import ClusterFile
from ai_how.spec.problems import Loc


def fields_of(model: type[Spec]) -> dict[str, FieldInfo]:
    """By the name that the file uses, in the order of the models."""
    return {info.alias or name: info for name, info in model.model_fields.items()}


def models_in(annotation: Any) -> list[type[Spec]]:  # noqa: ANN401  a type expression of any form
    """The sections that a field may hold; a group stands after the node that it is made of."""
    if isinstance(annotation, type) and issubclass(annotation, Spec):
        return [annotation]
    return [model for part in get_args(annotation) for model in models_in(part)]


def known_keys(loc: Loc) -> list[str]:
    """The keys that the section at a place of pydantic's (tags included) may have."""
    models: list[type[Spec]] = [ClusterFile]
    for part in loc:
        if part == NODE:
            models = models[:1]
        elif part == GROUP:
            models = models[1:]
        else:
            inner = [fields_of(model)[part] for model in models if part in fields_of(model)]
            models = [m for info in inner for m in models_in(info.annotation)] or models
    return [key for model in models for key in fields_of(model)]
