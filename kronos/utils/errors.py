"""The errors that a user can cause; each becomes one line on standard error and exit status 2."""


class UserError(Exception):
    """A user's mistake: the message says what came, what was expected and what to do."""


class Pruned(Exception):
    """A trial of a search that was given up for being weak: no failure, and no result."""


class TrackingAway(UserError):
    """The tracking server went away and was not back in time: the same command goes on where this one stopped."""
