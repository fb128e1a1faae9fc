"""What there is, as lines of text: on an embedded host, and on the machine that it must not touch.

Two looks, before and after; whatever is in one of them only was left behind or taken away.
"""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from shutil import rmtree

from ai_how.errors import DeadlineError
from ai_how.host.embedded import EmbeddedHost
from ai_how.host.guest_rules import LINK
from ai_how.libvirt_client.client import LibvirtClient
from ai_how.process import find_tool, get_tool, run
from ai_how.state.paths import default_roots
from ai_how.waiting import Deadline, wait_until
from decoys import look_at_decoys

# What ends in the background (a tap of a guest that was just killed) has this long.
SETTLING_S = 90.0

Lines = frozenset[str]


def look_at_machine() -> Lines:
    """The links, named network namespaces and firewall of the machine, and our process's mounts."""
    return frozenset(
        [f"link on the machine: {name}" for name in _link_names(["ip", "-br", "link"])]
        + [f"network namespace: {path.name}" for path in _entries(Path("/run/netns"))]
        + [f"firewall of the machine: {line}" for line in _firewall()]
        + [f"mount: {line}" for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    )


def look_at_host(host: EmbeddedHost) -> Lines:
    """What is on an embedded host that is up: objects, links, processes, files that persist."""
    return look_at_objects(host) | look_at_decoys(host)


def look_at_objects(host: EmbeddedHost) -> Lines:
    """The same but for a close look at the decoys, which takes most of the time."""
    with LibvirtClient(host.uri) as client:
        return frozenset(
            [f"VM {vm.name} {vm.uuid}: {vm.state}" for vm in client.list_domains()]
            + [f"network {net.name}, active {net.is_active}" for net in client.list_networks()]
            + [
                f"link inside: {name}"
                for name in _link_names(host.enter(["ip", "-br", "link"]))
                if name != LINK  # it comes a moment after the host is up
            ]
            + [f"process inside: {name}" for name in names_inside(host)]
            + [f"file: {path}" for top in (host.paths.etc, host.paths.lib) for path in files(top)]
        )


def difference(before: Lines, after: Lines) -> str:
    """What came and what went, one a line; empty where nothing did."""
    came, went = sorted(after - before), sorted(before - after)
    return "\n".join([*(f"left behind: {line}" for line in came), *(f"gone: {x}" for x in went)])


def settled_difference(before: Lines, host: EmbeddedHost | None) -> str:
    """The difference from `before` to now, when what was ending has had time to end."""

    return settled(
        before, lambda: look_at_machine() | (look_at_host(host) if host else frozenset())
    )


def settled(before: Lines, look: Callable[[], Lines]) -> str:
    """The difference from `before` to a look, when what was ending has had time to end."""
    left = ""

    def is_as_before() -> bool:
        nonlocal left
        left = difference(before, look())
        return left == ""

    with suppress(DeadlineError):
        wait_until(is_as_before, Deadline.after(SETTLING_S), "the state before")
    return left


def steady(look: Callable[[], Lines]) -> Lines:
    """What there is when nothing ends or begins any more: two looks in a row agree."""
    last = look()

    def again() -> bool:
        nonlocal last
        former, last = last, look()
        return last == former

    wait_until(again, Deadline.after(SETTLING_S), "what there is to stay so", interval_s=0.5)
    return last


def count_gate(figures: dict[str, int], left: str, *, has_decoys: bool) -> None:
    """Count one look after a test, and what it found, for the closing table."""
    lines = left.splitlines()
    foreign = [line for line in lines if "decoy: " in line]
    figures["looks for leaks"] += 1
    figures["leaks found"] += len(lines) - len(foreign)
    figures["looks at foreign objects"] += 5 * has_decoys
    figures["foreign objects changed"] += len(foreign)


def pid_namespace(pid: int) -> str | None:
    """The PID namespace that a process is in, None where it is gone."""
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")  # noqa: PTH115  not a path to follow
    except OSError:
        return None


@contextmanager
def kept_namespace(pid: int) -> Iterator[str]:
    """The PID namespace of a process; no other is given its number while the block runs."""
    held = os.open(f"/proc/{pid}/ns/pid", os.O_RDONLY)
    try:
        yield os.readlink(f"/proc/self/fd/{held}")  # noqa: PTH115  not a path to follow
    finally:
        os.close(held)


def command_lines() -> dict[int, list[bytes]]:
    """The words of every process that is still there when it is read, by its pid."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            found[int(path.parent.name)] = path.read_bytes().split(b"\0")
    return found


def uplink_of(pid: int) -> list[int]:
    """The process that gives the host with that PID 1 its uplink, and its children: pasta."""
    lines = command_lines()
    keepers = [
        one
        for one, words in lines.items()
        if b"ai_how.host.outside" in words and str(pid).encode() in words
    ]
    return keepers + [one for one in lines if parent_of(one) in keepers]


def processes_in(namespace: str) -> dict[int, str]:
    """The processes of a PID namespace that are not zombies: pid (ours) and name."""
    pids = [int(entry.name) for entry in Path("/proc").glob("[0-9]*")]
    named = {pid: process_name(pid) for pid in pids if pid_namespace(pid) == namespace}
    return {pid: name for pid, name in named.items() if name}


def parent_of(pid: int) -> int | None:
    """The process that has started it, or adopted it; None where it is gone."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return None


def process_name(pid: int) -> str | None:
    """Its name, at most 15 characters; None for no process and for a zombie."""
    try:
        head, _, rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")
    except OSError:
        return None
    return None if rest.split()[0] in {"Z", "X"} else head.partition("(")[2]


def pids_inside(host: EmbeddedHost, name: str) -> list[int]:
    """The processes of that name (15 characters at most) on an embedded host that is up."""
    return sorted(pid for pid, other in _inside(host).items() if other == name)


def names_inside(host: EmbeddedHost) -> list[str]:
    """Every process of an embedded host that is up, `name` or `name (2nd)`."""
    names = sorted(_inside(host).values())
    return [f"{name} ({names[:place].count(name) + 1})" for place, name in enumerate(names)]


def files(top: Path) -> list[str]:
    """Every file below a directory, links and sockets too; directories may go meanwhile."""
    found = []
    for directory, below, names in os.walk(top):
        links = [name for name in below if Path(directory, name).is_symlink()]
        found += [str(Path(directory, name)) for name in (*names, *links)]
    return sorted(found)


@contextmanager
def private_host() -> Iterator[EmbeddedHost]:
    """An embedded host of a state directory of its own, not up yet; nothing is left of it after."""
    state = Path(tempfile.mkdtemp(prefix="ah-"))
    host = EmbeddedHost(default_roots(state).embedded)
    before = look_at_machine()
    with ExitStack() as stack:
        namespace = None
        try:
            yield host
            if supervisor := host.find_supervisor():
                namespace = stack.enter_context(kept_namespace(supervisor.pid))
        finally:
            host.down()
            rmtree(state)
        assert namespace is None or processes_in(namespace) == {}
    left = settled_difference(before, None)
    assert left == "", left


def _inside(host: EmbeddedHost) -> dict[int, str]:
    supervisor = host.find_supervisor()
    namespace = pid_namespace(supervisor.pid) if supervisor else None
    found = processes_in(namespace) if namespace else {}
    # What libvirtd runs for a moment is its child, and bears its name until it is another program.
    daemons = {pid for pid, name in found.items() if name == "libvirtd"}
    return {pid: name for pid, name in found.items() if parent_of(pid) not in daemons}


def _link_names(argv: list[str]) -> list[str]:
    return [line.split()[0] for line in run(argv).stdout.splitlines()]


def _entries(directory: Path) -> list[Path]:
    return list(directory.iterdir()) if directory.is_dir() else []


def _firewall() -> list[str]:
    """Every rule that nft and the older iptables show; none where we may not see them."""
    lines = run([get_tool("nft", package="nftables"), "list", "ruleset"], check=False).stdout
    if older := find_tool("iptables-legacy-save"):
        lines += run([older], check=False).stdout
    return [line for line in lines.splitlines() if line and not line.startswith((":", "#"))]
