"""What `hpc metrics` serves of a cluster, from its state, its collector and its nodes."""

import http.client
import socket
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing, suppress
from typing import TYPE_CHECKING

from ai_how.errors import AiHowError, HostError

if TYPE_CHECKING:
    from ai_how.dashboard.metrics import Seen
    from ai_how.dashboard.metrics_own import NodeStart
    from ai_how.dashboard.metrics_targets import ScrapedNode
    from ai_how.host.dialing import Dialer
    from ai_how.hpc.manager import HpcManager
    from ai_how.monitoring.live import CollectorLive

ANSWER_S = 60.0
"""An exporter in an emulated guest took 40 s for its first page, and then 3 s."""
LARGEST_PAGE = 8 << 20
EXPORTER = "prometheus-node-exporter"
LATE_S = 10.0


class ClusterPages:
    """The pages of one cluster, for `MetricsServer`."""

    def __init__(self, manager: "HpcManager", live: "CollectorLive", dialer: "Dialer") -> None:
        self._manager, self._live, self._dialer = manager, live, dialer
        self._heals = Counter[str]()
        self._heals_until = 0.0

    def see(self) -> Sequence["Seen"]:
        """Also while the collector is gone: then its sources are silent."""
        from ai_how.dashboard.metrics import Seen

        snapshot, cost = self._live.snapshot(), dict[str, float]()
        with suppress(AiHowError):
            self._count_heals()
            told = self._live.status()
            cost = {
                "cpu_s": float(told["cpu_s"]),
                "memory_bytes": float(told["memory_mib"]) * 2**20,
                "database_bytes": float(told["history_bytes"]),
            }
        return [
            Seen(
                snapshot=snapshot,
                starts=starts_of(self._manager),
                heals=self._heals if self._heals_until else None,
                own_cost=cost,
            )
        ]

    def _count_heals(self) -> None:
        """Those since the last time; an event may come a little after its time."""
        until = time.time() - LATE_S
        new = self._live.events(self._heals_until, until)
        self._heals.update(one.subject for one in new if one.kind == "heal")
        self._heals_until = until

    def ask_node(self, node: str, port: int) -> bytes | None:
        state = self._manager.find_state()
        named = state.find_node(node) if state else None
        if named is None:
            return None
        with self._dialer.connect(str(named.ip), port) as line:
            line.settimeout(ANSWER_S)
            return _ask(line, f"{node} port {port}")


def _ask(line: socket.socket, name: str) -> bytes:
    """The page of an exporter. The guest is not trusted: neither its size nor its time."""
    deadline = time.monotonic() + ANSWER_S
    asked = http.client.HTTPConnection("node", timeout=ANSWER_S)
    asked.sock = line
    page = b""
    try:
        asked.request("GET", "/metrics", headers={"Connection": "close", "Accept": "text/plain"})
        with closing(asked.getresponse()) as answer:
            if answer.status != http.HTTPStatus.OK:
                raise HostError(f"{name} answers {answer.status}")
            while part := answer.read1(1 << 16):
                page += part
                if len(page) > LARGEST_PAGE or time.monotonic() > deadline:
                    raise HostError(f"{name} does not end its answer")
            if answer.length:
                raise http.client.IncompleteRead(page, answer.length)
    except (OSError, http.client.HTTPException) as error:
        raise HostError(f"{name} gives no page: {type(error).__name__}") from None
    return page


def starts_of(manager: "HpcManager") -> tuple["NodeStart", ...]:
    """How the nodes of a cluster last came up."""
    from ai_how.dashboard.metrics_own import NodeStart

    state = manager.find_state()
    return tuple(NodeStart(one.name, one.stages_s) for one in state.nodes) if state else ()


def scraped_nodes(manager: "HpcManager") -> list["ScrapedNode"]:
    """The nodes with their exporters: what the package lists of their images have."""
    from ai_how.dashboard.metrics_targets import ScrapedNode
    from ai_how.images.manifest import Image
    from ai_how.images.packages import packages_of
    from ai_how.images.store import ImageStore

    store, state = ImageStore(manager.roots.images), manager.get_state()
    exporting = set()
    for digest in {one.image_digest for one in state.nodes}:
        image = store.read(digest)
        packages = packages_of(image) if isinstance(image, Image) else None
        if any(one.name == EXPORTER for one in packages or ()):
            exporting.add(digest)
    return [
        ScrapedNode(one.name, one.image_digest in exporting, has_gpus=bool(one.cards))
        for one in state.nodes
    ]
