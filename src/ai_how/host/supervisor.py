"""PID 1 of the embedded host: sets up its private mounts, keeps its daemons, reaps children.

embedded.py runs it as `python -m ai_how.host.supervisor ORDER.json` in new namespaces. When it
dies, the kernel ends everything in its PID namespace, so nothing is left behind. It runs as long as
the host is up, so it imports little.
"""

import fcntl
import json
import os
import re
import resource
import shutil
import signal
import socket
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from ai_how.errors import AiHowError
from ai_how.host.daemon_log import say
from ai_how.host.guest_rules import OWN_GATEWAY_ONLY, ensure_rule, resolv_conf_inside
from ai_how.host.private_world import prepare_mounts
from ai_how.process import get_tool, run
from ai_how.waiting import Deadline

# A daemon that ends this soon after the start of the host cannot start.
STARTING_S = 5.0
NETWORKS = Path("/etc/libvirt/qemu/networks")
NETWORKS_UP = Path("/run/libvirt/network")
VMS = Path("/var/lib/libvirt/qemu")
VMS_UP = Path("/run/libvirt/qemu")
# Clients connect through /proc/PID/root: there is nothing outside that could be removed.
SOCKETS = Path("/run/libvirt")
# The number of concurrent calls of a client.
MAX_CALLS = 32


@dataclass(frozen=True, slots=True)
class Order:
    """The parameters of the supervisor; paths as seen from outside and from inside."""

    etc: str
    lib: str
    cache: str
    log: str
    with_kvm: bool

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, path: Path) -> "Order":
        return cls(**json.loads(path.read_text()))


def prepare_world(order: Order) -> None:
    """Set up all private mounts, and the resolver for guests.

    Nothing of this is visible outside our namespaces.
    """
    libvirt = (
        (order.etc, "/etc/libvirt"),
        (order.lib, "/var/lib/libvirt"),
        (order.cache, "/var/cache/libvirt"),
        (order.log, "/var/log/libvirt"),
    )
    state = Path(order.etc).parents[1]
    prepare_mounts(
        libvirt,
        needed=(str(state), *(source for source, _ in libvirt)),
        resolv_conf=resolv_conf_inside(),
        with_kvm=order.with_kvm,
    )
    run([get_tool("ip", package="iproute2"), "link", "set", "lo", "up"])


def write_settings() -> None:
    """Write the settings of the daemons; they are overwritten at every start."""
    etc = Path("/etc/libvirt")
    # libvirtd also creates them, but two of its drivers do it at once, and one may lose the race.
    for name in ("qemu/networks/autostart", "qemu/autostart"):
        (etc / name).mkdir(parents=True, exist_ok=True)
    (etc / "libvirtd.conf").write_text(
        f'unix_sock_dir = "{SOCKETS}"\n'
        'unix_sock_ro_perms = "0700"\nunix_sock_rw_perms = "0700"\nunix_sock_admin_perms = "0700"\n'
        'auth_unix_ro = "none"\nauth_unix_rw = "none"\n'
        # A client sends up to MAX_CALLS calls; the others are for liveness checks.
        # The prio_workers power guests off when the other workers are busy.
        f"max_client_requests = {MAX_CALLS + 8}\n"
        f"max_workers = {2 * MAX_CALLS}\nprio_workers = {MAX_CALLS}\n"
        'log_outputs = "2:file:/var/log/libvirt/libvirtd.log"\n'
    )
    (etc / "qemu.conf").write_text(
        'user = "root"\ngroup = "root"\ndynamic_ownership = 0\nremember_owner = 0\n'
        'cgroup_controllers = []\nnamespaces = []\nsecurity_driver = "none"\n'
    )
    # Some builds of newer libvirt prefer nftables, which requires a kernel with act_csum.
    (etc / "network.conf").write_text('firewall_backend = "iptables"\n')
    (etc / "virtlogd.conf").write_text("max_size = 33554432\nmax_backups = 1\n")


def start_child(argv: list[str]) -> int:
    """Start a program as our child and return its pid."""
    path = str(get_tool(argv[0], package="libvirt-daemon-system"))
    return os.posix_spawn(path, [path, *argv[1:]], {**os.environ})


def restart_child(argv: list[str]) -> int:
    """The same, but wait while no process can be started: our end would end the guests too."""
    while True:
        try:
            return start_child(argv)
        except BlockingIOError as error:
            say(f"{argv[0]}: {error.strerror}: no process can be started; trying again")
            time.sleep(1)


def sweep_networks() -> None:
    """Remove what is left of a network whose start ended with a killed libvirtd.

    The next libvirtd does not know such a bridge and its dnsmasq, and would fail on both.
    """
    for definition in NETWORKS.glob("*.xml"):
        if (NETWORKS_UP / definition.name).exists():
            continue
        bridge = re.search(r"<bridge name='([^'/]+)'", definition.read_text())
        link = Path("/sys/class/net", bridge[1]) if bridge else None
        if link and (link / "bridge").is_dir() and not any((link / "brif").iterdir()):
            say(f"removing the bridge {link.name}, left by a libvirtd that was killed")
            run([get_tool("ip", package="iproute2"), "link", "delete", link.name], check=False)
        pid_file = NETWORKS_UP / f"{definition.stem}.pid"
        with suppress(OSError, ValueError):
            pid = int(pid_file.read_text())
            if (
                f"dnsmasq/{definition.stem}.conf".encode()
                in Path(f"/proc/{pid}/cmdline").read_bytes()
            ):
                os.kill(pid, signal.SIGKILL)
                pid_file.unlink()


def sweep_vms() -> None:
    """Remove what is left of a VM whose stop ended with its libvirtd.

    The next libvirtd only cares for VMs with a status file, which names their directories.
    """
    status = b"".join(note.read_bytes() for note in VMS_UP.glob("*.xml"))
    # By the number before the name: the name may be escaped in XML.
    used = {number.decode() for number in re.findall(rb"/(domain-\d+-)", status)}
    for top in (VMS, VMS / "channel/target"):
        for directory in top.glob("domain-*"):
            number = re.match(r"domain-\d+-", directory.name)
            if number and number[0] not in used:
                say(f"removing {directory.name}, left by a libvirtd that ended")
                shutil.rmtree(directory, ignore_errors=True)


def keep(children: dict[str, list[str]]) -> None:
    """Start the daemons, restart those that end, and reap all other children, until SIGTERM.

    Returns only if a daemon cannot start while the host starts.
    """
    sweep_vms()  # all VMs of a killed host died with it
    starting = Deadline.after(STARTING_S)
    pids = {start_child(argv): name for name, argv in children.items()}
    while True:
        pid, domain = wait_for_end()
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if (name := pids.pop(pid, None)) is None:
            if domain:
                say(f"QEMU of {domain} was killed by signal {-code}")
            continue
        # Newer versions exit with 0 if a driver fails.
        if code >= 0 and not starting.has_passed:
            return say(f"{name} cannot start (exit code {code})")
        say(f"{name} ended ({code}); starting it again")
        time.sleep(0.2)  # a daemon that cannot start must not spin
        if name == "libvirtd":
            sweep_networks()
            sweep_vms()
        pids[restart_child(children[name])] = name


def wait_for_end() -> tuple[int, str | None]:
    """Wait for a child that ended, not reaped yet; and the domain if it was a killed QEMU.

    Done before it is reaped: libvirt waits for that before it removes its own note.
    """
    ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
    if ended is None:  # with WNOHANG alone
        raise ChildProcessError
    was_killed = ended.si_code in {os.CLD_KILLED, os.CLD_DUMPED}
    return ended.si_pid, find_domain(ended.si_pid) if was_killed else None


def find_domain(pid: int) -> str | None:
    """The domain whose QEMU has this pid."""
    for note in VMS_UP.glob("*.pid"):
        try:
            if note.read_text().strip() == str(pid):
                return note.stem
        except OSError:
            continue
    return None


def report() -> None:
    """Report our pid to embedded.py, and wait until it is recorded.

    Exits if embedded.py died before that, as nobody would know this host. The answer carries the
    lock of the host, which is held while we live.
    """
    os.write(0, b"\n")  # the kernel adds our pid, as it is outside
    with socket.socket(fileno=os.dup(0)) as way:
        said, held, *_ = socket.recv_fds(way, 1, 1)
    if not said:
        sys.exit("the process that started this host has ended")
    for descriptor in held:
        fcntl.fcntl(descriptor, fcntl.F_SETFD, fcntl.FD_CLOEXEC)  # not for our daemons
    with Path("/dev/null").open() as nothing:
        os.dup2(nothing.fileno(), 0)


def main() -> None:
    """Become the embedded host."""
    # PID 1 ignores every signal without a handler.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    os.umask(0o022)
    # Guests' disks may be larger than the file size limit of the shell that started us.
    largest = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
    report()
    try:
        order = Order.read(Path(sys.argv[1]))
        prepare_world(order)
        try:
            ensure_rule(OWN_GATEWAY_ONLY)
        except AiHowError as error:
            say(f"guests reach the gateways of other networks: {error}")
        write_settings()
        keep(
            {
                "virtlogd": ["virtlogd", "-f", "/etc/libvirt/virtlogd.conf"],
                "libvirtd": ["libvirtd", "-f", "/etc/libvirt/libvirtd.conf"],
            }
        )
    except (AiHowError, OSError) as error:
        say(str(error))
    sys.exit(1)


if __name__ == "__main__":
    main()
