"""What stops `dvc exp run` before params.yaml has its settings: another run in the project, a folder below it, or a
choice that stays and is gone.

DVC composes conf/ by Hydra, which asks plugins of this kind for more places to look in whenever it begins to compose.
DVC itself would refuse a second run only when params.yaml has its settings, and the first would fail at its end.
"""

import sys
from pathlib import Path

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin

from frostline.config.kept import gone_choices
from frostline.project.alone import check_idle
from frostline.runtime.errors import FrostlineError


class Alone(SearchPathPlugin):
    """Adds no place; does nothing but within DVC."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        if "dvc.repo" not in sys.modules:
            return
        from dvc.exceptions import DvcException  # DVC prints it as a line

        here = Path.cwd()
        above = next((folder for folder in here.parents if (folder / ".dvc").is_dir()), None)
        if above and not (here / ".dvc").is_dir():
            raise DvcException(f"{here} is not the project's folder: cd {above}")
        try:
            check_idle()
        except FrostlineError as error:
            raise DvcException(str(error)) from None
        for name, text in gone_choices(here / "conf").items():
            if not any(f"{name.partition('/')[0]}=" in argument for argument in sys.argv):  # -S chooses another
                raise DvcException(text)
