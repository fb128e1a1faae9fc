"""One small cluster's life on this host, by the program, with guests that have no system.

`trixie_life.py FIREWALL`: libvirt is set to that backend, as others build it with another default
than Debian. Prints what was seen, as JSON.
"""

import json
import os
import signal
import sys
import tempfile
from pathlib import Path
from shutil import rmtree

from ai_how.host.checks import check_embedded
from ai_how.host.facts import read_facts
from ai_how.process import run
from ai_how.state.paths import ensure_private_directory
from ai_how.waiting import Deadline, wait_until
from daemons import kill_daemon, qemus_of
from leaks import look_at_machine, pids_inside, process_name
from tiny_cluster import TinyHome, opened


def live(home: TinyHome) -> dict[str, object]:
    verbs: dict[str, tuple[int, str]] = {}

    def do(key: str, *words: str) -> None:
        ended = home.call(*words)
        verbs[key] = (ended.code, ended.said)
        sys.stderr.write(f"{key}: {ended.said}\n")

    do("validate", "validate")
    do("warm", "image", "warm")
    do("start", "hpc", "start")
    do("status", "--json", "hpc", "status")
    do("start again", "hpc", "start")
    seen = {
        "dnsmasq": pids_inside(home.host, "dnsmasq"),
        "log": home.host.paths.supervisor_log.read_text(),
        "rules": run(home.host.enter(["nft", "list", "ruleset"])).stdout,
    }
    end(qemus_of(home.host, "hpc")["compute-01"])
    do("start after QEMU died", "hpc", "start")
    kill_daemon(home.host)
    do("status after libvirtd died", "hpc", "status")
    do("stop a node", "hpc", "stop", "compute-01")
    do("suspend", "hpc", "stop", "--suspend")
    do("resume", "hpc", "start")
    running = sorted(qemus_of(home.host, "hpc"))
    do("destroy", "hpc", "destroy", "--force")
    return {**seen, "verbs": verbs, "running at last": running}


def end(pid: int) -> None:
    """Kill a process, and wait for its end."""
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: process_name(pid) is None, Deadline.after(60), f"the end of {pid}")


def main(firewall: str) -> None:
    os.umask(0o022)
    machine = look_at_machine()
    state = Path(tempfile.mkdtemp(prefix="ah-"))
    home = TinyHome(state, nodes=2, is_warm=True)
    told: dict[str, object] = {
        "embedded": [str(one.status) for one in check_embedded(read_facts())]
    }
    ensure_private_directory(home.host.paths.root)
    ensure_private_directory(home.host.paths.etc)
    (home.host.paths.etc / "network.conf").write_text(f'firewall_backend = "{firewall}"\n')
    try:
        with opened(home):
            with home.client() as client:
                told["libvirt"] = client.version().libvirt
            told |= live(home)
    finally:
        home.host.down()
        rmtree(state)
    told["left"] = sorted(look_at_machine() ^ machine)
    sys.stdout.write(json.dumps(told))


if __name__ == "__main__":
    main(*sys.argv[1:])
