"""The end of a journal fits into an agent's answer, whatever the journal is."""

import base64
from uuid import UUID

import pytest

from ai_how.errors import GuestError
from ai_how.guest.agent import GuestAgent
from ai_how.vm_management.guest_logs import JOURNAL_BYTES, read_journal

VM = UUID("7b1c1f0e-7f0e-4c56-9a35-0a4c4ea1f0aa")


class Guest:
    """Its program printed this, and ended so."""

    def __init__(self, text: str, exit_code: int = 0) -> None:
        self.text, self.exit_code = text, exit_code

    def agent_command(self, _uuid, command, _timeout_s=5):
        if command["execute"] == "guest-exec":
            return {"pid": 7}
        data = base64.b64encode(self.text.encode()).decode()
        return {"exited": True, "exitcode": self.exit_code, "out-data": data}


def read(guest: Guest) -> tuple[str, list[str]]:
    said: list[str] = []
    agent = GuestAgent(guest, VM, "compute-01")
    return read_journal(agent, lines=5, boot=0, say=said.append), said


def test_a_short_journal_is_shown_whole_and_without_a_word():
    assert read(Guest("one\ntwo\n")) == ("one\ntwo\n", [])


@pytest.mark.fault("H16", "an answer that was cut in a line, and one that is a part of one line")
def test_of_a_long_journal_whole_lines_are_shown_and_it_is_said():
    text, said = read(Guest("torn\n" + "x" * (JOURNAL_BYTES - 10) + "\nend\n"))
    assert text.startswith("x")
    assert text.endswith("\nend\n")
    assert "only the last 512 KiB are shown" in said[0]
    assert read(Guest("x" * JOURNAL_BYTES))[0] == "x" * JOURNAL_BYTES


def test_a_boot_that_is_not_there_is_an_error():
    with pytest.raises(GuestError, match="the journal of compute-01 cannot be read"):
        read(Guest("", 1))
