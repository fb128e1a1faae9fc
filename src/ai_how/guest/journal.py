"""The journal of a node; the answer of an agent has room for its end."""

import json
from collections.abc import Callable
from contextlib import suppress

from ai_how.errors import GuestError
from ai_how.guest.agent import GuestAgent
from ai_how.waiting import Deadline

LOG_S = 60.0
# This fits into one answer of a guest agent, in base64 and with the rest of the answer.
JOURNAL_BYTES = 512 * 1024
_BOOT_ID = "/proc/sys/kernel/random/boot_id"
_CUT = 'set -o pipefail; limit=$1; shift; journalctl "$@" | tail -c "$limit"'


def journal_words(*options: str) -> tuple[str, ...]:
    """The command that prints the end of a journal, limited in bytes."""
    shell = ("/bin/busybox", "sh", "-c", _CUT, "journal")
    return (*shell, str(JOURNAL_BYTES), "--no-pager", *options)


def read_journal(
    agent: GuestAgent, *, kind: str, lines: int, boot: int, warn: Callable[[str], None]
) -> str:
    """The last lines of a node's journal of one boot: 0 is current, -1 the previous.

    If they are too large, the end of them; `warn` is told. `kind` is that of the cluster, for
    hints. Raises GuestError if the journal has no such boot.
    """
    deadline = Deadline.after(LOG_S)
    which = _find_boot(agent, boot, deadline) if boot else "0"
    done = agent.run(journal_words("-b", which, "-n", str(lines)), deadline)
    if done.exit_code != 0:
        raise GuestError(
            f"the journal of {agent.name} cannot be read",
            details=done.errors.strip()[-2000:] or None,
            hint=f"ai-how {kind} exec {agent.name} -- journalctl --list-boots",
        )
    text = done.output
    if len(text.encode()) < JOURNAL_BYTES:
        return text
    warn(
        f"only the last {JOURNAL_BYTES // 1024} KiB are shown; to see all: "
        f"ai-how {kind} ssh {agent.name} -- sudo journalctl -b {which}"
    )
    _torn, _, whole = text.partition("\n")
    return whole or text


def _find_boot(agent: GuestAgent, boot: int, deadline: Deadline) -> str:
    """The boot at that offset from the current one, as journalctl's `-b` takes it.

    Ordered by the start of each boot. journalctl itself orders by the end, which selects another
    boot after a clock was set back (seen with systemd 257).
    """
    running = agent.run(("/bin/cat", _BOOT_ID), deadline).output.strip().replace("-", "")
    listed = agent.run(("/usr/bin/journalctl", "--list-boots", "-o", "json"), deadline).output
    # If there is no such boot, or no JSON output, journalctl decides.
    with suppress(ValueError, KeyError, TypeError, IndexError):
        boots = sorted(json.loads(listed), key=lambda one: int(one["first_entry"]))
        ids = [str(one["boot_id"]) for one in boots]
        ids.remove(running)
        return ids[boot]
    return str(boot)
