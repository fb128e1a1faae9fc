"""Parse the answers of guest agents without trust: a guest may send anything."""

import json
from collections.abc import Iterable

from ai_how.errors import GuestError

ANSWER_LIMIT_BYTES = 1024 * 1024


def read_agent_answer(text: str) -> object:
    """The `return` value of an agent's answer.

    Raises GuestError for an answer that is an error, is too long, or is not strict JSON.
    """
    if len(text.encode("utf-8", "surrogatepass")) > ANSWER_LIMIT_BYTES:
        raise GuestError("the guest's agent sent more than 1 MiB in one answer")
    try:
        answer = json.loads(text, parse_constant=_no_constant, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise GuestError(
            "the guest's agent did not answer in JSON", details=f"{error}: {text[:200]!a}"
        ) from error
    if isinstance(answer, dict) and isinstance(problem := answer.get("error"), dict):
        raise GuestError(
            "the guest's agent refused the command",
            details=ascii(str(problem.get("desc", problem))[:2000]),
        )
    if not isinstance(answer, dict) or "return" not in answer:
        raise GuestError("the guest's agent sent no return value", details=f"{text[:200]!a}")
    result: object = answer["return"]
    return result


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


def _unique(pairs: Iterable[tuple[str, object]]) -> dict[str, object]:
    seen: dict[str, object] = {}
    for key, value in pairs:
        if key in seen:
            raise ValueError(f"the key {key[:40]!a} occurs twice")
        seen[key] = value
    return seen
