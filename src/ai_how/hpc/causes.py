"""Finds why nodes do not work in SLURM, from munge and SLURM's own reports.

Text from a guest is untrusted: it is matched, cut to one line, and stripped of control characters.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ai_how.clusters.diagnosis.causes import last_line
from ai_how.clusters.diagnosis.kind import Cause, NodeAnswer, Rank
from ai_how.clusters.diagnosis.node_evidence import NodeEvidence
from ai_how.clusters.workload import NodeReadiness
from ai_how.guest.serial_log import one_line
from ai_how.hpc.catalogue import SlurmCause
from ai_how.hpc.workload import read_sinfo
from ai_how.vm_management.nodes.clocks import describe_skew

ACCEPTED = "accepted"
"""The last line of a node's munge check if it accepted the controller's credential."""
MUNGE_FORGIVES_S = 150.0
"""munge refuses larger clock errors. Two clocks may be off in opposite directions."""

MUNGE = f"""\
echo '== munge'; unmunge -n 2>&1 && echo {ACCEPTED}
"""
# Without `timeout` they wait a minute for a slurmctld that does not answer.
SLURM = """\
echo '== sinfo'; timeout 8 sinfo -h -N -a -o '%N|%T|%E' 2>&1
echo '== nodes'; timeout 8 scontrol show node 2>&1
"""

_SERVICE_ERROR = re.compile(r"(?:slurmd|slurmctld)(?:\[\d+\])?: (?:\w+: )?((?:error|fatal): .+)")
_MUNGE_REFUSES = re.compile(r"(Invalid|Expired|Rewound) credential")
_GPUS_REFUSED = re.compile(r"gres/gpu\S* (count|topology|type)")
_JOB = re.compile(r"^\s*\d+\s+(\S+)\s+\S+\s+(waiting|running)\s*$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class SlurmSigns:
    """The evidence of SLURM on one node; None for what could not be read."""

    munge: str | None = None
    """The output of the node's munge for a credential of the controller."""
    jobs: str | None = None
    """The pending jobs of its systemd."""
    seen: NodeReadiness | None = None
    """What SLURM on the controller reports of it."""
    trouble: str | None = None
    """On the controller: why SLURM could not be asked."""


@dataclass(frozen=True, slots=True)
class SlurmEvidence:
    """The evidence of SLURM on all nodes, by name."""

    nodes: Mapping[str, SlurmSigns] = field(default_factory=dict)

    def find_cause(self, node: NodeEvidence) -> Cause | None:
        """What keeps a node from SLURM, or None if no evidence shows it."""
        signs = self.nodes.get(node.name, SlurmSigns())
        return (
            _off_in_time(node)
            or _refused_by_munge(node, signs)
            or _without_slurmctld(node, signs)
            or _not_registered(node, signs)
        )


class SlurmDiagnosis:
    """The diagnosis of a SLURM cluster.

    The controller's munge signs a credential, and each node checks it.
    """

    awaiting = frozenset({"ready"})
    request = "exec munge -n"

    def script(self, *, is_controller: bool, has_input: bool) -> str:
        """A node checks the credential, if there is one; the controller reports all nodes."""
        return (MUNGE if has_input else "") + (SLURM if is_controller else "")

    def read(self, answers: Sequence[NodeAnswer]) -> SlurmEvidence:
        """Combine the answer of each node with what SLURM reports of it."""
        asked = next((one for one in answers if one.is_controller), None)
        sinfo = asked.sections.get("sinfo", "") if asked else ""
        seen = read_sinfo(sinfo)
        signs = {name: SlurmSigns(seen=one) for name, one in seen.items()}
        for one in answers:
            signs[one.node] = SlurmSigns(
                munge=one.sections.get("munge"),
                jobs=one.sections.get("jobs"),
                seen=seen.get(one.node),
                trouble=sinfo if one.is_controller and not seen else None,
            )
        return SlurmEvidence(signs)


def _off_in_time(node: NodeEvidence) -> Cause | None:
    if node.skew_s is None or abs(node.skew_s) < MUNGE_FORGIVES_S:
        return None
    text = f"the clock of {node.name} is {describe_skew(node.skew_s)}: munge refuses what it signs"
    return Cause(Rank.CLOCK, SlurmCause.CLOCK_OFF, node.name, text)


def _refused_by_munge(node: NodeEvidence, signs: SlurmSigns) -> Cause | None:
    said = last_line(signs.munge)
    if not said or said == ACCEPTED:
        return None
    if _MUNGE_REFUSES.search(said) and not node.is_controller:
        whose = "the controller's credentials (different key or clock)"
        text = f"munge on {node.name} refuses {whose}: {said}"
        return Cause(Rank.CREDENTIALS, SlurmCause.MUNGE_REFUSED, node.name, text)
    text = f"munge on {node.name} does not work: {said}"
    return Cause(Rank.CREDENTIALS, SlurmCause.MUNGE_DOWN, node.name, text)


def _without_slurmctld(node: NodeEvidence, signs: SlurmSigns) -> Cause | None:
    if not signs.trouble:
        return None
    why = _service_error(node.journal) or one_line(signs.trouble)
    text = f"slurmctld on {node.name} does not answer: {why}"
    return Cause(Rank.CONTROLLER, SlurmCause.SLURMCTLD_DOWN, node.name, text)


def _not_registered(node: NodeEvidence, signs: SlurmSigns) -> Cause | None:
    seen = signs.seen
    if seen is None or seen.is_working:
        return None
    if seen.reason and _GPUS_REFUSED.match(seen.reason):
        text = f"SLURM refuses the GPUs of {node.name}: {one_line(seen.reason)}"
        return Cause(Rank.NODE, SlurmCause.GPUS_REFUSED, node.name, text)
    if seen.reason and not seen.state.endswith("*") and seen.state != "unknown":
        text = f"SLURM reports {node.name} as {seen.state}: {one_line(seen.reason)}"
        return Cause(Rank.NODE, SlurmCause.NODE_OUT_OF_SERVICE, node.name, text)
    why = _service_error(node.journal) or _waits(signs.jobs)
    why = why or f"SLURM reports it as {seen.state}{f', {seen.reason}' if seen.reason else ''}"
    text = f"slurmd on {node.name} did not register: {why}"
    return Cause(Rank.NODE, SlurmCause.NODE_NOT_REGISTERED, node.name, text)


def _waits(jobs: str | None) -> str | None:
    """Which unit slurmd.service waits for, if it has not started."""
    states = dict(_JOB.findall(jobs or ""))
    if (own := states.pop("slurmd.service", None)) is None:
        return None
    running = [unit for unit, state in states.items() if state == "running"]
    if own == "running":
        return "slurmd.service still waits for the controller's port"
    return f"slurmd.service waits for {one_line(', '.join(running))}" if running else None


def _service_error(journal: str | None) -> str | None:
    """The last error of slurmd or slurmctld, except for retries."""
    errors = [one for one in _SERVICE_ERROR.findall(journal or "") if "Retrying in" not in one]
    return one_line(errors[-1]) if errors else None
