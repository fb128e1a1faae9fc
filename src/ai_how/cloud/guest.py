"""Asks the API of a cluster, by the program `kube` on one of its control planes."""

import json
from collections.abc import Sequence
from importlib.resources import files
from threading import Event

from ai_how.errors import DeadlineError, GuestError
from ai_how.guest.agent import GuestAgent
from ai_how.waiting import Deadline

PROGRAM = "/usr/lib/ai-how/kube"
NAMES_PROGRAM = "/usr/lib/ai-how/kube-names"
LAST = "/run/ai-how/kube.last"
"""The line of what `kube` waited for last."""


def program() -> bytes:
    """The text of `kube`, which comes to control planes with their identity."""
    return _text_of("kube")


def names_program() -> bytes:
    """The text of `kube-names`, which has the DNS server know the Services."""
    return _text_of("kube-names")


def _text_of(name: str) -> bytes:
    return (files("ai_how.cloud") / "guest_files" / name).read_bytes()


def ask_api(
    agent: GuestAgent,
    verb: str,
    names: Sequence[str] = (),
    *,
    deadline: Deadline,
    given: object = None,
    stop: Event | None = None,
) -> object:
    """The answer of `kube VERB NAMES`, of which nothing is trusted yet.

    Raises GuestError with what the API says where it refuses, and DeadlineError.
    """
    stdin = json.dumps(given).encode() if given is not None else None
    words = [PROGRAM, verb, *names]
    text = agent.check(words, deadline, stdin=stdin, stop=stop)
    try:
        return json.loads(text)
    except ValueError as error:
        raise GuestError(f"{agent.name} gave an invalid answer to kube {verb}") from error


def last_wait(agent: GuestAgent, within_s: float = 20.0) -> str:
    """What `kube` waited for last; empty if that is not known."""
    try:
        return agent.run(["/bin/cat", LAST], Deadline.after(within_s)).output.strip()[:2000]
    except (GuestError, DeadlineError):
        return ""
