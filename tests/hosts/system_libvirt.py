"""A stock host: the system's libvirt, as a distribution sets it up, in namespaces of its own.

Real libvirtd and virtlogd as root, the socket for group libvirt; QEMU runs as the distribution's
user. Users of the machine who are in that group come in with their own rights.
"""

import os
import pwd
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ai_how.process import Completed, get_tool, run, start_daemon
from ai_how.waiting import Deadline, wait_until
from tiny_cluster import TinyHome, opened

TESTS = Path(__file__).resolve().parents[1]
GROUP = "libvirt"
IMAGES = Path("/var/lib/libvirt/images")

_SET_UP = r"""
set -eu
mount --make-rprivate /
mount -t sysfs sysfs /sys
cp -a /etc/libvirt "$1/etc"
for each in /run /var/lib/libvirt /var/cache/libvirt /var/log/libvirt /etc/libvirt; do
    mkdir -p "$each"
    mount -t tmpfs -o mode=755,size=2g tmpfs "$each"
done
cp -a "$1/etc/." /etc/libvirt/
rm -rf /etc/libvirt/qemu /etc/libvirt/storage /etc/libvirt/hooks
cat >>/etc/libvirt/libvirtd.conf <<END
unix_sock_group = "libvirt"
unix_sock_rw_perms = "0770"
auth_unix_rw = "none"
END
echo 'cgroup_controllers = []' >>/etc/libvirt/qemu.conf
install -d -m 0711 /var/lib/libvirt/images
mkdir -p /run/lock /run/user
# Without /dev/kvm: where KVM hangs, libvirt asks QEMU about it for minutes.
mount -t tmpfs -o mode=755 tmpfs /mnt
mkdir /mnt/pts /mnt/shm /mnt/net
cp -a /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty /mnt/
cp -a /dev/net/tun /mnt/net/
chmod 0666 /mnt/net/tun
mount -t devpts -o newinstance,ptmxmode=0666 devpts /mnt/pts
mount -t tmpfs -o mode=1777 tmpfs /mnt/shm
ln -s pts/ptmx /mnt/ptmx
ln -s /proc/self/fd /mnt/fd
umount --lazy --recursive /dev
mount --move /mnt /dev
ip link set lo up
mount -t tmpfs -o mode=755 tmpfs /mnt
PYTHONPATH="$3" "$2" -c 'import desktop; desktop.open_for_all()'
virtlogd -d
libvirtd -d
until virsh -c qemu:///system version; do sleep 0.2; done
touch "$1/ready"
# Not exec: libvirt waits for the end of QEMUs that nobody but the first process can reap.
sleep infinity &
wait
"""


@dataclass(frozen=True)
class SystemLibvirt:
    """The host, by a process in its namespaces."""

    pid: int

    def enter(self, user: str, *argv: str | Path) -> list[str | Path]:
        """The command that runs `argv` there as that user, with all of the user's groups."""
        inside = [get_tool("nsenter"), "-t", str(self.pid), "-m", "-n", "-p", "-i", "--"]
        if user == "root":
            return [*inside, *argv]
        drop = (f"--reuid={user}", f"--regid={user}", "--init-groups", "--")
        return [*inside, get_tool("setpriv"), *drop, *argv]

    def run(self, user: str, *argv: str | Path, check: bool = True) -> Completed:
        return run(self.enter(user, *argv), timeout_s=120, check=check)

    def virsh(self, *words: str) -> str:
        """What root's virsh says there."""
        return self.run("root", get_tool("virsh"), "-c", "qemu:///system", *words).stdout

    def files(self) -> list[str]:
        """What lies where the system's QEMU reads disks, with its owner."""
        find = self.run("root", get_tool("find"), IMAGES, "-printf", "%u %m %P\n")
        return sorted(find.stdout.splitlines())


class SystemHome(TinyHome):
    """A user's directories, whose verbs run as that user on the system's libvirt."""

    def __init__(self, state: Path, host: SystemLibvirt, user: str, **options: int) -> None:
        super().__init__(state, **options)
        self.system, self.user = host, user

    def have_host(self) -> None:
        """Nothing: it is up."""

    def program(self) -> list[str | Path]:
        inner = super().program()
        return self.system.enter(self.user, *inner)

    def argv(self, *words: str, name: str = "hpc") -> list[str]:
        connect = () if "--connect" in words else ("--connect", "qemu:///system")
        return super().argv(*connect, *words, name=name)


@contextmanager
def system_libvirt(scratch: Path) -> Iterator[SystemLibvirt]:
    """The host, up; everything of it ends with its namespaces."""
    scratch.mkdir(parents=True, exist_ok=True)
    setup = scratch / "set-up"
    setup.write_text(_SET_UP)
    unshare = get_tool("unshare", package="util-linux")
    namespaces = ("--mount", "--net", "--pid", "--ipc", "--fork", "--mount-proc", "--kill-child")
    words = (get_tool("bash"), setup, scratch, sys.executable, TESTS)
    log = scratch / "log"
    outer = start_daemon([unshare, *namespaces, "--", *words], log=log)
    try:

        def is_up() -> bool:
            assert outer.poll() is None, log.read_text()
            return (scratch / "ready").exists()

        wait_until(is_up, Deadline.after(120), f"libvirtd; see {log}")
        inner = Path(f"/proc/{outer.pid}/task/{outer.pid}/children").read_text().split()[0]
        yield SystemLibvirt(int(inner))
    finally:
        outer.kill()
        outer.wait(60)


@contextmanager
def system_home(
    host: SystemLibvirt, user: str, state: Path, *names: str, **options: int
) -> Iterator[SystemHome]:
    """A user's directories on that host, with the tiny image."""
    account = pwd.getpwnam(user)
    made = next(path for path in (*reversed(state.parents), state) if not path.exists())
    state.mkdir(parents=True)
    state.chmod(0o700)
    with opened(SystemHome(state, host, user, **options)) as home:
        for name in names:
            home.file(name)
        for path in (made, *made.rglob("*")):
            os.chown(path, account.pw_uid, account.pw_gid, follow_symlinks=False)
        yield home
