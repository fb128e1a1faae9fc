"""The names of VMs and networks, so that errors have names instead of UUIDs."""

import re
from uuid import UUID

from ai_how.errors import AiHowError
from ai_how.libvirt_client.facts import DomainInfo, NetworkInfo

_HEX = "[0-9a-fA-F]"
_UUID = f"{_HEX}{{8}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{12}}"
# As libvirt writes them: `uuid '…' (name)`, `UUID …`, '…'; also as the path of a file.
_WRITTEN = re.compile(rf"(?:\buuid )?(?:'({_UUID})'|\b({_UUID})\b)(?: \(([^()]*)\))?", re.I)


class Names:
    """The names of the objects seen so far, by UUID. Thread-safe."""

    def __init__(self) -> None:
        self._known: dict[UUID, str] = {}

    def learn(self, uuid: UUID | None, name: str) -> None:
        if uuid:
            self._known[uuid] = name

    def learn_from(self, answer: object) -> None:
        """Record the names in the result of a call to libvirt."""
        for one in answer if isinstance(answer, tuple) else (answer,):
            if isinstance(one, DomainInfo | NetworkInfo):
                self._known[one.uuid] = one.name

    def of(self, uuid: UUID) -> str:
        """Its name; the UUID if the name is unknown."""
        return self._known.get(uuid, str(uuid))

    def told(self, text: str) -> str:
        """The text with known UUIDs replaced by names."""

        def name(found: re.Match[str]) -> str:
            known = self._known.get(UUID(found[1] or found[2]))
            if known is None:
                return found[0]
            is_said_twice = found[3] in (None, known)
            return known if is_said_twice else f"{known} ({found[3]})"

        return _WRITTEN.sub(name, text)

    def tell(self, error: AiHowError) -> None:
        """Put names into an error."""
        error.brief = self.told(error.brief)
        error.details = self.told(error.details) if error.details else error.details
        error.hint = self.told(error.hint) if error.hint else error.hint
