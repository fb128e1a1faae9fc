"""How far apt is with an installation, from what it prints."""

import re
from dataclasses import dataclass

_COUNT = re.compile(r"(\d+) upgraded, (\d+) newly installed")
_ONE = re.compile(r"^(Unpacking|Setting up) ")


@dataclass(slots=True)
class AptProgress:
    """The lines so far: how many steps there will be, two for each package, and how many were."""

    expected: int = 0
    done: int = 0

    def hear(self, line: str) -> float | None:
        """The share that is done after this line, 0.0 to 1.0; None where it says nothing of it."""
        if found := _COUNT.search(line):
            self.expected = 2 * (int(found[1]) + int(found[2]))
        elif self.expected and _ONE.match(line):
            self.done += 1
            return min(1.0, self.done / self.expected)
        return None
