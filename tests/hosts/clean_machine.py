"""A machine on which nothing was ever installed: Debian 13 with apt, sudo and an ordinary user.

Its root directory is an overlay on a tree that is made once, below our cache; its processes, its
mounts, its device files and its /home are its own, so that it may be changed at will. It shares the
kernel and the network of this machine, and has its settings for registries: certificates, apt's of
how to fetch, and pip's.
"""

import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from ai_how.process import Completed, Daemon, dying_with_us, get_tool, run, start_daemon
from ai_how.state.lock import held_lock
from ai_how.state.paths import default_roots
from ai_how.waiting import Deadline, wait_until
from trixie import BUILD_S, LEFT_OUT, ROOT, SUITE, draft

USER, USER_ID, HOME = "runner", 1000, Path("/home/runner")
# Beside what dpkg itself needs: what the images of CI services have.
PACKAGES = ("sudo", "ca-certificates", "passwd", "util-linux", "procps")
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
SHARED = Path("/srv")
_OF_PIP = ("cert", "default-timeout", "find-links", "index-url", "extra-index-url")
ENTER = """
set -e
top=$1 lower=$2 shared=$3; shift 3
mount -t overlay overlay -o "lowerdir=$lower,upperdir=$top/upper,workdir=$top/work" "$top/root"
cd "$top/root"
mount -t proc proc proc
mount --rbind /sys sys
echo "127.0.0.1 localhost $(uname -n)" > etc/hosts
for place in dev run; do mount -t tmpfs -o mode=755 tmpfs $place; done
for name in null zero full random urandom tty net/tun kvm; do
    [ -e "/dev/$name" ] || continue
    mkdir -p "dev/$(dirname "$name")"
    # shellcheck disable=SC2046
    mknod -m 0666 "dev/$name" c $(stat -c '0x%t 0x%T' "/dev/$name")
done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
mount -t tmpfs tmpfs dev/shm
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
for name in stdin:0 stdout:1 stderr:2; do ln -s "/proc/self/fd/${name#*:}" "dev/${name%:*}"; done
[ ! -e dev/kvm ] || chmod 0660 dev/kvm
# Not of the machine, but of the kernel that it shares.
setting=proc/sys/kernel/apparmor_restrict_unprivileged_userns
[ ! -e $setting ] || { echo 0 > run/none; mount --bind run/none $setting; }
mount --bind "$top/home" home/runner
mount --bind "$shared" srv
for place; do mkdir -p ".$place"; mount --bind "$place" ".$place"; done
pivot_root . mnt
umount -l /mnt
echo ready
exec sleep infinity
"""


@dataclass(slots=True)
class Machine:
    """One that is on."""

    top: Path
    holder: Daemon
    pid: int

    def run(
        self,
        script: str,
        *,
        cwd: Path = HOME,
        env: Mapping[str, str] | None = None,
        check: bool = True,
        timeout_s: float,
    ) -> Completed:
        """Run lines of bash as the user, as CI services do: the first that fails ends them."""
        settings = {**registry_settings(), **(env or {})}
        path = settings.pop("PATH", "/usr/local/bin:/usr/bin:/bin")
        words = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script]
        return run(
            [
                *(get_tool("nsenter", package="util-linux"), "-t", str(self.pid)),
                *("--mount", "--pid", "--root", "--wd", "--"),
                *("setpriv", "--reuid", USER, "--regid", USER, "--init-groups"),
                *("env", "-i", "-C", cwd),
                *(f"USER={USER}", f"HOME={HOME}", f"PATH={path}", "LANG=C.UTF-8"),
                *(f"{name}={value}" for name, value in settings.items()),
                *words,
            ],
            check=check,
            timeout_s=timeout_s,
        )

    def outside(self, path: Path) -> Path:
        """A file below its /home, as this machine has it."""
        return self.top / "home" / path.relative_to(HOME)


@contextmanager
def clean_machine(top: Path, shared: Path, *, systems: tuple[Path, ...] = ()) -> Iterator[Machine]:
    """Switch a machine on, and off after the block; `shared` is its /srv.

    Its system has what was installed on earlier machines, whose `installed_on` are `systems`; its
    /home is new all the same.
    """
    for name in ("upper", "work", "root", "home"):
        (top / name).mkdir(parents=True)
    os.chown(top / "home", USER_ID, USER_ID)
    for path in (top, shared):
        path.chmod(0o755)
    os.chown(shared, USER_ID, USER_ID)
    lower = ":".join(str(path) for path in (*systems, get_clean_tree()))
    log = top / "log"
    words = [
        *(get_tool("unshare", package="util-linux"), "--mount", "--propagation", "private"),
        *("--pid", "--fork", "--kill-child", "sh", "-c", ENTER, "enter"),
        *(top, lower, shared, *registry_directories()),
    ]
    holder = start_daemon(dying_with_us(words), log=log)
    try:
        wait_until(lambda: "ready" in log.read_text(), Deadline.after(60), "the clean machine")
        children = Path(f"/proc/{holder.pid}/task/{holder.pid}/children").read_text().split()
        yield Machine(top, holder, int(children[0]))
    finally:
        holder.kill()
        holder.wait()


def installed_on(machine: Machine) -> Path:
    """What was installed on a machine, when it is off."""
    return machine.top / "upper"


def get_clean_tree() -> Path:
    """The tree of the system, made where it is missing: a minute or two, by Debian's mirror."""
    seed = repr((SUITE, PACKAGES, apt_settings(), USER))
    top = default_roots().cache / "clean"
    tree = top / sha256(seed.encode()).hexdigest()[:16]
    top.mkdir(parents=True, exist_ok=True)
    with held_lock(top / "lock", doing="making the tree of a clean machine", wait_s=BUILD_S):
        if not tree.exists():
            for former in top.iterdir():
                if former.is_dir():
                    shutil.rmtree(former)
            with draft(tree) as made:
                _install(made)
    return tree


def _install(tree: Path) -> None:
    run(
        [
            *(get_tool("unshare", package="util-linux"), "--mount", "--propagation", "private"),
            *(get_tool("mmdebstrap", package="mmdebstrap"), "--mode=root", "--variant=minbase"),
            *("--skip=check/empty", '--aptopt=Apt::Install-Recommends "false"'),
            *(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in LEFT_OUT),
            *(f"--include={','.join(PACKAGES)}", SUITE, tree),
        ],
        timeout_s=BUILD_S,
    )
    chroot = (get_tool("chroot", package="coreutils"), tree)
    run([*chroot, "useradd", "--create-home", "--uid", str(USER_ID), USER])
    (tree / "etc/sudoers.d/user").write_text(f"{USER} ALL=(ALL) NOPASSWD: ALL\n")
    (tree / "etc/apt/apt.conf.d/90settings").write_text(apt_settings())
    if CERTIFICATES.is_file():
        shutil.copy(CERTIFICATES, tree / CERTIFICATES.relative_to("/"))
    shutil.copy("/etc/resolv.conf", tree / "etc/resolv.conf")


def apt_settings() -> str:
    """How apt fetches on this machine."""
    told = run([get_tool("apt-config", package="apt"), "dump"]).stdout
    wanted = re.compile(r"Acquire::(https?::(Proxy|Verify)|Check-)", re.IGNORECASE)
    return "".join(f"{line}\n" for line in told.splitlines() if wanted.match(line))


def registry_settings() -> dict[str, str]:
    """What pip and others know of registries on this machine, as variables."""
    told = run([sys.executable, "-m", "pip", "config", "list"]).stdout
    found = re.findall(r"^(?:global|:env:|install)\.([a-z-]+)='(.*)'$", told, re.MULTILINE)
    of_pip = {
        f"PIP_{name.upper().replace('-', '_')}": value.replace("\\n", " ")
        for name, value in found
        if name in _OF_PIP
    }
    certificates = {name: str(CERTIFICATES) for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")}
    return of_pip | (certificates if CERTIFICATES.is_file() else {})


def registry_directories() -> list[Path]:
    """Directories of this machine that those variables name."""
    words = " ".join(registry_settings().values()).split()
    paths = {Path(word.removeprefix("file://")) for word in words if "/" in word}
    there = {path for path in paths if path.is_absolute() and path.is_dir()}
    # The pages of an index refer to files beside them.
    return sorted({path.parent if path.name == "simple" else path for path in there})


def copy_checkout(target: Path) -> None:
    """The files of this checkout, as a service has them: what git knows, with what has changed."""
    target.mkdir(parents=True)
    script = 'git -C "$0" ls-files -z | tar -C "$0" --null -T - -c | tar -C "$1" -x'
    run(["bash", "-eo", "pipefail", "-c", script, ROOT, target])
    run(["chown", "-R", f"{USER_ID}:{USER_ID}", target])
