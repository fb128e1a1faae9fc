"""Compares text with a file in data/; `pytest tests/golden --update-golden` writes the file."""

from collections.abc import Callable
from pathlib import Path

import pytest

DATA = Path(__file__).with_name("data")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write the golden files anew")


@pytest.fixture
def assert_golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """`assert_golden(file_name, text)`."""

    def compare(file_name: str, text: str) -> None:
        path = DATA / file_name
        if request.config.getoption("--update-golden", default=False):
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        hint = f"{file_name} is not as it was: pytest tests/golden --update-golden; git diff"
        assert path.is_file(), hint
        assert text == path.read_text(), hint

    return compare
