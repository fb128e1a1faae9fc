"""What a failed start leaves for people to read, saved before it is undone."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from ai_how.errors import AiHowError
from ai_how.plan.failures import render_errors
from ai_how.state.models import ClusterState, NodeState
from ai_how.state.paths import ensure_private_directory
from ai_how.vm_management.world import World
from ai_how.waiting import Deadline

ASK_S = 20.0
JOURNAL = ("journalctl", "-b", "--no-pager", "-n", "400", "-o", "short-monotonic")


def save_evidence(
    world: World, state: ClusterState, say: Callable[[str], None], errors: Sequence[BaseException]
) -> None:
    """Keep errors, serial logs, VM definitions and guest journals, as far as they can be had."""
    moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    directory = world.paths.evidence / moment
    ensure_private_directory(world.paths.evidence)
    ensure_private_directory(directory)
    _keep(directory / "errors.txt", render_errors(list(errors)))
    for node in state.nodes:
        with suppress(OSError):
            log = world.paths.console_log(node.name).read_text("utf-8", "replace")
            _keep(directory / f"{node.name}.console.log", log)
        with suppress(AiHowError):
            _keep(directory / f"{node.name}.xml", world.client.domain_xml(node.uuid))
        with suppress(AiHowError):
            _keep_journal(world, directory, node)
    say(f"evidence of the failure is in {directory}")


def _keep_journal(world: World, directory: Path, node: NodeState) -> None:
    if world.client.is_agent_connected(node.uuid):
        seen = world.agent(node.uuid, node.name).run(list(JOURNAL), Deadline.after(ASK_S))
        _keep(directory / f"{node.name}.journal.log", seen.output)


def _keep(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text)
