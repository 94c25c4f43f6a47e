"""What modules say while they work: through a logger each, to stderr, as plain lines above any bar."""

import logging
from collections.abc import Sequence

from frostline.runtime.progress import CONSOLE

_LEVELS = {"--quiet": logging.WARNING, "--verbose": logging.DEBUG}


class _OnConsole(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.levelno >= logging.WARNING:
            text = f"warning: {text}"
        elif record.levelno < logging.INFO:
            text = f"{record.name}: {text}"
        CONSOLE.print(text, soft_wrap=True, highlight=False, markup=False, style="")


def show(level: int = logging.INFO) -> None:
    """Show what the package's loggers say from `level` on. Commands call it; who imports the package need not."""
    logger = logging.getLogger("frostline")
    logger.handlers = [_OnConsole()]
    logger.setLevel(level)
    logger.propagate = False


def show_as_asked(arguments: Sequence[str]) -> list[str]:
    """As `show`, by --quiet (warnings and errors only) or --verbose among `arguments`; return the others."""
    asked = [_LEVELS[argument] for argument in arguments if argument in _LEVELS]
    show(asked[-1] if asked else logging.INFO)
    return [argument for argument in arguments if argument not in _LEVELS]
