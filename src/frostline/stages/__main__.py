"""`python -m frostline.stages NAME [--quiet|--verbose] [OVERRIDE …]`: run one DVC stage."""

import sys

from frostline.runtime import own_process
from frostline.runtime.interrupts import end_when_interrupted

if __name__ == "__main__":
    end_when_interrupted()
    own_process.begin()
    from frostline.runtime.logs import show_as_asked
    from frostline.stages.run import run_stage  # only now, as both take a while

    name, *overrides = show_as_asked(sys.argv[1:]) or [""]
    run_stage(name, overrides)
