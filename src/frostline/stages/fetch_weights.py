"""Stage fetch-weights: bring the backbone's weights from the chosen source, checked before they are in place."""

import shutil
from pathlib import Path

from frostline import paths
from frostline.download import download
from frostline.files import replacing
from frostline.random_weights import write_random_weights
from frostline.settings import Config, FileWeights, ImagenetWeights, RandomWeights
from frostline.stages import run_stage
from frostline.weights_file import check_weights_file


def main(config: Config) -> None:
    with replacing(paths.BACKBONE_WEIGHTS) as temporary:
        match config.weights:
            case RandomWeights(seed=seed):
                write_random_weights(temporary, config.preprocess.picture_size, seed)
            case ImagenetWeights(url=url, size=size, md5=md5):
                download(url, temporary, size=size, md5=md5)
            case FileWeights(path=source):
                check_weights_file(Path(source))  # so that an error names the user's file
                shutil.copyfile(source, temporary)
        check_weights_file(temporary)


if __name__ == "__main__":
    run_stage(main)
