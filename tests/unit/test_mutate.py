"""script/mutate makes the breaks that it says, and counts those that a test notices."""

import sys
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

import pytest

from ai_how.process import Completed, run
from mutants import mutants_of

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "script" / "mutate"

SMALL = '''
"""A module."""

import os
from contextlib import suppress

LIMIT: int = 10


def admit(age: int, *, known: bool = False) -> bool:
    """Whether to let in; 18 or more."""
    if age < 0:
        raise ValueError(f"{age + 0} is no age: {1}")
    with suppress(OSError):
        os.sync()
    return known or age >= 18
'''

WEAK = """
import pytest
from ai_how.small import LIMIT, admit

def test_it_admits():
    assert admit(30) is True
    assert admit(4) is False
    assert admit(4, known=True) is True
    assert LIMIT == 10
    with pytest.raises(ValueError):
        admit(-1)
"""

# The rest: the edges, and the call whose effect can be seen.
STRONG = (
    WEAK
    + """
def test_the_edges(monkeypatch):
    assert [age for age in range(30) if admit(age)] == list(range(18, 30))
    calls = []
    monkeypatch.setattr("os.sync", lambda: calls.append(1))
    admit(1)
    assert calls == [1]
    def fail():
        raise OSError
    monkeypatch.setattr("os.sync", fail)
    assert admit(18)
"""
)


def load() -> ModuleType:
    loader = SourceFileLoader("mutate", str(SCRIPT))
    module = module_from_spec(spec_from_loader("mutate", loader))
    sys.modules["mutate"] = module
    loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def mutate() -> ModuleType:
    return load()


def test_every_kind_of_break_is_made_once(mutate):
    head = "def admit(age: int, *, known: bool=False) -> bool:"
    assert [one.what for one in mutants_of("small.py", SMALL)] == [
        "10  ->  11  in  LIMIT: int = 10",
        "10  ->  9  in  LIMIT: int = 10",
        f"False  ->  True  in  {head}",
        "age < 0  ->  age >= 0",
        "age < 0  ->  age <= 0",
        "0  ->  1  in  if age < 0:",
        "0  ->  -1  in  if age < 0:",
        "without raise ValueError(f'{age + 0} is no age: {1}')",
        "without suppress(OSError)",
        "without os.sync()",
        "return known or age >= 18  ->  return None",
        "known or age >= 18  ->  known and age >= 18",
        "age >= 18  ->  age > 18",
        "18  ->  19  in  return known or age >= 18",
        "18  ->  17  in  return known or age >= 18",
    ]


def test_a_mutant_is_the_module_with_one_break(mutate):
    one = next(
        mutant for mutant in mutants_of("a.py", SMALL) if mutant.what.startswith("18  ->  19")
    )
    assert str(one) == "a.py:16: 18  ->  19  in  return known or age >= 18"
    assert one.function == "admit"
    world: dict[str, object] = {}
    exec(one.source, world)  # noqa: S102  our own few lines
    assert world["admit"](19)
    assert not world["admit"](18)


@pytest.mark.parametrize(
    ("source", "whats"),
    [
        ("if not a: b()", {"not a  ->  a", "without b()"}),
        ("while a in b: continue", {"a in b  ->  a not in b", "continue  ->  break"}),
        ("x = a is None", {"a is None  ->  a is not None"}),
        ("x = [y for y in z if y]", {"if y  ->  if not y"}),
        ("x = a if b else c", {"a if b else c  ->  a if not b else c"}),
        ("F = os.O_RDONLY | os.O_EXCL", {"os.O_RDONLY | os.O_EXCL  ->  os.O_RDONLY"}),
        ("F = A | B", {"A | B  ->  A", "A | B  ->  B"}),
        ("F = A | None", set()),
        ("n += 1", {"without n += 1", "1  ->  2  in  n += 1", "1  ->  0  in  n += 1"}),
        ("x = a - b", {"a - b  ->  a + b"}),
        ('"""Only 1 text."""\nx: Literal[1] = "a"', set()),
        ("def f(a: int | None) -> bool | None: return None", set()),
    ],
)
def test_what_is_broken_and_what_is_not(mutate, source, whats):
    assert {one.what for one in mutants_of("a.py", source)} == whats


def test_only_the_functions_that_were_named_are_broken(mutate):
    source = "def f():\n    g()\n\ndef h():\n    i()\n"
    assert [one.what for one in mutants_of("a.py", source, ("h",))] == ["without i()"]


def test_the_kernel_and_its_tests_are_there(mutate):
    for name, module in mutate.KERNEL.items():
        source = (ROOT / "src" / "ai_how" / name).read_text()
        assert all(f"def {function}(" in source for function in module.functions)
        for test in module.tests:
            assert (ROOT / "tests" / "unit" / f"{test}.py").is_file()


def test_what_is_called_equivalent_is_a_mutant_still(mutate, is_long):
    if not is_long:
        pytest.skip("script/mutate runs with --long only")
    made = {(one.module, one.function, one.what) for one in mutate.gather([])}
    assert set(mutate.EQUIVALENT) - made == set()
    assert all(mutate.EQUIVALENT.values())


def hunt(root: Path, test: str) -> Completed:
    """The script, on a project of one module with one test."""
    (root / "src" / "ai_how").mkdir(parents=True)
    (root / "tests" / "unit").mkdir(parents=True)
    (root / "src" / "ai_how" / "small.py").write_text(SMALL)
    (root / "src" / "ai_how" / "__init__.py").touch()
    (root / "tests" / "unit" / "test_small.py").write_text(test)
    (root / "pyproject.toml").write_text('[tool.pytest.ini_options]\nfilterwarnings = ["error"]\n')
    # In a process that has not loaded ai_how, as the script's own.
    program = f"""
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
mutate = SourceFileLoader("mutate", {str(SCRIPT)!r}).load_module()
mutate.ROOT = Path({str(root)!r})
mutate.KERNEL = {{"small.py": mutate.Module(("test_small",))}}
mutate.EQUIVALENT = {{("small.py", "admit", "age < 0  ->  age <= 0"): "a try"}}
sys.exit(mutate.main(["--jobs", "1"]))
"""
    return run([sys.executable, "-c", program], check=False, timeout_s=300)


def test_what_a_test_does_not_notice_survives_and_is_told(tmp_path):
    before = SMALL
    done = hunt(tmp_path, WEAK)
    assert done.stderr == ""
    assert "survived    small.py:16: age >= 18  ->  age > 18" in done.stdout
    assert "survived    small.py:15: without os.sync()" in done.stdout
    assert "equivalent  small.py:12: age < 0  ->  age <= 0  (a try)" in done.stdout
    assert done.returncode == 1
    assert (tmp_path / "src" / "ai_how" / "small.py").read_text() == before


def test_nine_of_ten_noticed_is_enough(tmp_path):
    done = hunt(tmp_path, STRONG)
    assert "small.py" in done.stdout
    assert "survived" not in done.stdout
    assert done.returncode == 0


def test_tests_that_fail_as_they_are_prove_nothing(tmp_path):
    done = hunt(tmp_path, "def test_it():\n    assert False\n")
    assert "the tests fail as they are: tests/unit/test_small.py::test_it" in done.stderr
    assert done.returncode == 1
