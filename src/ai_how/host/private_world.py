"""The private mounts of the embedded host: what is hidden, and what stays visible.

libvirtd would use the real host's sockets below /run, so they are hidden. But programs, disks and
home directories can also be there, or be reached by links through it: what the host needs is
bind-mounted back, and nothing else.
"""

import os
import re
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from ai_how.errors import AiHowError
from ai_how.host.guest_rules import OUR_RESOLV_CONF
from ai_how.process import get_tool, run, search_path

# The place where mounts are prepared before they hide their targets. It is mounted anew at the end,
# so nothing in it is needed; /mnt would be hidden meanwhile.
STAGE = Path("/sys")
RUN, DEV, ETC = Path("/run"), Path("/dev"), Path("/etc")
RESOLV_CONF = ETC / "resolv.conf"
DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
OPTIONAL_DEVICES = ("net/tun", "vhost-net", "vfio", "hugepages", "fuse")
# Programs that others than us run in there, each found on PATH; they may be links.
PROGRAMS = (
    *("libvirtd", "virtlogd", "qemu-system-x86_64", "qemu-img", "dnsmasq", "virtiofsd"),
    *("ip", "tc", "iptables", "ip6tables", "ebtables", "iptables-restore", "nft", "mount", "sh"),
)
# Directories of the system's own daemons: only what is needed itself stays visible.
OF_DAEMONS = (
    *("libvirt", "lock", "dbus", "systemd", "udev"),
    *("NetworkManager", "docker", "containerd", "ai-how"),
)
REMOVABLE = ("media", "mount")  # where udisks and others mount disks
OTHER_DISKS = {"zfs", "nfs", "nfs4", "cifs", "9p", "virtiofs", "bcachefs"}
MAX_LINKS = 40  # as the kernel


def mount(*words: str | Path) -> None:
    # -n: no entry in the mount table of the real host, which is hidden or read-only here.
    run([get_tool("mount", package="mount"), "-n", *words])


def prepare_mounts(
    libvirt: Sequence[tuple[str, str]],
    *,
    needed: Iterable[str],
    resolv_conf: str,
    with_kvm: bool,
) -> None:
    """Mount everything private. Nothing of this is seen outside our mount namespace.

    `libvirt` are the directories that cover libvirt's own, `needed` what has to stay visible, and
    `resolv_conf` is what /etc/resolv.conf says in here.
    """
    mount("--make-rprivate", "/")
    kept = _find_kept([Path(target).resolve() for _, target in libvirt], needed)
    *_, names = follow(RESOLV_CONF)
    if not (_is_made_anew(names, kept) or _is_file(names)):
        names = _cover_etc(resolv_conf, names)
    for source, target in libvirt:
        inside = [one for one in kept if one.is_relative_to(Path(target).resolve())]
        mount("--bind", source, STAGE if inside else target)
        if inside:
            _fill(Path(target).resolve(), inside)
            mount("--move", STAGE, target)
    _cover_dev(kept, with_kvm=with_kvm)
    _cover_run(kept, resolv_conf, names)
    mount("-t", "sysfs", "sysfs", STAGE)  # else the bridges of the real host are visible


def follow(path: Path) -> Iterator[Path]:
    """Every link on a path, and finally its target, whether it exists or not."""
    here, ahead = Path("/"), list(path.parts[1:])
    links = 0
    while ahead:
        step = here / ahead.pop(0)
        if step.name == "..":
            here = here.parent
        elif links < MAX_LINKS and (target := _read_link(step)):
            links += 1
            yield step
            here = Path("/") if target.is_absolute() else here
            ahead = [part for part in target.parts if part != "/"] + ahead
        else:
            here = step
    yield here


def _read_link(path: Path) -> Path | None:
    """The target of a link; None if it is not a link, or cannot be read."""
    try:
        return path.readlink()
    except OSError:
        return None


def _find_kept(libvirts: Sequence[Path], needed: Iterable[str]) -> tuple[Path, ...]:
    """The visible parts of the hidden places; none is inside another."""
    places = search_path()
    programs = [path for name in PROGRAMS if (path := shutil.which(name, path=places))]
    ours = (sys.executable, sys.prefix, sys.base_prefix, *sys.path)
    wanted = (*needed, *ours, *programs, *places.split(os.pathsep))
    found = {
        unit
        for path in wanted
        if Path(path).is_absolute()
        for step in follow(Path(path))
        if (unit := _unit(step, libvirts))
    }
    found |= {unit for path in _mounted_disks() if (unit := _unit(path, libvirts))}
    found |= {RUN / name for name in REMOVABLE}
    found |= {entry for entry in RUN.iterdir() if entry.is_symlink()}
    return tuple(one for one in sorted(found) if found.isdisjoint(one.parents))


def _unit(path: Path, libvirts: Sequence[Path]) -> Path | None:
    """What must stay visible for a path: as little as possible; None if it is not hidden."""
    for top in (*libvirts, DEV / "shm"):
        if path.is_relative_to(top):
            return path if path != top else None
    if not path.is_relative_to(RUN) or path == RUN:
        return None
    parts = path.relative_to(RUN).parts
    if parts[0] in OF_DAEMONS:
        return path
    # A runtime directory contains its user's D-Bus.
    return RUN.joinpath(*parts[: 3 if parts[0] == "user" else 1])


def _mounted_disks() -> Iterator[Path]:
    """The mount points of disks and network shares below /run."""
    known = Path("/proc/filesystems").read_text().splitlines()
    on_disks = {line.strip() for line in known if not line.startswith("nodev")} | OTHER_DISKS
    # A name may have any bytes except those that are written as octal numbers.
    for line in Path("/proc/self/mountinfo").read_bytes().rstrip(b"\n").split(b"\n"):
        place, kind = line.split(b" ")[4], line.rpartition(b" - ")[2].split(b" ")[0]
        if os.fsdecode(kind) in on_disks and place.startswith(bytes(RUN) + b"/"):
            name = re.sub(rb"\\([0-7]{3})", lambda octal: bytes([int(octal[1], 8)]), place)
            yield Path(os.fsdecode(name))


def _is_made_anew(path: Path, kept: Sequence[Path]) -> bool:
    """Whether a path is in our private /run."""
    return path.is_relative_to(RUN) and not any(path.is_relative_to(one) for one in kept)


def _fill(target: Path, kept: Sequence[Path]) -> None:
    """Bind what is to be kept of that target to the stage."""
    for source in kept:
        if not source.is_relative_to(target):
            continue
        place = STAGE / source.relative_to(target)
        place.parent.mkdir(parents=True, exist_ok=True)
        if link := _read_link(source):
            if not os.path.lexists(place):  # ours, or made at an earlier start
                place.symlink_to(link)
        elif os.path.isdir(source):  # noqa: PTH112  false, too, where we may not look
            place.mkdir(exist_ok=True)
            mount("--rbind", source, place)
        elif os.path.exists(source):  # noqa: PTH110  the same
            place.touch()
            mount("--bind", source, place)


def _is_file(path: Path) -> bool:
    """Whether the file exists and its user can see it."""
    return os.path.isfile(path)  # noqa: PTH113  Path's own raises where it may not be seen


def _cover_etc(resolv_conf: str, names: Path) -> Path:
    """Where there is nothing to mount a file on, /etc is covered by itself with that file in it.

    Kernels before 5.11 refuse that to users: then their guests have no names, as dnsmasq has none.
    """
    mount("-t", "tmpfs", "-o", "mode=755,size=1m", "tmpfs", STAGE)
    (STAGE / "etc").mkdir()
    (STAGE / "etc" / RESOLV_CONF.name).write_text(resolv_conf)
    with suppress(AiHowError):
        mount("-t", "overlay", "-o", f"lowerdir={STAGE / 'etc'}:{ETC}", "overlay", ETC)
        names = RESOLV_CONF
    run([get_tool("umount", package="mount"), "-n", "-l", STAGE])
    return names


def _cover_run(kept: Sequence[Path], resolv_conf: str, names: Path) -> None:
    """Hide /run, with the real host's sockets and pid files, except what is kept."""
    mount("-t", "tmpfs", "-o", "mode=755,size=64m", "tmpfs", STAGE)
    for name in ("lock", "libvirt"):
        (STAGE / name).mkdir()
    _fill(RUN, kept)
    is_ours = _is_made_anew(names, kept)
    file = STAGE / OUR_RESOLV_CONF.name
    file.write_text(resolv_conf)
    if is_ours:
        # One file with two names, so that what changes the first changes the second.
        second = STAGE / names.relative_to(RUN)
        second.parent.mkdir(parents=True, exist_ok=True)
        second.hardlink_to(file)
    mount("--move", STAGE, RUN)
    if not is_ours and _is_file(names):
        mount("--bind", OUR_RESOLV_CONF, names)


def _cover_dev(kept: Sequence[Path], *, with_kvm: bool) -> None:
    """A private /dev, with /dev/kvm only if KVM works: libvirt would probe it for minutes."""
    mount("-t", "tmpfs", "-o", "mode=755,size=1m", "tmpfs", STAGE)
    wanted = [*OPTIONAL_DEVICES, *(["kvm"] if with_kvm else [])]
    for name in (*DEVICES, *(name for name in wanted if Path("/dev", name).exists())):
        source, target = Path("/dev", name), STAGE / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            target.mkdir()
        else:
            target.touch()
        mount("--rbind", source, target)
    for name in ("pts", "shm"):
        (STAGE / name).mkdir()
    mount("-t", "devpts", "-o", "newinstance,ptmxmode=0666,mode=620", "devpts", STAGE / "pts")
    mount("-t", "tmpfs", "-o", "mode=1777", "tmpfs", STAGE / "shm")
    _fill(DEV, kept)
    (STAGE / "ptmx").symlink_to("pts/ptmx")
    (STAGE / "fd").symlink_to("/proc/self/fd")
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        (STAGE / name).symlink_to(f"/proc/self/fd/{number}")
    mount("--move", STAGE, DEV)
