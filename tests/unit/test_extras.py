"""What an extra needs is what the package says, for the Python that runs us."""

import shlex
import sys

import pytest

from ai_how.extras import install_command


@pytest.mark.parametrize(
    ("extra", "library"),
    [
        ("top", "textual"),
        ("dashboard", "starlette"),
        ("ansible", "ansible-core"),
        ("cloud", "cryptography"),
        ("sbom", "cyclonedx-python-lib"),
    ],
)
def test_the_command_names_the_libraries_of_the_extra(extra: str, library: str) -> None:
    python, *words = shlex.split(install_command(extra))
    assert (python, words[:3]) == (sys.executable, ["-m", "pip", "install"])
    assert any(word.startswith(f"{library}>=") for word in words[3:])
    assert not any("ai-how" in word or ";" in word for word in words[3:])
