"""Stage fetch-weights: bring the backbone's weights from the chosen source, checked before they are in place."""

import shutil
import tempfile
from pathlib import Path

from frostline.common.files import replacing, sha256_of
from frostline.common.seeds import derive_seed
from frostline.config import paths
from frostline.config.settings import Config, Ensemble, FileWeights, HubWeights, ImagenetWeights, RandomWeights
from frostline.models.ensemble import write_members
from frostline.runtime.errors import FrostlineError
from frostline.sources.download import download
from frostline.sources.random_weights import write_random_weights
from frostline.sources.weights_file import check_weights_file


def main(config: Config) -> None:
    _check_source(config)  # not with the other settings: a sweep has its weights from params.yaml
    with replacing(paths.BACKBONE_WEIGHTS) as temporary:
        if not isinstance(config.model, Ensemble):
            _bring(config.model.backbone, config, temporary)
            return
        with tempfile.TemporaryDirectory() as folder:
            files = {member: Path(folder, f"{member}.h5") for member in config.model.members}
            for member, file in files.items():
                _bring(member, config, file)
            write_members(temporary, files)


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


def _bring(network: str, config: Config, to: Path) -> None:
    """Bring the weights of `network`, the backbone or a member of it."""
    of_ensemble = isinstance(config.model, Ensemble)
    match config.weights:
        case HubWeights(preset=str(preset)) | FileWeights(path=preset) if network == "hub":
            from frostline.sources.preset import fetch_preset  # here: it takes TensorFlow

            print(fetch_preset(preset, to, config.preprocess.image_size))
            return
        case RandomWeights(seed=seed):
            seed = derive_seed(seed, network) if of_ensemble else seed
            write_random_weights(to, config.preprocess.image_size, seed, network)
        case ImagenetWeights() as own:
            published = config.model.imagenet[network] if isinstance(config.model, Ensemble) else own
            assert published.url is not None  # as config.load has seen
            download(published.url, to, size=published.size, md5=published.md5)
            if published.sha256 and sha256_of(to) != published.sha256.lower():
                raise FrostlineError(
                    f"{published.url}: the file's SHA-256 is not {published.sha256}.\nThe download was deleted."
                )
        case FileWeights(path=path):
            source = Path(path, f"{network}.h5") if of_ensemble else Path(path)
            check_weights_file(source, network)  # so that an error names the user's file
            shutil.copyfile(source, to)
    check_weights_file(to, network)
