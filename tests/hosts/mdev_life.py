"""vGPUs are made on a card of an emulated host and removed, by the program, on the kernel's mdev.

`mdev_life.py SCENARIO…` writes what was seen, as vfio_life.py does. The card has the driver
/out/mtty-card.ko, and its vGPUs are serial ports. Nothing is judged here.
"""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from ai_how.process import get_tool, run
from ai_how.state.leases import read_vgpu_leases
from ai_how.waiting import Deadline, wait_until
from emulated_host import CARD
from leaks import process_name
from vfio_life import (
    DEVICES,
    MODULES,
    NODE,
    STATE,
    Home,
    Said,
    devices_inside,
    drivers,
    live,
    open_groups,
    scenarios_of,
    told,
)

MDEVS = Path("/sys/bus/mdev/devices")
TYPES = DEVICES / CARD[0] / "mdev_supported_types"
PORTS = 24  # of the card, for vGPUs with one or two
ONE_PORT, TWO_PORTS = "mtty-1", "mtty-2"
OF_CARD = f'gpu: {{vgpu: {{profile: {TWO_PORTS}, parent: "{CARD[0]}"}}}}'
BY_NAME = "gpu: {vgpu: {profile: Single port serial}}"
STEP, BOOT = (f"{kind}/one-{NODE}" for kind in ("vgpu", "boot"))


def begin(home: Home, name: str, asked: str, **order: object) -> Said:
    """A start of a cluster whose node is to have this."""
    home.asked[name] = asked
    return told(home.start(name, **order))


def made() -> dict[str, str]:
    """The type of each mediated device."""
    every = sorted(MDEVS.iterdir()) if MDEVS.exists() else []
    return {one.name: (one / "mdev_type").readlink().name for one in every}


def look(home: Home) -> Said:
    """What the kernel has, and what is remembered of it."""
    free = {one.name: int((one / "available_instances").read_text()) for one in TYPES.iterdir()}
    leases = read_vgpu_leases(home.roots.leases)
    return {
        "drivers": drivers(),
        "made": made(),
        "free": free,
        "groups": {one: (MDEVS / one / "iommu_group").readlink().name for one in made()},
        "leases": {one.device: [one.cluster, one.node, one.parent, one.type] for one in leases},
    }


def has(home: Home, name: str) -> Said:
    """What the VM of a cluster has."""
    return {"open groups": open_groups(home.vm(name)), "inside": devices_inside(home, name)}


@contextmanager
def made_by_hand(kind: str, count: int) -> Iterator[list[str]]:
    """Mediated devices of nobody."""
    every = [str(uuid4()) for _ in range(count)]
    try:
        for one in every:
            (TYPES / kind / "create").write_text(one)
        yield every
    finally:
        for one in every:
            if (MDEVS / one).exists():
                (MDEVS / one / "remove").write_text("1")


def see_facts(home: Home) -> Said:
    """What is said of the card, and what sysfs has."""
    names = {one.name: (one / "name").read_text().strip() for one in TYPES.iterdir()}
    return {
        "card": home.ask("gpu", "explain", CARD[0]),
        "cards": home.ask("gpu", "explain"),
        "names": names,
        "seen": look(home),
    }


def see_refusals(home: Home) -> Said:
    """Starts that must not happen."""
    said: Said = {"before": look(home)}
    said["unknown"] = begin(home, "one", OF_CARD.replace(TWO_PORTS, "mtty-3"))
    said["other card"] = begin(home, "one", OF_CARD.replace(CARD[0], "0000:02:00.0"))
    with made_by_hand(ONE_PORT, PORTS):
        said["full"] = begin(home, "one", OF_CARD)
    said["after"] = look(home)
    return said


def see_life(home: Home) -> Said:
    """Two clusters have one each of the same card, and give it back."""
    said: Said = {"before": look(home), "start": begin(home, "one", OF_CARD)}
    said |= {"while it runs": look(home), "has": has(home, "one")}
    said["card"] = home.ask("gpu", "explain", CARD[0])
    said["whole"] = begin(home, "two", f'gpu: {{pci: "{CARD[0]}"}}')
    said["after whole"] = look(home)
    said["other"] = begin(home, "two", BY_NAME)
    said |= {"both": look(home), "other has": has(home, "two")}
    said["stop"] = told(home.stop("one"))
    said["after stop"] = look(home)
    said["destroy"] = told(home.destroy("two"))
    said["after destroy"] = look(home)
    return said


def see_by_hand(home: Home) -> Said:
    """One that root has made, which the file names by its UUID."""
    with made_by_hand(ONE_PORT, 1) as [uuid]:
        said: Said = {"uuid": uuid, "before": look(home)}
        said["start"] = begin(home, "one", f"vgpu: {{mdev_uuid: {uuid}}}")
        said |= {"while it runs": look(home), "has": has(home, "one")}
        said["stop"] = told(home.stop("one"))
        said["after stop"] = look(home)
    return said


def see_killed_at_its_record(home: Home) -> Said:
    """`ai-how` is killed when the vGPU is there, and its journal does not say so yet."""
    said: Said = {"before": look(home)}
    said["ended"] = begin(home, "one", OF_CARD, at_any=[["before done", STEP]], act="kill")
    said |= {"at kill": look(home), "doctor": home.ask("gpu", "doctor")}
    said["stop"] = told(home.stop("one"))
    said["after stop"] = look(home)
    return said


def see_killed_before_boot(home: Home) -> Said:
    """`ai-how` is killed between the making and the boot, and starts again."""
    said: Said = {"before": look(home)}
    said["ended"] = begin(home, "one", OF_CARD, at_any=[["before intent", BOOT]], act="kill")
    said["at kill"] = look(home)
    said["again"] = told(home.start("one"))
    said |= {"while it runs": look(home), "has": has(home, "one")}
    pid = home.vm("one")
    assert pid
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: process_name(pid) is None, Deadline.after(60), "the end of QEMU")
    said["without QEMU"] = look(home)
    said["stop"] = told(home.stop("one"))
    said["after stop"] = look(home)
    return said


def main() -> None:
    run([get_tool("modprobe"), "-a", *MODULES, "mdev"])
    run([get_tool("busybox"), "insmod", "/out/mtty-card.ko"])
    live(Home(STATE), sys.argv[1:], scenarios_of(globals()))


if __name__ == "__main__":
    main()
