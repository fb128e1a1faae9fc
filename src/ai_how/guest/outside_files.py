"""What a guest is given to reach the outside as its host does (pure).

`outside` in the image installs the files from /etc/ai-how/outside.d, and takes away what is no
longer there.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

DIRECTORY = "etc/ai-how/outside.d"


@dataclass(frozen=True, slots=True)
class OutsideFiles:
    """Variables, options of apt, and certificates; all may be empty. Values are not shown."""

    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    apt: Mapping[str, str] = field(default_factory=dict, repr=False)
    certificates: tuple[str, ...] = field(default=(), repr=False)

    @property
    def digest(self) -> str:
        """It changes with any of the files; empty if there is nothing to give."""
        if not (self.environment or self.apt or self.certificates):
            return ""
        text = "".join(f"{path}\0{content}\0" for path, content, _ in self.files())
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def files(self) -> Iterator[tuple[str, str, int]]:
        """Each file: its path, its content and its mode. Proxies may carry a password."""
        # pam_env takes a value to the end of its line, without quotes.
        lines = "".join(f"{name}={value}\n" for name, value in sorted(self.environment.items()))
        yield f"{DIRECTORY}/environment", lines, 0o644
        options = "".join(f'{name} "{value}";\n' for name, value in sorted(self.apt.items()))
        yield f"{DIRECTORY}/apt.conf", options, 0o644
        yield f"{DIRECTORY}/certificates", "".join(self.certificates), 0o644
