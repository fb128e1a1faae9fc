"""The kinds of hosts that people have, as data, and how each is made in a private mount namespace.

Ubuntu, Mint, Fedora and NixOS are not to be had here: what of them reaches us is made by hand, on
Debian 12's programs, as `stands_for` says. `on_host` runs a program there.
"""

import os
import pwd
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ai_how.process import Completed, get_tool, run
from desktop import OURS, USERS_PATH, mount

HERE = Path(__file__).parent
RESOLV = Path("/etc/resolv.conf")
SERVER = "10.255.255.53"  # in no network of anybody's


@dataclass(frozen=True)
class StockHost:
    """One kind of host. `make` is called as root, on a desktop of that user (see desktop.py).

    `names` is what doctor must say of the names that guests resolve there, `path` the PATH of its
    users, `state` the directory that clusters are kept in, where that is not below the home, and
    `python` the interpreter.
    """

    name: str
    stands_for: str
    make: Callable[[pwd.struct_passwd], None]
    names: str = SERVER
    path: str = USERS_PATH
    state: str | None = None
    python: str = sys.executable
    runtime: str = "/run/user"  # what XDG_RUNTIME_DIR is below
    who: tuple[str, ...] = ("user",)  # whose cluster lives there: an ordinary user's, root's


def on_host(
    host: StockHost,
    user: str,
    *program: str | Path,
    timeout_s: float,
    check: bool = True,
    has_network: bool = False,
) -> Completed:
    """Run a Python program as that user (who may be root) on that host; its mounts end with it.

    With a network, it is one of the host's own, with a small world outside (see small_world.py),
    and all processes end with the program.
    """
    unshare = get_tool("unshare", package="util-linux")
    alone = ("--net", "--pid", "--fork", "--kill-child", "--mount-proc") if has_network else ()
    return run(
        [
            *(unshare, "--mount", "--propagation", "private", *alone, "--"),
            *([sys.executable, HERE / "small_world.py", host.names] if has_network else []),
            *(sys.executable, HERE / "on_stock_host.py", host.name, user),
            *(host.python, *program),
        ],
        timeout_s=timeout_s,
        check=check,
        env={"PYTHONPATH": f"{OURS / 'tests'}{os.pathsep}{HERE}"},
    )


def private_etc() -> None:
    """An /etc that may be written; the machine's own stays as it is."""
    copy = Path("/mnt/etc")
    run([get_tool("cp"), "-a", "/etc", copy])
    mount("--bind", str(copy), "/etc")


def resolv_conf(
    account: pwd.struct_passwd, *, link: str | None = None, text: str | None, more: str = ""
) -> None:
    """/etc/resolv.conf with that text: a file, or a link to one; without text it leads nowhere.

    `more` is a file beside the link's target with the servers that the host's resolver asks.
    """
    daemons(account)
    private_etc()
    RESOLV.unlink(missing_ok=True)
    if link:
        RESOLV.symlink_to(link)
    if text is None:
        return
    target = RESOLV.parent / link if link else RESOLV
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text)
    if more:
        Path(os.path.normpath(target)).with_name(more).write_text(f"nameserver {SERVER}\n")


def link_farm(account: pwd.struct_passwd) -> None:
    """Programs that are links through /etc/alternatives and /run, and a PATH of such links."""
    private_etc()
    store, system = Path("/run/store"), Path("/run/current-system")
    (store / "sw" / "bin").mkdir(parents=True)
    system.symlink_to("store/sw")
    wrappers = Path("/run/wrappers")
    (wrappers / "wrappers.1").mkdir(parents=True)
    (wrappers / "bin").symlink_to("wrappers.1")
    sbin = Path("/usr/sbin")
    layers = Path("/mnt/sbin")
    for name in ("upper", "work"):
        (layers / name).mkdir(parents=True)
    own = f"lowerdir={sbin},upperdir={layers}/upper,workdir={layers}/work"
    mount("-t", "overlay", "-o", own, "overlay", str(sbin))
    for name in ("dnsmasq", "libvirtd", "virtlogd"):
        run([get_tool("cp"), "-a", sbin / name, store / f"{name}-1"])
        (store / "sw" / "bin" / name).symlink_to(store / f"{name}-1")
        Path("/etc/alternatives", name).symlink_to(system / "bin" / name)
        (sbin / name).unlink()
        (sbin / name).symlink_to(Path("/etc/alternatives", name))
    (wrappers / "wrappers.1" / "dnsmasq").symlink_to(system / "bin" / "dnsmasq")


def kept_at(account: pwd.struct_passwd, *, place: str, is_mounted: bool = True) -> None:
    """A directory of the user's at such a place, on a disk that is mounted there."""
    path = Path(place)
    path.mkdir(parents=True, exist_ok=True)
    if is_mounted:
        mount("-t", "tmpfs", "tmpfs", place)
    os.chown(path, account.pw_uid, account.pw_gid)


def interpreter(_account: pwd.struct_passwd) -> None:
    """The virtual environment below /run."""
    Path("/run/venv").mkdir()
    mount("--bind", str(OURS / ".venv"), "/run/venv")


def daemons(account: pwd.struct_passwd) -> None:
    """Sockets of the system's and the user's own daemons, as wherever systemd is."""
    for place in ("dbus/system_bus_socket", "systemd/private", f"user/{account.pw_uid}/bus"):
        path = Path("/run", place)
        path.parent.mkdir(parents=True, exist_ok=True)
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(str(path))
        path.chmod(0o666)


HOSTS = (
    StockHost(
        "plain",
        "Debian without a resolver: ifupdown and dhclient write a file",
        partial(resolv_conf, text=f"search example.org\nnameserver {SERVER}\n"),
        who=("root",),
    ),
    StockHost(
        "resolved",
        "Ubuntu, Mint, Fedora: systemd-resolved's stub",
        partial(
            resolv_conf,
            link="../run/systemd/resolve/stub-resolv.conf",
            text="nameserver 127.0.0.53\noptions edns0 trust-ad\nsearch .\n",
            more="resolv.conf",
        ),
        names="127.0.0.53",
        who=("root", "user"),
    ),
    StockHost(
        "resolvconf",
        "Debian and Ubuntu with resolvconf",
        partial(resolv_conf, link="/run/resolvconf/resolv.conf", text=f"nameserver {SERVER}\n"),
        who=("root",),
    ),
    StockHost(
        "networkmanager",
        "NetworkManager with dns=dnsmasq and rc-manager=symlink",
        partial(
            resolv_conf,
            link="/var/run/NetworkManager/resolv.conf",
            text="nameserver 127.0.0.1\n",
            more="no-stub-resolv.conf",
        ),
        names="127.0.0.1",
    ),
    StockHost(
        "unbound",
        "unbound or dnsmasq of the user's own, on IPv6 too",
        partial(resolv_conf, text="nameserver ::1\n"),
        names="::1",
        runtime="/var/run/user",
    ),
    StockHost(
        "dangling",
        "a resolver that is not started yet",
        partial(resolv_conf, link="../run/systemd/resolve/stub-resolv.conf", text=None),
        names="127.0.0.1 (there is no /etc/resolv.conf)",
    ),
    StockHost(
        "farm",
        "NixOS: programs are links through /run; and Debian's alternatives that lead there",
        link_farm,
        path="/run/wrappers/bin:/run/current-system/bin:/usr/bin:/bin",
        who=("root", "user"),
    ),
    StockHost(
        "removable",
        "clusters on a disk that the desktop mounted",
        partial(kept_at, place="/run/media/somebody/My disk"),
        state="/run/media/somebody/My disk",
    ),
    StockHost(
        "data",
        "clusters on a disk below /mnt",
        partial(kept_at, place="/mnt/data"),
        state="/mnt/data",
    ),
    StockHost(
        "images",
        "clusters in the directory of libvirt's own images",
        partial(kept_at, place="/var/lib/libvirt/images"),
        state="/var/lib/libvirt/images",
        who=("root",),
    ),
    StockHost(
        "memory",
        "clusters in memory",
        partial(kept_at, place="/dev/shm/mine", is_mounted=False),
        state="/dev/shm/mine",
    ),
    StockHost(
        "venv",
        "an interpreter below /run",
        interpreter,
        python="/run/venv/bin/python",
    ),
    StockHost(
        "absent",
        "no resolv.conf at all",
        partial(resolv_conf, text=None),
        names="127.0.0.1 (there is no /etc/resolv.conf)",
        who=("root",),
    ),
)
BY_NAME = {host.name: host for host in HOSTS}
