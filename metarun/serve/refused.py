"""What a request is refused with."""


class Refused(Exception):
    """A request that is not served, told in one line."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status  # of HTTP
