"""An agent's answer is read without trust."""

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai_how.errors import GuestError
from ai_how.libvirt_client.agent_answer import ANSWER_LIMIT_BYTES, read_agent_answer

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(json_values)
def test_what_an_agent_returns_comes_back_as_it_was(value: object) -> None:
    assert read_agent_answer(json.dumps({"return": value})) == value


@pytest.mark.fault("S22", "arbitrary text")
@given(st.text())
def test_no_answer_brings_the_reader_down(text: str) -> None:
    with pytest.raises(GuestError, match="the guest's agent"):
        read_agent_answer(text)


@pytest.mark.fault("S22", "answers that are not what they should be")
@pytest.mark.fault("S31", "escapes in an answer")
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "did not answer in JSON"),
        ("[]", "sent no return value"),
        ("{}", "sent no return value"),
        ('{"return": NaN}', "NaN is not JSON"),
        ('{"return": 1, "return": 2}', "the key 'return' occurs twice"),
        ('{"return": ' + "[" * 100_000, "did not answer in JSON"),
        ('{"return": ' + "9" * 5_000 + "}", "did not answer in JSON"),
        (
            '{"error": {"class": "GenericError", "desc": "no \\u001b]0;x"}}',
            r"refused the command\n'no \\x1b",
        ),
    ],
    ids=["empty", "list", "nothing", "nan", "twice", "deep", "long number", "refusal"],
)
def test_a_bad_answer_is_the_guests_failure(text: str, words: str) -> None:
    with pytest.raises(GuestError) as caught:
        read_agent_answer(text)
    assert words.replace("\\n", "\n").replace("\\\\", "\\") in str(caught.value)


@pytest.mark.fault("S22", "an answer of more than 1 MiB")
def test_an_answer_that_is_too_long_is_refused_unread() -> None:
    text = json.dumps({"return": "x" * ANSWER_LIMIT_BYTES})
    began = time.monotonic()
    with pytest.raises(GuestError, match="more than 1 MiB"):
        read_agent_answer(text)
    assert time.monotonic() - began < 20
