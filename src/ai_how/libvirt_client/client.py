"""The client of libvirt: the host, VMs, networks, guest agents, consoles.

A look-up has three outcomes: the object, None (libvirt said that there is none), or
ConnectionLostError (unknown). Only the modules here load libvirt, which takes a while: import this
where it is used.
"""

import shlex
from types import TracebackType
from typing import Self
from uuid import UUID

import libvirt
import libvirt_qemu

from ai_how.libvirt_client.agents import Agents, AskAgent
from ai_how.libvirt_client.bulk_stats import BulkStats
from ai_how.libvirt_client.connection import Opener, open_connection, translate
from ai_how.libvirt_client.console import Console
from ai_how.libvirt_client.devices import Devices
from ai_how.libvirt_client.domains import find_raw_domain
from ai_how.libvirt_client.facts import HypervisorVersion, read_version
from ai_how.libvirt_client.names import Names
from ai_how.libvirt_client.network_updates import NetworkUpdates
from ai_how.libvirt_client.session import Session
from ai_how.libvirt_client.uri import read_uri

# How long libvirt may take to answer.
PATIENCE_S = 30.0


class LibvirtClient(Agents, BulkStats, Devices, NetworkUpdates):
    """One libvirt, reached by URI; several threads may use it. Connects at the first call.

    Every call ends: if libvirt does not answer for `patience_s` (and the 30 s more that a change
    may wait for a guest's job lock), ConnectionLostError is raised. Within that time a broken
    connection is reopened, and calls that are safe to repeat are repeated. After such a silence the
    next calls fail within seconds, until libvirt answers again.
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

        `max_calls` is the number of concurrent calls. With default settings libvirtd accepts 5 per
        connection, and at the limit does not even read our keepalive. If the daemon is restarted
        when it ends (`is_kept`), the first connection is waited for as well.
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

        # Agents are slow: they have their own connection, so that no other call waits for them.
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

    @property
    def uri(self) -> str:
        """The URI of this libvirt."""
        return self._uri.for_libvirt

    def learn(self, uuid: UUID, name: str) -> None:
        """Record the name of a VM or network, for errors before it is first seen."""
        self._names.learn(uuid, name)

    def close(self) -> None:
        """Close the connections. Safe to repeat; a later call opens them again."""
        self._agent_link.close()
        self._link.close()

    def version(self) -> HypervisorVersion:
        """The versions of libvirt, the hypervisor and the client library."""
        daemon, hypervisor = self._link.read(
            "asking for versions", lambda raw: (raw.getLibVersion(), raw.getVersion())
        )
        return HypervisorVersion(
            libvirt=read_version(daemon),
            hypervisor=read_version(hypervisor),
            client=read_version(libvirt.getVersion()),
        )

    def virsh(self, *words: str) -> str:
        """A virsh command for the user to paste: without the URI it would use another libvirt."""
        return shlex.join(["virsh", "--connect", self._uri.for_libvirt, *words])

    def is_alive(self) -> bool:
        """Whether the daemon answers now; returns in seconds, and waits for no lost daemon."""
        return self._link.is_alive()

    def domain_capabilities_xml(self, virt_type: str, machine: str, arch: str) -> str:
        """The capabilities of VMs of this type. Slow at first if libvirt has yet to probe QEMU."""
        return self._link.change(
            "asking for the capabilities of VMs",
            lambda raw: raw.getDomainCapabilities(None, arch, machine, virt_type, 0),
        )

    def open_console(self, uuid: UUID) -> Console:
        """Open the serial line of a VM; another reader of it is disconnected."""

        def ask(raw: libvirt.virConnect) -> libvirt.virStream:
            domain = find_raw_domain(raw, uuid)
            stream = raw.newStream(0)
            domain.openConsole(None, stream, libvirt.VIR_DOMAIN_CONSOLE_FORCE)
            return stream

        stream = self._link.once(f"opening the console of VM {uuid}", ask)
        return Console(stream, lambda error, what: translate(error, what, self._uri))
