"""The error of ranks that ended early; torch is not needed to know it."""


class Failed(RuntimeError):
    """Ranks ended before their work was done; `code` is 2 where the input was bad, else 1."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code
