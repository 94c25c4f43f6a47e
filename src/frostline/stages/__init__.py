"""One thin entry point per DVC stage, named as the stage is: read the settings, call the package, write the outputs."""

import sys
from collections.abc import Callable

from frostline.config import load_params
from frostline.errors import FrostlineError
from frostline.settings import Config


def run_stage(main: Callable[[Config], None]) -> None:
    """Run `main` on params.yaml with the command line's Hydra overrides; end with one or two lines where it fails."""
    try:
        main(load_params(sys.argv[1:]))
    except FrostlineError as error:
        sys.exit(f"error: {error}")
    except OSError as error:  # a full disk, a read-only folder
        place = f": {error.filename}" if error.filename else ""
        sys.exit(f"error: {error.strerror or error}{place}")
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; `dvc repro` goes on from here.\n")
        sys.exit(130)
