"""Stage fetch-data: bring the pictures of the chosen source into one archive."""

from pathlib import Path

from frostline import paths
from frostline.archive import pack_folder
from frostline.download import download
from frostline.kaggle_competition import download_competition
from frostline.sample import draw_archive
from frostline.settings import Config, FilteredData, FolderData, KaggleData, SampleData
from frostline.stages import run_stage


def main(config: Config) -> None:
    match config.data:
        case SampleData(pictures=pictures, unlabelled=unlabelled, seed=seed):
            draw_archive(paths.ARCHIVE, pictures, unlabelled, seed)
        case FilteredData(url=url, size=size):
            download(url, paths.ARCHIVE, size=size)
        case KaggleData(competition=competition):
            download_competition(competition, paths.ARCHIVE)
        case FolderData(path=folder):
            pack_folder(Path(folder), paths.ARCHIVE)


if __name__ == "__main__":
    run_stage(main)
