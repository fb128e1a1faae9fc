"""A signal that asks the program to end."""


class Stopped(BaseException):
    """The signal `number` arrived; unlike KeyboardInterrupt, Typer lets this pass."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number
