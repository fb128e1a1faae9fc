"""Units of a guest's systemd, as `systemctl show` tells of them (pure)."""

from dataclasses import dataclass

from ai_how.guest.serial_log import one_line

# What systemd is on its way to is not wrong yet.
_STOPPED = ("inactive", "failed", "deactivating")


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit of a node, as its systemd has it."""

    name: str
    state: str
    """`active`, `activating`, `inactive`, `failed`."""
    result: str = ""
    sub: str = ""
    """`running`, `dead`, `auto-restart`; empty if it was not asked for."""

    @property
    def is_stopped(self) -> bool:
        return self.state in _STOPPED

    @property
    def is_down(self) -> bool:
        """Whether it is stopped, or fails again and again."""
        return self.is_stopped or self.sub == "auto-restart"

    def __str__(self) -> str:
        why = "" if self.result in {"", "success"} else f" ({self.result})"
        return f"systemd: {self.name} is {self.state}{why}"


def read_units(text: str) -> dict[str, Unit]:
    """Parse `systemctl show`, by the names of the units without `.service`."""
    units = {}
    for block in text.split("\n\n"):
        values = dict(line.partition("=")[::2] for line in block.splitlines())
        if state := values.get("ActiveState"):
            name = one_line(values.get("Id", "")).removesuffix(".service")
            units[name] = Unit(
                name,
                one_line(state),
                one_line(values.get("Result", "")),
                one_line(values.get("SubState", "")),
            )
    return units
