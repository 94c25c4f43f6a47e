"""The one exception that means: the user can mend this; and how to say what the system refused."""


class FrostlineError(Exception):
    """What is wrong, where, and what to do, in one or two lines; commands print it without a traceback."""


def in_one_line(error: OSError) -> str:
    """What the system refused, and for which file: a full disk, a folder that may not be written."""
    return f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}"
