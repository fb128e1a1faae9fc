"""The end of a journal fits into an agent's answer, whatever the journal is."""

import base64
import json
from uuid import UUID

import pytest

from ai_how.errors import GuestError
from ai_how.guest.agent import GuestAgent
from ai_how.guest.journal import JOURNAL_BYTES, read_journal

VM = UUID("7b1c1f0e-7f0e-4c56-9a35-0a4c4ea1f0aa")


class Guest:
    """Its journal says this, and is read with that exit code."""

    def __init__(self, text: str, exit_code: int = 0, boots: str = "") -> None:
        self.text, self.exit_code, self.boots = text, exit_code, boots
        self.asked: list[list[str]] = []

    def agent_command(self, _uuid, command, _timeout_s=5):
        if command["execute"] == "guest-exec":
            self.asked.append(command["arguments"]["arg"])
            return {"pid": 7}
        if self.asked[-1] == ["/proc/sys/kernel/random/boot_id"]:
            text, code = "00000000-0000-0000-0000-0000000000dd\n", 0
        elif "--list-boots" in self.asked[-1]:
            text, code = self.boots, 0
        else:
            text, code = self.text, self.exit_code
        data = base64.b64encode(text.encode()).decode()
        return {"exited": True, "exitcode": code, "out-data": data}


def read(guest: Guest, boot: int = 0) -> tuple[str, list[str]]:
    said: list[str] = []
    agent = GuestAgent(guest, VM, "compute-01")
    return read_journal(agent, kind="hpc", lines=5, boot=boot, warn=said.append), said


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


# As a node listed them whose clock was set back in its second boot: the third one runs.
BOOTS = json.dumps(
    [
        {"index": -3, "boot_id": "aa", "first_entry": 10, "last_entry": 20},
        {"index": -2, "boot_id": f"{'0' * 30}dd", "first_entry": 50, "last_entry": 55},
        {"index": -1, "boot_id": "bb", "first_entry": 30, "last_entry": 40},
        {"index": 0, "boot_id": "cc", "first_entry": 45, "last_entry": 99},
    ]
)


@pytest.mark.fault("H16", "boots that journalctl lists in another order, as a clock was set back")
@pytest.mark.parametrize(
    ("boot", "boots", "asked"),
    [
        (0, BOOTS, "0"),
        (-1, BOOTS, "cc"),
        (-2, BOOTS, "bb"),
        (-3, BOOTS, "aa"),
        (-4, BOOTS, "-4"),
        (-1, "IDX BOOT ID", "-1"),
        (-1, "[{}]", "-1"),
        (-1, "7", "-1"),
    ],
)
def test_boots_are_counted_by_when_they_began(boot, boots, asked):
    guest = Guest("what it said\n", boots=boots)
    assert read(guest, boot) == ("what it said\n", [])
    words = guest.asked[-1]
    assert words[words.index("-b") + 1] == asked
