"""Finds why nodes are not Ready, from their units, journals and the API's own words.

Text from a guest is untrusted: it is matched, cut to one line, and stripped of control characters.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from ai_how.cloud.catalogue import KUBERNETES as ENTRIES
from ai_how.cloud.catalogue import KubernetesCause
from ai_how.cloud.dns import NAMES, SERVER
from ai_how.cloud.look import render_look
from ai_how.cloud.pki import find_life
from ai_how.cloud.workload import read_nodes
from ai_how.clusters.diagnosis.kind import Cause, NodeAnswer, Rank, cause_of
from ai_how.clusters.diagnosis.node_evidence import NodeEvidence
from ai_how.clusters.diagnosis.units import Unit, read_units
from ai_how.clusters.workload import NodeReadiness
from ai_how.guest.serial_log import one_line
from ai_how.vm_management.nodes.clocks import describe_skew

SKEW_S = 30.0
"""A clock that is off by more makes leases look old and new tokens not valid yet."""
SOON_DAYS = 30

_DATE = "%b %d %H:%M:%S %Y GMT"
_FILE = re.compile(r"^file (/\S+)$", re.MULTILINE)
_PORT = re.compile(r"listen tcp \S*:(\d+): bind: address already in use")
_NO_SPACE = re.compile(r"no space left on device|database space exceeded|NOSPACE")
_NO_LEADER = re.compile(
    r"no leader|lost leader|failed to publish local member|prober detected unhealthy"
)
_NO_PAUSE = re.compile(r"failed to (?:get sandbox image|pull image) \"?(\S+pause\S*?)\"?[:;, ]")
_CGROUP = re.compile(
    r"(?:expected cgroupsPath to be of format|cgroup driver: \S+ is different from)[^\n]*"
)
_REFUSED = re.compile(r"(?:connection refused|no route to host|i/o timeout|TLS handshake timeout)")


@dataclass(frozen=True, slots=True, kw_only=True)
class KubernetesSigns:
    """The evidence of Kubernetes on one node; None for what could not be read."""

    units: Mapping[str, Unit] = field(default_factory=dict)
    said: Mapping[str, str] = field(default_factory=dict)
    """The last lines of a component's journal, by its name."""
    cni: str | None = None
    dns: str | None = None
    """What asking the DNS server of a control plane ended with; `ok` if all is well."""
    certificates: str | None = None
    seen: NodeReadiness | None = None
    """What the API says of it."""
    trouble: str | None = None
    """On a control plane: why the API could not be asked."""
    is_known: bool | None = None
    """Whether the API could be asked at all; then a node without `seen` is not registered."""
    plane: str = ""
    """The name of the control plane that was asked."""


@dataclass(frozen=True, slots=True)
class KubernetesEvidence:
    """The evidence of Kubernetes on all nodes, by name."""

    nodes: Mapping[str, KubernetesSigns] = field(default_factory=dict)

    def find_causes(self, node: NodeEvidence) -> tuple[Cause, ...]:
        """What keeps a node from being Ready, the first cause first."""
        signs = self.nodes.get(node.name, KubernetesSigns())
        found = [cause for rule in _RULES if (cause := rule(node, signs))]
        if not found or all(one.rank > Rank.NODE for one in found):
            found += _told_by_api(node, signs)
        return tuple(found)

    def is_working(self, node: str) -> bool | None:
        """Whether a node is Ready and takes Pods; None if that is not known."""
        signs = self.nodes.get(node)
        if signs is None or (signs.seen is None and signs.trouble is None):
            return None
        return signs.seen is not None and signs.seen.is_working


class KubernetesDiagnosis:
    """The diagnosis of a Kubernetes cluster."""

    awaiting = frozenset({"ready", "api", "manifests"})
    request = "true"

    def script(self, *, is_controller: bool, has_input: bool) -> str:  # noqa: ARG002  no input
        return render_look(is_controller=is_controller)

    def read(self, answers: Sequence[NodeAnswer]) -> KubernetesEvidence:
        """Combine the answer of each node with what the API says of it."""
        planes = [one for one in answers if one.is_controller]
        told = {one.node: _nodes_of(one) for one in planes}
        asked = next((one for one in planes if told[one.node] is not None), None)
        seen = (told[asked.node] if asked else None) or {}
        plane = (asked or planes[0]).node if planes else ""
        signs = {name: KubernetesSigns(seen=one, is_known=True) for name, one in seen.items()}
        for one in answers:
            sections = one.sections
            is_silent = one.is_controller and told[one.node] is None
            signs[one.node] = KubernetesSigns(
                units=read_units(sections.get("units", ""))
                | read_units(sections.get("dns_units", "")),
                said={
                    name.removeprefix("said_"): text
                    for name, text in sections.items()
                    if name.startswith("said_")
                },
                cni=sections.get("cni"),
                dns=sections.get("dns"),
                certificates=sections.get("certificates"),
                seen=seen.get(one.node),
                trouble=(one_line(sections.get("api", "").strip()) or "no answer")
                if is_silent
                else None,
                is_known=asked is not None,
                plane=plane,
            )
        return KubernetesEvidence(signs)


def _nodes_of(plane: NodeAnswer) -> dict[str, NodeReadiness] | None:
    """What the API of a control plane says of the nodes; None if it does not answer."""
    try:
        value = json.loads(plane.sections.get("api", ""))
    except ValueError:
        return None
    return read_nodes(value) if isinstance(value, list) else None


def _of(
    rank: Rank, cause: KubernetesCause, node: str, text: str, *evidence: str, **words: str
) -> Cause:
    return cause_of(ENTRIES, rank, cause, node, text, evidence, **words)


def _off_in_time(node: NodeEvidence, _signs: KubernetesSigns) -> Cause | None:
    if node.skew_s is None or abs(node.skew_s) < SKEW_S:
        return None
    skew = describe_skew(node.skew_s)
    text = f"the clock of {node.name} is {skew}: certificates and leases are judged by it"
    line = f"its guest agent: the clock is {skew} of this host's"
    return _of(Rank.CLOCK, KubernetesCause.CLOCK_OFF, node.name, text, line)


def _certificates(node: NodeEvidence, signs: KubernetesSigns) -> Cause | None:
    """By the clock of the node, which is what its programs go by."""
    text = signs.certificates or ""
    now = next((_date(line[4:]) for line in text.splitlines() if line.startswith("now ")), None)
    if now is None:
        return None
    _, *files = _FILE.split(text)
    for path, pem in zip(files[::2], files[1::2], strict=True):
        if (life := find_life(pem.encode())) is None:
            continue
        first, last = life
        begins, ends = first.strftime(_DATE), last.strftime(_DATE)
        name, line = one_line(path), one_line(f"{path}: notBefore={begins} notAfter={ends}")
        if now > last:
            text = f"the certificate {name} of {node.name} ended on {ends}"
            return _of(
                Rank.CREDENTIALS, KubernetesCause.CERTIFICATE_OVER, node.name, one_line(text), line
            )
        if now < first:
            text = f"the certificate {name} of {node.name} is valid from {begins}, which is to come"
            return _of(
                Rank.CREDENTIALS, KubernetesCause.CERTIFICATE_EARLY, node.name, one_line(text), line
            )
        if (last - now).days < SOON_DAYS:
            text = f"the certificate {name} of {node.name} ends on {ends}"
            return _of(Rank.JOB, KubernetesCause.CERTIFICATE_SOON, node.name, one_line(text), line)
    return None


def _date(text: str) -> datetime | None:
    try:
        return datetime.strptime(" ".join(text.split()), _DATE).replace(tzinfo=UTC)
    except ValueError:
        return None


def _port_in_use(node: NodeEvidence, signs: KubernetesSigns) -> Cause | None:
    for name, said in signs.said.items():
        unit = signs.units.get(_UNIT_OF.get(name, name))
        if unit is not None and unit.state == "active" and unit.sub == "running":
            continue
        if found := _last(_PORT, said):
            port, line = found.group(1), one_line(found.group())
            text = f"port {port} of {node.name}, which {name} needs, is in use"
            rank = Rank.CONTROLLER if name in ("etcd", "apiserver") else Rank.NODE
            return _of(rank, KubernetesCause.PORT_IN_USE, node.name, text, f"{name}: {line}")
    return None


# The other components are called as their units.
_UNIT_OF = {"etcd": "ai-how-etcd", "apiserver": "kube-apiserver"}


def _last(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    return next(reversed(list(pattern.finditer(text))), None)


def _etcd(node: NodeEvidence, signs: KubernetesSigns) -> Cause | None:
    if not node.is_controller or signs.trouble is None:
        return None
    said, unit = signs.said.get("etcd", ""), signs.units.get("ai-how-etcd")
    lines = [str(unit)] if unit else []
    if found := _last(_NO_SPACE, said + signs.said.get("apiserver", "")):
        text = f"etcd on {node.name} has no room"
        evidence = (*lines, f"etcd: {one_line(found.group())}")
        return _of(Rank.CONTROLLER, KubernetesCause.ETCD_FULL, node.name, text, *evidence)
    if unit is not None and unit.is_down:
        text = f"etcd on {node.name} does not run: {unit.name}.service is {unit.state}"
        return _of(
            Rank.CONTROLLER,
            KubernetesCause.ETCD_DOWN,
            node.name,
            text,
            *lines,
            *_said(said, "etcd"),
        )
    if found := _last(_NO_LEADER, said):
        text = f"etcd on {node.name} has no leader"
        evidence = (*lines, f"etcd: {one_line(found.group())}")
        return _of(Rank.CONTROLLER, KubernetesCause.ETCD_NO_QUORUM, node.name, text, *evidence)
    return None


def _api(node: NodeEvidence, signs: KubernetesSigns) -> Cause | None:
    if not node.is_controller or signs.trouble is None:
        return None
    unit = signs.units.get("kube-apiserver")
    why = f"kube-apiserver.service is {unit.state}" if unit and unit.is_down else signs.trouble
    text = f"the API server on {node.name} does not answer: {why}"
    lines = [*([str(unit)] if unit else []), f"kube nodes: {signs.trouble}"]
    lines += _said(signs.said.get("apiserver", ""), "kube-apiserver")
    return _of(Rank.CONTROLLER, KubernetesCause.API_DOWN, node.name, text, *lines)


def _down(
    unit_name: str, cause: KubernetesCause, what: str, rank: Rank
) -> "Callable[[NodeEvidence, KubernetesSigns], Cause | None]":
    """The rule of a unit that is to run."""

    def rule(node: NodeEvidence, signs: KubernetesSigns) -> Cause | None:
        unit = signs.units.get(unit_name)
        if unit is None or not unit.is_down:
            return None
        text = f"{what} on {node.name} does not run: {unit.name}.service is {unit.state}"
        said = _said(signs.said.get(unit_name, ""), unit_name)
        return _of(rank, cause, node.name, text, str(unit), *said)

    return rule


def _cgroups(node: NodeEvidence, signs: KubernetesSigns) -> Cause | None:
    if signs.seen is not None and signs.seen.is_working and not _is_waiting_for_pods(signs):
        return None
    text = signs.said.get("kubelet", "") + signs.said.get("containerd", "")
    if not (found := _last(_CGROUP, text)):
        return None
    what = f"kubelet and containerd of {node.name} do not agree on the cgroup driver"
    return _of(Rank.NODE, KubernetesCause.CGROUP_DRIVER, node.name, what, one_line(found.group()))


def _pause(node: NodeEvidence, signs: KubernetesSigns) -> Cause | None:
    text = signs.said.get("kubelet", "") + signs.said.get("containerd", "")
    if not (found := _last(_NO_PAUSE, text)):
        return None
    what = f"the image of every Pod's sandbox is not on {node.name}: {one_line(found.group(1))}"
    line = one_line(found.group())
    return _of(Rank.NODE, KubernetesCause.PAUSE_MISSING, node.name, what, line)


def _is_waiting_for_pods(signs: KubernetesSigns) -> bool:
    return "ContainerCreating" in " ".join(signs.said.values())


def _cni(node: NodeEvidence, signs: KubernetesSigns) -> Cause | None:
    seen = signs.seen
    is_told = seen is not None and "cni" in (seen.reason or "").lower()
    is_empty = signs.cni is not None and not signs.cni.strip()
    if not (is_told or is_empty):
        return None
    lines = [f"the API: {seen.reason}"] if seen is not None and seen.reason else []
    lines.append(f"/etc/cni/net.d: {one_line(signs.cni or '') or 'nothing'}")
    text = f"the network of Pods is not set up on {node.name}"
    return _of(Rank.NODE, KubernetesCause.CNI_MISSING, node.name, text, *lines)


def _unreachable(node: NodeEvidence, signs: KubernetesSigns) -> Cause | None:
    """Only where the API answers on its own node."""
    if node.is_controller or not signs.is_known or (signs.seen and signs.seen.is_working):
        return None
    if not (found := _last(_REFUSED, signs.said.get("kubelet", ""))):
        return None
    text = f"{node.name} does not reach the API server on {signs.plane}"
    line = f"kubelet: {one_line(found.group())}"
    return _of(
        Rank.NETWORK, KubernetesCause.API_UNREACHABLE, node.name, text, line, plane=signs.plane
    )


def _dns_answer(node: NodeEvidence, signs: KubernetesSigns) -> Cause | None:
    """Only where both of its units run: else they are the cause."""
    found = [signs.units.get(name) for name in (SERVER, NAMES)]
    if signs.dns is None or signs.dns.strip() == "ok" or any(one and one.is_down for one in found):
        return None
    said = one_line(signs.dns.strip()) or "no answer"
    text = f"the DNS server of Pods on {node.name} does not work: {said}"
    lines = [str(one) for one in found if one]
    lines += [
        f"{NAMES}: {one_line(line)}" for line in signs.said.get("names", "").splitlines()[-1:]
    ]
    return _of(Rank.NODE, KubernetesCause.DNS_NO_ANSWER, node.name, text, *lines)


_RULES = (
    _off_in_time,
    _certificates,
    _port_in_use,
    _etcd,
    _api,
    _down(
        "kube-controller-manager",
        KubernetesCause.MANAGER_DOWN,
        "the controller manager",
        Rank.CONTROLLER,
    ),
    _down("kube-scheduler", KubernetesCause.SCHEDULER_DOWN, "the scheduler", Rank.CONTROLLER),
    _down("containerd", KubernetesCause.CONTAINERD_DOWN, "containerd", Rank.NODE),
    _cgroups,
    _pause,
    _down("kubelet", KubernetesCause.KUBELET_DOWN, "the kubelet", Rank.NODE),
    _cni,
    _unreachable,
    _down("kube-proxy", KubernetesCause.PROXY_DOWN, "kube-proxy", Rank.NODE),
    _down(SERVER, KubernetesCause.DNS_DOWN, "the DNS server of Pods", Rank.NODE),
    _down(
        NAMES, KubernetesCause.DNS_NAMES_DOWN, "what tells the DNS server of Services", Rank.NODE
    ),
    _dns_answer,
)


def _told_by_api(node: NodeEvidence, signs: KubernetesSigns) -> Iterator[Cause]:
    """What the API says of a node on which nothing else was found."""
    seen = signs.seen
    if seen is None:
        if signs.is_known:
            text = f"the API knows no node {node.name}"
            said = _said(signs.said.get("kubelet", ""), "kubelet")
            yield _of(Rank.NODE, KubernetesCause.NOT_REGISTERED, node.name, text, *said)
        return
    line = f"the API: {seen.state}" + (f" ({seen.reason})" if seen.reason else "")
    if "DiskPressure" in seen.state:
        text = f"{node.name} has too little room on its disk, and evicts Pods"
        yield _of(Rank.NODE, KubernetesCause.DISK_PRESSURE, node.name, text, line)
    elif "MemoryPressure" in seen.state:
        text = f"{node.name} has too little memory, and evicts Pods"
        yield _of(Rank.NODE, KubernetesCause.MEMORY_PRESSURE, node.name, text, line)
    elif not seen.state.startswith("Ready"):
        text = f"{node.name} is NotReady: {seen.reason or 'no reason is given'}"
        yield _of(Rank.NODE, KubernetesCause.NOT_READY, node.name, text, line)
    elif seen.is_drained:
        text = f"{node.name} takes no new Pods: somebody closed it"
        yield _of(Rank.JOB, KubernetesCause.CLOSED, node.name, text, line)


_FAILS = re.compile(r"^(?:[EF]\d{4} .*|.*\b(?:fatal|panic|error|failed)\b.*)$", re.IGNORECASE)


def _said(text: str, name: str) -> list[str]:
    """The last line of a journal that says what failed."""
    lines = [line for line in text.splitlines() if _FAILS.match(line)]
    return [f"{name}: {one_line(lines[-1])}"] if lines else []
