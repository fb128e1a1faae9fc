"""A node's journal, of which an agent's answer holds the end."""

import json
from collections.abc import Callable
from contextlib import suppress

from ai_how.errors import GuestError
from ai_how.guest.agent import GuestAgent
from ai_how.waiting import Deadline

LOG_S = 60.0
# In base64, and with all that is around it, this fits into one answer of a guest's agent.
JOURNAL_BYTES = 512 * 1024
_BOOT_ID = "/proc/sys/kernel/random/boot_id"
_CUT = 'set -o pipefail; limit=$1; shift; journalctl "$@" | tail -c "$limit"'


def journal_words(*options: str) -> tuple[str, ...]:
    """What prints the end of a journal, however long that and its lines are."""
    shell = ("/bin/busybox", "sh", "-c", _CUT, "journal")
    return (*shell, str(JOURNAL_BYTES), "--no-pager", *options)


def read_journal(agent: GuestAgent, *, lines: int, boot: int, say: Callable[[str], None]) -> str:
    """The last lines of a node's journal of one boot: 0 is this one, -1 the one before.

    Where they are too many bytes, those at the end, which `say` is told.
    Raises GuestError where the journal has no such boot.
    """
    deadline = Deadline.after(LOG_S)
    which = _find_boot(agent, boot, deadline) if boot else "0"
    done = agent.run(journal_words("-b", which, "-n", str(lines)), deadline)
    if done.exit_code != 0:
        raise GuestError(
            f"the journal of {agent.name} cannot be read",
            details=done.errors.strip()[-2000:] or None,
            hint=f"ai-how hpc exec {agent.name} -- journalctl --list-boots",
        )
    text = done.output
    if len(text.encode()) < JOURNAL_BYTES:
        return text
    say(
        f"only the last {JOURNAL_BYTES // 1024} KiB are shown; to see all: "
        f"ai-how hpc ssh {agent.name} -- sudo journalctl -b {which}"
    )
    _torn, _, whole = text.partition("\n")
    return whole or text


def _find_boot(agent: GuestAgent, boot: int, deadline: Deadline) -> str:
    """The boot that many before this one, as journalctl's `-b` takes it.

    By when each began: journalctl itself counts by when each ended, which takes another boot where
    a clock has been set back (seen with systemd 257).
    """
    running = agent.run(("/bin/cat", _BOOT_ID), deadline).output.strip().replace("-", "")
    listed = agent.run(("/usr/bin/journalctl", "--list-boots", "-o", "json"), deadline).output
    # Where there are no such boots, or it does not write JSON, journalctl has the last word.
    with suppress(ValueError, KeyError, TypeError, IndexError):
        boots = sorted(json.loads(listed), key=lambda one: int(one["first_entry"]))
        ids = [str(one["boot_id"]) for one in boots]
        ids.remove(running)
        return ids[boot]
    return str(boot)
