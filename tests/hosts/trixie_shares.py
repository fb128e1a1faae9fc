"""A node with a system, and directories of this host in it, by the program.

`trixie_shares.py DATA`: below DATA is the store with the default image. Prints what was seen, as
JSON.
"""

import json
import os
import sys
import tempfile
from pathlib import Path
from shutil import rmtree

from ai_how.libvirt_client.client import LibvirtClient
from ai_how.process import run
from leaks import look_at_machine
from real_cluster import START_S, Cluster

# Only the controller boots: what is shared needs no SLURM.
FILE = """\
version: "1.0"
host: {{uri: embedded}}
clusters:
  hpc:
    name: hpc
    controller:
      cpu_cores: 1
      memory_gb: 0.75
      disk_gb: 5
      virtio_fs_mounts:
        - {{tag: project, host_path: {project}, mount_point: {project}}}
        - {{tag: kept, host_path: {kept}, mount_point: /srv/kept, readonly: true}}
        - {{tag: tools, host_path: {tools}, mount_point: /root/tools, owner: root}}
    compute_nodes: {{count: 1, cpu_cores: 1, memory_gb: 0.75, disk_gb: 5, auto_start: false}}
"""
IN_GUEST = """
cd {project} && cat closed/mine && stat -c '%U:%G %a' closed && echo two > made && cat /srv/kept/it
sudo touch /root/tools/roots && sudo stat -c '%U:%G' /root/tools/roots
sudo mount -o remount,rw /srv/kept; sudo touch /srv/kept/new
"""


def live(cluster: Cluster, project: Path) -> dict[str, object]:
    cluster.call("hpc", "start", timeout_s=START_S)
    with LibvirtClient(cluster.host.uri) as client:
        libvirt = client.version().libvirt
    words = IN_GUEST.format(project=project)
    done = cluster.try_call("hpc", "ssh", "controller", "--", words)
    cluster.call("hpc", "stop", timeout_s=START_S)
    cluster.call("hpc", "destroy", "--force")
    return {
        "libvirt": libvirt,
        "guest": done.stdout.split(),
        "refused": "Read-only file system" in done.stderr,
        "said": done.stderr,
    }


def main(data: str) -> None:
    os.umask(0o022)
    machine = look_at_machine()
    home = Path(tempfile.mkdtemp(prefix="ah-", dir="/tmp"))
    shared = {name: home / name for name in ("project", "kept", "tools")}
    for directory in (*shared.values(), shared["project"] / "closed"):
        directory.mkdir()
    (shared["project"] / "closed").chmod(0o700)
    (shared["project"] / "closed" / "mine").write_text("one\n")
    (shared["kept"] / "it").write_text("kept\n")
    cluster = Cluster(home, FILE.format(**shared), XDG_DATA_HOME=data)
    try:
        told = live(cluster, shared["project"])
        made = (shared["project"] / "made", shared["tools"] / "roots")
        told["ours"] = [path.stat().st_uid == os.getuid() for path in made]
        told["there"] = [made[0].read_text(), [path.name for path in shared["kept"].iterdir()]]
        virtiofsd = run(["/usr/libexec/virtiofsd", "--version"]).stdout
        told["virtiofsd"] = virtiofsd.split()[-1]
    finally:
        cluster.try_call("hpc", "destroy", "--force", timeout_s=START_S)
        cluster.host.down()
        rmtree(home)
    told["left"] = sorted(look_at_machine() ^ machine)
    sys.stdout.write(json.dumps(told))


if __name__ == "__main__":
    main(*sys.argv[1:])
