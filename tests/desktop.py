"""A stock desktop for a user of this machine, in a mount namespace of its own.

Run as root in a fresh mount namespace: `desktop.py USER TUN-MODE PROGRAM…`. It makes what a login
on a desktop has and this machine may lack, and becomes PROGRAM as that user: a runtime directory, a
/dev/net/tun of that mode, and a way to the interpreter and to us, wherever they are.
"""

import os
import pwd
import stat
import sys
from pathlib import Path
from typing import NoReturn

from ai_how.process import become, get_tool, run

OURS = Path(__file__).resolve().parents[1]
USERS_PATH = "/usr/local/bin:/usr/bin:/bin"


def main(user: str, tun_mode: str, *program: str) -> None:
    account = pwd.getpwnam(user)
    make_desktop(account, tun_mode)
    become_user(account, *program)


def make_desktop(account: pwd.struct_passwd, tun_mode: str = "0666") -> None:
    """Cover what this machine has otherwise; /mnt is our stage."""
    stage = Path("/mnt")
    mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", str(stage))
    open_for_all()
    tun = stage / "tun"
    os.mknod(tun, stat.S_IFCHR, Path("/dev/net/tun").stat().st_rdev)
    tun.chmod(int(tun_mode, 8))
    mount("--bind", str(tun), "/dev/net/tun")
    mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run")
    runtime = runtime_of(account)
    runtime.mkdir(parents=True)
    runtime.chmod(0o700)
    os.chown(runtime, account.pw_uid, account.pw_gid)


def runtime_of(account: pwd.struct_passwd) -> Path:
    return Path("/run/user", str(account.pw_uid))


def become_user(
    account: pwd.struct_passwd,
    *program: str,
    path: str = USERS_PATH,
    runtime: Path | None = None,
) -> NoReturn:
    """Become that program, as from a login of theirs."""
    os.chdir(account.pw_dir)
    user = account.pw_name
    become(
        [
            *(get_tool("setpriv", package="util-linux"), "--reuid", user, "--regid", user),
            *("--init-groups", "env", "-i", f"USER={user}", f"HOME={account.pw_dir}"),
            *(f"TMPDIR={account.pw_dir}", f"XDG_RUNTIME_DIR={runtime or runtime_of(account)}"),
            *(f"PATH={path}", *program),
        ]
    )


def open_for_all() -> None:
    """Have everyone reach the interpreter and us; /mnt is a file system of the namespace's own."""
    open_ways(Path("/mnt"), (Path(sys.prefix), Path(sys.base_prefix), OURS))


def open_ways(stage: Path, wanted: tuple[Path, ...]) -> None:
    """Let everyone reach these directories: /root, for one, lets nobody else pass.

    A directory that others may not pass is covered by an empty one that has only what is wanted.
    """
    closed = {path: top for path in wanted if (top := find_closed(path))}
    for number, path in enumerate(closed):
        kept = stage / str(number)
        kept.mkdir()
        mount("--bind", str(path), str(kept))
    for top in set(closed.values()):
        mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", str(top))
    for number, path in enumerate(closed):
        path.mkdir(parents=True, exist_ok=True)
        mount("--bind", str(stage / str(number)), str(path))


def find_closed(path: Path) -> Path | None:
    """The topmost directory on the way to a path that others may not pass."""
    way = (*reversed(path.parents), path)
    return next((top for top in way if not top.stat().st_mode & stat.S_IXOTH), None)


def mount(*words: str) -> None:
    run([get_tool("mount", package="mount"), *words])


if __name__ == "__main__":
    main(*sys.argv[1:])
