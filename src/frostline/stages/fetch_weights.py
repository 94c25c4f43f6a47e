"""Stage fetch-weights: bring the backbone's weights from the chosen source, checked before they are in place."""

import shutil
from pathlib import Path

from frostline.common.files import replacing, sha256_of
from frostline.config import paths
from frostline.config.settings import Config, FileWeights, HubWeights, ImagenetWeights, RandomWeights
from frostline.runtime.errors import FrostlineError
from frostline.sources.download import download
from frostline.sources.random_weights import write_random_weights
from frostline.sources.weights_file import check_weights_file


def main(config: Config) -> None:
    backbone = config.model.backbone
    _check_source(config)  # not with the other settings: a sweep has its weights from params.yaml
    with replacing(paths.BACKBONE_WEIGHTS) as temporary:
        match config.weights:
            case RandomWeights(seed=seed):
                write_random_weights(temporary, config.preprocess.image_size, seed, backbone)
            case ImagenetWeights(url=url, size=size, md5=md5, sha256=sha256):
                download(url, temporary, size=size, md5=md5)
                if sha256 and sha256_of(temporary) != sha256.lower():
                    raise FrostlineError(f"{url}: the file's SHA-256 is not {sha256}.\nThe download was deleted.")
            case HubWeights(preset=str(preset)) | FileWeights(path=preset) if backbone == "hub":
                from frostline.sources.preset import fetch_preset  # here: it takes TensorFlow

                print(fetch_preset(preset, temporary, config.preprocess.image_size))
                return
            case FileWeights(path=source):
                check_weights_file(Path(source), backbone)  # so that an error names the user's file
                shutil.copyfile(source, temporary)
        check_weights_file(temporary, backbone)


def _check_source(config: Config) -> None:
    backbone, source = config.model.backbone, config.weights.source
    valid = ("hub", "file") if backbone == "hub" else ("imagenet", "random", "file")
    if source not in valid:
        raise FrostlineError(
            f"weights.source is {source!r}; valid with model.backbone={backbone}: {', '.join(valid)}.\n"
            f"Choose one, e.g. weights={valid[0]}"
        )
    if isinstance(config.weights, HubWeights) and not config.weights.preset:
        raise FrostlineError(
            "model.preset is null; name one of KerasHub's, e.g. model.preset=vit_base_patch16_224_imagenet"
        )
