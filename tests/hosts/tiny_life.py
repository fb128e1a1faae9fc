"""One small cluster's life on this host, by the program: start, status, stop, destroy.

Prints as JSON what each verb said, and what doctor and validate say. Guests have no system.
"""

import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from shutil import rmtree

from ai_how.console.show import show_error
from ai_how.errors import AiHowError
from ai_how.host.place import resolve_host
from ai_how.spec.nodes import nodes_of
from ai_how.vm_management.nodes.host_checks import check_shares
from cluster_bench import read_hpc
from tiny_cluster import TinyHome, opened

VERBS: dict[str, Sequence[str]] = {
    "doctor": ("--json", "doctor"),
    "validate": ("--json", "validate"),
    "start": ("hpc", "start"),
    "status": ("--json", "hpc", "status"),
    "stop": ("hpc", "stop"),
    "destroy": ("hpc", "destroy", "--force"),
}


def live(state: Path) -> dict[str, dict[str, object]]:
    said = {}
    home = TinyHome(state, nodes=1)
    try:
        with opened(home):
            for verb, words in VERBS.items():
                ended = home.call(*words)
                said[verb] = {"code": ended.code, "out": ended.out, "err": ended.err}
                if verb == "start":
                    said["shares"] = {"code": 0, "out": shares_seen(home)}
                    said["sockets"] = {"code": 0, "inside": sockets_inside(home)}
    finally:
        home.host.down()
    return said


def shares_seen(home: TinyHome) -> list[str]:
    """What is said of two directories to share: beside the clusters, and below /run since now."""
    later = Path(os.environ.get("XDG_RUNTIME_DIR", "/run"), "later")
    said = []
    for path in (home.state / "share", later):
        path.mkdir()
        mounts = f"virtio_fs_mounts: [{{tag: t, host_path: {path}, mount_point: /data}}]"
        nodes = f"compute_nodes: [{{cpu_cores: 1, memory_gb: 1, disk_gb: 10, {mounts}}}]"
        hpc = read_hpc("storage: {virtio_fs: {enabled: true}}", nodes=nodes)
        place = resolve_host("embedded", home.roots)
        said += [check.found for check in check_shares(nodes_of(hpc), place)]
        path.rmdir()
    return said


def sockets_inside(home: TinyHome) -> list[str]:
    """The sockets below /run that the host's own programs see, but for its own."""
    supervisor = home.host.find_supervisor()
    if supervisor is None:
        return []
    run = Path(f"/proc/{supervisor.pid}/root/run")
    ours = (Path("/run/libvirt"), home.state)
    found = ["/run" / path.relative_to(run) for path in run.rglob("*") if path.is_socket()]
    return [str(path) for path in found if not any(path.is_relative_to(one) for one in ours)]


if __name__ == "__main__":
    above = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    os.umask(0o022)
    state = Path(tempfile.mkdtemp(prefix="ah-", dir=above))
    try:
        said = live(state)
    except AiHowError as error:
        show_error(error)
        sys.exit(error.exit_code)
    finally:
        rmtree(state)
    sys.stdout.write(json.dumps(said))
