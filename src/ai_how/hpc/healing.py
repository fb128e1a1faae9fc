"""How SLURM's services, the shared home and nodes that are out of service are mended.

What a user drained is left alone: before a node is brought back, SLURM is asked again.
"""

import shlex
from collections.abc import Callable, Mapping, Sequence

from ai_how.errors import GuestError
from ai_how.guest.serial_log import one_line
from ai_how.hpc.catalogue import SlurmCause
from ai_how.hpc.health import SERVICES, is_mendable
from ai_how.monitoring.healing import ACT_S, Act, Hands, Mend
from ai_how.monitoring.model import Finding, SlurmNode
from ai_how.vm_management.nodes.clocks import describe_skew, is_off, read_skew_s
from ai_how.waiting import Deadline, wait_until

CLOCK_S = 40.0
"""What keeps the clock looks every ten seconds."""
# Only what does not run is started: a service that came back meanwhile is not disturbed.
START = """\
for unit; do
    systemctl is-active --quiet "$unit" && continue
    systemctl reset-failed "$unit" 2> /dev/null
    timeout 60 systemctl start "$unit" || exit
    systemctl is-active --quiet "$unit" || { echo "$unit ended at once" >&2; exit 1; }
done
"""
# A mount that waits for a server goes on by itself when that is back. One that does not, though the
# server answers, is of a server that was made anew: it is taken away, and mounted again.
HOME = """\
answers() { timeout -s KILL "$1" stat -f /home > /dev/null 2>&1; }
is_mounted() { grep -q ' /home nfs4 ' /proc/self/mounts; }
is_mounted && answers 10 && exit
timeout 20 /usr/lib/ai-how/wait-for-port controller 2049 ||
    { echo 'its server is silent' >&2; exit 1; }
is_mounted && answers 20 && exit
is_mounted && timeout 20 umount -f -l /home
systemctl reset-failed home.mount 2> /dev/null
timeout 60 systemctl start home.mount || exit
is_mounted && answers 20
"""
OUT = frozenset({"drained", "draining", "drain", "down", "fail", "failing"})
"""The states of sinfo(1) for nodes that take no jobs."""
SAYS = "sinfo -h -N -n {node} -o '%T|%u|%E'"


def _start(finding: Finding) -> Act:
    """Start the services of a finding that do not run."""
    units = _units_of(finding)

    def act(hands: Hands) -> None:
        _run(hands, finding.subject, [START, "start", *units])

    return act


def _units_of(finding: Finding) -> list[str]:
    """The services whose death is this finding: those that its evidence names."""
    named = {line.partition(":")[0] for line in finding.evidence}
    if "chrony: absent" in finding.evidence and "ai-how-clock" in named:
        named.remove("chrony")  # an image may have none
    return [name for name, cause in SERVICES.items() if cause == finding.id and name in named]


def _starts(finding: Finding) -> str:
    return f"start {' and '.join(_units_of(finding))} on {finding.subject}"


def _set_clock(finding: Finding) -> Act:
    """Start what keeps the clock, and wait until it has set it."""

    def act(hands: Hands) -> None:
        agent = hands.agent(finding.subject)
        _run(hands, finding.subject, [START, "start", "ai-how-clock"])

        def is_right() -> bool:
            return not is_off(read_skew_s(agent))

        skew_s = read_skew_s(agent)
        what = f"the clock of {finding.subject}, which is {describe_skew(skew_s)}"
        wait_until(is_right, Deadline.after(CLOCK_S), what, interval_s=1.0)

    return act


def _mount_home(finding: Finding) -> Act:
    def act(hands: Hands) -> None:
        _run(hands, finding.subject, [HOME, "home"], within_s=2 * ACT_S)

    return act


def _bring_back(finding: Finding) -> Act:
    """Have SLURM use a node again that it, or we, took out of service, and that answers."""

    def act(hands: Hands) -> None:
        node, head = finding.subject, hands.head().name
        seen = _ask_slurm(hands, head, node)
        if seen is None or not (
            {"drained", "draining", "drain", "down", "fail"} & set(seen.states)
        ):
            return
        if not is_mendable(seen):
            by = one_line(seen.reason_user or "somebody")[:40]
            raise GuestError(f"{node} was taken out of service by {by}: it is left so")
        if "not_responding" in seen.states:
            raise GuestError(f"SLURM gets no answer from {node}")
        words = ["scontrol", "update", f"nodename={node}", "state=resume"]
        _check(hands, head, words)

        def is_back() -> bool:
            now = _ask_slurm(hands, head, node)
            return now is not None and not OUT & set(now.states)

        wait_until(is_back, Deadline.after(ACT_S), f"SLURM to use {node} again", interval_s=1.0)

    return act


def _register(finding: Finding) -> Act:
    """Have a slurmd register anew, of which SLURM hears nothing; its jobs run on meanwhile."""

    def act(hands: Hands) -> None:
        node, head = finding.subject, hands.head().name

        def is_heard() -> bool:
            now = _ask_slurm(hands, head, node)
            return now is not None and "not_responding" not in now.states

        if is_heard():
            return
        _run(hands, node, ["timeout 60 systemctl restart slurmd"])
        wait_until(is_heard, Deadline.after(ACT_S), f"SLURM to hear of {node}", interval_s=1.0)

    return act


def _ask_slurm(hands: Hands, head: str, node: str) -> SlurmNode | None:
    """A node as SLURM has it now; None if it does not know it."""
    command = SAYS.format(node=shlex.quote(node))
    said = _check(hands, head, ["/bin/sh", "-c", command])
    return read_node(node, said)


def read_node(node: str, text: str) -> SlurmNode | None:
    """The answer of `SAYS` about a node; it has only what `is_mendable` looks at (pure)."""
    state, _, rest = text.strip().partition("\n")[0].partition("|")
    user, _, reason = rest.partition("|")
    if not state:
        return None
    base = state.lower().rstrip("*~#!%$@^+-")
    return SlurmNode(
        name=node,
        states=(base, "not_responding") if "*" in state else (base,),
        reason=reason if reason not in {"", "none"} else None,
        reason_user=user if user not in {"", "Unknown"} else None,
        cpus=0,
        cpus_allotted=0,
        memory_mib=0,
        memory_allotted_mib=0,
    )


def _check(hands: Hands, node: str, words: Sequence[str]) -> str:
    return hands.agent(node).check(words, Deadline.after(ACT_S))


def _run(hands: Hands, node: str, words: list[str], *, within_s: float = ACT_S) -> None:
    """Run a script with its arguments. Raises GuestError with what it said if it fails."""
    done = hands.agent(node).run(["/bin/sh", "-c", *words], Deadline.after(within_s))
    if done.exit_code != 0:
        said = one_line((done.errors or done.output).strip()[-300:])
        raise GuestError(f"it did not help on {node}: {said or f'exit code {done.exit_code}'}")


def _fixed(text: str) -> Callable[[Finding], str]:
    return lambda finding: text.format(node=finding.subject)


MENDS: Mapping[str, Mend] = {
    SlurmCause.CLOCK_UNKEPT: Mend(1, _starts, _start),
    SlurmCause.CLOCK_OFF: Mend(2, _fixed("set the clock of {node}"), _set_clock),
    SlurmCause.MUNGE_DOWN: Mend(3, _starts, _start),
    SlurmCause.NFS_DOWN: Mend(4, _starts, _start),
    SlurmCause.SLURMCTLD_DOWN: Mend(5, _starts, _start),
    SlurmCause.HOME_NOT_MOUNTED: Mend(6, _fixed("mount /home on {node}"), _mount_home),
    SlurmCause.SLURMD_DOWN: Mend(7, _starts, _start),
    SlurmCause.NODE_NOT_REGISTERED: Mend(8, _fixed("start slurmd of {node} anew"), _register),
    SlurmCause.NODE_OUT_OF_SERVICE: Mend(9, _fixed("bring {node} back"), _bring_back),
}
"""By the id of the finding, besides those of every kind of cluster."""
