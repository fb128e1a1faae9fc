"""One look into a guest: a script for its shell, and what is read from its output (pure).

The script is always the same; what is looked at are its arguments. The guest is untrusted: lines
that do not fit are ignored, and everything is limited.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ai_how.guest.serial_log import one_line
from ai_how.monitoring.figures import mib, real, whole
from ai_how.monitoring.host_source import PRESSURES, find_avg10, read_load
from ai_how.monitoring.model import GpuSample, JobUse
from ai_how.monitoring.watched import NodeNeeds

# Every program that is started costs an emulated guest a tenth of a second or more: what is in
# files is read by the shell itself. A server of /home that is gone blocks who asks it, except for
# SIGKILL.
SCRIPT = r"""
export LC_ALL=C
wants_all=$1 home=$2 cgroups=$3
show() {
    [ -r "$2" ] || return 0
    echo "== $1"
    while IFS= read -r line; do echo "$line"; done < "$2"
}
show uptime /proc/uptime
show load /proc/loadavg
for one in cpu memory io; do show "pressure $one" "/proc/pressure/$one"; done
echo '== oom'
while read -r name value; do
    if [ "$name" = oom_kill ]; then echo "$value"; break; fi
done < /proc/vmstat
if [ -n "$cgroups" ]; then
    for job in /sys/fs/cgroup/$cgroups; do
        [ -d "$job" ] || continue
        usage= now= peak= kills=
        read -r name usage < "$job/cpu.stat"
        read -r now < "$job/memory.current"
        read -r peak < "$job/memory.peak"
        while read -r name value; do
            [ "$name" = oom_kill ] && kills=$value
        done < "$job/memory.events"
        echo "== job ${job##*_}"
        echo "${usage:--} ${now:--} ${peak:--} ${kills:--}"
    done 2> /dev/null
fi
[ "$wants_all" = all ] || exit 0
if [ -n "$home" ]; then
    echo '== home'
    is_mounted=
    while read -r _ place _; do [ "$place" = "$home" ] && is_mounted=1; done < /proc/self/mounts
    if [ "$is_mounted" ] && timeout -s KILL 4 stat -f "$home" > /dev/null 2>&1; then
        echo yes
    else
        echo no
    fi
fi
if command -v systemctl > /dev/null; then
    echo '== units'
    timeout -s KILL 10 systemctl list-units --all --plain --no-legend --full --no-pager \
        --type=service,mount,socket,target,timer 2> /dev/null |
        while read -r unit is_loaded active sub _; do
            echo "$unit $is_loaded $active $sub"
        done
fi
if command -v nvidia-smi > /dev/null; then
    echo '== gpus'
    timeout -s KILL 10 nvidia-smi --format=csv,noheader,nounits \
        --query-gpu=index,name,utilization.gpu,memory.total,memory.used,temperature.gpu,power.draw
fi
exit 0
"""

MOST_JOBS = 1000
MOST_UNITS = 50
MOST_GPUS = 64
MOST_LINES = 20_000
_JOB_FIGURES, _GPU_FIGURES, _UNIT_WORDS = 4, 7, 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What the script saw."""

    uptime_s: float | None = None
    load: tuple[float, float, float] | None = None
    pressure: Mapping[str, float] = field(default_factory=dict)
    oom_kills: int | None = None
    jobs: tuple[JobUse, ...] = ()
    is_home_there: bool | None = None
    services: Mapping[str, str] = field(default_factory=dict)
    failed_units: tuple[str, ...] = ()
    gpus: tuple[GpuSample, ...] = ()


def script_argv(needs: NodeNeeds, *, wants_all: bool) -> list[str]:
    """The command. Without `wants_all` no other program is started, and only files are read."""
    return [
        "/bin/sh",
        "-c",
        SCRIPT,
        "ai-how-look",
        "all" if wants_all else "files",
        needs.home,
        needs.job_cgroups,
    ]


def read_seen(text: str, needs: NodeNeeds) -> Seen:
    """What the output of the script says."""
    parts = dict(_parts(text))
    home = _first(parts, "home")
    return Seen(
        uptime_s=real(_first(parts, "uptime").partition(" ")[0]),
        load=read_load(_first(parts, "load")),
        pressure=dict(_pressures(parts)),
        oom_kills=whole(_first(parts, "oom")),
        jobs=tuple(_jobs(parts)),
        is_home_there={"yes": True, "no": False}.get(home) if needs.home else None,
        services=dict(_services(parts.get("units", ()), needs.services)),
        failed_units=tuple(_failed(parts.get("units", ())))[:MOST_UNITS],
        gpus=tuple(_gpus(parts.get("gpus", ())))[:MOST_GPUS],
    )


def _parts(text: str) -> Iterator[tuple[str, Sequence[str]]]:
    name, lines = "", list[str]()
    for line in text.splitlines()[:MOST_LINES]:
        if line.startswith("== "):
            yield name, lines
            name, lines = line.removeprefix("== ").strip()[:80], []
        else:
            lines.append(line)
    yield name, lines


def _first(parts: Mapping[str, Sequence[str]], name: str) -> str:
    return next(iter(parts.get(name, ())), "")


def _pressures(parts: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, float]]:
    for name in PRESSURES:
        share = find_avg10("\n".join(parts.get(f"pressure {name}", ())))
        if share is not None:
            yield name, share


def _jobs(parts: Mapping[str, Sequence[str]]) -> Iterator[JobUse]:
    names = [name for name in parts if name.startswith("job ")]
    for name in names[:MOST_JOBS]:
        number, words = name.removeprefix("job "), _first(parts, name).split()
        if whole(number) is None or len(words) != _JOB_FIGURES:
            continue
        used_us, now, peak, kills = (whole(word) for word in words)
        yield JobUse(
            job=str(int(number)),
            cpu_s=None if used_us is None else used_us / 1e6,
            memory_mib=mib(now),
            memory_peak_mib=mib(peak),
            oom_kills=kills,
        )


def _units(lines: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    """Name, active, sub of each unit that systemd has loaded."""
    for line in lines:
        words = line.split()
        if len(words) == _UNIT_WORDS and words[1] != "not-found":
            yield one_line(words[0]), one_line(words[2]), one_line(words[3])


def _services(lines: Sequence[str], wanted: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The state of each service that is needed; `absent` if systemd has none of that name."""
    if not lines:
        return
    seen = {unit: active for unit, active, _ in _units(lines)}
    for name in wanted:
        yield name, seen.get(f"{name}.service", "absent")[:20]


def _failed(lines: Sequence[str]) -> Iterator[str]:
    return (unit for unit, active, _ in _units(lines) if active == "failed")


def _gpus(lines: Sequence[str]) -> Iterator[GpuSample]:
    for line in lines:
        words = [word.strip() for word in line.split(",")]
        if len(words) != _GPU_FIGURES or (index := whole(words[0])) is None:
            continue
        yield GpuSample(
            index=index,
            name=one_line(words[1])[:80],
            busy_percent=real(words[2], most=100),
            memory_mib=whole(words[3]),
            memory_used_mib=whole(words[4]),
            temperature_c=real(words[5], most=1000),
            power_w=real(words[6], most=1e5),
        )
