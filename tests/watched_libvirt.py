"""A libvirt in memory as a collector needs it, of which each part can hang, die and come back."""

import base64
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID

from ai_how.errors import AgentUnresponsiveError, ConnectionLostError
from ai_how.guest.agent import GuestAgent
from ai_how.libvirt_client.facts import DomainEvent, StatsRecord
from ai_how.monitoring.model import Job, SlurmNode, SlurmSample
from ai_how.monitoring.watched import NodeNeeds
from ai_how.state.models import ClusterState, NodeState
from ai_how.waiting import Deadline
from fake_libvirt import FakeLibvirt
from made_up_cluster import make_job

XML = """<domain type='kvm'><devices><channel><target type='virtio'
 name='org.qemu.guest_agent.0' state='connected'/></channel></devices></domain>"""
SAID = "== uptime\n60.0 1\n== load\n0.1 0.1 0.1\n== job 1\n5000000 1048576 2097152 0\n"


class Gate:
    """Everybody who passes waits while it is shut."""

    def __init__(self) -> None:
        self._open = threading.Event()
        self._open.set()
        self.waiting = 0
        self.passed = 0
        self.failure: Exception | None = None

    def shut(self) -> None:
        self._open.clear()

    def open(self) -> None:
        self._open.set()

    def go(self) -> None:
        self.waiting += 1
        self._open.wait(60)
        self.waiting -= 1
        self.passed += 1
        if self.failure:
            raise self.failure


@dataclass
class WatchedLibvirt(FakeLibvirt):
    """Its VMs run, unless `states` says otherwise; `gates` has one for libvirt and each guest."""

    states: dict[UUID, int] = field(default_factory=dict)
    stats: Gate = field(default_factory=Gate)
    agents: dict[UUID, Gate] = field(default_factory=dict)
    output: bytes = SAID.encode()
    is_closed: bool = False

    def bulk_stats(
        self, uuids: Collection[UUID], *, timeout_s: float
    ) -> Mapping[UUID, StatsRecord]:
        self.stats.go()
        now = time.monotonic_ns()
        return {
            uuid: {
                "state.state": self.states.get(uuid, 1),
                "state.reason": 1,
                "cpu.time": now,
                "vcpu.current": 2,
                "vcpu.maximum": 2,
            }
            for uuid in uuids
        }

    def domain_xml(self, uuid: UUID) -> str:
        return XML

    def subscribe(self, on_event: Callable[[DomainEvent], None]) -> "WatchedLibvirt":
        return self

    def close(self) -> None:
        self.is_closed = True

    def agent_command(self, uuid: UUID, command: Mapping[str, Any], timeout_s: float) -> object:
        self.agents.setdefault(uuid, Gate()).go()
        data = base64.b64encode(self.output).decode()
        return {
            "guest-get-time": time.time_ns(),
            "guest-exec": {"pid": 1},
            "guest-exec-status": {"exited": True, "exitcode": 0, "out-data": data},
            "guest-get-fsinfo": [],
        }[command["execute"]]


class MadeUpWorkload:
    """The software of a made-up cluster, which tells of one job."""

    name = "slurm"

    def __init__(self) -> None:
        self.gate = Gate()

    def head_of(self, state: ClusterState) -> NodeState | None:
        return state.find_controller()

    def needs_of(self, state: ClusterState, node: NodeState) -> NodeNeeds:
        return NodeNeeds()

    def look(self, agent: GuestAgent, deadline: Deadline) -> SlurmSample:
        self.gate.go()
        job = make_job(4, ["compute-01"], time.time())
        node = SlurmNode(
            name="compute-01",
            states=("idle",),
            cpus=2,
            cpus_allotted=0,
            memory_mib=900,
            memory_allotted_mib=0,
        )
        return SlurmSample(version="1", jobs=(unused(job),), nodes=(node,))


def unused(job: Job) -> Job:
    """The job as number 1, of which nobody knows yet what it used."""
    return replace(job, id="1", cpu_used_s=None, memory_peak_mib=None)


def silent() -> Exception:
    return AgentUnresponsiveError("the agent of VM x does not answer")


def lost() -> Exception:
    return ConnectionLostError("no connection to libvirt for reading statistics of VMs")
