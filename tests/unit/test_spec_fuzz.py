"""Whatever a file holds, reading it ends with a spec or a SpecError, never with anything else."""

import contextlib
import random
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ai_how.errors import SpecError
from ai_how.spec.reader import read_spec, read_spec_text

DATA = Path(__file__).parent.parent / "data" / "spec"
GOOD = [file.read_text() for file in sorted(DATA.glob("*.yaml"))]
ENVIRONMENT = {"PROJECT": "/p", "DATASETS": "/d"}
PIECES = [
    *("- ", "? ", ": ", "\n", "\n  ", "  ", "\t", "[", "]", "{", "}", ",", "&a ", "*a", "!!", "!"),
    *("|", ">", "'", '"', "%YAML 1.2\n", "---\n", "...\n", "<<: *a", "\\x41", "\\U00110000", "#"),
    *("${", "${A}", "${A:-b}", "$${", "null", "~", "true", "-1", "0", "1e999", ".nan", "0x1f", "@"),
    *(
        "clusters:",
        "hpc:",
        "compute_nodes:",
        "count:",
        "version: '1.0'",
        "\x85",
        "\u2028",
        "\ufeff",
    ),
]
yaml_like = st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=40).map("".join)


def read_any(text: str) -> None:
    spec, problems = read_spec_text(text, "f", ENVIRONMENT)
    assert spec is not None or problems
    lines = text.count("\n") + text.count("\r") + text.count("\x85") + text.count("\u2028")
    for problem in problems:
        assert 1 <= problem.line <= lines + text.count("\u2029") + 1
        assert str(problem).isprintable()


@given(text=yaml_like | st.text())
@example(text='"\\U00110000"')
@example(text="\ud800")
def test_any_text_is_read_or_refused(text: str) -> None:
    read_any(text)


@given(data=st.binary(max_size=200) | yaml_like.map(str.encode))
def test_any_bytes_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    file = tmp_path_factory.getbasetemp() / "any.yaml"
    file.write_bytes(data)
    with contextlib.suppress(SpecError):
        assert read_spec(file, {}).clusters


def mutated(text: str, seed: int) -> str:
    """A good file with a few of its lines or values spoilt."""
    chosen = random.Random(seed)  # noqa: S311  nothing secret
    lines = text.splitlines()
    for _ in range(chosen.randint(1, 6)):
        at = chosen.randrange(len(lines))
        key, colon, value = lines[at].partition(": ")
        match chosen.randrange(7):
            case 0:
                del lines[at : at + chosen.randint(1, 3)]
                lines.append("")
            case 1:
                lines.insert(at, lines[chosen.randrange(len(lines))])
            case 2:
                lines[at] = key + colon + chosen.choice(PIECES)
            case 3:
                lines[at] = key + colon + chosen.choice(["[]", "{}", "7", "null", "[{}]", "[[]]"])
            case 4:
                lines[at] = key[:-1] + colon + value
            case 5:
                lines[at] = chosen.choice(["  ", ""]) + lines[at]
            case _:
                other = chosen.randrange(len(lines))
                lines[at] = key + colon + lines[other].partition(": ")[2]
    return "\n".join(lines)


@settings(max_examples=300, deadline=None)
@given(text=st.sampled_from(GOOD), seed=st.integers(min_value=0, max_value=2**32))
def test_a_spoilt_file_is_read_or_refused(text: str, seed: int) -> None:
    read_any(mutated(text, seed))
