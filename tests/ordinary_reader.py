"""Run as an ordinary user: a collector in their home, which is asked; it goes on after."""

import sys
from pathlib import Path

from made_up_collector import MadeUp

cluster = MadeUp(Path(sys.argv[1]))
cluster.start(stays=True)
live = cluster.live()
assert live.snapshot().cluster == "made-up"
assert live.status()["pid"] == cluster.pid
live.close()
