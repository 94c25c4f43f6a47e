"""Stage fetch-data: bring the images of the chosen source into one archive."""

from pathlib import Path

from frostline.config import paths
from frostline.config.settings import Config, FilteredData, FolderData, KaggleData, SampleData
from frostline.sources.download import download
from frostline.sources.folder import pack_folder
from frostline.sources.kaggle import download_competition
from frostline.sources.sample import draw_archive


def main(config: Config) -> None:
    match config.data:
        case SampleData(images=images, unlabelled=unlabelled, seed=seed):
            draw_archive(paths.ARCHIVE, images, unlabelled, seed)
        case FilteredData(url=url, size=size):
            download(url, paths.ARCHIVE, size=size)
        case KaggleData(competition=competition):
            download_competition(competition, paths.ARCHIVE)
        case FolderData(path=folder):
            pack_folder(Path(folder), paths.ARCHIVE)
