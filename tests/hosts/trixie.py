"""A host with Debian 13's programs: newer libvirt, QEMU, Python and tools, in a tree of their own.

The tree is unpacked from trixie's packages, once for all runs, below our cache; of what their
scripts would set up there is what `finish` does. A program runs there with the tree as its root,
and mounts and processes of its own.
"""

import json
import shutil
import sys
from collections.abc import Container, Iterator
from contextlib import contextmanager
from hashlib import sha256
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement

from ai_how.process import Completed, get_tool, run
from ai_how.state.lock import held_lock
from ai_how.state.paths import default_roots

ROOT = Path(__file__).resolve().parents[2]
USER, USER_ID = "somebody", 1000
BUILD_S = 900
SUITE = "trixie"
PACKAGES = (
    *("base-files", "base-passwd", "bash", "coreutils", "dash", "findutils", "grep", "hostname"),
    *("libpam-modules", "passwd", "procps", "sed", "util-linux", "mount", "e2fsprogs"),
    *("libvirt-daemon-system", "libvirt-clients", "qemu-system-x86", "qemu-utils", "dnsmasq-base"),
    *("nftables", "iptables", "iproute2", "uidmap", "passt", "openssh-client", "virtiofsd"),
    *("python3", "python3-libvirt"),
)
LEFT_OUT = ("doc", "man", "info", "locale")
ACCOUNTS = (  # of what is set up by packages that are only unpacked here
    ("etc/passwd", "libvirt-qemu:x:64055:64055::/var/lib/libvirt:/usr/sbin/nologin"),
    ("etc/passwd", "libvirt-dnsmasq:x:64056:64056::/var/lib/libvirt:/usr/sbin/nologin"),
    ("etc/passwd", f"{USER}:x:1000:1000::/home/{USER}:/bin/sh"),
    ("etc/group", f"libvirt-qemu:x:64055:\nlibvirt-dnsmasq:x:64056:\nkvm:x:997:\n{USER}:x:1000:"),
    ("etc/subuid", f"{USER}:100000:65536"),
    ("etc/subgid", f"{USER}:100000:65536"),
)
PLACES = ("mnt", "old", "srv", "usr/local/bin", "var/cache/libvirt", "var/log/libvirt")
# The machine's kernel and devices, our code in /srv, and a /tmp that is on a disk.
ENTER = """
set -e
tree=$1 ours=$2 tmp=$3; shift 3
mount --bind "$tree" "$tree"
mount -o remount,bind,ro "$tree"
for place in proc sys dev; do mount --rbind "/$place" "$tree/$place"; done
mount --bind "$ours" "$tree/srv"
mount --bind "$tmp" "$tree/tmp"
for place in run root home; do mount -t tmpfs -o mode=755 tmpfs "$tree/$place"; done
cd "$tree"
pivot_root . old
umount -l /old
install -d -o 1000 -g 1000 "/home/$HOST_USER"
exec env -i HOME=/root LANG=C.UTF-8 AI_HOW_NO_WARM=1 PYTHONDONTWRITEBYTECODE=1 \\
    PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$@"
"""
PROGRAM = ("env", "PYTHONPATH=/srv/tests:/srv/bench", "python3")


def on_trixie(
    tree: Path,
    tmp: Path,
    program: str,
    *words: str,
    as_user: bool,
    timeout_s: float,
    resolver: str | None = None,
) -> Completed:
    """Run a Python program of tests/hosts there; nothing of it is left when it has ended.

    `tmp` is an empty directory for its /tmp. With a resolver, the host has a network of its own
    with a small world outside (see small_world.py).
    """
    tmp.chmod(0o1777)
    desktop = ("python3", "/srv/tests/desktop.py", USER, "0666", "env", "AI_HOW_NO_WARM=1")
    return run(
        [
            *(get_tool("unshare", package="util-linux"), "--mount", "--propagation", "private"),
            *("--pid", "--fork", "--kill-child", "--mount-proc"),
            *(["--net"] if resolver else []),
            *("sh", "-c", ENTER, "enter", tree, ROOT, tmp),
            *([*PROGRAM, "/srv/tests/hosts/small_world.py", resolver] if resolver else []),
            *(desktop if as_user else ()),
            *(*PROGRAM, f"/srv/tests/hosts/{program}", *words),
        ],
        timeout_s=timeout_s,
        env={"HOST_USER": USER},
    )


def get_tree() -> Path:
    """The tree, made where it is missing: a minute or two, by Debian's mirror and PyPI."""
    lock = (ROOT / "requirements.lock").read_text()
    seed = json.dumps([SUITE, PACKAGES, LEFT_OUT, ACCOUNTS, PLACES, lock])
    top = default_roots().cache / "trixie"
    tree = top / sha256(seed.encode()).hexdigest()[:16]
    top.mkdir(parents=True, exist_ok=True)
    with held_lock(top / "lock", doing="making the tree of Debian 13", wait_s=BUILD_S):
        if not tree.exists():
            for former in top.iterdir():  # of another list of packages, or half made
                if former.is_dir():
                    shutil.rmtree(former)
            with draft(tree) as made:
                unpack(made)
                finish(made)
                add_python_packages(made / "usr/local/lib/ai-how", lock)
    return tree


@contextmanager
def draft(tree: Path) -> Iterator[Path]:
    """A directory that becomes the tree when all went well."""
    made = tree.with_suffix(".draft")
    made.mkdir(mode=0o755)
    try:
        yield made
        made.rename(tree)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def unpack(tree: Path) -> None:
    """Extract the packages; none of their scripts run, and no mount of it is seen by others."""
    run(
        [
            *(get_tool("unshare", package="util-linux"), "--mount", "--propagation", "private"),
            *(get_tool("mmdebstrap", package="mmdebstrap"), "--mode=root", "--variant=extract"),
            *("--skip=check/empty", '--aptopt=Apt::Install-Recommends "false"'),
            *(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in LEFT_OUT),
            *(f"--include={','.join(PACKAGES)}", SUITE, tree),
        ],
        timeout_s=BUILD_S,
    )


def finish(tree: Path) -> None:
    """What the scripts of the packages would do, as far as it is needed."""
    for name in ("passwd", "group"):
        shutil.copy(tree / f"usr/share/base-passwd/{name}.master", tree / "etc" / name)
    for file, line in ACCOUNTS:
        with (tree / file).open("a") as opened:
            opened.write(f"{line}\n")
    for tool in ("iptables", "ip6tables"):
        for verb in ("", "-save", "-restore"):
            (tree / "usr/sbin" / f"{tool}{verb}").symlink_to(f"{tool}-nft{verb}")
    for place in PLACES:
        (tree / place).mkdir(parents=True, exist_ok=True)
    ours = tree / "usr/lib/python3/dist-packages/ai-how.pth"
    ours.write_text("/usr/local/lib/ai-how\n/srv/src\n")


def add_python_packages(target: Path, lock: str) -> None:
    """What we need at run time, at the versions of the lock, for that Python."""
    only = target.with_name("wanted.lock")
    target.parent.mkdir(parents=True, exist_ok=True)
    only.write_text(entries_of(lock, needed("ai-how") - {"ai-how", "libvirt-python"}))
    run(
        [
            *(sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--no-deps"),
            *("--require-hashes", "--only-binary=:all:", "--python-version=3.13"),
            *("--no-compile", "--target", target, "-r", only),
        ],
        timeout_s=BUILD_S,
    )


def entries_of(lock: str, wanted: Container[str]) -> str:
    """The entries of a lock file for these distributions."""
    entries, is_wanted = [], False
    for line in lock.splitlines(keepends=True):
        if line[0].isalpha():
            is_wanted = line.partition("==")[0] in wanted
        entries += [line] if is_wanted else []
    return "".join(entries)


def needed(name: str, seen: frozenset[str] = frozenset()) -> set[str]:
    """The distributions that one needs, and those that they need, itself included."""
    found = set(seen) | {name}
    for text in distribution(name).requires or ():
        asked = Requirement(text)
        one = asked.name.lower().replace("_", "-").replace(".", "-")
        if one not in found and (asked.marker is None or asked.marker.evaluate({"extra": ""})):
            found |= needed(one, frozenset(found))
    return found
