"""What `ai_how` exports is there, and is all that `ai_how.api` has."""

import sys

import pytest

import ai_how
import ai_how.api
from ai_how.process import run


def test_each_name_is_there_and_no_other():
    modules = {name.rpartition(".")[2] for name in sys.modules if name.startswith("ai_how.api.")}
    # pytest adds names of its own, which begin with @.
    public = {name for name in vars(ai_how.api) if name[0] not in "_@"}
    assert public - modules == set(ai_how.__all__)
    for name in ai_how.__all__:
        assert getattr(ai_how, name) is getattr(ai_how.api, name)
    with pytest.raises(AttributeError):
        _ = ai_how.nothing


def test_the_package_alone_loads_nothing():
    code = "import sys, ai_how; print([one for one in sys.modules if one.startswith('ai_how.')])"
    assert run([sys.executable, "-c", code]).stdout == "[]\n"
