"""Errors that users can cause; the command line prints them as one line and exits with status 2."""


class UserError(Exception):
    """Invalid input or configuration; the message says what was given, what was expected and what to do."""


class Pruned(Exception):
    """A trial of a search was stopped by the pruner; this is not a failure."""


class TrackingAway(UserError):
    """The tracking server was unreachable for too long; running the same command again continues the work."""


class Damaged(UserError):
    """A stored file does not hold what was written. The message names it and says how to make it anew.

    `what` is the message without the remedy, for callers that know a better one.
    """

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(f"{what}; {remedy}")
        self.what = what
