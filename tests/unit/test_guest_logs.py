"""Entries of a guest's journal, the time that --since means, and a serial log that is replaced."""

import base64
import json
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai_how.errors import SpecError
from ai_how.guest.agent import GuestAgent
from ai_how.guest.journal import (
    LONGEST_ENTRY,
    EntryReader,
    LogEntry,
    Wanted,
    entry_words,
    find_boot,
)
from ai_how.guest.serial_log import SerialTail, without_controls
from ai_how.guest.since import read_since

VM = UUID("7b1c1f0e-7f0e-4c56-9a35-0a4c4ea1f0aa")
AT = datetime(2026, 11, 30, 12, 0, 0, 250000, UTC)


class Guest:
    """It has these boots, and runs the one that ends with `dd`."""

    def __init__(self, boots: str) -> None:
        self.boots = boots
        self.asked: list[list[str]] = []

    def agent_command(self, _uuid, command, _timeout_s=5):
        if command["execute"] == "guest-exec":
            self.asked.append(command["arguments"]["arg"])
            return {"pid": 7}
        is_id = self.asked[-1] == ["/proc/sys/kernel/random/boot_id"]
        text = "00000000-0000-0000-0000-0000000000dd\n" if is_id else self.boots
        data = base64.b64encode(text.encode()).decode()
        return {"exited": True, "exitcode": 0, "out-data": data}


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
    ("boot", "boots", "found"),
    [
        (-1, BOOTS, "cc"),
        (-2, BOOTS, "bb"),
        (-3, BOOTS, "aa"),
        (-4, BOOTS, "-4"),
        (-1, "IDX BOOT ID", "-1"),
        (-1, "[{}]", "-1"),
        (-1, "7", "-1"),
    ],
)
def test_boots_are_counted_by_when_they_began(boot, boots, found):
    assert find_boot(GuestAgent(Guest(boots), VM, "compute-01"), boot) == found


def line(**fields: object) -> bytes:
    stamp = str(int(AT.timestamp() * 1e6))
    return json.dumps({"__CURSOR": "s=1", "__REALTIME_TIMESTAMP": stamp, **fields}).encode() + b"\n"


def read(data: bytes) -> list[LogEntry]:
    return list(EntryReader("compute-01").feed(data))


def test_an_entry_has_what_journalctl_says_of_it():
    fields = {"SYSLOG_IDENTIFIER": "slurmd", "_PID": "71", "PRIORITY": "6"}
    [entry] = read(line(MESSAGE="ready", _SYSTEMD_UNIT="slurmd.service", **fields))
    assert entry == LogEntry(
        "compute-01", "ready", AT, "slurmd", 71, "slurmd.service", 6, cursor="s=1"
    )
    of_systemd = {"_PID": "1", "_SYSTEMD_UNIT": "init.scope", "UNIT": "slurmd.service"}
    [entry] = read(line(MESSAGE="Started.", **of_systemd))
    assert entry.unit == "slurmd.service"
    [entry] = read(line(MESSAGE="Started.", **{**of_systemd, "_PID": "71"}))
    assert entry.unit == "init.scope"
    [entry] = read(line(MESSAGE=[104, 105, 255], _COMM="sh"))
    assert (entry.message, entry.identifier, entry.pid) == ("hi\ufffd", "sh", None)
    [entry] = read(line(MESSAGE=["two", "values"]))
    assert entry.message == "two\nvalues"


def test_pieces_become_whole_entries():
    data = line(MESSAGE="one") + line(MESSAGE="two")
    reader = EntryReader("compute-01")
    found = [one.message for at in range(len(data)) for one in reader.feed(data[at : at + 1])]
    assert found == ["one", "two"]


@pytest.mark.fault("S22", "what a guest prints instead of its journal")
@pytest.mark.parametrize(
    "data",
    [
        b"no json\n",
        b"[" * 100_000 + b"\n",
        b"7\n",
        b'{"__REALTIME_TIMESTAMP": "99999999999999999999", "MESSAGE": null, "_PID": {}}\n',
        b'{"__REALTIME_TIMESTAMP": "9999999999999999999", "MESSAGE": [1, -5], "_PID": []}\n',
        b'{"PRIORITY": "\xc2\xb2", "MESSAGE": [[[]]]}\n',
        b"x" * (LONGEST_ENTRY + 1),
    ],
)
def test_what_is_no_entry_is_shown_and_ends_nothing(data):
    reader = EntryReader("compute-01")
    [entry] = reader.feed(data)
    assert entry.time is not None
    assert len(entry.message) <= len(data)
    assert [one.message for one in reader.feed(b"\n" + line(MESSAGE="next"))] == ["next"]


@given(st.binary(max_size=300))
def test_any_bytes_are_entries(data):
    for entry in EntryReader("compute-01").feed(data + b"\n"):
        assert isinstance(entry.message, str)


def test_journalctl_is_asked_for_what_is_wanted():
    def words(*given: object, **more: object) -> list[str]:
        return [word.decode() for word in entry_words(Wanted(*given), **more)][6:]

    assert words(5, boot="0") == ["--boot=0", "--lines=5"]
    assert words(None, AT, ("slurmd", "-x")) == [
        "--unit=slurmd",
        "--unit=-x",
        f"--since=@{int(AT.timestamp())}",
    ]
    assert words(5, AT)[-2:] == ["--lines=5", "--reverse"]
    follow = ["--follow", "--no-tail"]
    assert words(5, AT, cursor="c", follows=True) == ["--cursor=c", *follow]
    assert words(5, AT, follows=True) == [f"--since=@{int(AT.timestamp())}", *follow]


@pytest.fixture
def berlin(monkeypatch):
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    yield datetime(2026, 11, 30, 14, 30, 5).astimezone()
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("now", "2026-11-30 13:30:05"),
        ("10m", "2026-11-30 13:20:05"),
        ("-10m", "2026-11-30 13:20:05"),
        ("10 min ago", "2026-11-30 13:20:05"),
        ("1h30m", "2026-11-30 12:00:05"),
        ("-1h", "2026-11-30 12:30:05"),
        ("2 hours 30 minutes ago", "2026-11-30 11:00:05"),
        ("1.5h", "2026-11-30 12:00:05"),
        ("3d", "2026-11-27 13:30:05"),
        ("today", "2026-11-29 23:00:00"),
        ("yesterday", "2026-11-28 23:00:00"),
        ("12:00", "2026-11-30 11:00:00"),
        ("12:00:07", "2026-11-30 11:00:07"),
        ("2026-11-30 12:00", "2026-11-30 11:00:00"),
        ("Mon 2026-11-30 12:00:00", "2026-11-30 11:00:00"),
        ("2026-07-01 12:00", "2026-07-01 10:00:00"),
        ("2026-11-30", "2026-11-29 23:00:00"),
        ("2026-11-30 12:00 UTC", "2026-11-30 12:00:00"),
        ("2026-11-30T12:00:00Z", "2026-11-30 12:00:00"),
        ("2026-11-30T12:00:00+05:00", "2026-11-30 07:00:00"),
        ("@1764504000", "2025-11-30 12:00:00"),
    ],
)
def test_since_is_read_as_by_journalctl_docker_and_kubectl(berlin, text, meant):
    assert f"{read_since(text, berlin).astimezone(UTC):%Y-%m-%d %H:%M:%S}" == meant


@pytest.mark.parametrize("text", ["", "ago", "-", "10", "1200", "12", "10 parsecs", "@x", "@1e99"])
def test_what_is_no_time_is_refused_with_the_forms(berlin, text):
    with pytest.raises(SpecError, match="this is no time") as caught:
        read_since(text, berlin)
    assert "'2026-11-30 12:00'" in (caught.value.details or "")


@given(st.text(max_size=12))
def test_any_text_is_a_time_or_refused(text):
    with suppress(SpecError):
        assert read_since(text, datetime.now().astimezone()).tzinfo


def test_a_serial_log_is_followed_through_its_replacement(tmp_path: Path):
    log = tmp_path / "compute-01.log"
    tail = SerialTail(log)
    assert tail.read() == []
    log.write_bytes(b"one\r\ntwo\r\nlog")
    assert tail.read() == ["one", "two"]
    with log.open("ab") as file:
        file.write(b"in: \xff\n")
    assert tail.read() == ["login: \ufffd"]
    with log.open("ab") as file:
        file.write(b"last\nhalf")
    log.rename(tmp_path / "compute-01.log.0")
    assert tail.read() == ["last"]
    log.write_bytes(b"new\nmore")
    assert tail.read() == ["half", "new"]
    log.write_bytes(b"c\n")
    assert tail.read() == ["more", "c"], "it was cut short"
    assert tail.rest() == []
    tail.close()


def test_control_characters_of_a_guest_are_left_out():
    assert without_controls("\x1b[31mred\x1b[0m\x07\ttab\x1b]0;title\x07 \x9b1mx") == "red\ttab 1mx"
