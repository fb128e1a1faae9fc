"""Rules about SLURM, its services on the nodes, and the shared home (pure).

What a guest says is cut to one line. Only names that we gave stand in a command.
"""

import re
from collections.abc import Iterator, Mapping

from ai_how.clusters.diagnosis.catalogue import MachineCause, NetworkCause, Severity
from ai_how.guest.serial_log import one_line
from ai_how.hpc.catalogue import JobCause, SlurmCause
from ai_how.hpc.causes import MUNGE_FORGIVES_S
from ai_how.hpc.jobs import LOST_REASON, OUR_REASON
from ai_how.hpc.workload import GPU_REASON
from ai_how.monitoring.guest_rules import count_kills
from ai_how.monitoring.judging import OFF, Look, Rule, Sign, is_off, time_text
from ai_how.monitoring.model import GuestSample, Job, NodeSample, SlurmNode
from ai_how.vm_management.nodes.clocks import describe_skew
from ai_how.vm_management.nodes.clocks import is_off as is_skewed

CONTROLLER = "controller"
NEVER_STARTED = "auto_start is off"
SERVICES: Mapping[str, SlurmCause] = {
    "munge": SlurmCause.MUNGE_DOWN,
    "slurmctld": SlurmCause.SLURMCTLD_DOWN,
    "slurmd": SlurmCause.SLURMD_DOWN,
    "nfs-server": SlurmCause.NFS_DOWN,
    "chrony": SlurmCause.CLOCK_UNKEPT,
    "ai-how-clock": SlurmCause.CLOCK_UNKEPT,
}
DEAD = frozenset({"failed", "inactive", "absent"})
LATE = frozenset({SlurmCause.CLOCK_UNKEPT})
LATE_S = 600.0
"""These are started only when a node has been up for a while."""
STARTING_S = 180.0
STUCK_S = 300.0
OURS = (OUR_REASON, GPU_REASON, LOST_REASON)
BY_SLURM = frozenset({"slurm"})
"""As whom SLURM itself takes a node out of service."""
APPENDED = " : "
"""Before what SLURM adds to the reason of a user."""
OUT = frozenset({"drain", "fail"})
_JOB = re.compile(r"[0-9]{1,12}")
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


def find_off(look: Look) -> Iterator[Sign]:
    """Nodes that are off, though nobody stopped them by our verbs."""
    if is_off(look.now) or not look.is_fresh("libvirt"):
        return
    for node in look.now.nodes:
        vm = node.vm
        if vm is None or vm.state not in OFF or vm.state == "absent":
            continue
        reason = (node.slurm.reason or "") if node.slurm else ""
        if reason.startswith((OUR_REASON, NEVER_STARTED)) or not node.auto_start:
            continue
        if node.role != CONTROLLER and not look.is_fresh("slurm"):
            continue  # whether it was stopped is not known
        text = f"{node.name}: its VM is off, and no command of ours stopped it"
        evidence = (f"libvirt: {vm.domain} is shut off ({vm.reason})",)
        yield Sign(id=MachineCause.NODE_OFF, subject=node.name, text=text, evidence=evidence)


def find_clock(look: Look) -> Iterator[Sign]:
    """Nodes whose clock is off. Where it is off by minutes, munge refuses what it signs."""
    for node in look.guests():
        skew_s = node.guest.skew_s if node.guest else None
        if skew_s is None or not is_skewed(skew_s):
            continue
        text = f"{node.name}: its clock is {describe_skew(skew_s)}"
        is_refused = abs(skew_s) >= MUNGE_FORGIVES_S
        severity = Severity.CRITICAL if is_refused else Severity.WARNING
        yield Sign(
            id=SlurmCause.CLOCK_OFF,
            subject=node.name,
            text=text,
            evidence=(f"{skew_s:+.1f} s against the host",),
            severity=severity,
            heals=True,
        )


def find_services(look: Look) -> Iterator[Sign]:
    """Services of the cluster that do not run, though the node is up."""
    for node in look.guests():
        guest = node.guest
        if guest is None:
            continue
        found: dict[SlurmCause, list[str]] = {}
        for name, state in guest.services.items():
            cause = SERVICES.get(name.removesuffix(".service"))
            key = (node.name, "starting", name)
            is_starting = state == "activating"
            since_s = look.past.true_for_s(key, look.now.at, is_true=is_starting)
            if cause is None or not (state in DEAD or since_s >= STARTING_S):
                continue
            is_young = (guest.uptime_s or 0) < LATE_S
            if cause in LATE and state != "failed" and (is_young or _is_kept(guest, state)):
                continue
            found.setdefault(cause, []).append(f"{name}: {one_line(state)[:40]}")
        for cause, states in found.items():
            names = " and ".join(one.partition(":")[0] for one in states)
            text = f"{node.name}: {names} does not run"
            yield Sign(id=cause, subject=node.name, text=text, evidence=tuple(states), heals=True)


def _is_kept(guest: GuestSample, state: str) -> bool:
    """Whether one of two clock services is enough: images of others may have one alone."""
    late = [guest.services.get(name) for name, cause in SERVICES.items() if cause in LATE]
    return state == "absent" and "active" in late


def find_home(look: Look) -> Iterator[Sign]:
    """Nodes on which the shared home does not answer."""
    for node in look.guests():
        if node.guest is None or node.guest.is_home_there is not False:
            continue
        text = f"{node.name}: the shared /home is not mounted, or does not answer"
        yield Sign(id=SlurmCause.HOME_NOT_MOUNTED, subject=node.name, text=text, heals=True)


def find_silent_slurmctld(look: Look) -> Iterator[Sign]:
    """A slurmctld that does not answer, on a controller that does."""
    source = look.now.find_source("slurm")
    if source is None or source.trouble is None or look.is_fresh("slurm"):
        return
    for node in look.guests():
        if node.role == CONTROLLER:
            text = f"{node.name}: slurmctld does not answer"
            evidence = (one_line(source.trouble)[:200],)
            yield Sign(
                id=SlurmCause.SLURMCTLD_DOWN,
                subject=node.name,
                text=text,
                evidence=evidence,
            )


def find_out_of_service(look: Look) -> Iterator[Sign]:
    """Nodes that run, and take no jobs: drained, down or failed, with SLURM's reason."""
    for node, seen in _slurm_nodes(look):
        base = seen.states[:1]
        if "inval" in seen.states or (seen.reason or "").startswith("gres/"):
            if not seen.is_working:
                text = f"{node.name}: SLURM refuses its GPUs: {_reason(seen)}"
                yield _out(SlurmCause.GPUS_REFUSED, node, seen, text)
            continue
        is_down = base == ("down",) and "not_responding" not in seen.states
        if not is_down and not OUT & set(seen.states):
            continue
        word = "drained" if "drain" in seen.states else "failed" if not is_down else "down"
        text = f"{node.name}: SLURM has it as {word}: {_reason(seen)}"
        is_ours = is_mendable(seen)
        severity = None if is_ours or is_down else Severity.WARNING
        yield _out(SlurmCause.NODE_OUT_OF_SERVICE, node, seen, text, severity, heals=is_ours)


def find_not_responding(look: Look) -> Iterator[Sign]:
    """Nodes that run, and of which SLURM hears nothing."""
    for node, seen in _slurm_nodes(look):
        if "not_responding" in seen.states or seen.states[:1] == ("unknown",):
            text = f"{node.name}: SLURM gets no answer from its slurmd"
            guest = node.guest if look.is_fresh(f"guest/{node.name}") else None
            runs = guest is not None and guest.services.get("slurmd") == "active"
            yield _out(SlurmCause.NODE_NOT_REGISTERED, node, seen, text, heals=runs)


def find_partitions(look: Look) -> Iterator[Sign]:
    """Partitions that start no jobs."""
    if look.now.slurm is None or not look.is_fresh("slurm"):
        return
    for one in look.now.slurm.partitions:
        if one.state == "up" or not _WORD.fullmatch(one.name):
            continue
        text = f"the partition {one.name} is {one_line(one.state)[:40]}"
        words = {"partition": one.name}
        yield Sign(id=SlurmCause.PARTITION_NOT_UP, subject=one.name, text=text, words=words)


def find_stuck(look: Look) -> Iterator[Sign]:
    """Jobs that have ended, and whose nodes do not come free. One for each node."""
    if look.now.slurm is None or not look.is_fresh("slurm"):
        return
    names = {one.name for one in look.now.nodes}
    by_node: dict[str, list[tuple[float, Job]]] = {}
    for job in look.now.slurm.jobs:
        if job.state != "completing" and "completing" not in job.flags:
            continue
        if job.ended_at is None or (for_s := look.now.at - job.ended_at) < STUCK_S:
            continue
        for node in names & set(job.nodes):
            by_node.setdefault(node, []).append((for_s, job))
    for node, jobs in by_node.items():
        longest_s, first = max(jobs, key=lambda pair: pair[0])
        text = f"{node}: {_job(first)} has ended, and the node does not come free"
        evidence = tuple(f"{_job(job)}: for {time_text(for_s)}" for for_s, job in jobs)
        since = look.now.at - longest_s
        yield Sign(id=JobCause.STUCK, subject=node, text=text, evidence=evidence, since=since)


def find_killed_jobs(look: Look) -> Iterator[Sign]:
    """Jobs that took more memory than they asked for: that is theirs, and not the node's."""
    for node in look.guests():
        kills = count_kills(look, node)
        if kills and kills.new and kills.jobs:
            which = ", ".join(one_line(one)[:30] for one in kills.jobs[:4])
            text = f"{node.name}: killed for want of memory: processes of job {which}"
            remedy = "sbatch --mem=…  # what the job asks for must be more"
            yield Sign(
                id=JobCause.OUT_OF_MEMORY,
                subject=node.name,
                text=text,
                evidence=(f"{kills.new} killed, as the job had used what it asked for",),
                severity=Severity.NOTICE,
                remedy=remedy,
            )


def is_mendable(seen: SlurmNode) -> bool:
    """Whether SLURM or we took the node out of service: what a user drained is left alone."""
    reason = seen.reason or ""
    if reason.startswith(OURS):
        return True
    # Of a node that a user drained and that then fell silent, SLURM makes the reason its own:
    # `fan is broken : Not responding`, by slurm.
    return seen.reason_user in BY_SLURM and APPENDED not in reason


def _slurm_nodes(look: Look) -> Iterator[tuple[NodeSample, SlurmNode]]:
    """The nodes that run, with what SLURM says of them now."""
    if look.is_fresh("slurm"):
        yield from ((node, node.slurm) for node in look.running() if node.slurm)


def _reason(seen: SlurmNode) -> str:
    return one_line(seen.reason or "")[:120] or "no reason is given"


def _out(
    cause: SlurmCause,
    node: NodeSample,
    seen: SlurmNode,
    text: str,
    severity: Severity | None = None,
    *,
    heals: bool = False,
) -> Sign:
    states = "+".join(one_line(one)[:30] for one in seen.states[:6])
    evidence = [f"SLURM: {states}"]
    if seen.reason:
        by = f", by {one_line(seen.reason_user)[:40]}" if seen.reason_user else ""
        evidence.append(f"reason: {_reason(seen)}{by}")
    return Sign(
        id=cause,
        subject=node.name,
        text=text,
        evidence=tuple(evidence),
        severity=severity,
        since=seen.reason_at,
        heals=heals,
    )


def _job(job: Job) -> str:
    return f"job {one_line(job.shown_id)[:40]} of {one_line(job.user)[:40]}"


_DEAF = frozenset(
    {
        MachineCause.VM_PAUSED,
        MachineCause.AGENT_SILENT,
        MachineCause.GUEST_HANGS,
        NetworkCause.INTERFACE_GONE,
        NetworkCause.INTERFACE_DOWN,
        NetworkCause.INTERFACE_UNPLUGGED,
    }
)
_WITHOUT_SERVICE = _DEAF | {
    SlurmCause.SLURMD_DOWN,
    SlurmCause.MUNGE_DOWN,
    SlurmCause.HOME_NOT_MOUNTED,
}
RULES = (
    Rule(find=find_off, reads="libvirt", unless=frozenset({MachineCause.QEMU_ENDED})),
    Rule(find=find_clock, reads="guest"),
    Rule(find=find_silent_slurmctld, reads="slurm", unless=frozenset({SlurmCause.MUNGE_DOWN})),
    Rule(find=find_services, reads="guest"),
    Rule(find=find_home, reads="guest", after_s=20.0),
    Rule(find=find_out_of_service, reads="slurm"),
    Rule(find=find_not_responding, reads="slurm", after_s=30.0, unless=_WITHOUT_SERVICE),
    Rule(find=find_partitions, reads="slurm"),
    Rule(find=find_stuck, reads="slurm"),
    Rule(find=find_killed_jobs, reads="guest"),
)
"""The rules of a SLURM cluster, besides those of every kind."""
