"""Measures the tools that one would take instead, one after the other, on one site."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress

from figures import BenchError, PeerResult
from running import ROOT, say
from site_of_peers import ADDRESSES, MissingError, Site, ensure_image, peers_site
from tools import TOOLS, Prepared, Tool

PATIENCE_S = 900.0
AFTERWARDS_S = 120.0  # for the tool's own end, once its machines answer
NOTE_CHARS = 300  # of what a tool said last: enough for its error, short enough for a table
AWAIT_SSH = ROOT / "bench" / "await_ssh.py"


def measure_peers() -> list[PeerResult]:
    """Each tool's seconds until ssh answers; one that cannot run here is listed with the reason."""
    try:
        image = ensure_image()
    except MissingError as error:
        return [failure(tool, "-", f"no cloud image: {error}") for tool in TOOLS]
    results = []
    for tool in TOOLS:
        say(f"... {tool.name}: {tool.what}")
        # A site for each: none finds what another left.
        try:
            with peers_site(image) as site:
                results.append(measure_peer(tool, site))
        except (BenchError, MissingError) as error:
            results.append(failure(tool, "-", f"no libvirt for it: {error}"))
        say(f"    {results[-1].ssh_s or results[-1].note}")
    return results


def measure_peer(tool: Tool, site: Site) -> PeerResult:
    try:
        prepared = tool.prepare(site)
    except MissingError as error:
        return failure(tool, "-", f"cannot be prepared: {error}")
    return time_peer(tool, prepared, site)


def time_peer(tool: Tool, prepared: Prepared, site: Site) -> PeerResult:
    """From the command's start until ssh has run `true` on all three machines."""
    log = site.home / f"{tool.name}.log"
    awaiting = [sys.executable, str(AWAIT_SSH), prepared.user, str(site.key), str(PATIENCE_S)]
    with log.open("w") as out:
        began = time.monotonic()
        command = start(site, prepared, prepared.command, out=out.fileno())
        waiter = start(site, prepared, [*awaiting, *ADDRESSES.values()], out=subprocess.PIPE)
        try:
            command_s = follow(command, waiter, began)
            found = read_answer(waiter)
        finally:
            end(waiter)
            end(command)
    said = log.read_text(errors="replace").strip()
    if found is None or None in found.values():
        answered = sum(1 for value in (found or {}).values() if value)
        why = f"ssh on {answered} of {len(ADDRESSES)}" if command_s is None else "its command ended"
        return failure(tool, prepared.version, f"{why}: {said[-NOTE_CHARS:]}", prepared.packages)
    nodes_s = {
        name: found[address] - began  # type: ignore[operator]
        for name, address in ADDRESSES.items()
    }
    return PeerResult(
        name=tool.name,
        version=prepared.version,
        what=tool.what,
        note=prepared.note,
        ssh_s=max(nodes_s.values()),
        command_s=command_s,
        nodes_s=nodes_s,
        packages=prepared.packages,
    )


def follow(
    command: subprocess.Popen[str], waiter: subprocess.Popen[str], began: float
) -> float | None:
    """Wait for both, but not after a command that failed. Returns the seconds of the command.

    None for a command that was not done in time.
    """
    command_s = None
    give_up = began + PATIENCE_S + AFTERWARDS_S
    while time.monotonic() < give_up:
        if command_s is None and command.poll() is not None:
            command_s = time.monotonic() - began
        if command.returncode not in {None, 0}:
            return command_s
        if waiter.poll() is not None:
            if command_s is not None:
                return command_s
            give_up = min(give_up, time.monotonic() + AFTERWARDS_S)
        time.sleep(0.2)
    return command_s


def start(site: Site, prepared: Prepared, argv: list[str], *, out: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        site.enter(argv),
        stdin=subprocess.DEVNULL,
        stdout=out,
        stderr=None if out == subprocess.PIPE else subprocess.STDOUT,
        env={**site.environment, **prepared.environment},
        cwd=site.home,
        text=True,
        start_new_session=True,
    )


def read_answer(waiter: subprocess.Popen[str]) -> dict[str, float | None] | None:
    """What await_ssh.py found, None where it has not ended."""
    if waiter.poll() is None or waiter.stdout is None:
        return None
    return dict(json.loads(waiter.stdout.read() or "{}")) or None


def end(child: subprocess.Popen[str]) -> None:
    """End a command of ours with all that it started, where it still runs."""
    if child.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    if child.stdout:
        child.stdout.close()


def failure(tool: Tool, version: str, why: str, packages: list[str] | None = None) -> PeerResult:
    note = " ".join(why.split())
    return PeerResult(tool.name, version, tool.what, note, packages=packages or [])
