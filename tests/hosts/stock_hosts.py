"""The kinds of hosts that people have, as data, and how each is made in a private mount namespace.

Ubuntu, Mint, Fedora and NixOS are not to be had here: what of them reaches us is made by hand, on
Debian 12's programs, as `stands_for` says. `on_host` runs a program there.
"""

import os
import pwd
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
    users, and `state` the directory that clusters are kept in, where that is not below the home.
    """

    name: str
    stands_for: str
    make: Callable[[pwd.struct_passwd], None]
    names: str = SERVER
    path: str = USERS_PATH
    state: str | None = None


def on_host(
    host: StockHost, user: str, *program: str | Path, timeout_s: float, check: bool = True
) -> Completed:
    """Run a Python program as that user (who may be root) on that host; its mounts end with it."""
    unshare = get_tool("unshare", package="util-linux")
    return run(
        [
            *(unshare, "--mount", "--propagation", "private", "--"),
            *(sys.executable, HERE / "on_stock_host.py", host.name, user),
            *(sys.executable, *program),
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
    _account: pwd.struct_passwd, *, link: str | None = None, text: str | None, more: str = ""
) -> None:
    """/etc/resolv.conf with that text: a file, or a link to one; without text it leads nowhere.

    `more` is a file beside the link's target with the servers that the host's resolver asks.
    """
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


HOSTS = (
    StockHost(
        "plain",
        "Debian without a resolver: ifupdown and dhclient write a file",
        partial(resolv_conf, text=f"search example.org\nnameserver {SERVER}\n"),
    ),
)
BY_NAME = {host.name: host for host in HOSTS}
