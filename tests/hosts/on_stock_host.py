"""Make a stock host and become a program on it: `on_stock_host.py HOST USER PROGRAM…`.

Run as root in a fresh mount namespace; see stock_hosts.py.
"""

import os
import pwd
import sys
from pathlib import Path

from ai_how.process import become
from desktop import become_user, make_desktop
from stock_hosts import BY_NAME


def main(name: str, user: str, *program: str) -> None:
    host, account = BY_NAME[name], pwd.getpwnam(user)
    make_desktop(account)
    host.make(account)
    ours = os.environ["PYTHONPATH"]
    if account.pw_uid:
        runtime = Path(host.runtime, str(account.pw_uid))
        words = ("env", f"PYTHONPATH={ours}", *program)
        become_user(account, *words, path=host.path, runtime=runtime)
    os.chdir("/")
    os.environ.pop("XDG_RUNTIME_DIR", None)
    os.environ["PATH"] = host.path
    become(program, env={"PYTHONPATH": ours})


if __name__ == "__main__":
    main(*sys.argv[1:])
