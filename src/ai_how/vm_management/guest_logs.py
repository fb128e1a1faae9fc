"""A node's journal, of which an agent's answer holds the end."""

from collections.abc import Callable

from ai_how.errors import GuestError
from ai_how.guest.agent import GuestAgent
from ai_how.waiting import Deadline

LOG_S = 60.0
# In base64, and with all that is around it, this fits into one answer of a guest's agent.
JOURNAL_BYTES = 512 * 1024
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
    words = journal_words("-b", str(boot), "-n", str(lines))
    done = agent.run(words, Deadline.after(LOG_S))
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
        f"only the last {JOURNAL_BYTES // 1024} KiB are shown; all of it: "
        f"ai-how hpc ssh {agent.name} -- sudo journalctl -b {boot}"
    )
    _torn, _, whole = text.partition("\n")
    return whole or text
