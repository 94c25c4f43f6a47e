"""The one exception that means: the user can mend this."""


class FrostlineError(Exception):
    """What is wrong, where, and what to do, in one or two lines; commands print it without a traceback."""
