"""What an ordinary user does under a limit of the system; see desktop.py.

`limited_user.py LIMIT VALUE...`: for each value, a start of a cluster of tiny guests under it.
"""

import json
import resource
import sys
import tempfile
from pathlib import Path
from shutil import rmtree

from tiny_cluster import TinyHome, opened

LIMITS = {"nproc": resource.RLIMIT_NPROC, "fsize": resource.RLIMIT_FSIZE}


def main(limit: str, *values: str) -> None:
    """Print, for each value, how the verbs ended under it and what was left, as a line of JSON."""
    root = Path(tempfile.mkdtemp(prefix="ah-"))
    home = TinyHome(root, nodes=1)
    with opened(home):
        for value in values:
            order = {"limit": [LIMITS[limit], int(value)]}
            start = home.call("--json", "hpc", "start", **order)
            status = home.call("--json", "hpc", "status", **order)
            gone = home.call("--json", "hpc", "destroy", "--force")
            ends = {
                "value": int(value),
                "start": [start.code, start.out, start.err],
                "status": [status.code, status.out, status.err],
                "destroy": [gone.code, gone.out, gone.err],
                "left": sorted(path.name for path in (root / "hpc").glob("*")),
            }
            sys.stdout.write(json.dumps(ends) + "\n")
            sys.stdout.flush()
        home.host.down()
    rmtree(root)


if __name__ == "__main__":
    main(*sys.argv[1:])
