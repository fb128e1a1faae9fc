"""Connects standard input and output to a port of a guest: the ProxyCommand of ssh.

Run as `python -m ai_how.host.connect STATE_DIR ADDRESS PORT`. The verb `host connect` does the same
and tells what is wrong; it loads the whole command line, which each ssh would wait for.
"""

import sys
from pathlib import Path

from ai_how.errors import AiHowError
from ai_how.host.embedded import EmbeddedHost
from ai_how.process import become
from ai_how.state.paths import default_roots


def relay_argv(host: EmbeddedHost, address: str, port: int | str) -> list[str]:
    """The command that connects to a guest, in the network of the guests.

    Raises HostError if the host does not run.
    """
    return host.enter([sys.executable, "-I", "-m", "ai_how.host.relay", address, str(port)])


def main(state: str, address: str, port: str) -> None:
    """Become the relay to a guest."""
    try:
        argv = relay_argv(EmbeddedHost(default_roots(Path(state)).embedded), address, port)
    except AiHowError:
        program = [sys.executable, "-I", "-m", "ai_how"]
        argv = [*program, "--state-dir", state, "host", "connect", address, port]
    become(argv)


if __name__ == "__main__":
    main(*sys.argv[1:])
