"""The search for secrets finds them: else its silence would mean nothing."""

import base64
import secrets
from pathlib import Path

import pytest

from ai_how.process import run
from canaries import find_in_files, find_in_text, spellings, watching

SECRET = secrets.token_bytes(48)


@pytest.mark.parametrize("shift", range(3))
@pytest.mark.parametrize(
    "write",
    [
        bytes,
        lambda data: data.hex().encode(),
        lambda data: data.hex().upper().encode(),
        base64.b64encode,
        base64.urlsafe_b64encode,
    ],
)
def test_a_secret_is_found_however_it_is_written_and_wherever_it_begins(write, shift):
    text = write(secrets.token_bytes(60 + shift) + SECRET + secrets.token_bytes(shift + 50))
    assert list(find_in_text({"key": SECRET}, "a text", text)) == ["key is in a text"]


def test_other_bytes_are_no_secret():
    assert list(find_in_text({"key": SECRET}, "a text", secrets.token_bytes(5000))) == []
    assert all(len(one) >= 48 for one in spellings(SECRET))


def test_a_file_is_searched_unless_it_may_hold_a_secret(tmp_path: Path):
    kept, other = tmp_path / "kept", tmp_path / "below" / "other"
    other.parent.mkdir()
    for path in (kept, other):
        path.write_bytes(b"x" * 100 + base64.b64encode(SECRET))
    assert find_in_files({"key": SECRET}, [tmp_path], kept={kept}) == [f"key is in {other}"]


def test_an_argument_and_an_environment_are_seen_while_a_process_lives():
    with watching() as watch:
        run(["sleep", "3"], env={"AN_ENVIRONMENT": "is seen"})
    assert any(b"AN_ENVIRONMENT=is seen" in one for one in watch.seen)
    assert any(one.startswith(b"sleep\x003") for one in watch.seen)
