"""The error raised if ranks end early; a module of its own, so that importing it does not import torch."""


class Failed(RuntimeError):
    """Ranks ended before their work was done. `code`: 2 for invalid input, else 1."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code
