"""`python -m frostline.sweep`: see run."""

import sys

from frostline.config.project import check_project
from frostline.runtime import own_process
from frostline.runtime.errors import FrostlineError, in_one_line
from frostline.runtime.interrupts import take_sigterm_as_ctrl_c
from frostline.runtime.logs import show_as_asked

if __name__ == "__main__":
    own_process.begin()
    take_sigterm_as_ctrl_c()
    try:
        check_project()
        from frostline.sweep.run import run  # here: Hydra and what else takes time

        run(show_as_asked(sys.argv[1:]))
    except FrostlineError as error:
        sys.exit(f"error: {error}")
    except OSError as error:  # a full disk, a folder that may not be written
        sys.exit(f"error: {in_one_line(error)}")
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; the same command goes on from here.\n")
        sys.exit(130)
