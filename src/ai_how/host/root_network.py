"""A network namespace for root's embedded host that a user namespace owns.

pasta does not work as root: it becomes `nobody`, who may not enter root's namespaces. In a user
namespace it stays who it is, and may enter a network that this namespace owns: pasta(1), --runas.
"""

import os
import select
from collections.abc import Iterator
from contextlib import contextmanager

from ai_how.process import Argument, get_tool, start_piped

PATIENCE_S = 10.0


@contextmanager
def root_network() -> Iterator[list[Argument]]:
    """The prefix of a command that is to run in such a network, which lasts as long as that.

    Empty where root may not make a user namespace: then the host has no uplink.
    """
    unshare = get_tool("unshare", package="util-linux")
    nsenter = get_tool("nsenter", package="util-linux")
    with start_piped([unshare, "--user", "--map-root-user", "--net", "cat"]) as holder:
        stdin, stdout = holder.stdin, holder.stdout
        if stdin is None or stdout is None:
            raise AssertionError
        try:
            os.write(stdin.fileno(), b"\n")  # it comes back when the namespaces are there
            is_there, _, _ = select.select([stdout], [], [], PATIENCE_S)
            has_answered = bool(is_there) and os.read(stdout.fileno(), 1) == b"\n"
        except BrokenPipeError:
            has_answered = False
        try:
            yield [nsenter, "-t", str(holder.pid), "-n", "--"] if has_answered else []
        finally:
            holder.terminate()
