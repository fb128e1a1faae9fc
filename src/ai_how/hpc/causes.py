"""Finds why nodes do not work in SLURM, from munge and SLURM's own reports.

Text from a guest is untrusted: it is matched, cut to one line, and stripped of control characters.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ai_how.clusters.diagnosis.causes import last_line
from ai_how.clusters.diagnosis.kind import Cause, NodeAnswer, Rank, cause_of
from ai_how.clusters.diagnosis.node_evidence import NodeEvidence
from ai_how.clusters.diagnosis.units import Unit, read_units
from ai_how.clusters.workload import NodeReadiness
from ai_how.guest.serial_log import one_line
from ai_how.hpc.catalogue import SLURM as ENTRIES
from ai_how.hpc.catalogue import SlurmCause
from ai_how.hpc.jobs import OUR_REASON
from ai_how.hpc.workload import read_sinfo
from ai_how.vm_management.nodes.clocks import describe_skew

ACCEPTED = "accepted"
"""The last line of a node's munge check if it accepted the controller's credential."""
MUNGE_FORGIVES_S = 150.0
"""munge refuses larger clock errors. Two clocks may be off in opposite directions."""
NO_ANSWER = "no answer"

MUNGE = f"""\
echo '== munge'; unmunge -n 2>&1 && echo {ACCEPTED}
"""
UNITS = """\
echo '== units'
systemctl show -p Id -p ActiveState -p SubState -p Result munge slurmctld slurmd nfs-server
"""
SHARED = """\
echo '== home'; grep -q '^HOME_IS_NFS=.*yes' /etc/ai-how/identity && echo shared
"""
# A dead NFS server makes each call wait for ever, but only SIGKILL ends it.
HOME = f"""\
{SHARED}
grep ' /home ' /proc/mounts; timeout -s KILL 5 stat -f -c %T /home/. || echo '{NO_ANSWER}'
"""
# Without `timeout` they wait a minute for a slurmctld that does not answer.
SLURM = """\
echo '== sinfo'; timeout 15 sinfo -h -N -a -o '%N|%T|%E' 2>&1 && {
echo '== nodes'; timeout 15 scontrol show node 2>&1
echo '== partitions'; timeout 15 scontrol -o show partition 2>&1
}
"""

_SERVICE_ERROR = re.compile(r"(?:slurmd|slurmctld)(?:\[\d+\])?: (?:\w+: )?((?:error|fatal): .+)")
_MUNGE_REFUSES = re.compile(r"(Invalid|Expired|Rewound) credential")
_GPUS_REFUSED = re.compile(r"gres/gpu\S* (count|topology|type)")
_JOB = re.compile(r"^\s*\d+\s+(\S+)\s+\S+\s+(waiting|running)\s*$", re.MULTILINE)
_PARTITION = re.compile(
    r"^PartitionName=([\w.-]{1,64}) .*? State=(DOWN|DRAIN|INACTIVE) ", re.MULTILINE
)


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
    answers: bool | None = field(default=None, compare=False)
    """On the controller: whether slurmctld answers."""
    units: Mapping[str, Unit] = field(default_factory=dict)
    home: str | None = None
    """How its /home is mounted, and whether it answers."""
    partitions: tuple[tuple[str, str], ...] = ()
    """On the controller: the partitions that are not up, each with its state."""


@dataclass(frozen=True, slots=True)
class SlurmEvidence:
    """The evidence of SLURM on all nodes, by name."""

    nodes: Mapping[str, SlurmSigns] = field(default_factory=dict)

    def find_causes(self, node: NodeEvidence) -> tuple[Cause, ...]:
        """What keeps a node from SLURM, the first cause first."""
        signs = self.nodes.get(node.name, SlurmSigns())
        found = (
            _off_in_time(node),
            _refused_by_munge(node, signs),
            _without_slurmctld(node, signs),
            _without_nfs(node, signs),
            _without_home(node, signs),
            _without_slurmd(node, signs) or _not_registered(node, signs),
        )
        return (*(one for one in found if one), *_partitions(node, signs))

    def is_working(self, node: str) -> bool | None:
        """Whether SLURM can use a compute node, or answers on the controller."""
        signs = self.nodes.get(node)
        if signs is None:
            return None
        return signs.answers if signs.seen is None else signs.seen.is_working


class SlurmDiagnosis:
    """The diagnosis of a SLURM cluster.

    The controller's munge signs a credential, and each node checks it.
    """

    awaiting = frozenset({"ready"})
    request = "exec munge -n"

    def script(self, *, is_controller: bool, has_input: bool) -> str:
        """A node checks the credential, if there is one; the controller reports all nodes."""
        return (MUNGE if has_input else "") + UNITS + (SHARED + SLURM if is_controller else HOME)

    def read(self, answers: Sequence[NodeAnswer]) -> SlurmEvidence:
        """Combine the answer of each node with what SLURM reports of it."""
        asked = next((one for one in answers if one.is_controller), None)
        sinfo = asked.sections.get("sinfo", "") if asked else ""
        seen = read_sinfo(sinfo)
        signs = {name: SlurmSigns(seen=one) for name, one in seen.items()}
        for one in answers:
            partitions = one.sections.get("partitions", "") if one.is_controller else ""
            trouble = _trouble_of(one) if one.is_controller and not seen else None
            signs[one.node] = SlurmSigns(
                munge=one.sections.get("munge"),
                jobs=one.sections.get("jobs"),
                seen=seen.get(one.node),
                trouble=trouble,
                answers=trouble is None if one.is_controller else None,
                units=read_units(one.sections.get("units", "")),
                home=one.sections.get("home"),
                partitions=tuple(_PARTITION.findall(partitions)),
            )
        return SlurmEvidence(signs)


def _trouble_of(controller: NodeAnswer) -> str | None:
    """Why sinfo has no nodes; silence after its question is one, too."""
    said = controller.sections.get("sinfo")
    return (said if said.strip() else NO_ANSWER) if said is not None else None


def _of(rank: Rank, cause: SlurmCause, node: str, text: str, *evidence: str, **words: str) -> Cause:
    return cause_of(ENTRIES, rank, cause, node, text, evidence, **words)


def _off_in_time(node: NodeEvidence) -> Cause | None:
    if node.skew_s is None or abs(node.skew_s) < MUNGE_FORGIVES_S:
        return None
    skew = describe_skew(node.skew_s)
    text = f"the clock of {node.name} is {skew}: munge refuses what it signs"
    line = f"its guest agent: the clock is {skew} of this host's"
    return _of(Rank.CLOCK, SlurmCause.CLOCK_OFF, node.name, text, line)


def _refused_by_munge(node: NodeEvidence, signs: SlurmSigns) -> Cause | None:
    said, unit = last_line(signs.munge), signs.units.get("munge")
    lines = [str(unit)] if unit else []
    if not said and unit and unit.is_stopped:
        text = f"munge on {node.name} does not work: munge.service is {unit.state}"
        return _of(Rank.CREDENTIALS, SlurmCause.MUNGE_DOWN, node.name, text, *lines)
    if not said or said == ACCEPTED:
        return None
    lines.append(f"unmunge: {said}")
    if _MUNGE_REFUSES.search(said) and not node.is_controller:
        whose = "the controller's credentials (different key or clock)"
        text = f"munge on {node.name} refuses {whose}: {said}"
        return _of(Rank.CREDENTIALS, SlurmCause.MUNGE_REFUSED, node.name, text, *lines)
    text = f"munge on {node.name} does not work: {said}"
    return _of(Rank.CREDENTIALS, SlurmCause.MUNGE_DOWN, node.name, text, *lines)


def _without_slurmctld(node: NodeEvidence, signs: SlurmSigns) -> Cause | None:
    if not signs.trouble:
        return None
    unit, said = signs.units.get("slurmctld"), one_line(signs.trouble)
    error = _service_error(node.journal)
    was_ended = unit is not None and unit.state == "inactive"
    why = f"slurmctld.service is {unit.state}" if unit and was_ended else error or said
    text = f"slurmctld on {node.name} does not answer: {why}"
    lines = [*([str(unit)] if unit else []), f"sinfo: {said}"]
    lines += [f"journal: {error}"] if error else []
    return _of(Rank.CONTROLLER, SlurmCause.SLURMCTLD_DOWN, node.name, text, *lines)


def _without_nfs(node: NodeEvidence, signs: SlurmSigns) -> Cause | None:
    unit = signs.units.get("nfs-server")
    is_shared = "shared" in (signs.home or "").split()
    if not (node.is_controller and is_shared and unit and unit.is_stopped):
        return None
    text = f"the NFS server of /home on {node.name} does not run: nfs-server is {unit.state}"
    return _of(Rank.HOME, SlurmCause.NFS_DOWN, node.name, text, str(unit))


def _without_home(node: NodeEvidence, signs: SlurmSigns) -> Cause | None:
    lines = (signs.home or "").splitlines()
    if node.is_controller or "shared" not in lines:
        return None
    mounts = [line for line in lines if " /home nfs" in line]
    if mounts and NO_ANSWER not in lines:
        return None
    what = "does not answer" if mounts else "is not mounted"
    seen = one_line(mounts[0]) if mounts else "no /home of type nfs4"
    text = f"the shared /home of {node.name} {what}"
    more = ["stat -f /home: no answer within 5 s"] if mounts else []
    return _of(
        Rank.HOME, SlurmCause.HOME_NOT_MOUNTED, node.name, text, f"/proc/mounts: {seen}", *more
    )


def _without_slurmd(node: NodeEvidence, signs: SlurmSigns) -> Cause | None:
    unit = signs.units.get("slurmd")
    if node.is_controller or unit is None or not unit.is_stopped:
        return None
    error = _service_error(node.journal) if unit.state == "failed" else None
    text = f"slurmd on {node.name} does not run: {error or f'slurmd.service is {unit.state}'}"
    lines = [str(unit), *_reported(signs.seen), *([f"journal: {error}"] if error else [])]
    return _of(Rank.NODE, SlurmCause.SLURMD_DOWN, node.name, text, *lines)


def _reported(seen: NodeReadiness | None) -> list[str]:
    if seen is None:
        return []
    return [f"sinfo: {seen.state}" + (f" ({one_line(seen.reason)})" if seen.reason else "")]


def _not_registered(node: NodeEvidence, signs: SlurmSigns) -> Cause | None:
    seen = signs.seen
    if seen is None or seen.is_working:
        return None
    lines = _reported(seen)
    if seen.reason and _GPUS_REFUSED.match(seen.reason):
        text = f"SLURM refuses the GPUs of {node.name}: {one_line(seen.reason)}"
        return _of(Rank.NODE, SlurmCause.GPUS_REFUSED, node.name, text, *lines)
    if seen.reason and not seen.state.endswith("*") and seen.state != "unknown":
        text = f"SLURM reports {node.name} as {seen.state}: {one_line(seen.reason)}"
        found = _of(Rank.NODE, SlurmCause.NODE_OUT_OF_SERVICE, node.name, text, *lines)
        if seen.reason.startswith(OUR_REASON):
            return replace(found, remedy="ai-how {kind} start")
        return found
    error, waits = _service_error(node.journal), _waits(signs.jobs)
    why = error or waits
    why = why or f"SLURM reports it as {seen.state}{f', {seen.reason}' if seen.reason else ''}"
    text = f"slurmd on {node.name} did not register: {why}"
    lines += [f"journal: {error}"] if error else []
    lines += [f"systemd: {waits}"] if waits else []
    return _of(Rank.NODE, SlurmCause.NODE_NOT_REGISTERED, node.name, text, *lines)


def _partitions(node: NodeEvidence, signs: SlurmSigns) -> Iterator[Cause]:
    for name, state in signs.partitions:
        text = f"the partition {name} is {state.lower()}"
        line = f"scontrol: PartitionName={name} State={state}"
        yield _of(Rank.NODE, SlurmCause.PARTITION_NOT_UP, node.name, text, line, partition=name)


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
