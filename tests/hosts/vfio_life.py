"""Devices of an emulated host are given to VMs and taken back, by the program, on the real VFIO.

`vfio_life.py SCENARIO…` writes what was seen into /out/said.json, by scenario. The VMs have no
system (see bare_kind.py); devices, drivers, libvirt and QEMU are real. Nothing is judged here.
"""

import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import bare_kind
from ai_how.process import get_tool, run
from ai_how.waiting import Deadline, wait_until
from daemons import daemon_of, kill_daemon, qemus_of, send
from emulated_host import BOOT_DISPLAY, BRIDGED, CARD, EDU, MIXED_CARD, NVME, VFS
from leaks import look_at_objects, process_name
from tiny_cluster import Ended, TinyHome

OUT = Path("/out/said.json")
STATE = Path("/srv/state")
DEVICES = Path("/sys/bus/pci/devices")
VFIO = "vfio-pci"
PATIENCE_S = 240.0  # an emulated processor that others are using, too
MODULES = ("tun", "vfio-pci", "vfio_iommu_type1", "nvme", "snd_hda_intel", "bochs", "xhci_pci")
NODE = "compute-01"
FILE = """\
version: "1.0"
host: {{uri: embedded}}
clusters:
  hpc:
    name: {name}
    base_image_path: tiny
    start: {{warm: false}}
    hardware: {{acceleration: {{enable_kvm: false}}}}
    controller: {{cpu_cores: 1, memory_gb: 0.5, disk_gb: 1}}
    compute_nodes:
      - cpu_cores: 1
        memory_gb: 0.5
        disk_gb: 1
        {asked}
"""
Said = dict[str, object]


@dataclass(eq=False)
class Forked:
    """What has the verbs run, as a fork of us: to load it all again would take a minute here."""

    pid: int
    stdin: IO[str]
    stdout: IO[str]

    @classmethod
    def start(cls, root: Path) -> "Forked":
        (orders, to_child), (from_child, answers) = os.pipe(), os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(to_child)
            sys.stdin, sys.stdout = os.fdopen(orders), os.fdopen(answers, "w")
            bare_kind.main(root)
            os._exit(0)
        os.close(orders)
        os.close(answers)
        return cls(pid, os.fdopen(to_child, "w"), os.fdopen(from_child))

    def wait(self) -> None:
        os.waitpid(self.pid, 0)


class Home(TinyHome):
    """Clusters of which only one node boots; what that has is said before a verb."""

    def __init__(self, state: Path) -> None:
        super().__init__(state)
        self.asked: dict[str, str] = {}

    def _start_zygote(self) -> Forked:
        forked = Forked.start(self.root)
        self.zygote_pids.add(forked.pid)
        return forked

    def file(self, name: str) -> Path:
        path = self.root / f"{name}.yaml"
        path.write_text(FILE.format(name=name, asked=self.asked.get(name, passthrough())))
        return path

    def start(self, name: str, *devices: str, **order: object) -> Ended:
        if devices:
            self.asked[name] = passthrough(*devices)
        return self.call("hpc", "start", NODE, name=name, patience_s=PATIENCE_S, **order)

    def stop(self, name: str, **order: object) -> Ended:
        return self.call("hpc", "stop", name=name, patience_s=PATIENCE_S, **order)

    def destroy(self, name: str) -> Ended:
        return self.call("hpc", "destroy", "--force", name=name, patience_s=PATIENCE_S)

    def ask(self, *words: str) -> object:
        return json.loads(self.call("--json", *words).out)

    def vm(self, name: str) -> int | None:
        """The QEMU of its node."""
        return qemus_of(self.host, name).get(NODE)


def passthrough(*devices: str) -> str:
    """What a node is to have, in its file."""
    words = (f'{{pci_address: "{one}", device_type: other}}' for one in devices)
    return f"pcie_passthrough: {{enabled: true, devices: [{', '.join(words)}]}}"


def told(ended: Ended) -> Said:
    return {
        "code": ended.code,
        "err": ended.err,
        "out": ended.out,
        "records": ended.boundaries,
        "took_s": round(ended.took_s, 1),
    }


def driver_of(address: str) -> str | None:
    try:
        return (DEVICES / address / "driver").readlink().name
    except FileNotFoundError:
        return None


def drivers() -> dict[str, str | None]:
    """Of all devices that can be given away, and of those that came."""
    every = [one.name for one in DEVICES.iterdir() if one.name >= CARD[0]]
    return {one: driver_of(one) for one in sorted([BOOT_DISPLAY, *every])}


def group_of(address: str) -> int:
    return int((DEVICES / address / "iommu_group").readlink().name)


def open_groups(pid: int | None) -> list[str]:
    """The groups of VFIO that a process has open."""
    links = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            links.append(str(entry.readlink()))
    return sorted({Path(one).name for one in links if one.startswith("/dev/vfio/")} - {"vfio"})


def devices_inside(home: Home, name: str) -> str:
    """What QEMU has plugged in, with addresses on the host; no firmware need have seen it."""
    virsh = [get_tool("virsh", package="libvirt-clients"), "--connect", home.host.uri]
    return run([*virsh, "qemu-monitor-command", "--hmp", f"{name}-{NODE}", "info qtree"]).stdout


def settled_drivers(wanted: dict[str, str | None]) -> dict[str, str | None]:
    """What they are when they are as wanted, or when they have not become it."""
    with suppress(Exception):
        wait_until(lambda: drivers() == wanted, Deadline.after(60), "drivers", interval_s=0.2)
    return drivers()


def see_facts(home: Home) -> Said:
    """What is said of the cards, and what sysfs has."""
    return {
        "cards": home.ask("gpu", "explain"),
        "doctor": home.ask("gpu", "doctor"),
        "groups": {one: group_of(one) for one in drivers()},
        "drivers": drivers(),
        "blocks": [str(one.resolve()) for one in Path("/sys/class/block").glob("nvme*")],
    }


def see_no_iommu(home: Home) -> Said:
    """What is said on a host without one."""
    return {
        "cards": home.ask("gpu", "explain"),
        "doctor": home.ask("gpu", "doctor"),
        "before": drivers(),
        "start": told(home.start("one", *CARD)),
        "after": drivers(),
    }


def see_refusals(home: Home) -> Said:
    """Starts that must not happen, and what they have changed."""
    disk = Path("/srv/disk")
    disk.mkdir(exist_ok=True)
    said: Said = {}
    for what, devices in (
        ("half a group", MIXED_CARD[:1]),
        ("behind a bridge", BRIDGED[:1]),
        ("boot display", (BOOT_DISPLAY,)),
        ("mounted", (NVME,)),
    ):
        before = (drivers(), look_at_objects(home.host))
        if what == "mounted":
            run(["mount", "-t", "ext4", "/dev/nvme0n1", disk])
        try:
            said[what] = told(home.start("one", *devices))
        finally:
            run(["umount", disk], check=what == "mounted")
        said[f"{what}: same"] = before == (drivers(), look_at_objects(home.host))
    return said


def see_life(home: Home) -> Said:
    """All devices go to one VM and come back; meanwhile another cluster cannot have one."""
    every = (*CARD, *MIXED_CARD, NVME, EDU)
    said: Said = {"before": drivers(), "start": told(home.start("one", *every))}
    said |= {
        "while it runs": drivers(),
        "groups": sorted({str(group_of(one)) for one in every}),
        "open groups": open_groups(home.vm("one")),
        "inside": devices_inside(home, "one"),
        "cards": home.ask("gpu", "explain"),
    }
    said["other"] = told(home.start("two", *CARD))
    said["after the other"] = drivers()
    said["stop"] = told(home.stop("one"))
    said["after stop"] = drivers()
    said["other again"] = told(home.start("two", *CARD))
    said["it has it"] = open_groups(home.vm("two"))
    said["destroy"] = told(home.destroy("two"))
    said["after destroy"] = drivers()
    return said


def see_vfs(home: Home) -> Said:
    """VFs that were made by hand; one goes to a VM while the device itself stays the host's."""
    device = DEVICES / NVME
    (device / "sriov_drivers_autoprobe").write_text("0")
    (device / "sriov_numvfs").write_text(str(VFS))
    vfs = [(device / f"virtfn{number}").readlink().name for number in range(VFS)]
    said: Said = {"vfs": vfs, "groups": [group_of(one) for one in (NVME, *vfs)]}
    said["start"] = told(home.start("one", vfs[0]))
    said["while it runs"] = drivers()
    said["open groups"] = open_groups(home.vm("one"))
    said["stop"] = told(home.stop("one"))
    said["after stop"] = drivers()
    (device / "sriov_numvfs").write_text("0")
    said["without"] = drivers()
    said["removed"] = told(home.start("one", vfs[0]))
    return said


def see_qemu_killed(home: Home) -> Said:
    """QEMU is killed, and nothing else is done; then the cluster is started again."""
    before = drivers()
    said: Said = {"before": before, "start": told(home.start("one", *CARD, *MIXED_CARD))}
    pid = home.vm("one")
    assert pid
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: process_name(pid) is None, Deadline.after(60), "the end of QEMU")
    said["after kill"] = settled_drivers(before)
    said["again"] = told(home.start("one"))
    said["open groups"] = open_groups(home.vm("one"))
    return _ended(home, said)


def see_daemon_killed(home: Home) -> Said:
    """libvirtd is killed while the VM runs; the next one must know what the VM has."""
    said: Said = {"before": drivers(), "start": told(home.start("one", *CARD, *MIXED_CARD))}
    kill_daemon(home.host)
    daemon_of(home.host)
    said["after kill"] = drivers()
    said["other"] = told(home.start("two", *CARD))
    return _ended(home, said)


def see_daemon_killed_in_start(home: Home) -> Said:
    """libvirtd is killed when the first device has left its driver."""
    daemon = daemon_of(home.host)
    said: Said = {"before": drivers()}
    home.asked["one"] = passthrough(*CARD, *MIXED_CARD)
    said |= _meanwhile(home, "start", lambda _pid: send(signal.SIGKILL, daemon))
    daemon_of(home.host)
    return _recovered(home, said)


def see_daemon_killed_in_stop(home: Home) -> Said:
    """libvirtd is killed when QEMU has ended, and devices are still with VFIO."""
    said: Said = {"before": drivers(), "start": told(home.start("one", *CARD, *MIXED_CARD))}
    vm, daemon = home.vm("one"), daemon_of(home.host)
    ended = home.begin("hpc", "stop", name="one", patience_s=PATIENCE_S)
    # No QEMU is left behind by this: it has ended, or ends by the next stop.
    wait_until(
        lambda: vm is None or process_name(vm) != "qemu-system-x86",
        Deadline.after(PATIENCE_S),
        "the end of QEMU",
        interval_s=0.002,
    )
    send(signal.SIGKILL, daemon)
    said["at kill"] = drivers()
    said["ended"] = told(ended())
    daemon_of(home.host)
    return _recovered(home, said)


def see_start_killed(home: Home) -> Said:
    """`ai-how` is killed when the first device has left its driver; libvirtd goes on."""
    said: Said = {"before": drivers()}
    home.asked["one"] = passthrough(*CARD, *MIXED_CARD)
    said |= _meanwhile(home, "start", lambda pid: send(signal.SIGKILL, pid))
    return _recovered(home, said)


def see_start_killed_at_its_record(home: Home) -> Said:
    """`ai-how` is killed when the VM runs, and its journal does not say so yet."""
    said: Said = {"before": drivers()}
    last = ["before done", f"boot/one-{NODE}"]
    ended = home.start("one", *CARD, *MIXED_CARD, at_any=[last], act="kill")
    said |= {"ended": told(ended), "at kill": drivers()}
    return _recovered(home, said)


def _meanwhile(home: Home, verb: str, act: Callable[[int], None]) -> Said:
    """Begin a verb, act when a device has come to VFIO, and wait for the end."""
    pids: list[int] = []
    ended = home.begin(*("hpc", verb, NODE), name="one", patience_s=PATIENCE_S, on_pid=pids.append)
    wait_until(
        lambda: VFIO in drivers().values(),
        Deadline.after(PATIENCE_S),
        "a device of VFIO",
        interval_s=0.002,
    )
    act(pids[0])
    at_kill = drivers()
    return {"ended": told(ended()), "at kill": at_kill}


def _recovered(home: Home, said: Said) -> Said:
    """The cluster is stopped; then it lives once more."""
    said["after fault"] = drivers()
    said["stop"] = told(home.stop("one"))
    said["after stop"] = settled_drivers(said["before"])
    said["again"] = told(home.start("one"))
    said["open groups"] = open_groups(home.vm("one"))
    return _ended(home, said)


def _ended(home: Home, said: Said) -> Said:
    said["last stop"] = told(home.stop("one"))
    said["after last stop"] = settled_drivers(said["before"])
    return said


def give_back(before: dict[str, str | None]) -> None:
    """Have the drivers as before, so that no scenario suffers from the one before it."""
    for address, driver in drivers().items():
        if driver == VFIO and before.get(address) != VFIO:
            (DEVICES / address / "driver/unbind").write_text(address)
            (DEVICES / address / "driver_override").write_text("\n")
            Path("/sys/bus/pci/drivers_probe").write_text(address)


def scenarios_of(names: Mapping[str, object]) -> dict[str, Callable[[Home], Said]]:
    """The scenarios of a module, by its globals."""
    return {
        name.removeprefix("see_"): value
        for name, value in names.items()
        if name.startswith("see_") and callable(value)
    }


def live(home: Home, names: Sequence[str], scenarios: Mapping[str, Callable[[Home], Said]]) -> None:
    """Have these happen, one after the other; clusters and drivers are as before after each."""
    said: dict[str, Said] = {}
    at = time.monotonic()

    def note(name: str, seen: Said) -> None:
        nonlocal at
        now = time.monotonic()
        said[name] = {**seen, "took_s": round(now - at, 1)}
        at = now
        OUT.write_text(json.dumps(said, indent=1))

    note("boot", {"uptime_s": float(Path("/proc/uptime").read_text().split()[0])})
    home.state.mkdir(mode=0o700)
    os.environ |= {
        "XDG_DATA_HOME": str(home.root / "data"),
        "XDG_CACHE_HOME": str(home.root / "cache"),
    }
    before = drivers()
    try:
        home.prepare()
        note("host up", {})
        for name in names:
            home.have_host()  # it ends with its last cluster
            try:
                seen = scenarios[name](home)
            except Exception:  # noqa: BLE001  it is told, and the others are seen
                seen = {"broken": traceback.format_exc()}
            note(name, seen)
            home.end_all()
            for cluster in ("one", "two"):
                home.destroy(cluster)
            give_back(before)
            note(f"after {name}", {})
    finally:
        logs = Path("/out/logs")
        run([get_tool("cp"), "-r", home.host.paths.log, logs], check=False)
        (logs / "dmesg").write_text(run([get_tool("dmesg")], check=False).stdout)
        home.close()
        home.host.down()


def main() -> None:
    run([get_tool("modprobe"), "-a", *MODULES])
    live(Home(STATE), sys.argv[1:], scenarios_of(globals()))


if __name__ == "__main__":
    main()
