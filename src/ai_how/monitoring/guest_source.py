"""A guest from inside, by its agent: its clock, its file systems, and one run of a shell script."""

import time
from collections.abc import Callable
from dataclasses import replace

from ai_how.errors import GuestError
from ai_how.guest.agent import GuestAgent
from ai_how.guest.serial_log import one_line
from ai_how.monitoring.figures import byte_count
from ai_how.monitoring.guest_script import Seen, read_seen, script_argv
from ai_how.monitoring.model import FileSystemUse, GuestSample
from ai_how.monitoring.watched import NodeNeeds
from ai_how.vm_management.nodes.clocks import read_skew_s
from ai_how.waiting import Deadline

GUEST_S = 30.0
"""How long a guest may take for one look."""
CLOCK_S = 5.0
"""How long it may take to tell its time: who hangs is not asked more."""
POLL_S, SLOWEST_POLL_S = 0.25, 2.0
MOST_FILE_SYSTEMS = 32


class GuestSource:
    """Looks at one guest. Some figures are in files, and cost it little; others start programs."""

    def __init__(
        self,
        needs: NodeNeeds,
        *,
        all_every_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Programs are started in it every `all_every_s` seconds, at other looks only a shell."""
        self.all_every_s = all_every_s
        self._needs = needs
        self._clock = clock
        self._last = GuestSample()
        self._all_at: float | None = None
        self._took_s = 0.0

    def look(self, agent: GuestAgent) -> GuestSample:
        """The guest now. Raises GuestError or ConnectionLostError if it does not answer."""
        now = self._clock()
        wants_all = self._all_at is None or now - self._all_at >= self.all_every_s
        skew_s = read_skew_s(agent, CLOCK_S)
        argv, begun = script_argv(self._needs, wants_all=wants_all), self._clock()
        done = agent.run(
            argv, Deadline.after(GUEST_S), poll_s=poll_for(self._took_s), shown="a look"
        )
        self._took_s = self._clock() - begun
        if done.exit_code != 0:
            said = one_line(done.errors.strip()[-400:]) or "no reason is given"
            raise GuestError(f"a look into {agent.name} failed: {said}")
        seen = read_seen(done.output, self._needs)
        if seen.uptime_s is None:
            raise GuestError(f"the agent of {agent.name} answers a look with something else")
        sample = self._with_files(seen, skew_s)
        if wants_all:
            sample = replace(
                sample,
                file_systems=read_file_systems(agent.file_systems()),
                failed_units=seen.failed_units,
                services=seen.services,
                is_home_there=seen.is_home_there,
                gpus=seen.gpus,
            )
            self._all_at = now
        self._last = sample
        return sample

    def _with_files(self, seen: Seen, skew_s: float) -> GuestSample:
        return replace(
            self._last,
            skew_s=skew_s,
            uptime_s=seen.uptime_s,
            load=seen.load,
            pressure=seen.pressure,
            oom_kills=seen.oom_kills,
            jobs=seen.jobs,
        )


def poll_for(took_s: float) -> float:
    """How often to ask whether a program has ended that took so long the last time."""
    return min(max(POLL_S, took_s / 6), SLOWEST_POLL_S)


def read_file_systems(answer: object) -> tuple[FileSystemUse, ...]:
    """The file systems on disks in an answer to guest-get-fsinfo, each once (pure).

    Newer agents tell the size for ordinary users, too; older ones only that with what is kept for
    root.
    """
    found: dict[str, FileSystemUse] = {}
    for entry in answer[:1000] if isinstance(answer, list) else ():
        if not isinstance(entry, dict) or not isinstance(place := entry.get("mountpoint"), str):
            continue
        used, size = byte_count(entry.get("used-bytes")), byte_count(entry.get("total-bytes"))
        if used is None or size is None or used > size:
            continue
        privileged = byte_count(entry.get("total-bytes-privileged"))
        whole = size if privileged is None or privileged < size else privileged
        one = FileSystemUse(
            mount_point=one_line(place),
            size_mib=whole >> 20,
            used_mib=used >> 20,
            free_mib=(size - used) >> 20,
        )
        name = str(entry.get("name"))
        former = found.get(name)
        if former is None or len(one.mount_point) < len(former.mount_point):
            found[name] = one
    return tuple(sorted(found.values(), key=lambda one: one.mount_point))[:MOST_FILE_SYSTEMS]
