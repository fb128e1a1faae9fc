"""Where the other tools work: a libvirt in namespaces of its own, with a pool, a network, an image.

It is our embedded host in a state directory of its own, so that they get what we get: the same
QEMU, the same acceleration, no trace on the machine's network.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from running import ROOT, Bench, prepared, say

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ai-how-bench"
SCRIPT = ROOT / "bench" / "cloud_image.sh"
IMAGE = "debian-13.qcow2"
NETWORK = "default"
# By MAC address where a tool takes one, by the address itself where it sets it.
NODES = {f"node-{n}": (f"52:54:00:be:0c:0{n}", f"192.168.150.1{n}") for n in (1, 2, 3)}
ADDRESSES = {name: address for name, (_, address) in NODES.items()}
PREFIX = "192.168.150.0/24"
NETWORK_XML = f"""<network>
  <name>{NETWORK}</name>
  <forward mode='nat'/>
  <bridge name='virbr0' stp='off' delay='0'/>
  <ip address='192.168.150.1' netmask='255.255.255.0'>
    <dhcp>
      <range start='192.168.150.100' end='192.168.150.200'/>
      {"".join(f"<host mac='{mac}' ip='{address}'/>" for mac, address in NODES.values())}
    </dhcp>
  </ip>
</network>
"""


class MissingError(Exception):
    """A tool cannot be measured here; the text says why, for the table."""


@dataclass(frozen=True)
class Site:
    """A libvirt at `uri`, its pool `default` in `pool` with the image, and a key to log in with."""

    bench: Bench
    home: Path
    uri: str
    supervisor: int
    has_kvm: bool

    @property
    def pool(self) -> Path:
        return self.home / "pool"

    @property
    def key(self) -> Path:
        return self.home / ".ssh" / "id_ed25519"

    @property
    def domain_type(self) -> str:
        return "kvm" if self.has_kvm else "qemu"

    @property
    def acceleration(self) -> str:
        return "KVM" if self.has_kvm else "TCG"

    @property
    def environment(self) -> dict[str, str]:
        """For a tool: a home of its own, and libvirt's own variable, which says where it is."""
        kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        path = f"{kept.get('PATH', os.defpath)}:/usr/sbin:/sbin"
        return {**kept, "PATH": path, "HOME": str(self.home), "LIBVIRT_DEFAULT_URI": self.uri}

    def enter(self, argv: Sequence[str]) -> list[str]:
        """The command that runs `argv` in the host's namespaces, where guests can be reached."""
        user = [] if os.geteuid() == 0 else ["-U", "--preserve-credentials"]
        pid = str(self.supervisor)
        # -w: the mount namespace would else begin in its root directory.
        return ["nsenter", "-t", pid, *user, "-n", "-m", f"-w{self.home}", "--", *argv]

    def run(self, *argv: str) -> str:
        """Run a tool's preparation to its end. Raises MissingError with what it said."""
        return run(*self.enter(argv), env=self.environment)

    def virsh(self, *words: str) -> str:
        return self.run("virsh", "-q", "-c", self.uri, *words)


@contextmanager
def peers_site(image: Path) -> Iterator[Site]:
    """A site that is ready, and gone afterwards with all that tools made in it."""
    with prepared(None) as bench:
        try:
            bench.run("host up")
            seen = json.loads(bench.run("--json host status")[1])
            home = bench.work.parent / "home"
            site = Site(bench, home, seen["uri"], seen["pid"], seen["has_kvm"])
            furnish(site, image)
            yield site
        finally:
            bench.clean_up()


def furnish(site: Site, image: Path) -> None:
    """Have all there that a user would have set up before: pool, image, network, ssh key."""
    for directory in (site.pool / "upstream", site.key.parent):
        directory.mkdir(parents=True)
    shutil.copy(image, site.pool / IMAGE)
    (site.pool / "upstream" / IMAGE).hardlink_to(site.pool / IMAGE)  # virt-lightning's place
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "bench", "-f", str(site.key))
    # dnsmasq gives up root, and then reads its list of hosts again at each change.
    (site.bench.state / ".embedded" / "lib").chmod(0o711)
    (site.home / "network.xml").write_text(NETWORK_XML)
    site.virsh("net-define", str(site.home / "network.xml"))
    site.virsh("net-start", NETWORK)
    site.virsh("pool-define-as", "default", "dir", "--target", str(site.pool))
    site.virsh("pool-start", "default")


def ensure_image() -> Path:
    """The cloud image in the cache, built where this script's own is not there yet."""
    ensure_packages("mmdebstrap", "qemu-utils", "e2fsprogs")
    digest = run("sha256sum", str(SCRIPT))[:12]
    image = CACHE / f"debian-13-{digest}.qcow2"
    if not image.exists():
        say("... building a cloud image for the other tools (a minute or two)")
        CACHE.mkdir(parents=True, exist_ok=True)
        run(*as_root("sh", str(SCRIPT), str(image)))
    return image


def ensure_venv(*pinned: str) -> Path:
    """A virtual environment in the cache that holds these very versions."""
    venv = CACHE / pinned[0].replace("==", "-")
    if not (venv / ".complete").exists():
        say(f"... installing {pinned[0]}")
        run(sys.executable, "-m", "venv", "--clear", str(venv))
        pip = (str(venv / "bin" / "pip"), "--disable-pip-version-check", "install", "--quiet")
        run(*pip, *pinned)
        (venv / ".complete").touch()
    return venv


def ensure_packages(*names: str) -> None:
    """Have Debian packages installed. Raises MissingError with the command where we may not."""
    query = ["dpkg-query", "--show", "--showformat=${db:Status-Status} ", *names]
    seen = subprocess.run(query, capture_output=True, text=True, check=False)
    if seen.stdout.split() == ["installed"] * len(names):
        return
    if os.geteuid() != 0:
        raise MissingError(f"sudo apt-get install --no-install-recommends {' '.join(names)}")
    say(f"... installing {' '.join(names)}")
    run("apt-get", "update", "-qq")
    run("apt-get", "install", "-qq", "--yes", "--no-install-recommends", *names)


def as_root(*argv: str) -> list[str]:
    """Root of a user namespace where we are not root."""
    if os.geteuid() == 0:
        return list(argv)
    mapped = ["--user", "--map-root-user", "--map-auto", "--setgroups", "allow", "--mount"]
    return ["unshare", *mapped, *argv]


def run(*argv: str, env: dict[str, str] | None = None) -> str:
    """Run a preparation to its end and return what it printed."""
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            env=env,
            timeout=900,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MissingError(f"{argv[0]}: {error}") from None
    if done.returncode != 0:
        said = (done.stdout + done.stderr).strip().splitlines() or ["-"]
        raise MissingError(f"{Path(argv[0]).name}: exit code {done.returncode}: {said[-1]}")
    return done.stdout
