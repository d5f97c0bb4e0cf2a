"""What is answered instead of data: plain words, and the status that says whose fault it is."""

from __future__ import annotations

BAD_QUERY, NOT_THERE, TOO_LARGE, UNREADABLE = 400, 404, 413, 503


class Refusal(Exception):
    """A request that cannot be answered; the message is for the reader of the screen."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
