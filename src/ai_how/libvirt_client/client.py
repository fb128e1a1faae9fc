"""What may be asked of libvirt, in our words: the host, VMs, networks, guests' agents, consoles.

Look-ups know three outcomes: the thing, None (libvirt said that there is none), or
ConnectionLostError (not known). Only this and its libvirt_*.py neighbours load libvirt, which
takes a while: import it where it is used.
"""

import shlex
from types import TracebackType
from typing import Self
from uuid import UUID

import libvirt
import libvirt_qemu

from ai_how.libvirt_client.agents import Agents, AskAgent
from ai_how.libvirt_client.connection import Opener, open_connection, translate
from ai_how.libvirt_client.console import Console
from ai_how.libvirt_client.domains import find_raw_domain
from ai_how.libvirt_client.facts import HypervisorVersion, read_version
from ai_how.libvirt_client.names import Names
from ai_how.libvirt_client.network_updates import NetworkUpdates
from ai_how.libvirt_client.session import Session
from ai_how.libvirt_client.uri import read_uri

# How long libvirt may be silent.
PATIENCE_S = 30.0


class LibvirtClient(Agents, NetworkUpdates):
    """One libvirt, reached by URI; several threads may use it. Connects at the first call.

    Every call ends: where libvirt is silent for `patience_s` (and the 30 s more that a change may
    wait for a guest's job lock), ConnectionLostError is raised. A connection that broke is made
    anew within that time, and what is safe to repeat is repeated. Once libvirt was silent for so
    long, what is called next fails within seconds, until it answers again.
    """

    def __init__(
        self,
        uri: str,
        *,
        patience_s: float = PATIENCE_S,
        max_calls: int = 4,
        is_kept: bool = False,
        opener: Opener = open_connection,
        ask_agent: AskAgent = libvirt_qemu.qemuAgentCommand,
    ) -> None:
        """Raises SpecError for a URI that is not allowed.

        `max_calls` may be under way at once. libvirtd takes 5 per connection where it is as it
        comes, and then does not even read the sign of life that it is asked for. Where somebody
        starts it again when it ends (`is_kept`), the first connection is waited for as well.
        """
        self._uri = read_uri(uri)
        self._ask_agent = ask_agent
        self._names = Names()
        self.max_calls = max_calls

        def link() -> Session:
            return Session(
                self._uri,
                opener,
                patience_s=patience_s,
                max_calls=max_calls,
                is_kept=is_kept,
                names=self._names,
            )

        # Agents take their time: they have a connection of their own, so that nobody queues behind.
        self._link, self._agent_link = link(), link()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self.close()

    def learn(self, uuid: UUID, name: str) -> None:
        """What an error calls a VM or network that was not seen yet."""
        self._names.learn(uuid, name)

    def close(self) -> None:
        """Let the connections go. Safe to repeat; a later call opens them anew."""
        self._agent_link.close()
        self._link.close()

    def version(self) -> HypervisorVersion:
        """Whom we speak to, and through what."""
        daemon, hypervisor = self._link.read(
            "asking for versions", lambda raw: (raw.getLibVersion(), raw.getVersion())
        )
        return HypervisorVersion(
            libvirt=read_version(daemon),
            hypervisor=read_version(hypervisor),
            client=read_version(libvirt.getVersion()),
        )

    def virsh(self, *words: str) -> str:
        """A command of virsh for the user to paste: left to itself it asks another libvirt."""
        return shlex.join(["virsh", "--connect", self._uri.for_libvirt, *words])

    def is_alive(self) -> bool:
        """Whether the daemon answers now: within seconds, and without waiting for a lost one."""
        return self._link.is_alive()

    def domain_capabilities_xml(self, virt_type: str, machine: str, arch: str) -> str:
        """What a VM of this type may have. Slow at first where libvirt has yet to probe QEMU."""
        return self._link.change(
            "asking for the capabilities of VMs",
            lambda raw: raw.getDomainCapabilities(None, arch, machine, virt_type, 0),
        )

    def open_console(self, uuid: UUID) -> Console:
        """The serial line of a VM; whoever else had it open loses it."""

        def ask(raw: libvirt.virConnect) -> libvirt.virStream:
            domain = find_raw_domain(raw, uuid)
            stream = raw.newStream(0)
            domain.openConsole(None, stream, libvirt.VIR_DOMAIN_CONSOLE_FORCE)
            return stream

        stream = self._link.once(f"opening the console of VM {uuid}", ask)
        return Console(stream, lambda error, what: translate(error, what, self._uri))
